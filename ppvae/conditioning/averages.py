"""Averages over importance weights that arrive in blocks of particles, none of which is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
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


def weighted_mean(blocks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean of values (P, n, D) under their log-weights (P, n), (n, D)."""
    top, total, mean = None, 0.0, 0.0
    for values, weights in blocks:
        peak = weights.amax(0) if top is None else torch.maximum(top, weights.amax(0))
        shrink = 1.0 if top is None else (top - peak).exp()
        share = (weights - peak).exp()
        total = total * shrink + share.sum(0)
        mean = (mean * shrink[:, None] if top is not None else 0.0) + torch.einsum("pn,pnd->nd", share, values)
        top = peak
    return mean / total[:, None]


def expectation(likelihood: Any) -> Tensor:
    """E[x | z] of a site's distribution.

    Raises:
        Problem: it has no mean.
    """
    try:
        mean = likelihood.mean
    except NotImplementedError:
        mean = None
    if mean is None or mean.isnan().any():
        raise Problem(
            f"the likelihood {type(likelihood).__name__} has no mean",
            "classes have no average, and some densities none",
            "impute(draws=…) draws complete rows",
        )
    return mean
