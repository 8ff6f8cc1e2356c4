"""The rows of one fit: which are trained on, which are set aside, and how a batch of them is observed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ppvae.checking import refuse_unfit
from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.pair import Pair

Redraw = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rows:
    """The data of one fit: which rows are trained on, which are set aside, and how a batch is observed."""

    table: Table
    train: Tensor
    aside: Tensor
    stored: Tensor | None  # what `redraw` observes anew in each batch
    redraw: Redraw | None

    @classmethod
    def enter(cls, pair: Pair, x: Any, mask: Any, redraw: Redraw | None, held_out: float) -> Rows:
        entries, stored = dict(x) if isinstance(x, Mapping) else {"x": x}, None
        if redraw is not None:
            stored = torch.as_tensor(entries["x"]).to(next(pair.parameters()))
            missing, stored = stored.isnan(), stored.nan_to_num()
            try:
                entries["x"] = torch.where(missing, torch.nan, redraw(stored))
            except RuntimeError as error:  # torch.bernoulli of something that is no probability
                raise Problem(
                    f"redraw cannot observe x ({error})",
                    "the stored values are no probabilities",
                    "scale grey pixels to [0, 1]",
                ) from error
        table = enter(pair, entries, mask if isinstance(mask, Mapping) else {"x": mask})
        refuse_unfit(pair, table)
        order = torch.randperm(len(table), device=next(iter(table.values.values())).device)
        aside = round(held_out * len(table))
        if held_out and not 0 < aside < len(table):
            raise Problem(
                f"held_out={held_out} of {len(table)} rows sets {aside} aside",
                "too few rows",
                "a larger share, or more rows",
            )
        return cls(table, order[aside:].sort().values, order[:aside].sort().values, stored, redraw)

    def sums(self) -> dict[str, float]:
        """A number for each entry and mask, by which other data under the same path are found out."""
        stored = {} if self.stored is None else {"x": self.stored}  # what was redrawn differs from fit to fit
        values = {name: float(value.nansum()) for name, value in {**self.table.values, **stored}.items()}
        return values | {f"mask of {name}": float(mask.sum()) for name, mask in self.table.masks.items()}

    def batches(self, size: int) -> Iterator[Table]:
        order = self.train[torch.randperm(len(self.train), device=self.train.device)]
        for index in order.split(size):
            batch = self.table.rows(index)
            if self.redraw is not None:
                batch = replace(batch, values={**batch.values, "x": self.redraw(self.stored[index])})
            yield batch
