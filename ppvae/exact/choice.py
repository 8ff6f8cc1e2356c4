"""How many factors: as many as predict entries best that were observed and hidden for the purpose."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppvae.errors import Caution
from ppvae.exact.em import em
from ppvae.exact.posterior import impute_mean
from ppvae.exact.ppca import FactorAnalysis

LARGEST = 60  # no more factors than this are tried


def candidates(features: int) -> list[int]:
    """1, 2, 3, 5, 8, … factors, fewer than columns."""
    sizes, (a, b) = [], (1, 2)
    while a < min(features, LARGEST):
        sizes.append(a)
        a, b = b, a + b
    return sizes


def em_quietly(z: Tensor, latents: int, **options: Any) -> FactorAnalysis:
    """EM that does not say that it still gains a little: hidden entries say what a fit is worth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)
        return em(z, latents, **options)


def spared(z: Tensor, hidden: Tensor) -> Tensor:
    """What can be hidden: a column that would not vary without its hidden entries keeps them all, (N, D)."""
    rest = ~z.isnan() & ~hidden
    low, high = torch.where(rest, z, torch.inf).amin(0), torch.where(rest, z, -torch.inf).amax(0)
    return hidden & ~z.isnan() & (high - low > 1e-12)


def hidden_errors(z: Tensor, hidden: Tensor, sizes: Sequence[int], iterations: int = 200) -> dict[int, float]:
    """The root mean squared error of hidden entries by number of factors.

    Args:
        z: rows (N, D), standardised, NaN = missing.
        hidden: which observed entries are hidden from the fits, (N, D).
        sizes: numbers of factors.
        iterations: of EM, at most.
    """
    rest = z.masked_fill(hidden, torch.nan)

    def error(latents: int) -> float:
        found = em_quietly(rest, latents, iterations=iterations, tolerance=1e-4)
        filled = impute_mean(found.W, found.loc, found.scale, rest, ~rest.isnan())
        return float((filled - z)[hidden].square().mean().sqrt())

    return {latents: error(latents) for latents in sizes}
