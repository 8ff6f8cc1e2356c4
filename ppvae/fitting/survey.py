"""One pass over rows in files before they are trained on: what the door and the guard rails say of rows in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.fitting.mapped import Mapped, rows_at_once
from ppvae.fitting.redrawing import Redraw, observe
from ppvae.pair import Pair
from ppvae.unfit import refuse_unfit

ROW, COUNT = re.compile(r"\brow (\d+)"), re.compile(r"\((\d+) such entries\)")


@dataclass
class Survey:
    """What holds for all rows together, and cannot be told from a batch.

    Attributes:
        low, high: the least and the largest observed value of each column, by entry; of x as it is observed.
        by_row: the entries that are (N,) in the file and (N, 1) in a batch.
        holes: the entries that have NaN.
        widths: of the masks that batches carry, by entry; an entry without one is complete.
        sums: as of `ppvae.fitting.rows.Rows.sums`; of x as it is stored.
        unseen: the rows of which nothing of x is observed, in pieces.
    """

    low: dict[str, Tensor] = field(default_factory=dict)
    high: dict[str, Tensor] = field(default_factory=dict)
    by_row: set[str] = field(default_factory=set)
    holes: set[str] = field(default_factory=set)
    widths: dict[str, int] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    unseen: list[Tensor] = field(default_factory=list)


def survey(pair: Pair, mapped: Mapped, redraw: Redraw | None) -> Survey:
    """Read all rows once.

    Raises:
        Problem: as `ppvae.door.enter` of the same rows in memory.
    """
    found, parts = Survey(), mapped.parts()
    for start, values, masks in parts:
        try:
            _add(found, start, pair, values, masks, redraw)
        except Problem as problem:
            raise _of_the_file(problem, start, _further(parts, pair, redraw)) from problem
    complete = {f"mask of {name}" for name in mapped.values if name not in found.widths}
    found.sums = {name: total for name, total in found.sums.items() if name not in complete}
    return found


def totals(table: Table) -> dict[str, float]:
    """Sums of each entry and number of observed entries of each mask, added part by part as a survey does it."""
    sums: dict[str, float] = {}
    size = rows_at_once(value.shape for value in table.values.values())
    for start in range(0, len(table), size):
        part = table.rows(slice(start, start + size))
        _sum(sums, part.values, {name: part.masks.get(name) for name in table.masks})
    return sums


def _add(
    found: Survey,
    start: int,
    pair: Pair,
    values: dict[str, np.ndarray],
    masks: dict[str, np.ndarray],
    redraw: Redraw | None,
) -> None:
    stored: dict[str, Tensor] = {}
    if redraw is not None:
        values, stored = _redrawn(pair, values, redraw)
    table = enter(pair, values, masks)
    for name in values:  # not what the door adds to them: a batch without it has it from the mask
        value = table.values[name]
        holes = value.isnan()
        if holes.any():
            found.holes.add(name)
        if value.dim() > np.ndim(values[name]):
            found.by_row.add(name)
        mask = table.masks.get(name)
        seen = ~holes if mask is None or name != "x" else mask
        low, high = torch.where(seen, value, torch.inf).amin(0), torch.where(seen, value, -torch.inf).amax(0)
        found.low[name] = torch.minimum(found.low.get(name, low), low)
        found.high[name] = torch.maximum(found.high.get(name, high), high)
        if mask is not None:
            found.widths[name] = max(found.widths.get(name, 1), mask.shape[-1])
            if name == "x":
                found.unseen.append((~mask.any(1)).nonzero().flatten() + start)
    _sum(found.sums, {**table.values, **stored}, {name: table.masks.get(name) for name in values})


def _redrawn(
    pair: Pair, values: dict[str, np.ndarray], redraw: Redraw
) -> tuple[dict[str, np.ndarray | Tensor], dict[str, Tensor]]:
    stored = torch.as_tensor(values["x"]).to(next(pair.parameters()))
    return {**values, "x": observe(stored, redraw)}, {"x": stored}


def _sum(sums: dict[str, float], values: dict[str, Tensor], masks: dict[str, Tensor | None]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + float(value.double().nansum())
    for name, mask in masks.items():
        seen = values[name].numel() if mask is None else int(mask.sum()) * (values[name].numel() // mask.numel())
        sums[f"mask of {name}"] = sums.get(f"mask of {name}", 0.0) + seen


def refuse_unfit_rows(pair: Pair, found: Survey, rows: int) -> None:
    """`refuse_unfit`, on two tables of which it says the same: the extremes of the columns, and the rows' masks alone."""
    if "x" not in found.low:
        return
    extremes = torch.stack([found.low["x"], found.high["x"]])[: min(rows, 2)]
    refuse_unfit(pair, Table({"x": extremes}, {"x": extremes.isfinite()}, rows))
    if found.unseen and len(unseen := torch.cat(found.unseen)):
        seen = torch.ones(rows, 1, dtype=torch.bool, device=unseen.device)
        seen[unseen] = False
        refuse_unfit(pair, Table({"x": seen.cumsum(0).to(extremes.dtype)}, {"x": seen}, rows))


def _of_the_file(problem: Problem, start: int, further: Iterator[Problem]) -> Problem:
    """What the door said of a part that begins at row ``start``, as it would have said it of all rows."""
    seen = ROW.sub(lambda row: f"row {int(row[1]) + start}", problem.seen)
    if COUNT.search(seen):
        alike = [p for p in further if p.cause == problem.cause and p.seen.split()[0] == seen.split()[0]]
        count = sum(int(found[1]) for p in (problem, *alike) if (found := COUNT.search(p.seen)))
        seen = COUNT.sub(f"({count} such entries)", seen)
    return Problem(seen, problem.cause, problem.remedy)


def _further(parts: Iterator, pair: Pair, redraw: Redraw | None) -> Iterator[Problem]:
    """The problems of the parts that are left."""
    for _, values, masks in parts:
        try:
            enter(pair, values if redraw is None else _redrawn(pair, values, redraw)[0], masks)
        except Problem as problem:
            yield problem
