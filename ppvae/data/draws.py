"""Numbers that objects are made from: each row has its own, whatever the number of rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppvae.data.chance import generator

Ranges = Mapping[str, tuple[tuple[float, float], ...]]  # of each factor: the smallest and the largest value, by style
MOST = 64  # uniform numbers a row


class Draws:
    """Uniform numbers of each row, taken one after another.

    Args:
        rows: N.
        seed: row n is the same for every N.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.numbers = iter(torch.rand(rows, MOST, generator=generator(seed), dtype=torch.float64).unbind(1))

    def style(self, shares: tuple[float, ...]) -> Tensor:
        """Styles 0, 1, …, each with its share: (N,) int64."""
        ends = torch.tensor(shares, dtype=torch.float64).cumsum(0)
        return torch.searchsorted(ends[:-1] / ends[-1], next(self.numbers).contiguous())

    def factors(self, style: Tensor, ranges: Ranges) -> dict[str, Tensor]:
        """Each factor, uniform on the range of the row's style: (N, 1) each."""
        table = torch.tensor(list(ranges.values()), dtype=torch.float64)[:, style]  # (F, N, 2)
        return {
            name: (low + (high - low) * next(self.numbers))[:, None]
            for name, (low, high) in zip(ranges, (row.unbind(1) for row in table), strict=True)
        }

    def there(self, style: Tensor, shares: tuple[float, ...]) -> Tensor:
        """Whether a part is there, with the share of the row's style: (N,) bool."""
        return next(self.numbers) < torch.tensor(shares, dtype=torch.float64)[style]
