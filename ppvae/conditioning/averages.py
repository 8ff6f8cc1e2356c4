"""Averages over importance weights that arrive in blocks of particles, none of which is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ppvae.errors import Problem


def log_mean_exp(blocks: list[Tensor]) -> Tensor:
    """The log of the mean weight of each row, (n,), from log-weights (P, n)."""
    weights = torch.cat(blocks)  # a number a draw, small beside the draws
    return weights.logsumexp(0) - math.log(len(weights))


def effective(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of each row: (P, N) to (N,)."""
    w = (log_weights - log_weights.amax(0)).exp()
    return w.sum(0).square() / w.square().sum(0)


def summed(values: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Values (P, n, D) with log-weights (P, n) as one: their mean (1, n, D), and the log of their weight (1, n)."""
    top = log_weights.amax(0, keepdim=True)
    share = (log_weights - top).exp()
    total = share.sum(0, keepdim=True)
    return torch.einsum("pn,pnd->nd", share, values)[None] / total[..., None], top + total.log()


def weighted_mean(blocks: Iterable[Sequence[Tensor]]) -> Tensor:
    """The mean of values (P, n, D) under their log-weights (P, n), (n, D)."""
    means, weights = zip(*(summed(*block) for block in blocks), strict=True)
    return summed(torch.cat(means), torch.cat(weights))[0][0]


def expectation(likelihood: Any) -> Tensor:
    """E[x | z] of a site's distribution, or what it says is to be averaged instead (``averaged``, which its ``decided``
    turns into values of x); NaN, or a Problem, where there is none."""
    if hasattr(likelihood, "averaged"):
        return likelihood.averaged
    try:
        return likelihood.mean
    except NotImplementedError:
        raise no_mean(likelihood) from None


def decided(likelihood: Any, averages: Tensor) -> Tensor:
    """Values to complete rows with, (n, D), from the averages of what `expectation` gave."""
    return likelihood.decided(averages) if hasattr(likelihood, "decided") else averages


def no_mean(likelihood: Any) -> Problem:
    """What a likelihood without a mean meets."""
    return Problem(
        f"the likelihood {type(likelihood).__name__} has no mean",
        "classes have no average, and some densities none",
        "impute(draws=…) draws complete rows",
    )
