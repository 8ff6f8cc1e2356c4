"""Chance from a seed alone: a generator of its own, the global one is left untouched."""

from __future__ import annotations

from numbers import Real
from operator import index

import torch
from torch import Tensor

from ppvae.errors import Problem


def generator(seed: int) -> torch.Generator:
    """Make a CPU generator that starts at `seed`, a whole number."""
    try:
        return torch.Generator().manual_seed(index(seed))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise Problem(f"seed is {seed!r}", "a seed is a whole number of at most 64 bits", "seed=0") from None


def split(n: int, fraction: float = 0.8, seed: int = 0) -> dict[str, Tensor]:
    """Split n rows at random into a train part of round(fraction · n) rows and a test part.

    Args:
        n: number of rows, at least 2.
        fraction: share of the train part, 0 < fraction < 1.
        seed: equal seeds give equal splits.

    Returns:
        {"train": indices, "test": indices}, int64; together each of 0 … n - 1 once.

    Raises:
        Problem: a part would be empty.
    """
    order = torch.randperm(_rows(n), generator=generator(seed))
    train = round(fraction * len(order)) if isinstance(fraction, Real) and 0 < fraction < 1 else 0
    if not 0 < train < len(order):
        raise Problem(
            f"{n} rows and fraction={fraction!r}",
            "one of the two parts would have no rows",
            "a fraction between 0 and 1, such as 0.8, and at least 2 rows",
        )
    return {"train": order[:train], "test": order[train:]}


def _rows(n: int) -> int:
    try:
        return max(index(n), 0)
    except TypeError:
        raise Problem(f"n is {n!r}", "n counts rows", "a whole number, such as len(x)") from None
