"""What a completed table says of its columns, the holes' uncertainty included."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ppvae.evaluate.multiple import rubin

LEVEL = 0.95


def means(draws: Tensor, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each column its mean, pooled over the completed tables by Rubin's rules, with a 95 % interval and the share of the
    variance that comes from the missing cells.

    Args:
        draws: completed tables (S, N, D) of two rows at least.
        columns: D names.
    """
    pooled = rubin(draws.double().mean(1), draws.double().var(1) / draws.shape[1])
    values = (pooled.estimate, *pooled.interval(LEVEL), pooled.missing)
    return {
        name: dict(zip(("mean", "low", "high", "missing"), map(float, found), strict=True))
        for name, *found in zip(columns, *values, strict=True)
    }
