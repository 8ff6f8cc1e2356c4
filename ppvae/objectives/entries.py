"""The modalities of a table: entries of the data that the story masks and the guide can do without."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.objectives.emphasis import Weight
from ppvae.pair import Pair

Weights = Mapping[str, Weight]


def entered(
    pair: Pair, x: Any, mask: Any, entries: Sequence[str] | None, *weights: Weights | None
) -> tuple[Table, list[str]]:
    """The rows, and the names of their modalities: the entries that the story masks.

    Raises:
        Problem: fewer than two, a modality that no row has, a weight of no modality, a guide that reads gaps as data.
    """
    table = enter(pair, x, mask)
    known = [name for name in pair.entries if name in pair.sites(table.values) and pair.takes_mask(name)]
    names = [name for name in known if name in table.values] if entries is None else list(entries)
    absent = [name for name in names if name not in table.values or name not in known]
    if not isinstance(x, Table):  # in a step nothing waits for the device; `fit` looks before the first
        absent += [name for name in names if name in table.masks and not table.masks[name].any()]
    if absent or len(names) < 2:
        raise Problem(
            f"{absent[0]!r} is absent in every row" if absent else f"the data have no modality beside {names}",
            "the objective sets modalities against each other, each seen in some row",
            f"data with two of: {', '.join(known)}; ppvae.elbo() takes one alone"
            if len(known) > 1
            else "a story with mask=True, mask_y=True, … among its parameters; ppvae.elbo() takes one modality alone",
        )
    for name in (name for given in weights if given for name in given if name not in names):
        raise Problem(f"a weight of {name!r}", "it is none of the modalities", f"weights of: {', '.join(names)}")
    _refuse_guide(pair, table, names)
    return table, names


def _refuse_guide(pair: Pair, table: Table, names: Sequence[str]) -> None:
    takes = pair._takes["guide"]
    for name in names:
        if name in takes and takes[name].default is inspect.Parameter.empty:
            raise Problem(
                f"the guide cannot do without {name!r}",
                "the objective shows it the other modalities alone",
                f"def guide(…, {name}=None, …), and a distribution for it",
            )
        if name in takes and name in table.masks and ("mask" if name == "x" else f"mask_{name}") not in takes:
            raise Problem(
                f"entries of {name!r} are missing and the guide takes no mask of them",
                "it would read what fills a gap as data",
                "a guide that takes the mask, or complete rows",
            )


def rows_with(table: Table, name: str) -> Tensor:
    """The rows that have something of a modality, (N,)."""
    mask = table.masks.get(name)
    if mask is None:
        return torch.ones(len(table), dtype=torch.bool, device=table.values[name].device)
    return mask.any(-1)


def seen_alone(table: Table, names: Sequence[str], name: str) -> Table:
    """What the guide sees: of the modalities this one alone."""
    others = {n for n in names if n != name}
    keep = {key: value for key, value in table.values.items() if key not in others}
    return replace(table, values=keep, masks={key: mask for key, mask in table.masks.items() if key not in others})


def scored_alone(table: Table, names: Sequence[str], name: str) -> Table:
    """What the story scores: of the modalities this one alone. The others are hidden and not left out, so that nothing is
    drawn for them."""
    nothing = torch.zeros(len(table), 1, dtype=torch.bool, device=table.values[name].device)
    return replace(table, masks={**table.masks, **{n: nothing for n in names if n != name}})
