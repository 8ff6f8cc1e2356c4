"""Functions of a block of rows without Pyro: where blocks of one shape keep coming, a function is staged.

Half of what an eager block costs is Pyro's, and fresh memory for every result. A graph (`ppvae.staging.graph`) writes to
memory that is there, and gives the same bits for the same random numbers; that is seen to, and what differs is not used.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from ppvae.door import Table
from ppvae.machine import out_of_memory
from ppvae.pair import Pair
from ppvae.staging.aliases import operation, shape_of
from ppvae.staging.arena import Arena
from ppvae.staging.draws import Draws
from ppvae.staging.step import close

log = logging.getLogger("ppvae")

Function = Callable[[Table, int], list[Tensor]]
"""Of a block of rows and a number of particles."""

# Of a shape, before it is staged. Staging takes 0.15 s (and 1.0 s more once in a process), and saves some milliseconds a block
# of 4 MiB: `ppvae bench evidence`.
STAGED_AT = 32


class Staged:
    """Call functions of blocks of a table's rows, eagerly or as graphs.

    What depends on no draw, the encoder above all, is computed once for all blocks of particles of the same rows. Parameters,
    buffers and the rows are inputs of a graph, so training in between is seen. What else may change is looked
    for: a graph is compared with the eager function on the first and the last rows before it is used, and again on the
    first block after `start`.

    Args:
        pair: the pair.
        table: all rows.

    Attributes:
        refused: why nothing is staged; empty where nothing speaks against it.
    """

    def __init__(self, pair: Pair, table: Table) -> None:
        self.pair, self.table = pair, table
        self.refused = ""
        self.came: Counter[tuple] = Counter()
        self.compared: set[tuple] = set()
        self.within = False
        self.forget()

    def __reduce__(self) -> tuple:
        return Staged, (self.pair, self.table)  # a copy stages anew

    def start(self) -> None:
        """A verb begins: compare each graph anew."""
        self.compared.clear()
        self.within = True

    def stop(self) -> None:
        """A verb has ended, and the parameters may change."""
        self.fixed.clear()
        self.within = False

    def forget(self) -> None:
        """Let go of the graphs and their memory. Those shapes are not staged again."""
        self.graphs: dict[tuple, Draws] = {}
        self.fixed: dict[tuple, tuple[Table, list[Tensor]]] = {}  # of the last rows, what depends on no draw
        self.arena = Arena()  # one for all shapes: one graph runs at a time

    def __call__(self, function: Function, rows: Table, particles: int) -> list[Tensor]:
        """``function(rows, particles)``; its name stands for what it does."""
        if self.refused or torch.is_grad_enabled() or _PYRO_STACK:  # a handler around the call is no part of a graph
            return function(rows, particles)
        shapes = ((name, t.shape, t.dtype) for part in (rows.values, rows.masks) for name, t in part.items())
        key = (function.__name__, particles, self.pair.training, *shapes)
        self.came[key] += 1
        if self.came[key] == STAGED_AT:
            self._stage(key, function, rows, particles)
        if key not in self.graphs:
            return function(rows, particles)
        if key not in self.compared:
            return self._compare(key, function, rows, particles)
        return self._run(key, rows)

    def _run(self, key: tuple, rows: Table) -> list[Tensor]:
        given = [*self.pair.parameters(), *self.pair.buffers(), *rows.values.values(), *rows.masks.values()]
        graph = self.graphs[key]
        if not self.within or key not in self.fixed or self.fixed[key][0] is not rows:
            self.fixed[key] = rows, graph.fixed(*given)
        return [t.clone() for t in graph.drawn(*given, *self.fixed[key][1])]  # the next call overwrites them

    def _stage(self, key: tuple, function: Function, rows: Table, particles: int) -> None:
        names = [name for name, _ in [*self.pair.named_parameters(), *self.pair.named_buffers()]]

        def flat(*given: Tensor) -> list[Tensor]:
            left = iter(given)
            swapped = {name: next(left) for name in names}
            values = {name: next(left) for name in rows.values}
            block = replace(rows, values=values, masks={name: next(left) for name in rows.masks})
            return torch.func.functional_call(self.pair, swapped, (lambda _: function(block, particles),))

        state = [t.detach() for t in (*self.pair.parameters(), *self.pair.buffers())]
        try:
            graph = Draws(flat, [*state, *rows.values.values(), *rows.masks.values()], self.arena)
            _refuse_shapes_by_value(graph)
        except Exception as error:  # whatever cannot be traced says so in its own way
            if out_of_memory(error):
                raise
            return self._refuse(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        self.graphs[key] = graph
        with self._forked():
            for others in (slice(len(rows)), slice(len(self.table) - len(rows), None)):
                if key in self.graphs:
                    self._compare(key, function, self.table.rows(others), particles)

    def _compare(self, key: tuple, function: Function, rows: Table, particles: int) -> list[Tensor]:
        """The eager results, and whether the graph's are the same with the same random numbers."""
        self.compared.add(key)
        try:
            with self._forked():
                staged = self._run(key, rows)
        except Exception as error:  # an operation on other shapes than it was made for
            if out_of_memory(error):
                raise
            staged = []
        eager = function(rows, particles)
        same = close if any(t.is_cuda for t in eager) else torch.equal
        if len(staged) != len(eager) or not all(map(same, staged, eager)):
            self._refuse("a staged block differs from the eager one: something that changes is not a tensor")
        return eager

    def _forked(self) -> AbstractContextManager[None]:
        return torch.random.fork_rng({t.device for t in self.table.values.values() if t.is_cuda})

    def _refuse(self, reason: str) -> None:
        self.refused = reason
        self.forget()
        log.info("the blocks are not staged: %s", reason)


def _refuse_shapes_by_value(graph: Draws) -> None:
    """How many entries another block has in such a place is not known."""
    for node in graph.nodes:
        op = operation(node)
        if op is not None and torch.Tag.dynamic_output_shape in op.tags and not _by_numbers(node, op):
            raise RuntimeError(f"the shape of {op}'s result depends on values")


def _by_numbers(node: Node, op: OpOverload) -> bool:
    """Whether an indexing takes whole numbers: as many as there are."""
    indices = node.args[1] if "index" in op._schema.name else None
    return isinstance(indices, (list, tuple)) and all(
        index is None or getattr(shape_of(index), "dtype", None) == torch.long for index in indices
    )
