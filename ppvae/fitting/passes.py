"""One pass over the rows of a fit: over those that are trained on, and over those that are set aside."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.errors import Problem
from ppvae.fitting.diagnosis import Watched
from ppvae.fitting.parts import Own
from ppvae.fitting.processes import Processes
from ppvae.fitting.rows import Rows
from ppvae.fitting.streaming import generators
from ppvae.fitting.update import Update
from ppvae.machine import out_of_memory, own_generators
from ppvae.pair import Pair


@dataclass(frozen=True)
class Position:
    """Where in an epoch a fit stands, between two of its steps.

    Attributes:
        step: steps of the epoch that lie behind.
        total: sums over their rows of the numbers that are averaged.
        generators: the states at the epoch's beginning, from which the order of its rows was drawn.
        seconds: that the epoch has taken.
    """

    step: int
    total: Tensor
    generators: list[Tensor]
    seconds: float


@dataclass(frozen=True)
class Passes:
    """Passes over the rows.

    Attributes:
        model: all modules that are fitted.
        rows: the data.
        batch_size: rows a step, of all processes together.
        epochs: passes in all.
        processes: those that go over the rows together.
    """

    model: nn.Module
    rows: Rows
    batch_size: int
    epochs: int
    processes: Processes

    @property
    def steps(self) -> int:
        return math.ceil(len(self.rows.train) / self.batch_size)

    def order(self, start: Position | None = None) -> Tensor:
        """The rows of an epoch in their order, from ``start`` on."""
        return self.rows.order() if start is None else self.rows.order(start.generators)[start.step * self.batch_size :]

    def train(
        self,
        epoch: int,
        advance: Callable[[], None],
        update: Update | Watched,
        start: Position | None = None,
        pause: Callable[[Position], None] = lambda position: None,
    ) -> tuple[list[float], Tensor]:
        """Update on every row once.

        Args:
            epoch: passes that lie behind.
            advance: called after each step.
            update: what is done with a batch.
            start: where in the epoch to begin.
            pause: told after each step but the last where it stands.

        Returns:
            The means over the rows of the numbers that ``update`` gives, and the share of the training that lay behind
            the last step.
        """
        count, began = len(self.rows.train), time.perf_counter()
        total = done = torch.zeros((), dtype=torch.float64, device=self.rows.train.device)
        first, states, seconds = 0, generators(), 0.0
        if start is not None:
            first, states, seconds = start.step, start.generators, start.seconds
            total = start.total.to(done.device)
        batches = self.rows.batches(self.order(start), self.batch_size, self.processes)
        self.model.train()
        with _naming_the_batch(self.batch_size):
            for i, batch in enumerate(batches, first):
                done = torch.full_like(done, (epoch + i / self.steps) / self.epochs)
                size = min(self.batch_size, count - i * self.batch_size)
                total = total + update(batch, done) * size  # stays on the device: no step waits for it
                advance()
                if i + 1 < self.steps:
                    pause(Position(i + 1, total, states, seconds + time.perf_counter() - began))
        self.model.eval()
        return [number / count for number in total.tolist()], done

    def held_out(self, objective: Callable, pair: Pair, seed: int) -> float:
        """The mean bound of the rows set aside, with the same draws after every epoch."""
        aside = self.rows.aside
        total: Any = 0
        with own_generators(seed), torch.no_grad(), _naming_the_batch(self.batch_size):
            for index in aside.split(self.batch_size):
                share = self.processes.share(len(index))
                bound = objective if self.processes.alone else Own(objective, share, self.processes)
                total = total + bound(pair, self.rows.table.rows(index[share.rows]))[: share.count].sum()
        return float(self.processes.add(total)) / len(aside)


@contextmanager
def _naming_the_batch(batch_size: int) -> Iterator[None]:
    """Memory runs out: a smaller batch would be another fit, so the choice is the caller's."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise Problem(
            f"a batch of {batch_size} rows does not fit into memory ({next(iter(str(error).splitlines()), 'MemoryError')})",
            "a large network, many particles, or memory that something else holds",
            f"batch_size={max(1, batch_size // 2)}, fewer particles, or several processes; with a checkpoint the last whole "
            "epoch is kept",
        ) from error
