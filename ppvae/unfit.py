"""Data that a pair cannot be fitted to, or conditioned on: what is said of a table before any step."""

from __future__ import annotations

import warnings

import torch

from ppvae.door import Table
from ppvae.errors import Caution, Problem
from ppvae.machine import own_generators
from ppvae.pair import SEEN, Pair
from ppvae.tracing.traces import run

BLOCK, DRAWS = 512, 200  # rows at a time; draws of what is missing, none of which gives an impossible entry a chance


def refuse_unfit(pair: Pair, table: Table) -> None:
    """Refuse columns from which nothing, or infinitely much, would be learned; warn of rows that teach nothing."""
    refuse_contradicted(pair, table)
    others = {name: table.masks.get(name) for name in table.values if name != "x" and name in pair.sites(table.values)}
    for name, mask in others.items():
        if mask is not None and not mask.any():
            raise Problem(
                f"{name!r} is absent in every row",
                "an entry of which nothing was read, or a mask that is inverted (True = observed)",
                f"leave {name!r} out of the data if it is not to be learned",
            )
    x = table.values.get("x")
    if x is None:
        return
    seen = table.masks.get("x", torch.ones((), dtype=torch.bool, device=x.device)).expand(x.shape)
    empty = (~seen.any(0)).nonzero().flatten().tolist()
    if empty and len(x) > 1:  # one row, a graph, has gaps of its own
        raise Problem(
            f"column{_s(empty)} never observed",
            "a table's empty column, or a mask that is inverted (True = observed)",
            "drop the column, or pass ~mask",
        )
    low, high = torch.where(seen, x, torch.inf).amin(0), torch.where(seen, x, -torch.inf).amax(0)
    constant = (low == high).nonzero().flatten().tolist()
    site = pair.sites(table.values).get("x")
    if constant and len(x) > 1 and site is not None and not site["fn"].support.is_discrete:
        raise Problem(
            f"column{_s(constant)} constant (column {constant[0]} is always {low[constant[0]].item():.4g})",
            "border pixels, an unused field, or a unit that was lost in rounding: a density of it grows without bound "
            "as its noise shrinks",
            "drop the column: x[:, x.std(0) > 0]; or spread grey levels: x + torch.rand_like(x) / 256",
        )
    told = seen.any(1)
    for name, mask in others.items():
        if name != SEEN:
            told = told | (True if mask is None else mask.any(1))
    nothing = (~told).nonzero().flatten().tolist()
    if nothing and not pair.hides("x"):  # a story of the mask learns from an empty row too
        warnings.warn(
            f"row{_s(nothing)} not observed at all\n  Likely cause: blank lines, or a mask that is inverted\n"
            "  Try: drop them: x[mask.any(1)]; they add only -KL to the bound and teach nothing",
            Caution,
            stacklevel=3,
        )


@torch.no_grad()
def refuse_contradicted(pair: Pair, table: Table) -> None:
    """Refuse entries that were observed where the story's mechanism gives no chance to that, whatever is missing beside them."""
    if SEEN not in table.values or not pair.hides("x"):
        return
    with own_generators(0):
        first = run(pair, table.rows(slice(0, 1)), enumerate=False).model.nodes.get(SEEN)
        if first is None or "probs" not in vars(first["fn"]):  # logits give every entry some chance
            return
        for start in range(0, len(table), BLOCK):
            site = run(pair, table.rows(slice(start, start + BLOCK)), particles=DRAWS, enumerate=False).model.nodes[
                SEEN
            ]
            told = site["value"] > 0.5
            never = told & (site["fn"].probs == 0).reshape(-1, *told.shape).all(0)
            if never.any():
                row, column = never.nonzero()[0].tolist()
                raise Problem(
                    f"the entry at row {start + row}, column {column} was observed, and the mechanism says never "
                    f"({int(never.sum())} such entries)",
                    "a limit that is not where the mechanism has it, or a wrong sign",
                    "a mechanism that gives every entry some chance, or mend the data",
                )


def _s(places: list[int]) -> str:
    """ "s 1, 2, 3 and 7 more are" or " 4 is"."""
    shown = ", ".join(map(str, places[:5])) + (f" and {len(places) - 5} more" if len(places) > 5 else "")
    return f"s {shown} are" if len(places) > 1 else f" {shown} is"
