"""Factor analysis of groups of features below factor analysis of their latents: exact, and fitted layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ppvae.errors import Problem
from ppvae.exact.checks import as_matrix, observed_entries
from ppvae.exact.em import FLOOR, caution_unfinished, em
from ppvae.exact.posterior import log_evidence
from ppvae.exact.ppca import FactorAnalysis


class Law(NamedTuple):
    """Loadings W, means loc and standard deviations scale of one layer given the one above it."""

    W: Tensor
    loc: Tensor
    scale: Tensor


class Layers(NamedTuple):
    """A fitted z ~ N(0, I), u | z ~ N(W_T z + loc_T, Psi_T), x_p | u_p ~ N(W_p u_p + loc_p, Psi_p)."""

    top: Law
    """Of u on z: W (P U, K)."""
    bottom: Law
    """Of x on u: W (D, U), each feature's loadings on the U latents of its own group."""
    log_likelihood: Tensor
    """Mean of log p(x_o) in nats per row: of the bottom layer alone (u ~ N(0, I)), of the first top layer, after each of its
    iterations; never falling."""


class Moments(NamedTuple):
    """Of p(u | x_o) over rows: means (N, P U), and the sum of the covariances (P U, P U)."""

    means: Tensor
    covariances: Tensor


def layerwise(
    x: Tensor,
    sizes: Sequence[int],
    latents: int,
    size: int,
    mask: Tensor | bool | None = None,
    *,
    iterations: int = 1000,
    tolerance: float = 1e-6,
) -> Layers:
    r"""Fit two layers of factor analysis, the lower one first.

    1. Each group of features has a factor analysis of its own, x_p = W_p u_p + loc_p + noise, u_p ~ N(0, I), by `em`.
    2. The bottom is kept. The top layer replaces N(0, I) of all u together by N(loc_T, W_T W_T' + Psi_T): first by the maximum of
       :math:`\sum_n E_{p(u | x_n)}[\log p(u)]` over equal variances (PPCA of the expected second moments), then by EM.

    Since N(0, I) is one of the laws among which the first top layer is the best, and EM never lowers the likelihood, no step does.

    References: Tang, Salakhutdinov & Hinton 2012, Deep mixtures of factor analysers, section 3; Tipping & Bishop 1999.

    Args:
        x: (N, D), NaN = missing.
        sizes: the number of features of each group, in their order; their sum is D.
        latents: K of the top.
        size: U of each group, less than its features.
        mask: True = observed.
        iterations: at most so many of EM, for each group and for the top.
        tolerance: in nats per row: an iteration that gains less is the last.

    Returns:
        In the dtype of x; computed in float64. W is determined up to rotations.

    Raises:
        Problem: sizes that do not add up, a latent too many, what `em` refuses.

    Warns:
        Caution: a layer still gaining after its last iteration; a noise scale of the bottom at its least value.
    """
    _refuse(x.shape[-1], sizes, latents, size)
    x, dtype = as_matrix(x, latents)
    mask = observed_entries(x, mask)
    x = torch.where(mask, x, 0.0)
    parts = zip(x.split(list(sizes), -1), mask.split(list(sizes), -1), strict=True)
    fits = [_group(p, part, seen, size, iterations, tolerance) for p, (part, seen) in enumerate(parts)]
    W, loc, scale = (torch.cat(values) for values in zip(*((fit.W, fit.loc, fit.scale) for fit in fits), strict=True))
    B = torch.block_diag(*(fit.W for fit in fits))  # (D, P U)
    sufficient = _Sufficient(B, loc, scale, x, mask)
    unit = Law(B.new_zeros(B.shape[1], latents), B.new_zeros(B.shape[1]), B.new_ones(B.shape[1]))
    top = _principal(sufficient(unit), latents)
    values = [sufficient.log_likelihood(unit), sufficient.log_likelihood(top)]
    for _ in range(iterations):
        top = _maximised(top, sufficient(top))
        values.append(sufficient.log_likelihood(top))
        if values[-1] - values[-2] < tolerance:
            break
    caution_unfinished(torch.stack(values[1:]), iterations, tolerance)
    found, bottom = (Law(*(value.to(dtype) for value in law)) for law in (top, Law(W, loc, scale)))
    return Layers(found, bottom, torch.stack(values).to(dtype))


