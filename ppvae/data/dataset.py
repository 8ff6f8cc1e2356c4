"""A data set that says what its numbers are, so that a likelihood is never printed without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ppvae.data.chance import generator
from ppvae.errors import Problem


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Hold rows, their split, and a sentence on how they were scaled.

    Attributes:
        name: as in `ppvae.data.names()`.
        x: (N, D) float32, every row of every split.
        split: row indices (int64) of "train", "test" and, where the source has one, "valid".
        label: (N,) int64, or None where the source has no labels.
        shape: (channels, height, width) of one row; their product is D.
        scaling: what was done to the numbers; print it beside each likelihood. Likelihoods of
            differently scaled data, or of grey and binary data, cannot be compared.
        likelihood: the one that suits x as observed: "bernoulli" or "normal".
        redraw: maps stored rows to a fresh observation, redraw(x, generator=None); None where x is
            the observation itself. With it, x holds probabilities and is *not* an observation:
            a Bernoulli log-probability of x itself is no likelihood of anything.
    """

    name: str
    x: Tensor
    split: dict[str, Tensor]
    label: Tensor | None
    shape: tuple[int, ...]
    scaling: str
    likelihood: str
    redraw: Callable[..., Tensor] | None = None

    @property
    def features(self) -> int:
        """Give D, the number of columns."""
        return self.x.shape[1]

    def rows(self, split: str) -> Tensor:
        """Give the stored rows of one split, (n, D). To score them, take `observed`."""
        return self.x[self._indices(split)]

    def labels(self, split: str) -> Tensor:
        """Give the labels of one split, (n,) int64. Raises `Problem` where there are none."""
        rows = self._indices(split)
        if self.label is None:
            raise Problem(f"{self.name} has no labels", "its source has none", "a labelled set: digits or mnist")
        return self.label[rows]

    def observed(self, split: str, seed: int = 0) -> Tensor:
        """Give the rows of one split as a fixed observation, (n, D).

        Where x is redrawn for each use, one draw from `seed` alone; equal seeds give equal draws.
        Else the stored rows.
        """
        rows, chance = self.rows(split), generator(seed)
        return rows if self.redraw is None else self.redraw(rows, generator=chance)

    def _indices(self, split: str) -> Tensor:
        if split not in self.split:
            raise Problem(f"{self.name} has no split {split!r}", "the source does not have it", " or ".join(self.split))
        return self.split[split]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(rows)}" for name, rows in self.split.items())
        return f"<{self.name}: {len(self.x)} × {self.features}; {sizes}; {self.likelihood}; {self.scaling}>"


def bernoulli(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw x' ~ Bernoulli(x) entry by entry: dynamic binarization (Burda et al. 2016)."""
    return torch.bernoulli(x, generator=generator)


def dequantise(levels: Tensor, count: int, seed: int = 0) -> Tensor:
    r"""Spread whole levels 0 … count - 1 over [0, 1): (x + u) / count, u ~ U[0, 1) from a fixed seed.

    Then no column is constant, and the mean log density plus D log(1/count) is a lower bound of the
    log-probability of the levels (Theis et al. 2016).

    Args:
        levels: (N, D) whole numbers; the result is float32.
        count: number of levels, at most 256.
        seed: of the noise.
    """
    # Float32 numbers near 256 are 2^-16 apart: a u nearer to 1 would round up to the next level.
    u = torch.rand(levels.shape, generator=generator(seed), dtype=torch.float32).mul_(1 - 2**-16)
    return u.add_(levels).div_(count)
