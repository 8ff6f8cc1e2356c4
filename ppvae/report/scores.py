"""What cells that were observed, and hidden for the purpose, say about draws of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.evaluate.conformal import conformal
from ppvae.evaluate.imputation import crps, interval

LEVEL = 0.9
FEWEST = 20  # rows with hidden cells by which intervals are stretched


@dataclass(frozen=True, eq=False)
class Scores:
    """Score draws of M hidden cells, of whatever columns.

    Attributes:
        truth: what stood there (M,).
        mean: the mean of the column's cells that were not hidden (M,).
        center: the mean of the draws (M,).
        crps: the continuous ranked probability score of each cell (M,), in the units of truth.
        spread: the standard deviation of the draws (M,).
        low, high: 90 % intervals (M,).
    """

    truth: np.ndarray
    mean: np.ndarray
    center: np.ndarray
    spread: np.ndarray
    crps: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def no_better(self) -> bool:
        """Whether the column mean in every hole would have done as well; False where nothing was hidden."""
        figures = self.of()
        return figures["entries"] > 0 and figures["rmse"] >= figures["rmse_mean"]

    def stretch(self, hidden: Tensor) -> float | None:
        """The c of `ppvae.evaluate.conformal`: center ± c spread holds a hidden cell of a new row in 90 % of rows, whatever the
        fit is worth. None where too few rows have hidden cells, or all draws of one agree.

        Args:
            hidden: where the cells stand in the table (N, D).
        """
        if hidden.any(1).sum() < FEWEST or not (self.spread > 0).all():
            return None
        truth, center, spread = (torch.zeros(hidden.shape, dtype=torch.float64) for _ in range(3))
        for grid, value in ((truth, self.truth), (center, self.center), (spread, self.spread)):
            grid[hidden.cpu()] = torch.as_tensor(value, dtype=torch.float64)
        return conformal(center, spread, truth, hidden.cpu(), LEVEL)

    def of(self, cells: Any = slice(None), unit: np.ndarray | float = 1.0) -> dict[str, Any]:
        """The figures of some of the cells, each cell's in its unit.

        rmse and crps are beside those of the column mean: for a single value the CRPS is the absolute error.
        """

        def root(error: np.ndarray) -> float:
            return float(np.sqrt(np.mean(np.square((error / unit)[cells]))))

        def average(value: np.ndarray) -> float:
            return float(np.mean((value / unit)[cells]))

        held = ((self.low <= self.truth) & (self.truth <= self.high))[cells]
        if not len(held):
            return {"entries": 0}
        return {
            "entries": len(held),
            "rmse": root(self.center - self.truth),
            "rmse_mean": root(self.mean - self.truth),
            "crps": average(self.crps),
            "crps_mean": average(np.abs(self.mean - self.truth)),
            "level": LEVEL,
            "held": int(held.sum()),
            "coverage": float(held.mean()),
            "width": average(self.high - self.low),
        }


def scores(draws: np.ndarray, truth: np.ndarray, mean: np.ndarray) -> Scores:
    """Score draws (S, M) of hidden cells against what stood there (M,), beside their columns' means (M,)."""
    low, high = interval(draws, LEVEL)
    return Scores(truth, mean, draws.mean(0), draws.std(0), crps(draws, truth).numpy(), low.numpy(), high.numpy())
