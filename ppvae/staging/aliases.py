"""Which values of a graph share memory, and which are written to after they were made."""

from __future__ import annotations

from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node

# says in its signature that it makes new memory, and does not
HIDDEN_VIEWS = {"aten::_unsafe_view"}


class Aliases:
    """Memory of a graph's values.

    Attributes:
        root: of each node, the node whose memory it shows (itself, where it has memory of its own).
        written: roots whose memory an operation writes to in place.
        returned: roots of what the graph returns.
    """

    def __init__(self, graph: Graph) -> None:
        self.root: dict[Node, Node] = {}
        self.written: set[Node] = set()
        self.returned: set[Node] = set()
        for node in graph.nodes:
            self.root[node] = self._root(node)
            if node.op == "output":
                self.returned = {self.root[n] for n in node.all_input_nodes}
            self.written |= {self.root[n] for n in _written(node)}

    def _root(self, node: Node) -> Node:
        if node.op != "call_function":
            return node
        if not isinstance(node.target, OpOverload):  # getitem of several results: each is judged by itself
            (source,) = node.all_input_nodes
            return self.root[source] if self.root[source] is not source else node
        shown = _shown(node, node.target)
        return self.root[shown] if shown is not None else node


def operation(node: Node) -> OpOverload | None:
    return node.target if node.op == "call_function" and isinstance(node.target, OpOverload) else None


def _shown(node: Node, op: OpOverload) -> Node | None:
    """The argument whose memory the result shows, if there is one."""
    schema = op._schema
    if schema.name in HIDDEN_VIEWS:
        return node.all_input_nodes[0]
    if not any(r.alias_info is not None for r in schema.returns):
        return None
    for value, argument in zip(node.args, schema.arguments, strict=False):
        if argument.alias_info is not None and isinstance(value, Node):
            return value
    return None


def _written(node: Node) -> list[Node]:
    op = operation(node)
    if op is None or not op._schema.is_mutable:
        return []
    found = []
    for i, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
            found += [v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, Node)]
    return found


def shape_of(node: Node) -> Tensor | None:
    """A stand-in without data, for shape, strides, dtype and device."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None
