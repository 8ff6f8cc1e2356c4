"""Rows and particles of a conditioned pair, a block at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch

from ppvae.door import Table
from ppvae.pair import Pair
from ppvae.tracing.traces import is_global

BLOCK_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}  # of one temporary: larger ones page-fault on a CPU


class Blocks:
    """A pair with rows of data, cut into blocks of the size that suits the device.

    Attributes:
        global_latents: the latents outside the data plate; with one, all rows go in one block.
    """

    def __init__(self, pair: Pair, table: Table) -> None:
        self.pair, self.table = pair, table
        self.global_latents = {name for name, site in pair.sites(table.values).items() if is_global(site)}

    def rows_at_once(self, particles: int) -> tuple[int, int]:
        """How many rows and particles make a block."""
        wide = max([v[0].numel() for v in self.table.values.values()] + [256])  # 256: a network's layer
        home = next(iter(self.table.values.values()))
        cells = max(1, BLOCK_BYTES[home.device.type if home.is_cuda else "cpu"] // (wide * home.element_size()))
        return max(1, cells // particles), min(particles, cells)

    def row_blocks(self, particles: int) -> Iterator[Table]:
        """The rows, so many at a time that all their particles fit."""
        size = len(self.table) if self.global_latents else self.rows_at_once(particles)[0]  # one draw for all rows
        for start in range(0, len(self.table), size):
            yield self.table.rows(slice(start, start + size))

    def blocks(self, particles: int) -> Iterator[tuple[Table, list[int]]]:
        """The rows, and how many particles to draw of them at a time."""
        _, together = self.rows_at_once(particles)
        whole, rest = divmod(particles, together)
        for rows in self.row_blocks(particles):
            yield rows, [together] * whole + [rest] * bool(rest)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The pair in eval mode, without gradients and without Pyro's validation; afterwards as it was."""
        training = self.pair.training
        self.pair.eval()
        try:
            with torch.no_grad(), pyro.validation_enabled(False):
                yield
        finally:
            self.pair.train(training)