class _Sufficient:
    """What the data say of u given the bottom layer; rows that observe the same share one factorisation."""

    def __init__(self, B: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor) -> None:
        self.B, self.loc, self.scale, self.x, self.mask = B, loc, scale, x, mask
        precision = scale.square().reciprocal()  # (D,)
        self.pull = torch.where(mask, (x - loc) * precision, 0.0) @ B  # (N, P U)
        masks, self.which, self.rows = mask.unique(dim=0, return_inverse=True, return_counts=True)
        self.weights = masks * precision  # (G, D)

    def __call__(self, top: Law) -> Moments:
        """The moments of p(u | x_o) when u has this law."""
        prior = torch.cholesky_inverse(torch.linalg.cholesky(_covariance(top)))
        pull = self.pull + prior @ top.loc
        means, total = torch.empty_like(pull), torch.zeros_like(prior)
        for g, (weight, rows) in enumerate(zip(self.weights, self.rows.tolist(), strict=True)):
            L = torch.linalg.cholesky(prior + (self.B.mT * weight) @ self.B)
            chosen = self.which == g
            means[chosen] = torch.cholesky_solve(pull[chosen].mT, L).mT
            total += rows * torch.cholesky_inverse(L)
        return Moments(means, total)

    def log_likelihood(self, top: Law) -> Tensor:
        L = torch.linalg.cholesky(_covariance(top))
        return log_evidence(self.B @ L, self.loc + self.B @ top.loc, self.scale, self.x, self.mask).mean()


def _covariance(top: Law) -> Tensor:
    return top.W @ top.W.mT + torch.diag(top.scale.square())


def _principal(moments: Moments, latents: int) -> Law:
    """The best W W' + sigma^2 I under the expected second moments."""
    N, size = moments.means.shape
    loc = moments.means.mean(0)
    centred = moments.means - loc
    values, vectors = torch.linalg.eigh((moments.covariances + centred.mT @ centred) / N)  # ascending
    variance = values[: size - latents].mean().clamp_min(FLOOR**2)  # the best of those that the M-step may reach
    W = vectors[:, size - latents :] * (values[size - latents :] - variance).clamp_min(0.0).sqrt()
    return Law(W, loc, variance.sqrt().expand(size))


def _maximised(top: Law, moments: Moments) -> Law:
    """One M-step: u regressed on y = (z, 1), both in expectation under p(z, u | x_o)."""
    N, K = len(moments.means), top.W.shape[1]
    weighted = top.W / top.scale.square().unsqueeze(-1)  # (P U, K)
    V = torch.linalg.inv(torch.eye(K, dtype=top.W.dtype, device=top.W.device) + top.W.mT @ weighted)
    J = V @ weighted.mT  # (K, P U): E[z | u] = J (u - loc)
    z = (moments.means - top.loc) @ J.mT  # (N, K)
    y = torch.cat([z, z.new_ones(N, 1)], -1)
    yy = y.mT @ y
    yy[:K, :K] += N * V + J @ moments.covariances @ J.mT
    uy = moments.means.mT @ y
    uy[:, :K] += moments.covariances @ J.mT
    w = torch.linalg.solve(yy, uy.mT).mT  # (P U, K + 1)
    squares = moments.covariances.diagonal() + moments.means.square().sum(0) - (w * uy).sum(-1)
    return Law(w[:, :K], w[:, K], (squares / N).clamp_min(FLOOR**2).sqrt())


def _group(p: int, x: Tensor, mask: Tensor, size: int, iterations: int, tolerance: float) -> FactorAnalysis:
    rows = mask.any(-1)
    if not rows.any():
        raise Problem(
            f"group {p} of the features is observed in no row",
            "a part that never occurs: nothing can be learnt about it",
            "leaving its columns out",
        )
    return em(x[rows], size, mask[rows], iterations=iterations, tolerance=tolerance)


def _refuse(features: int, sizes: Sequence[int], latents: int, size: int) -> None:
    if sum(sizes) != features:
        raise Problem(
            f"groups of {list(sizes)} features, {sum(sizes)} in all, of {features} columns",
            "each column belongs to one group",
            "sizes: the number of columns of each group, in their order",
        )
    if not 1 <= size < min(sizes):
        raise Problem(
            f"{size} latents a group, the smallest of which has {min(sizes)} features",
            "a group has fewer latents than features",
            f"size={max(1, min(sizes) - 1)} or fewer",
        )
    if not 1 <= latents < size * len(sizes):
        raise Problem(
            f"{latents} latents above {size * len(sizes)}",
            "the top layer has fewer latents than what it explains",
            f"latents={size * len(sizes) - 1} or fewer",
        )
