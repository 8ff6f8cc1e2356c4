"""Approximate posteriors of factor analysis with missing entries, in closed form: what exact inference is held against.

Each takes (W, loc, scale, x, mask) as `ppvae.exact.posterior` does, gives q(z | x_o) of batch (N,) and event (K,), and
lets nothing that stands in a missing entry reach values or gradients. Where entries are missing none has the exact mean,
which the factorised `ppvae.exact.mean_field` has.
With P the precision of z given the complete row and r = x - loc, 0 where missing:

    mean imputation      N(0, I)                                  imputes the column mean, loc
    full covariance      N(P^-1 W' Psi^-1 r, P^-1)                as if the row were complete
    scaled covariance    N(S W' Psi^-1 r, S)                      S^-1 = I + s_n (P - I), s_n the share observed
    denoising            N(B r, P^-1 + covariance of residuals)   B by least squares over examples of the missingness

Reference: Williams, Nash & Nazabal 2018, Autoencoders and probabilistic inference with missing data; thesis, section 4.2.
"""

from __future__ import annotations

from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ppvae.errors import Problem
from ppvae.exact.linear_gaussian import checked, inverse_root, whiten
from ppvae.exact.posterior import posterior


def mean_imputation(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
    """Give the prior N(0, I) of every row, which imputes loc: what is observed is not used at all."""
    checked(W, loc, scale, x, mask)
    return dist.Normal(W.new_zeros(len(x), W.shape[1]), 1.0).to_event(1)


def full_covariance(
    W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool = True
) -> dist.MultivariateNormal:
    """Give the posterior of the mean-filled row, as if it were complete (thesis eq. 4.7): one factorisation, far too sure."""
    _, seen = checked(W, loc, scale, x, mask)
    return posterior(W, loc, scale, x if seen is None else torch.where(seen, x, loc))


def scaled_covariance(
    W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool = True
) -> dist.MultivariateNormal:
    """Give the posterior whose precision goes from I to P in proportion to the share of observed entries (thesis eq. 4.9).

    A row's precision depends on its count alone, so at most D + 1 factorisations serve any number of rows. (The
    eigendecomposition of P - I would be one, but a draw wants a triangular factor, and its gradient is infinite where
    eigenvalues coincide.)
    """
    scale, seen = checked(W, loc, scale, x, mask)
    A, r = whiten(W, loc, scale, x, seen)  # (D, K), (N, D)
    (N, D), K = x.shape, W.shape[1]
    seen = torch.ones_like(x, dtype=torch.bool) if seen is None else seen.expand(N, D)
    count = seen.sum(-1)  # (N,)
    gain = A.mT @ A  # P - I
    shares = (count if N <= D else torch.arange(D + 1, device=x.device)).to(A.dtype) / D
    S = inverse_root(torch.eye(K, dtype=A.dtype, device=A.device) + shares[:, None, None] * gain)
    S = S if N <= D else S[count]  # (N, K, K)
    mean = S @ (S.mT @ (r @ A).unsqueeze(-1))
    return dist.MultivariateNormal(mean.squeeze(-1), scale_tril=S)


class Denoising(NamedTuple):
    """A linear encoder of the centred row, missing entries at 0: z | x_o ~ N(weight r, scale_tril scale_tril')."""

    weight: Tensor
    """B (K, D)."""
    loc: Tensor
    """What the entries are centred by (D,)."""
    scale_tril: Tensor
    """Factor of the covariance, the same for all rows (K, K)."""

    def __call__(self, x: Tensor, mask: Tensor | bool = True) -> dist.MultivariateNormal:
        """Give q(z | x_o) of every row."""
        r = torch.where(torch.as_tensor(mask, device=x.device), x - self.loc, torch.zeros_like(x))
        return dist.MultivariateNormal(r @ self.weight.mT, scale_tril=self.scale_tril)


def denoising(
    W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool, *, ridge: float = 0.0
) -> Denoising:
    r"""Fit the denoising encoder: regress the exact posterior mean given the complete row on the row with its holes.

    .. math::
        B = \arg\min_B \sum_n | E[z \mid x_n] - B r_n |^2 + \text{ridge} \, |B|^2, \quad
        \Sigma = \operatorname{Cov}(z \mid x) + \frac{1}{N - \operatorname{rank}} \sum_n e_n e_n^\top

    Plain least squares, as in the thesis; where the rows do not determine B (fewer rows than features), the solution of
    least norm. Without an intercept: with nothing observed the answer is the prior's mean. The covariance is the law of
    total variance, with the residuals e_n as the part that the holes add. Computes in float64.

    Args:
        W, loc, scale: the story, as in `ppvae.exact.posterior`.
        x: complete rows (N, D).
        mask: the holes that the encoder is to learn from, True = observed; (N, D) or (N, 1).
        ridge: penalty on the weights, in squared units of x summed over rows.

    Returns:
        A function of (x, mask).
    """
    _, seen = checked(W, loc, scale, x, mask)
    if not x.isfinite().all():
        raise Problem(
            f"{int((~x.isfinite()).sum())} entries of x are missing or infinite",
            "the denoising encoder learns from complete rows, in which it makes holes itself",
            "complete rows, and the holes in mask",
        )
    if ridge < 0:
        raise Problem(f"ridge is {ridge}", "a penalty is not negative", "ridge=0 for plain least squares")
    dtype = W.dtype
    W, loc, scale, x = (t.detach().double() for t in (W, loc, scale, x))
    complete = posterior(W, loc, scale, x)
    r = x - loc if seen is None else torch.where(seen, x - loc, 0.0)  # (N, D)
    U, s, Vh = torch.linalg.svd(r, full_matrices=False)
    kept = s > s.amax() * max(r.shape) * torch.finfo(s.dtype).eps
    inverse = torch.where(kept, s / (s.square() + ridge), 0.0)
    B = (complete.mean.mT @ U * inverse) @ Vh  # (K, D)
    e = complete.mean - r @ B.mT
    covariance = complete.covariance_matrix[0] + e.mT @ e / max(1, len(x) - int(kept.sum()))
    return Denoising(B.to(dtype), loc.to(dtype), torch.linalg.cholesky(covariance).to(dtype))
