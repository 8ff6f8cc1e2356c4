r"""Columns of a table on a scale on which a Gaussian story fits: standardised, or made symmetric first.

A warped column is Box & Cox's power transform where all observed values are positive, Yeo & Johnson's where they are
not, with the power of greatest likelihood among the observed values, from the logarithm to the square, then standardised. An area is
the square of a length: on warped columns the two are linear in one another. What is imputed stays within the range that was
observed: amounts stay positive.

References: Box & Cox 1964; Yeo & Johnson 2000.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.preprocessing import PowerTransformer
from torch import Tensor

POWERS = 0.0, 2.0  # the logarithm to the square: beyond, a transform has an asymptote, and draws near it explode


class Columns:
    """The scales of the columns of one table, learned from its observed entries.

    Args:
        x: (N, D), NaN = missing; every column varies.
        warp: make the columns symmetric, else only standardise.
    """

    def __init__(self, x: Tensor, warp: bool) -> None:
        values = x.double().cpu().numpy()
        self.columns = [_Column.of(values[:, j], warp) for j in range(values.shape[1])]
        low, high = np.nanmin(values, 0), np.nanmax(values, 0)
        self.low, self.high = (low, high) if warp else (np.full_like(low, -np.inf), np.full_like(high, np.inf))

    def forward(self, x: Tensor) -> Tensor:
        """The rows (N, D) on the columns' scales, NaN where missing."""
        values = x.double().cpu().numpy()
        z = [column.forward(values[:, j]) for j, column in enumerate(self.columns)]
        return torch.as_tensor(np.stack(z, 1), device=x.device)

    def back(self, z: Tensor) -> Tensor:
        """Values on the columns' scales, (…, D), in the table's units; of warped columns within the observed range."""
        values = z.double().cpu().numpy()
        x = np.empty_like(values)  # column by column: of many draws there is one copy
        for j, column in enumerate(self.columns):
            x[..., j] = column.back(values[..., j]).clip(self.low[j], self.high[j])
        return torch.as_tensor(x, device=z.device)


class _Column(NamedTuple):
    unit: float  # divides the values before the power
    power: PowerTransformer | None
    loc: float
    scale: float

    @classmethod
    def of(cls, x: np.ndarray, warp: bool) -> _Column:
        seen = x[~np.isnan(x)]
        if warp:
            positive = seen.min() > 0
            method, unit = ("box-cox", np.median(seen)) if positive else ("yeo-johnson", seen.std())
            power = PowerTransformer(method=method, standardize=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # overflow at powers that are not taken
                power.fit(seen[:, None] / unit)
            power.lambdas_ = power.lambdas_.clip(*POWERS)
            y = power.transform(seen[:, None] / unit)[:, 0]
            return cls(float(unit), power, y.mean(), y.std())
        return cls(1.0, None, seen.mean(), seen.std())

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = x if self.power is None else self.power.transform(x[:, None] / self.unit)[:, 0]
        return (y - self.loc) / self.scale

    def back(self, z: np.ndarray) -> np.ndarray:
        y = z * self.scale + self.loc
        if self.power is None:
            return y
        with np.errstate(all="ignore"):
            x = self.power.inverse_transform(y.reshape(-1, 1)).reshape(y.shape) * self.unit
        return np.where(np.isnan(x), -np.inf, x)  # below the power of 0: the low end of the range stands for it
