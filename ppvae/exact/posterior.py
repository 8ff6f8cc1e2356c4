"""Exact inference in factor analysis, any entries missing."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.exact.chunks import Chunk, factorised
from ppvae.exact.linear_gaussian import checked, flipped_root, inverse_root, precision
from ppvae.exact.solving import solve
from ppvae.exact.values import joined


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
    chunks = factorised(W.flip(-1), loc, scale, x, mask)  # latents in reverse, as `flipped_root` wants them
    blocks = (block for chunk in chunks for block in chunk.blocks())
    if mask is None:
        (mean,) = joined(((solve(L, b),) for L, b in blocks), len(x))
        S = inverse_root(precision(W / scale.unsqueeze(-1), None)).expand(len(x), -1, -1)
    else:
        mean, S = joined(((solve(L, b), flipped_root(L)) for L, b in blocks), len(x))
    return _Gaussian(mean.flip(-1), scale_tril=S)


class _Gaussian(dist.MultivariateNormal):
    """Whose scale_tril is triangular by construction: to check that costs as much time and memory as to compute it."""

    arg_constraints = {"loc": constraints.real_vector}


def mean_field(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
    r"""Give the factorised Gaussian nearest in KL(q || p(z | x_o)): exact mean, variances :math:`1 / P_{kk}`.

    The variances are those of each z_k given the others, never larger than the marginal
    :math:`(P^{-1})_{kk}`. Reference: Bishop 2006, section 10.1.2. Arguments, errors and guarantees as in
    `posterior`.

    Returns:
        Independent Normal, batch shape (N,), event shape (K,).
    """
    scale, mask = checked(W, loc, scale, x, mask)
    blocks = (block for chunk in factorised(W, loc, scale, x, mask) for block in chunk.blocks())
    # The diagonal of L L^T is P's.
    parts = ((solve(L, b), L.square().sum(-1).reciprocal().expand(len(b), -1)) for L, b in blocks)
    mean, variance = joined(parts, len(x))
    return dist.Normal(mean, variance.sqrt()).to_event(1)


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
    parts = ((_log_evidence(W, chunk),) for chunk in factorised(W, loc, scale, x, mask, solved=True))
    return joined(parts, len(x))[0]


def _log_evidence(W: Tensor, chunk: Chunk) -> Tensor:
    m, half_log_det = chunk.solved()  # (n, K), (n,)
    rest = torch.addmm(chunk.r, m, W.mT, alpha=-1, out=chunk.spare)
    rest = torch.mul(rest, chunk.weights, out=chunk.spare)  # (n, D), 0 where not observed
    distance = torch.square(rest, out=chunk.spare).sum(-1) + m.square().sum(-1)
    return -chunk.factors.entries - half_log_det - 0.5 * distance


def impute_mean(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool) -> Tensor:
    r"""Give x with missing entries replaced by their conditional mean :math:`W_m E[z | x_o] + loc_m`.

    Rows go in chunks of bounded memory. Arguments, errors and guarantees as in `posterior`.

    Returns:
        (N, D); observed entries are those of x, bit for bit.
    """
    scale, mask = checked(W, loc, scale, x, mask)
    if mask is None:
        return x.clone()
    parts = ((_impute_mean(W, loc, chunk),) for chunk in factorised(W, loc, scale, x, mask, solved=True))
    return joined(parts, len(x))[0]


def _impute_mean(W: Tensor, loc: Tensor, chunk: Chunk) -> Tensor:
    assert chunk.seen is not None  # there is nothing to complete without a mask
    m, _ = chunk.solved()  # (n, K)
    return chunk.seen.choose(chunk.x, torch.addmm(loc, m, W.mT))  # (n, D)
