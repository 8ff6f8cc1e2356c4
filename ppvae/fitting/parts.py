"""A batch that is spread over processes: the rows of it that one process has, and the objective of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ppvae.door import Table
from ppvae.fitting.processes import Processes
from ppvae.pair import Pair
from ppvae.tracing.shared import drawn_together
from ppvae.tracing.terms import ElboTerms
from ppvae.tracing.whole import Share


@dataclass(frozen=True)
class Part(Table):
    """The rows of a batch that this process has.

    Attributes:
        share: which they are.
    """

    share: Share


class Own(nn.Module):
    """An objective of a process's own rows, whose latents are drawn as one process would draw them for the whole batch.

    Args:
        objective: as in `ppvae.fit`.
        share: own rows.
        processes: all processes.
    """

    objective: Any  # which has `evaluate` where it has terms

    def __init__(self, objective: Callable[..., Tensor], share: Share, processes: Processes) -> None:
        super().__init__()
        self.objective, self.share, self.processes = objective, share, processes
        self.scheduled = getattr(objective, "scheduled", False)
        if hasattr(objective, "evaluate"):
            self.evaluate = self._evaluate

    def forward(self, pair: Pair, table: Table, **when: Any) -> Tensor:
        """The bound of each row worked on."""
        with drawn_together(self.share, self.processes.add):
            return self.objective(pair, table, **when)

    def _evaluate(self, pair: Pair, table: Table, *done: Any) -> tuple[Tensor, ElboTerms]:
        with drawn_together(self.share, self.processes.add):
            return self.objective.evaluate(pair, table, *done)
