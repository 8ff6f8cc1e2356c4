"""The parts of a missingness law: its inputs, a logistic with a given mean, the draw."""

from __future__ import annotations

from math import log
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from ppvae.data.chance import generator
from ppvae.errors import Problem


def draw(missing: Tensor, seed: int | torch.Generator) -> Tensor:
    """Draw observed_nj ~ Bernoulli(1 - missing_nj); on the CPU, in float64."""
    chance = seed if isinstance(seed, torch.Generator) else generator(seed)
    return torch.rand(missing.shape, generator=chance, dtype=missing.dtype) >= missing


def logistic(score: Tensor, rate: float) -> Tensor:
    """Give logistic(b_j + score_nj) with b_j by bisection so that each column's mean is `rate`."""
    if rate == 0:
        return torch.zeros_like(score)
    centre = log(rate / (1 - rate))
    low, high = centre - score.amax(0), centre - score.amin(0)  # (D,) each brackets b
    for _ in range(40):
        b = (low + high) / 2
        more = torch.sigmoid(b + score).mean(0) < rate
        low, high = torch.where(more, b, low), torch.where(more, high, b)
    return torch.sigmoid((low + high) / 2 + score)


def standardised(x: Tensor) -> Tensor:
    """Give (x_nj - m_j)/s_j, and 0 in a constant column."""
    varies = x.amax(0) > x.amin(0)  # rounding leaves x - m of a constant column a little off 0
    x = x - x.mean(0)
    return torch.where(varies, x / x.square().mean(0).sqrt(), 0.0)


def checked(rate: float) -> float:
    """Take a rate of missing entries, 0 <= rate < 1."""
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise Problem(
            f"rate={rate!r}", "it is the share of entries to hide", "a number with 0 <= rate < 1, such as 0.5"
        )
    return float(rate)


def complete(x: Tensor | np.ndarray) -> Tensor:
    """Take a complete finite table as float64 on the CPU, so that a device changes no draw."""
    try:
        x = torch.as_tensor(x).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Problem(
            f"x of type {type(x).__name__} ({error})", "x must be numeric", "a tensor or numpy array"
        ) from None
    if x.ndim != 2 or not x.numel():
        raise Problem(
            f"x of shape {tuple(x.shape)}", "x must be a table with rows and columns", "x.reshape(len(x), -1)"
        )
    if not x.isfinite().all():
        raise Problem(
            f"x has {int(x.isnan().sum())} NaN and {int(x.isinf().sum())} infinite entries",
            "missingness is made on complete data, whose hidden values are known",
            "rows without holes",
        )
    return x
