"""Stage a function that is called many times on the same inputs, and differs by its random numbers alone.

What depends on no draw, an encoder's network above all, is then computed once for all of its calls.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from ppvae.staging.aliases import Aliases, operation
from ppvae.staging.arena import Arena
from ppvae.staging.graph import Flat, Plain, traced


class Draws:
    """A staged function in two parts; ``drawn(*inputs, *fixed(*inputs))`` is what it gives, bit for bit.

    Args:
        function, inputs, arena: as of `ppvae.staging.graph.stage`. The arena serves what is drawn; what is fixed has memory of
            its own.

    Attributes:
        fixed: what depends on no random number, of the inputs.
        drawn: the rest, of the inputs and what is fixed.
    """

    def __init__(self, function: Flat, inputs: Sequence[Tensor], arena: Arena) -> None:
        before, after = _parted(traced(function, inputs))
        arena.place(after)
        self.fixed, self.drawn = Plain(before), Plain(after)

    @property
    def nodes(self) -> Iterator[Node]:
        yield from self.fixed.graph.nodes
        yield from self.drawn.graph.nodes


def _parted(module: GraphModule) -> tuple[GraphModule, GraphModule]:
    drawn = _drawn(module.graph)
    nodes = [node for node in module.graph.nodes if node.op != "output"]
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    computed = [node for node in nodes if node.op == "call_function" and node not in drawn]
    border = [node for node in computed if any(user in drawn or user is output for user in node.users)]

    known: dict[Node, Node] = {}
    before = Graph()
    for node in nodes:
        if node not in drawn:
            known[node] = before.node_copy(node, known.__getitem__)
    before.output(tuple(known[node] for node in border))

    after, known = Graph(), {}
    for node in nodes:
        if node.op in ("placeholder", "get_attr"):
            known[node] = after.node_copy(node)
    last = [node for node in after.nodes if node.op == "placeholder"][-1]
    for i, node in reversed(list(enumerate(border))):
        with after.inserting_after(last):
            known[node] = after.placeholder(f"fixed{i}")
        known[node].meta = dict(node.meta)
    for node in nodes:
        if node in drawn:
            known[node] = after.node_copy(node, known.__getitem__)
    after.node_copy(output, known.__getitem__)
    return GraphModule(module, before), GraphModule(module, after)


def _drawn(graph: Graph) -> set[Node]:
    """What must be computed anew in each call: draws, memory that is written to, and what depends on these."""
    found: set[Node] = set()
    written = Aliases(graph).written
    fresh = written | {root.all_input_nodes[0] for root in written if root.target is operator.getitem}
    for node in graph.nodes:
        op = operation(node)
        draws = op is not None and torch.Tag.nondeterministic_seeded in op.tags
        if draws or node in fresh or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found - {node for node in found if node.op in ("placeholder", "output")}
