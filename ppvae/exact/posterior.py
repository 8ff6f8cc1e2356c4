"""Exact inference in factor analysis, any entries missing."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from ppvae.exact.linear_gaussian import checked, chunks, inverse_root, precision, precision_cholesky, whiten


def posterior(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool = True) -> dist.MultivariateNormal:
    r"""Give the exact posterior p(z | x_o) of every row.

    .. math::
        P_n = I + \sum_j m_{nj} \psi_j^{-1} w_j w_j^\top, \quad
        p(z_n \mid x_{n,o}) = N(P_n^{-1} W^\top M_n \Psi^{-1} (x_n - loc), \; P_n^{-1})

    Differentiable in W, loc, scale and x. What stands in an entry that is not observed, NaN included, reaches
    neither values nor gradients. Reads no values, so it can be staged with `torch.fx`.

    References: Rubin & Thayer 1982; with missing entries Williams, Nash & Nazabal 2018.

    Args:
        W: loadings (D, K).
        loc: mean of x (D,).
        scale: standard deviation of the noise (D,), in the units of x.
        x: data (N, D).
        mask: True = observed; (N, D), (N, 1) by row, or True for everything.

    Returns:
        Batch shape (N,), event shape (K,). Without missing entries all rows share one factorisation.

    Raises:
        Problem: shapes that do not fit, a mask that is not boolean.
    """
    scale, mask = checked(W, loc, scale, x, mask)
    A, r = whiten(W, loc, scale, x, mask)  # (D, K), (N, D)
    b = r @ A  # (N, K)
    if mask is None or mask.shape[-1] == 1:
        S = inverse_root(precision(A, None))  # (K, K)
        mean = b @ S @ S.mT  # (N, K), already 0 in rows that observe nothing
        if mask is not None:
            S = torch.where(mask.unsqueeze(-1), S, torch.eye(A.shape[-1], dtype=A.dtype, device=A.device))
    else:
        S = inverse_root(precision(A, mask))  # (N, K, K)
        mean = (S @ (S.mT @ b.unsqueeze(-1))).squeeze(-1)  # (N, K, K) x (N, K, 1) -> (N, K)
    return dist.MultivariateNormal(mean, scale_tril=S.expand(len(x), -1, -1))


def mean_field(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
    r"""Give the factorised Gaussian nearest in KL(q || p(z | x_o)): exact mean, variances :math:`1 / P_{kk}`.

    The variances are those of each z_k given the others, never larger than the marginal
    :math:`(P^{-1})_{kk}`. Reference: Bishop 2006, section 10.1.2. Arguments, errors and guarantees as in
    `posterior`.

    Returns:
        Independent Normal, batch shape (N,), event shape (K,).
    """
    scale, mask = checked(W, loc, scale, x, mask)
    A, r = whiten(W, loc, scale, x, mask)
    L = precision_cholesky(A, mask)
    variance = L.square().sum(-1).reciprocal()  # (K,) or (N, K): the diagonal of L L^T is P's
    return dist.Normal(_solve(L, r @ A), variance.sqrt().expand(len(x), -1)).to_event(1)


def log_evidence(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool = True) -> Tensor:
    r"""Give log p(x_o) of every row: :math:`\log N(x_o; loc_o, W_o W_o^\top + \Psi_o)`, in nats.

    With posterior mean m and precision P only K x K matrices are factorised (Woodbury; determinant lemma):

    .. math::
        -2 \log p(x_o) = |o| \log 2\pi + \sum_{j \in o} \log \psi_j + \log |P|
        + \sum_{j \in o} (x_j - loc_j - w_j^\top m)^2 / \psi_j + |m|^2

    The last two terms are the Mahalanobis distance, written as the minimum over z of a sum of squares:
    nothing cancels, and an error in m enters squared. Rows go in chunks: without gradients, memory is
    bounded. Arguments, errors and guarantees as in `posterior`.

    Returns:
        (N,); exactly 0 for a row of which nothing is observed.
    """
    scale, mask = checked(W, loc, scale, x, mask)
    return torch.cat([_log_evidence(W, loc, scale, rows, seen) for rows, seen in chunks(W, x, mask)])


def _log_evidence(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    A, r = whiten(W, loc, scale, x, mask)  # (D, K), (n, D)
    L = precision_cholesky(A, mask)  # (K, K) or (n, K, K)
    m = _solve(L, r @ A)  # (n, K)
    rest = r - m @ A.mT  # (n, D)
    entry = scale.log() + 0.5 * math.log(2 * math.pi)  # (D,)
    if mask is None:
        entries = entry.sum()
    else:
        rest = torch.where(mask, rest, torch.zeros_like(rest))
        # A row mask broadcasts here as well; where nothing is observed every term is exactly 0.
        entries = torch.where(mask, entry, torch.zeros_like(entry)).sum(-1)  # (n,)
    half_log_det = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # () or (n,)
    return -entries - half_log_det - 0.5 * (rest.square().sum(-1) + m.square().sum(-1))


def impute_mean(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool) -> Tensor:
    r"""Give x with missing entries replaced by their conditional mean :math:`W_m E[z | x_o] + loc_m`.

    Rows go in chunks of bounded memory. Arguments, errors and guarantees as in `posterior`.

    Returns:
        (N, D); observed entries are those of x, bit for bit.
    """
    scale, mask = checked(W, loc, scale, x, mask)
    if mask is None:
        return x.clone()
    filled = []
    for rows, seen in chunks(W, x, mask):
        A, r = whiten(W, loc, scale, rows, seen)
        m = _solve(precision_cholesky(A, seen), r @ A)  # (n, K)
        filled.append(torch.where(seen, rows, m @ W.mT + loc))  # (n, D)
    return torch.cat(filled)


def _solve(L: Tensor, b: Tensor) -> Tensor:
    """Solve L L^T m = b for one vector a row. L (K, K) or (N, K, K), b (N, K) -> (N, K)."""
    if L.dim() == 2:
        return torch.cholesky_solve(b.mT, L).mT
    return torch.cholesky_solve(b.unsqueeze(-1), L).squeeze(-1)
