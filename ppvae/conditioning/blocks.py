"""Rows and particles of a conditioned pair, a block at a time, so that memory stays bounded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from torch import Tensor

from ppvae.conditioning.memory import BLOCK_BYTES, block_bytes
from ppvae.conditioning.staged import Function, Staged
from ppvae.door import Table
from ppvae.errors import Caution, Problem
from ppvae.machine import out_of_memory
from ppvae.pair import Pair
from ppvae.tracing.traces import is_global

__all__ = ["BLOCK_BYTES", "Blocks"]


class Blocks:
    """A pair with rows of data, cut into blocks of the size that suits the device.

    Attributes:
        global_latents: the latents outside the data plate; with one, all rows go in one block.
        most: rows × particles of a block, where more did not fit into memory; None: everything did.
    """

    def __init__(self, pair: Pair, table: Table) -> None:
        self.pair, self.table = pair, table
        self.global_latents = {name for name, site in pair.sites(table.values).items() if is_global(site)}
        self.most: int | None = None
        self.staged = Staged(pair, table)

    def rows_at_once(self, particles: int) -> tuple[int, int]:
        """How many rows and particles make a block."""
        wide = max([v[0].numel() for v in self.table.values.values()] + [256])  # 256: a network's layer
        home = next(iter(self.table.values.values()))
        cells = block_bytes(home.device) // (wide * home.element_size())
        cells = max(1, cells if self.most is None else min(cells, self.most))
        if self.global_latents:  # one draw for all rows
            return len(self.table), max(1, min(particles, cells // len(self.table)))
        return max(1, cells // particles), min(particles, cells)

    def row_blocks(self, particles: int) -> Iterator[Table]:
        """The rows, so many at a time that all their particles fit."""
        start = 0
        while start < len(self.table):
            stop = start + self.rows_at_once(particles)[0]  # looked at anew: memory may have run out
            yield self.table.rows(slice(start, stop))
            start = stop

    def blocks(self, particles: int) -> Iterator[tuple[Table, list[int]]]:
        """The rows, and how many particles to draw of them at a time."""
        for rows in self.row_blocks(particles):
            yield rows, self.parts(particles)

    def parts(self, particles: int) -> list[int]:
        """The particles in parts as even as can be, so that most blocks have one shape."""
        count = -(-particles // self.rows_at_once(particles)[1])
        size = -(-particles // count)
        whole, rest = divmod(particles, size)
        return [size] * whole + [rest] * bool(rest)

    def block(self, function: Function, rows: Table, particles: int) -> list[Tensor]:
        """``function(rows, particles)``, staged where that pays, in halves where memory does not hold the whole."""

        def compute(rows: Table, particles: int) -> list[Tensor]:
            return self.staged(function, rows, particles)

        return self.in_halves(compute, rows, particles)

    def in_halves(self, function: Function, rows: Table, particles: int) -> list[Tensor]:
        """``function(rows, particles)``; where memory does not hold that, of halves, and so on.

        Args:
            function: to tensors whose first dim is that of the particles and whose second is that of the rows.

        Raises:
            Problem: one row with one particle does not fit.
        """
        if self.most is None or len(rows) * particles <= self.most:
            try:
                return function(rows, particles)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(len(rows), particles, error)
            self._give_back()  # not sooner: the error holds what the failed block had in hand
        half = len(rows) // 2 if particles == 1 else particles // 2
        if particles > 1:
            dim, parts = 0, [(rows, half), (rows, particles - half)]
        else:
            dim, parts = 1, [(rows.rows(slice(half)), 1), (rows.rows(slice(half, None)), 1)]
        found = [self.in_halves(function, *part) for part in parts]
        return [torch.cat(each, dim) for each in zip(*found, strict=True)]

    def _halve(self, rows: int, particles: int, error: Exception) -> None:
        """Take note of what did not fit."""
        if particles == 1 and (rows == 1 or self.global_latents):
            whole = f"{rows} rows, which share a global latent," if self.global_latents else "one row"
            raise Problem(
                f"{whole} with one particle does not fit into memory",
                f"a wide network, or memory that something else holds ({next(iter(str(error).splitlines()), 'MemoryError')})",
                "fewer rows"
                if self.global_latents
                else "a machine or a GPU with more memory; pair.cpu(); a smaller network",
            ) from error
        if self.most is None:
            warnings.warn(
                Caution(
                    f"a block of {rows} rows with {particles} particles does not fit into memory: it is halved until it "
                    "does. The draws are others than they would have been"
                ),
                stacklevel=2,
            )
        self.most = max(1, rows * particles // 2)

    def _give_back(self) -> None:
        self.staged.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The pair in eval mode, without gradients and without Pyro's validation; afterwards as it was."""
        training = self.pair.training
        self.pair.eval()
        self.staged.start()
        try:
            with torch.no_grad(), pyro.validation_enabled(False):
                yield
        finally:
            self.staged.stop()
            self.pair.train(training)
