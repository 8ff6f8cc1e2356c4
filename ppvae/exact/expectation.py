"""The E-step of factor analysis: log-likelihood and expected moments of (z, 1) in one pass over the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ppvae.exact.linear_gaussian import Precisions, block_rows, chunk_rows, pack, packed_pairs, precision
from ppvae.exact.solving import half_log_det
from ppvae.exact.values import Seen, joined

LOG_2PI = math.log(2 * math.pi)


class State(NamedTuple):
    """Parameters: W (D, K), loc (D,), noise variance psi (D,)."""

    W: Tensor
    loc: Tensor
    psi: Tensor


class Moments(NamedTuple):
    """Expectations under p(z | x_o), with y = (z, 1), summed over the rows that observe a feature."""

    log_likelihood: Tensor
    """Of the parameters the moments were computed with, summed over rows ()."""
    yy: Tensor
    """E[y y^T], packed: (D, (K + 1)(K + 2) / 2), or one row of it where every row observes every feature."""
    total: Tensor
    """E[y y^T] summed over all rows, packed: (1, (K + 1)(K + 2) / 2)."""
    xy: Tensor
    """x E[y] (D, K + 1)."""
    xx: Tensor
    """x^2 (D,)."""
    rows: Tensor
    """Rows that observe the feature (D,)."""


Expectation = Callable[[State], Moments]


def complete(x: Tensor) -> Expectation:
    """Prepare the E-step of complete, centred data (N, D), for which loc = 0 is best at every iteration.

    All rows share one K x K factorisation and enter through x^T x: formed once if D <= N, else x^T (x B).
    """
    N, D = x.shape
    gram = x.mT @ x if D <= N else None  # (D, D)
    xx, count = x.square().sum(0), x.new_full((D,), float(N))

    def expect(state: State) -> Moments:
        A = state.W / state.psi.sqrt().unsqueeze(-1)  # (D, K)
        L = torch.linalg.cholesky(precision(A, None))  # (K, K)
        covariance = torch.cholesky_inverse(L)
        B = state.W / state.psi.unsqueeze(-1) @ covariance  # (D, K): E[z] = B^T x
        xz = x.mT @ (x @ B) if gram is None else gram @ B  # (D, K)
        outer = B.mT @ xz  # (K, K): E[z] E[z]^T, summed
        zz = N * covariance + outer  # (K, K)
        # Mahalanobis distances, as in `log_evidence`: |x - W z|^2 / psi + |z|^2 at its minimum z = B^T x,
        # where an error in B enters squared.
        rest = xx - 2 * (xz * state.W).sum(-1) + (state.W @ outer * state.W).sum(-1)
        distance = (rest / state.psi).sum() + outer.trace()
        log_det = state.psi.log().sum() + 2 * L.diagonal().log().sum()
        yy = pack(torch.block_diag(zz, count[0]))  # E[z] sums to 0 over centred rows
        xy = torch.nn.functional.pad(xz, (0, 1))
        return Moments(-0.5 * (N * (D * LOG_2PI + log_det) + distance), yy, yy, xy, xx, count)

    return expect


def incomplete(x: Tensor, mask: Tensor) -> Expectation:
    """Prepare the E-step of data (N, D) with missing entries, which must hold 0, mask (N, D).

    The sufficient statistics are two matrix products: mask^T with the packed E[y y^T], and x^T with E[y].
    Rows go in chunks of bounded memory; rows that share a frequent pattern share one factorisation.
    Reference: Rubin & Thayer 1982, each sum taken over the rows that observe the feature.
    """
    blocks = _blocks(x, mask)
    xx, count = x.square().sum(0), mask.sum(0).to(x.dtype)

    def expect(state: State) -> Moments:
        (D, K), weight = state.W.shape, state.psi.rsqrt()
        yy, xy = x.new_zeros(D, (K + 1) * (K + 2) // 2), x.new_zeros(D, K + 1)
        total = x.new_zeros(1, yy.shape[-1])
        log_likelihood = -0.5 * (count * (LOG_2PI + state.psi.log())).sum()
        precisions = Precisions(state.W * weight.unsqueeze(-1), weight)
        for rows, pattern in blocks:
            for part, observed in zip(*_in_chunks(rows, pattern, K), strict=True):
                seen = Seen(observed, weight, by_bits=True)
                r = seen.keep(part - state.loc)  # (n, D)
                b = r @ (state.W / state.psi.unsqueeze(-1))  # (n, K)
                z, packed, half_log_det = _moments(precisions, precisions.packed(seen.weights), b)
                rest = (r - z @ state.W.mT) * seen.weights  # (n, D)
                log_likelihood = log_likelihood - half_log_det.sum() - 0.5 * (rest.square().sum() + z.square().sum())
                yy.addmm_(seen.weights.mT, packed)  # (D, n) x (n, (K + 1)(K + 2) / 2)
                xy[:, :K].addmm_(part.mT, z)
                total += packed.sum(0)
        xy[:, K] = x.sum(0)
        return Moments(log_likelihood, yy / weight.unsqueeze(-1), total, xy, xx, count)

    return expect


def _moments(precisions: Precisions, packed: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give E[z] (n, K), packed E[y y^T] and half the log-determinants of the precisions, which come packed.

    With one precision for all rows the moments, (1, (K + 1)(K + 2) / 2), and log-determinants are summed over the rows.
    """
    n, K = b.shape
    if len(packed) < n:
        covariance, half_log_det = _covariances(precisions, packed)
        z = b @ covariance[0]  # (n, K)
        zz, first, ones = n * pack(covariance) + pack(z.mT @ z), z.sum(0, keepdim=True), z.new_full((1, 1), float(n))
        return z, torch.cat([zz, first, ones], -1), n * half_log_det
    few = block_rows(K, b.element_size())
    return joined((_own_moments(precisions, *block) for block in zip(packed.split(few), b.split(few), strict=True)), n)


def _own_moments(precisions: Precisions, packed: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    covariance, half_log_det = _covariances(precisions, packed)
    z = (covariance @ b.unsqueeze(-1)).squeeze(-1)  # (k, K)
    # The packing goes row by row, and the last row of y y^T is (z, 1): it is simply appended.
    return z, torch.cat([pack(covariance) + packed_pairs(z), z, z.new_ones(len(z), 1)], -1), half_log_det


def _covariances(precisions: Precisions, packed: Tensor) -> tuple[Tensor, Tensor]:
    """Give P^-1 (k, K, K) and half of log |P| (k,)."""
    L = precisions.cholesky(packed)
    eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
    inverse = torch.linalg.solve_triangular(L, eye, upper=False)
    return inverse.mT @ inverse, half_log_det(L)  # faster than cholesky_inverse on a batch


def _blocks(x: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Give (rows, pattern (1, D)) of each pattern that 1/32 of the rows share, (rows, mask) of the rest.

    A loop over more patterns than that would cost more than the factorisations it saves.
    """
    patterns, which, counts = torch.unique(mask, dim=0, return_inverse=True, return_counts=True)
    frequent = (counts > 1) & (counts * 32 >= len(mask))
    blocks = [(x[which == g], patterns[g : g + 1]) for g in frequent.nonzero().flatten().tolist()]
    rest = ~frequent[which]
    return [*blocks, (x[rest], mask[rest])] if rest.any() else blocks


def _in_chunks(rows: Tensor, pattern: Tensor, latents: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    size = chunk_rows(rows.shape[1], latents, rows.element_size())
    parts = rows.split(size)
    return parts, (pattern,) * len(parts) if len(pattern) < len(rows) else pattern.split(size)
