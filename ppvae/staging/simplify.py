"""Take out of a graph what needs no computing: nothing here changes a bit of what it returns.

What nobody reads goes, constants are computed once, and multiplications by 1, powers of 1, double negations and views that
change nothing are passed through. An operation that draws random numbers always stays: the next draw depends on it.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ppvae.staging.aliases import Aliases, operation, shape_of

aten = torch.ops.aten
SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}
VIEWS = {aten.expand.default, aten.view.default, aten._unsafe_view.default, aten.reshape.default}
OF_SHAPE = {  # read the shape of their first argument and none of its values
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
}
UNDEFINED = {aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default}


def simplify(module: GraphModule) -> None:
    """Take out what needs no computing, in place."""
    _pass_through(module)
    _fold(module)
    _drop_unread(module)


def _pass_through(module: GraphModule) -> None:
    aliases = Aliases(module.graph)
    kept = aliases.written | aliases.returned
    for node in list(module.graph.nodes):
        op = operation(node)
        source = _same_memory(node, op) or _same_value(node, op)
        if source is None or not _alike(source, node):
            continue
        shared = aliases.root[source] is aliases.root[node]
        if shared or not {aliases.root[source], aliases.root[node]} & kept:
            node.replace_all_uses_with(source)


def _same_memory(node: Node, op: object) -> Node | None:
    if op in SAME or op in VIEWS:
        return node.all_input_nodes[0]
    if op is aten.t.default and operation(node.all_input_nodes[0]) is aten.t.default:
        return node.all_input_nodes[0].all_input_nodes[0]
    return None


def _same_value(node: Node, op: object) -> Node | None:
    if op in (aten.mul.Tensor, aten.div.Tensor, aten.pow.Tensor_Scalar):
        left, right = node.args[:2]
        return left if isinstance(left, Node) and isinstance(right, (int, float)) and right == 1 else None
    if op is aten.neg.default and operation(node.all_input_nodes[0]) is aten.neg.default:
        return node.all_input_nodes[0].all_input_nodes[0]
    return None


def _alike(a: Node, b: Node) -> bool:
    a, b = shape_of(a), shape_of(b)
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()


def _fold(module: GraphModule) -> None:
    """Compute once what depends on no input: only a literal counts as known, a tensor that lives outside may change."""
    aliases = Aliases(module.graph)
    fixed = aliases.written | aliases.returned  # what is written to, or given away, must be new each time
    known: dict[Node, Tensor] = {}
    for node in list(module.graph.nodes):
        if aliases.root[node] not in fixed and shape_of(node) is not None:
            value = _known(module, node, known)
            if value is not None:
                known[node] = value
    for node, value in known.items():
        if any(user not in known for user in node.users):
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(hold(module, _compact(value)), delete_user_cb=lambda u: u not in known)


def _known(module: GraphModule, node: Node, known: dict[Node, Tensor]) -> Tensor | None:
    op = operation(node)
    if op is None or op in UNDEFINED or drawn(op) or op._schema.is_mutable:
        return None
    if op is aten.lift_fresh_copy.default:
        (source,) = node.all_input_nodes
        return getattr(module, str(source.target)).clone() if source.op == "get_attr" else None
    if op in OF_SHAPE and (like := shape_of(node.all_input_nodes[0])) is not None:
        standing_in = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)
        return op(standing_in, *node.args[1:], **node.kwargs)
    if not all(n in known for n in node.all_input_nodes):
        return None
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
    return op(*args, **kwargs)


def _compact(value: Tensor) -> Tensor:
    """One number shown many times, where they are all the same: less to read."""
    first = value.flatten()[:1].reshape(()) if value.numel() else value
    return first.clone().expand(value.shape) if value.numel() > 1 and bool((value == first).all()) else value


def _drop_unread(module: GraphModule) -> None:
    for node in reversed(module.graph.nodes):
        op = operation(node)
        lasting = op is not None and (op._schema.is_mutable or drawn(op) or "batch_norm" in op._schema.name)
        if not node.users and node.op not in ("placeholder", "output") and not lasting:
            module.graph.erase_node(node)


def drawn(op: object) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(op, "tags", ())


def hold(module: GraphModule, value: Tensor | list[Tensor]) -> Node:
    """A node for a tensor that the graph holds, at the place where nodes are being inserted."""
    numbers = vars(module).setdefault("_numbers", itertools.count())
    name = next(name for i in numbers if not hasattr(module, name := f"_held{i}"))
    vars(module)[name] = value
    node = module.graph.create_node("get_attr", name)
    node.meta["val"] = value
    return node
