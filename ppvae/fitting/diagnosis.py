"""Where a fit went wrong: the epoch is gone through again, step by step, and the first number that is not finite named.

While all goes well nothing is looked at: a look at a number makes a GPU wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.fitting.rows import Rows
from ppvae.fitting.update import Update
from ppvae.pair import Pair
from ppvae.tracing.traces import enumerated, is_global, log_prob, run


class NotFinite(Exception):
    """A bound that is not finite, or the place of the first number that is none."""


class Before:
    """The state of a fit before an epoch: parameters, optimizer and generators."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        self.moments = _copied(optimizer.state)
        self.generators = _generators()

    def restore(self) -> None:
        self.model.load_state_dict(self.state)
        self.optimizer.state.clear()
        self.optimizer.state.update(_copied(self.moments))
        _set_generators(self.generators)
        self.model.eval()


class Watched:
    """An update that looks at its numbers, and says where the first one stands that is not finite."""

    def __init__(self, update: Update, pair: Pair, objective: Callable, order: Tensor) -> None:
        self.update, self.step, self.pair, self.order, self.start = update, update.step, pair, order, 0
        self.particles = getattr(objective, "particles", 1)

    def __call__(self, batch: Table, done: Tensor) -> Tensor:
        return self.update.apply(batch, done, self._watched)

    def _watched(self, batch: Table, done: Tensor) -> Tensor:
        kept = _generators()
        try:
            bound = self.step(batch, done)
        except torch.linalg.LinAlgError:
            bound = torch.tensor(torch.nan)
        names = [name for name, p in self.step.call.named_parameters() if p.requires_grad]
        if not bound.isfinite():
            _set_generators(kept)  # the same draws
            raise NotFinite(self._place(batch))
        for name, parameter in zip(names, self.step.parameters, strict=True):
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                raise NotFinite(f"the gradient of {name.removeprefix('pair.')!r} is not finite")
        self.start += len(batch)
        return bound

    @torch.no_grad()
    def _place(self, batch: Table) -> str:
        try:
            traces = run(self.pair, batch, self.particles)
        except torch.linalg.LinAlgError:
            alone = (j for j in range(len(batch)) if not self._runs(batch.rows(slice(j, j + 1))))
            row = next(alone, None)
            return "" if row is None else f"its covariance is singular in row {self._row(row)}"
        for name, site in [*traces.drawn(), *traces.scored()]:
            score = log_prob(site)
            wrong = score.isnan() | (score == torch.inf) if enumerated(site) else ~score.isfinite()
            if wrong.any():
                if is_global(site):
                    return f"the log-probability of {name!r} is not finite"
                row = int(wrong.transpose(-2, -1).flatten(0, -2).any(0).nonzero()[0])
                return f"the log-probability of {name!r} is not finite, first in row {self._row(row)}"
        return ""

    def _runs(self, row: Table) -> bool:
        try:
            run(self.pair, row, self.particles)
        except torch.linalg.LinAlgError:
            return False
        return True

    def _row(self, row: int) -> int:
        """The row's place in the data that were given."""
        return int(self.order[self.start + row])


def first_not_finite(
    before: Before,
    update: Update,
    pair: Pair,
    objective: Callable,
    order: Callable[[], Tensor],
    epoch: Callable[[Any], Any],
) -> str:
    """Go through ``epoch(update)`` again from the state before it, over the rows of ``order()``: the first place that is not
    finite, "" where none is found. Leaves the state before the epoch."""
    before.restore()
    order = order()
    before.restore()
    try:
        epoch(Watched(update, pair, objective, order))
    except NotFinite as found:
        return str(found)
    except Exception:  # what was observed anew may differ: the first message stands
        return ""
    finally:
        before.restore()
    return ""


def not_finite(seen: str, where: str, rows: Rows) -> Problem:
    return Problem(
        f"{seen}: {where}" if where else seen,
        "steps that are too large, or values far from the scale of the model "
        f"(largest |x| observed: {_largest(rows):.3g})",
        "a smaller learning_rate, clip=10, or standardised columns; the parameters from before that epoch are kept",
    )


def _largest(rows: Rows) -> float:
    return max(float(v.nan_to_num().abs().max()) for v in rows.table.values.values())


def _copied(moments: Mapping[Tensor, dict[str, Tensor]]) -> dict[Tensor, dict[str, Tensor]]:
    return {parameter: {name: value.clone() for name, value in own.items()} for parameter, own in moments.items()}


def _generators() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_generators(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
