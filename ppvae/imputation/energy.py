"""Which way to complete a table of numbers and classes, by a proper score of cells that were hidden for the purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppvae.evaluate.imputation import crps
from ppvae.imputation.mixed import ALONE, MIXED_WAYS, Layout, MixedWay, complete_mixed
from ppvae.nn.kinds import classes


def energy(draws: Tensor, truth: Tensor, kind: str) -> Tensor:
    r"""How far draws of a column (S, M) are from what stood there (M,), by cell: a proper score, its fair estimator.

    .. math:: E\,d(X, y) - \tfrac12 E\,d(X, X')

    with d the difference of numbers and of ordinal codes, which is the CRPS; and d(a, b) = 1 where classes differ, which is
    half of Brier's score, ½ Σ_c (p_c - 1{c = y})². Of a bit they are the same number.

    Reference: Gneiting & Raftery 2007, sections 4.2 and 5.1.
    """
    if not kind.startswith("categorical"):
        return crps(draws, truth)
    S, wrong = len(draws), (draws != truth).to(draws).mean(0)
    shares = torch.stack([(draws == code).to(draws).mean(0) for code in range(classes(kind))])
    apart = (1 - shares.square().sum(0)) * S / (S - 1)
    return wrong - apart / 2


@dataclass(frozen=True, eq=False)
class Hidden:
    """What a way drew for the M hidden cells of a table, and what stood there, cell by cell.

    Attributes:
        column: of each cell (M,).
        truth: (M,).
        draws: (S, M).
        best: the one value that it completes each by (M,).
        energy: of each cell (M,).
    """

    column: Tensor
    truth: Tensor
    draws: Tensor
    best: Tensor
    energy: Tensor

    def relative(self, other: Hidden) -> float:
        """The energy where that of ``other`` is 1 in each column, averaged over the cells: 0 of what is certain and right."""
        share = torch.zeros_like(self.energy)
        for j in self.column.unique():
            cells = self.column == j
            whole = other.energy[cells].mean()
            share[cells] = self.energy[cells] / whole if whole > 0 else torch.ones_like(self.energy[cells])
        return float(share.mean())


class MixedChoice(NamedTuple):
    """The way with the least relative energy, and that of each way that was tried."""

    name: str
    scores: dict[str, dict[str, float]]


def hidden_cells(x: Tensor, layout: Layout, way: MixedWay, hidden: Tensor, draws: int, seed: int) -> Hidden:
    """Complete cells (N, D) that were observed, by a fit that does not see them."""
    column = hidden.nonzero()[:, 1]
    if not hidden.any():
        none = x.new_empty(0)
        return Hidden(column, none, x.new_empty(draws, 0), none, none)
    found = complete_mixed(x.masked_fill(hidden, torch.nan), layout, way, draws, seed)
    drawn, truth = found.draws[:, hidden], x[hidden]
    scores = torch.zeros_like(truth)
    for j, kind in enumerate(layout.kinds):
        cells = column == j
        if cells.any():
            scores[cells] = energy(drawn[:, cells], truth[cells], kind)
    return Hidden(column, truth, drawn, found.mean[hidden], scores)


def choose_mixed(
    x: Tensor, layout: Layout, ways: Mapping[str, MixedWay], hidden: Tensor, draws: int, seed: int
) -> MixedChoice:
    """Hide cells, complete the table in each way, and take the one with the least energy, that of the columns alone being 1.

    Args:
        x: (N, D), NaN = missing.
        layout: what its columns are.
        ways: by name; without hidden cells the first is taken.
        hidden: the observed entries to hide (N, D).
        draws: S.
        seed: of the ways.
    """
    if not hidden.any():
        return MixedChoice(next(iter(ways)), {})
    alone = hidden_cells(x, layout, MIXED_WAYS[ALONE], hidden, draws, seed)
    found = {name: hidden_cells(x, layout, way, hidden, draws, seed) for name, way in ways.items() if name != ALONE}
    tried = {name: found.get(name, alone) for name in ways}
    figures = {name: figures_of(cells, alone, layout, x) for name, cells in tried.items()}
    return MixedChoice(min(figures, key=lambda name: figures[name]["energy"]), figures)


def figures_of(cells: Hidden, alone: Hidden, layout: Layout, x: Tensor) -> dict[str, Any]:
    """Of all hidden cells: their energy, the RMSE of numbers in standard deviations, the share of classes that is right."""
    scale = (x - x.nanmean(0)).square().nanmean(0).sqrt()[cells.column]
    number = layout.is_number(cells.column)
    away, right = ((cells.best - cells.truth) / scale)[number], (cells.best == cells.truth)[~number]
    return {
        "energy": cells.relative(alone),
        "entries": len(cells.truth),
        "rmse": float(away.square().mean().sqrt()) if len(away) else None,
        "right": float(right.double().mean()) if len(right) else None,
    }
