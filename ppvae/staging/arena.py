"""Memory for the results of a staged graph, taken once.

Fresh memory is the larger part of a small step's overhead, and more than the arithmetic where results are large: what is
given back to the system page-faults when it is next used. A graph's shapes are known, so each result gets a place, and a
place is taken again as soon as what stood there has been read for the last time.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ppvae.staging.aliases import Aliases, operation, shape_of
from ppvae.staging.simplify import UNDEFINED, hold

ALIGN = 64


class Arena:
    """Blocks of memory on the CPU, shared by graphs of which one runs at a time."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []

    @property
    def bytes(self) -> int:
        return sum(block.numel() for block in self.blocks)

    def place(self, module: GraphModule) -> None:
        """Let operations write to places of the arena, in place of memory of their own."""
        _Placing(self, module).run()


class _Placing:
    def __init__(self, arena: Arena, module: GraphModule) -> None:
        self.arena, self.module = arena, module
        self.aliases = Aliases(module.graph)
        self.free = list(arena.blocks)
        self.dying: set[Node] = set()  # roots that are read for the last time here
        self.taken: dict[Node, list[Tensor]] = {}  # by root, the blocks it stands in
        self.static: dict[Node, Tensor | list[Tensor]] = {}  # values whose memory is known now

    def run(self) -> None:
        nodes = list(self.module.graph.nodes)
        last = self._last_uses(nodes)
        for i, node in enumerate(nodes):
            self.dying = set(last.get(i, ()))
            self._place(node)
            for root in self.dying:
                self.free += self.taken.pop(root, [])

    def _last_uses(self, nodes: list[Node]) -> dict[int, list[Node]]:
        """Which roots are read for the last time at each node: what is returned, at the end."""
        when: dict[Node, int] = {}
        for i, node in enumerate(nodes):
            for read in [*node.all_input_nodes, node]:
                when[self._owner(read)] = i
        found: dict[int, list[Node]] = {}
        for root, i in when.items():
            found.setdefault(i, []).append(root)
        return found

    def _owner(self, node: Node) -> Node:
        """The node whose operation made the memory: one of several results belongs to the operation."""
        root = self.aliases.root[node]
        several = root.op == "call_function" and root.target is operator.getitem
        return next(iter(root.all_input_nodes), root) if several else root  # an erased node reads nothing any more

    def _place(self, node: Node) -> None:
        op = operation(node)
        if node.op == "get_attr" and str(node.target).startswith("_held"):
            self.static[node] = getattr(self.module, str(node.target))
        elif node.op != "call_function":
            return
        elif op is None or self.aliases.root[node] is not node:
            self._view(node, op)
        elif op in UNDEFINED and (like := shape_of(node)) is not None and dense(like):
            self._hold(node, self._take(node, like))
        else:
            self._write_to(node, op)

    def _view(self, node: Node, op: OpOverload | None) -> None:
        """A view of memory that is known is made now; an operation in place gives its argument back."""
        sources = node.all_input_nodes
        if not sources or any(n not in self.static for n in sources):
            return
        if isinstance(node.target, str) or (op is not None and op._schema.is_mutable):
            return
        args, kwargs = map_arg((node.args, node.kwargs), self.static.__getitem__)
        self._hold(node, node.target(*args, **kwargs))

    def _write_to(self, node: Node, op: OpOverload) -> None:
        variant = writing(op)
        stand_ins = node.meta.get("val")
        stand_ins = [stand_ins] if isinstance(stand_ins, Tensor) else stand_ins
        if variant is None or not stand_ins or not all(isinstance(s, Tensor) and dense(s) for s in stand_ins):
            return
        place = self._over(node, op, stand_ins)
        places = [self._take(node, stand_in) for stand_in in stand_ins] if place is None else [place]
        graph = self.module.graph
        with graph.inserting_before(node):
            held = [hold(self.module, place) for place in places]
            graph.call_function(variant, node.args, {**node.kwargs, **dict(zip(_outs(variant), held, strict=True))})
        self._hold(node, places if len(places) > 1 else places[0])

    def _over(self, node: Node, op: OpOverload, results: list[Tensor]) -> Tensor | None:
        """The place of an argument that is read here for the last time, entry by entry: the result may stand over it."""
        if torch.Tag.pointwise not in op.tags or len(results) > 1:
            return None
        for argument in node.all_input_nodes:
            place, owner = self.static.get(argument), self._owner(argument)
            if not isinstance(place, Tensor) or owner not in self.dying or owner not in self.taken:
                continue
            others = [self.static.get(n) for n in node.all_input_nodes if self._owner(n) is owner]
            if all(_same_place(other, place) for other in others) and _same_layout(place, results[0]):
                self.taken[node] = self.taken.pop(owner)
                return place
        return None

    def _hold(self, node: Node, value: Tensor | list[Tensor]) -> None:
        """Put a tensor that is known in a node's place."""
        self.static[node] = value
        value = list(value) if isinstance(value, tuple) else value
        with self.module.graph.inserting_before(node):
            held = hold(self.module, value)
        self.static[held] = value
        self.aliases.root[held] = self.aliases.root[node]
        node.replace_all_uses_with(held)
        self.module.graph.erase_node(node)

    def _take(self, node: Node, like: Tensor) -> Tensor:
        size = max(like.numel() * like.element_size(), ALIGN)
        fitting = [block for block in self.free if size <= block.numel() <= 2 * size]
        if fitting:
            block = min(fitting, key=Tensor.numel)
            self.free = [other for other in self.free if other is not block]
        else:
            block = torch.empty(size, dtype=torch.uint8)
            self.arena.blocks.append(block)
        self.taken.setdefault(node, []).append(block)
        whole = block[: like.numel() * like.element_size()].view(like.dtype)
        return whole.as_strided(like.shape, like.stride())


def writing(op: OpOverload) -> OpOverload | None:
    """The variant of an operation that writes its results to given memory with the same kernel, where there is one."""
    if op._schema.is_mutable:
        return None
    wanted = [(a.name, str(a.type)) for a in op._schema.arguments]
    for other in _variants(op):
        given = [(a.name, str(a.type)) for a in other._schema.arguments if not _is_out(a)]
        outs = [a for a in other._schema.arguments if _is_out(a)]
        if outs and len(outs) == len(op._schema.returns) and given == wanted and torch.Tag.generated not in other.tags:
            return other
    return None


def _variants(op: OpOverload) -> Iterator[OpOverload]:
    packet = op.overloadpacket
    return (getattr(packet, name) for name in packet.overloads())


def _is_out(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _outs(op: OpOverload) -> list[str]:
    return [a.name for a in op._schema.arguments if _is_out(a)]


def dense(like: Tensor | None) -> bool:
    """On the CPU, without gaps or overlaps."""
    if like is None or like.device.type != "cpu" or not like.numel() or like.layout != torch.strided:
        return False
    reach = 1 + sum((size - 1) * stride for size, stride in zip(like.shape, like.stride(), strict=True))
    return reach == like.numel()


def _same_layout(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


def _same_place(a: Tensor | list[Tensor] | None, b: Tensor) -> bool:
    return isinstance(a, Tensor) and a.data_ptr() == b.data_ptr() and _same_layout(a, b)
