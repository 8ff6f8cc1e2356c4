"""The rows of one fit: which are trained on, which are set aside, and how a batch of them is observed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.fitting.mapped import Mapped, in_files, rows_at_once
from ppvae.fitting.parts import Part
from ppvae.fitting.processes import ALONE, Processes
from ppvae.fitting.redrawing import Redraw, observe
from ppvae.fitting.streaming import Streamed, generators, set_generators
from ppvae.fitting.survey import refuse_unfit_rows, totals
from ppvae.pair import Pair
from ppvae.unfit import refuse_unfit

LOOKED_AT = 16  # rows to train on that a fit looks at before it begins, beside those set aside


@dataclass(frozen=True)
class Rows:
    """The data of one fit: which rows are trained on, which are set aside, and how a batch is observed.

    Attributes:
        table: the rows, x as it is observed once; in files where they were given so.
        train, aside: sorted row numbers, on the device.
        stored: the rows, x as it is stored; where nothing is redrawn that is ``table``.
        redraw: observes x of each batch anew.
    """

    table: Table | Streamed
    train: Tensor
    aside: Tensor
    stored: Table | Streamed
    redraw: Redraw | None

    @classmethod
    def enter(cls, pair: Pair, x: Any, mask: Any, redraw: Redraw | None, held_out: float) -> Rows:
        """Bring the data of a fit in. What a `numpy.memmap` maps stays in its file (`ppvae.fitting.streaming`).

        Raises:
            Problem: what the door refuses, columns that cannot be fitted, a share of rows that is none or all.
        """
        entries = dict(x) if isinstance(x, Mapping) else {"x": x}
        masks = dict(mask) if isinstance(mask, Mapping) else {"x": mask}
        began = generators()
        if in_files([*entries.values(), *masks.values()]):
            table = stored = Streamed.open(pair, Mapped(entries, masks), redraw)
            refuse_unfit_rows(pair, stored.survey, len(stored))
        else:
            table, stored = _in_memory(pair, entries, masks, redraw)
        order = torch.randperm(len(table), device=next(iter(table.values.values())).device)
        aside = round(held_out * len(table))
        if held_out and not 0 < aside < len(table):
            raise Problem(
                f"held_out={held_out} of {len(table)} rows sets {aside} aside",
                "too few rows",
                "a larger share, or more rows",
            )
        train, aside = order[aside:].sort().values, order[:aside].sort().values
        if redraw is not None and isinstance(stored, Streamed):
            table = stored.observed_at(began, redraw, torch.cat([aside, train[:LOOKED_AT]]).sort().values)
        return cls(table, train, aside, stored, redraw)

    def sums(self) -> dict[str, float]:
        """A number for each entry and mask, by which other data under the same path are found out."""
        return self.stored.survey.sums if isinstance(self.stored, Streamed) else totals(self.stored)

    def order(self, began: list[Tensor] | None = None) -> Tensor:
        """The rows to train on in a new order, drawn from the generators as they are, or as they were when an epoch began."""
        now = generators()
        if began:
            set_generators(began)
        order = self.train[torch.randperm(len(self.train), device=self.train.device)]
        if began:
            set_generators(now)
        return order

    def batches(self, order: Tensor, size: int, processes: Processes = ALONE) -> Iterator[Table]:
        """The rows of ``order``; of several processes each gets its part of every batch. In memory they are on the device,
        and nothing here waits for it."""
        parts = [(processes.share(len(index)), index) for index in order.split(size)]
        own = [index[share.rows] for share, index in parts]
        if isinstance(self.stored, Streamed):
            batches = self.stored.batches(torch.cat(own), len(own[0]))  # only the last is smaller
        else:
            batches = map(self.stored.rows, own)
        for (share, _), batch in zip(parts, batches, strict=True):
            if self.redraw is not None:
                with processes.observing(share):
                    batch = replace(batch, values={**batch.values, "x": self.redraw(batch.values["x"].nan_to_num())})
            yield batch if processes.alone else Part(batch.values, batch.masks, batch.total, share)


def _in_memory(
    pair: Pair, entries: dict[str, Any], masks: dict[str, Any], redraw: Redraw | None
) -> tuple[Table, Table]:
    """The rows with x as observed, and as stored."""
    if redraw is not None:
        x = torch.atleast_1d(torch.as_tensor(entries["x"]).to(next(pair.parameters())))
        size = rows_at_once([x.shape])
        entries = {**entries, "x": torch.cat([observe(part, redraw) for part in x.split(size)])}
    table = enter(pair, entries, masks)
    refuse_unfit(pair, table)
    return table, table if redraw is None else replace(table, values={**table.values, "x": x})
