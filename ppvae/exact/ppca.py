"""Probabilistic PCA by maximum likelihood, in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ppvae.errors import Problem
from ppvae.exact.checks import as_matrix, refuse


class FactorAnalysis(NamedTuple):
    """A fitted x | z ~ N(W z + loc, diag(scale^2)), z ~ N(0, I_K)."""

    W: Tensor
    """Loadings (D, K), determined up to a rotation of the latents."""
    loc: Tensor
    """Mean of x (D,)."""
    scale: Tensor
    """Standard deviation of the noise (D,), in the units of x."""
    log_likelihood: Tensor
    """Mean log-likelihood in nats per row: of the start, after each iteration; the last is of this fit."""


def ppca(x: Tensor, latents: int) -> FactorAnalysis:
    r"""Fit probabilistic PCA to complete data: the maximum of the likelihood, in closed form.

    With eigenvalues :math:`\lambda_1 \ge \dots \ge \lambda_D` and eigenvectors V of the covariance (over N),

    .. math::
        loc = \bar x, \quad
        \sigma^2 = \frac{1}{D - K} \sum_{j > K} \lambda_j, \quad
        W = V_K (\Lambda_K - \sigma^2 I)^{1/2}

    Reference: Tipping & Bishop 1999, Probabilistic principal component analysis.

    Args:
        x: data (N, D), complete.
        latents: K, from 1 to D - 1.

    Returns:
        W, loc, scale (the same for every feature), log-likelihood (1,).

    Raises:
        Problem: missing or infinite values, a wrong shape, latents out of range, no variance left for noise.
    """
    x, dtype = as_matrix(x, latents)
    refuse(
        x.isnan().any(0),
        "NaN",
        "the closed form needs complete data",
        "ppvae.exact.em(x, latents, tied=True): the same story, fitted to the observed entries",
    )
    refuse(
        x.isinf().any(0),
        "infinite values",
        "a division or a logarithm of zero on the way here",
        "removing those rows",
    )
    N, D = x.shape
    loc = x.mean(0)
    W, noise, values = principal(x - loc, latents)
    # Rounding leaves eigenvalues of about 1e-16 of the largest where there is no variance at all.
    if not noise > 1e-13 * values.sum():
        raise Problem(
            f"{N} rows of {D} features leave no variance outside {latents} latents",
            "constant data or too few rows: the likelihood grows without bound as the noise shrinks",
            "fewer latents or more rows",
        )
    log_det = values.log().sum() + (D - latents) * noise.log()
    log_likelihood = -0.5 * (D * math.log(2 * math.pi) + log_det + D)
    return FactorAnalysis(
        W.to(dtype), loc.to(dtype), noise.sqrt().expand(D).to(dtype), log_likelihood.reshape(1).to(dtype)
    )


def principal(x: Tensor, latents: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give W (D, K), the noise variance () and the largest eigenvalues (K,), as in `ppca`; x (N, D) centred.

    The smaller of the two Gram matrices, features or rows, is decomposed: both have the same eigenvalues.
    """
    N, D = x.shape
    if D <= N:
        values, V = torch.linalg.eigh(x.mT @ x / N)  # ascending
        values, V = values[-latents:], V[:, -latents:]  # (K,), (D, K)
    else:
        values, U = torch.linalg.eigh(x @ x.mT / N)
        values, U = values[-latents:], U[:, -latents:]  # at most N values
        # Directions beyond the rank carry no loadings; the clamp keeps 0 / 0 out of them.
        V = x.mT @ U / (N * values).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        missing = latents - len(values)
        values, V = torch.nn.functional.pad(values, (missing, 0)), torch.nn.functional.pad(V, (missing, 0))
    values = values.clamp_min(0)
    noise = (x.square().sum() / N - values.sum()).clamp_min(0) / (D - latents)
    return V * (values - noise).clamp_min(0).sqrt(), noise, values
