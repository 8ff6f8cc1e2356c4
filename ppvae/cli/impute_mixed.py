"""`ppvae impute` on a table with classes: which way, and whether to believe it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppvae.data.schema import Kind
from ppvae.errors import Problem
from ppvae.imputation.choice import COVARIANCE
from ppvae.imputation.completed import Completed
from ppvae.imputation.energy import Hidden, MixedChoice, choose_mixed, hidden_cells
from ppvae.imputation.mixed import ALONE, MIXED_WAYS, Layout, MixedWay, complete_mixed
from ppvae.imputation.sheet import Sheet
from ppvae.nn.kinds import classes
from ppvae.report.scores import Scores, scores

Doing = Callable[[str], AbstractContextManager[None]]


class Done(NamedTuple):
    """A completed table, and what is said of it."""

    completed: Completed
    results: dict[str, Any]
    no_better: bool


def said_kinds(words: Sequence[str]) -> dict[str, Kind]:
    """Kinds of columns by name, from ``NAME=KIND`` or ``NAME=first<second<…`` each."""
    found: dict[str, Kind] = {}
    for word in words:
        name, sign, kind = word.rpartition("=")
        if not sign or not name or not kind:
            raise Problem(
                f"--kind is {word!r}",
                "it names a column and its kind",
                "--kind grade=ordinal, --kind 'size=small<medium<large'",
            )
        found[name] = [part.strip() for part in kind.split("<")] if "<" in kind else kind
    return found


def ways_for(layout: Layout, rows: int, deep: bool) -> dict[str, MixedWay]:
    """The columns alone, a linear way (factors where a covariance takes long) and the story; ``deep``: and one for minutes."""
    wide = sum(classes(kind) if kind.startswith("categorical") else 1 for kind in layout.kinds)
    linear = "Gaussian" if rows * wide**3 <= COVARIANCE else "Factor analysis"
    names = [ALONE, f"{linear} of indicators", "Mixed story"] + ["Mixed story, long"] * deep
    return {name: MIXED_WAYS[name] for name in names}


def impute_mixed(
    sheet: Sheet, x: Tensor, hidden: tuple[Tensor, Tensor], draws: tuple[int, int], deep: bool, seed: int, doing: Doing
) -> Done:
    """Complete a table with classes in the way that foretells hidden cells best.

    Args:
        sheet: the table.
        x: its numbers and codes (N, D).
        hidden: the cells to choose by and those that score, (N, D) each.
        draws: of each missing cell, and of each hidden one.
        deep: also try what takes minutes.
        seed: of everything.
        doing: says what is being done.
    """
    layout, (choosing, scoring) = sheet.layout, hidden
    ways = {name: _announced(name, way, doing) for name, way in ways_for(layout, len(x), deep).items()}
    chosen = choose_mixed(x.masked_fill(scoring, torch.nan), layout, ways, choosing, draws[1], seed)
    way = MIXED_WAYS[chosen.name]
    with doing("completing cells that were observed, to see how well that goes"):
        found = hidden_cells(x, layout, way, scoring, draws[1], seed)
        alone = hidden_cells(x, layout, MIXED_WAYS[ALONE], scoring, draws[1], seed)
    with doing(f"completing the table by {chosen.name!r}"):
        completed = complete_mixed(x, layout, way, draws[0], seed)
    relative = found.relative(alone) if len(found.truth) else None
    results = _results(sheet, x, chosen, found, alone, hidden)
    return Done(completed, results | {"energy": relative}, relative is not None and relative >= 1)


def _announced(name: str, way: MixedWay, doing: Doing) -> MixedWay:
    def draw(x: Tensor, layout: Layout, draws: int, seed: int) -> Tensor:
        with doing(f"trying {name!r} on cells hidden for the purpose"):
            return way.draw(x, layout, draws, seed)

    return way._replace(draw=draw)


def _results(
    sheet: Sheet, x: Tensor, chosen: MixedChoice, found: Hidden, alone: Hidden, hidden: tuple[Tensor, Tensor]
) -> dict[str, Any]:
    missing, layout = x.isnan(), sheet.layout
    each, common = numbers_of(x, layout, found), _commonest(x.masked_fill(hidden[1], torch.nan))
    number = layout.is_number(found.column)
    where = found.column[number].cpu().numpy()
    scale = (x - x.nanmean(0)).square().nanmean(0).sqrt()
    by_column = {}
    for j, name in enumerate(sheet.table.columns):
        if j in layout.numbers:
            score = each.of(where == j, 1 / float(scale[j]))
        else:
            score = classes_of(found, alone, common, found.column == j)
        by_column[name] = {"missing": int(missing[:, j].sum()), **score}
    return {
        "way": chosen.name,
        "says": MIXED_WAYS[chosen.name].says,
        "warp": True,
        "tried": chosen.scores,
        "hidden": int(hidden[0].sum()),
        "rmse_hidden_mean": None,
        "fit": {},
        "score": each.of(),
        "stretch": each.stretch(hidden[1] & layout.is_number(torch.arange(x.shape[1], device=x.device))),
        "classes": classes_of(found, alone, common, ~number),
        "kinds": dict(zip(sheet.table.columns, layout.kinds, strict=True)),
        "by_column": by_column,
    }


def numbers_of(x: Tensor, layout: Layout, found: Hidden) -> Scores:
    """Scores of the hidden cells of numbers, in standard deviations of their columns."""
    cells = layout.is_number(found.column)
    loc = x.nanmean(0)
    scale = (x - loc).square().nanmean(0).sqrt()
    loc, scale = loc[found.column][cells], scale[found.column][cells]
    values = (found.draws[:, cells], found.truth[cells], loc)
    return scores(*(((value - loc) / scale).cpu().numpy() for value in values))


def classes_of(found: Hidden, alone: Hidden, common: Tensor, cells: Tensor) -> dict[str, Any]:
    """Of hidden cells of classes: how many are right, beside the commonest class of each column; their mean energy likewise."""
    if not cells.any():
        return {"entries": 0}
    truth = found.truth[cells]
    return {
        "entries": int(cells.sum()),
        "right": int((found.best[cells] == truth).sum()),
        "right_common": int((common[found.column[cells]] == truth).sum()),
        "energy": float(found.energy[cells].mean()),
        "energy_alone": float(alone.energy[cells].mean()),
    }


def _commonest(x: Tensor) -> Tensor:
    """The value that is most often observed in each column, (N, D) to (D,)."""
    return torch.stack([column[~column.isnan()].mode().values for column in x.unbind(1)])
