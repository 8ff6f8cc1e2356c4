"""Stage a function of tensors: its operations on tensors of these shapes, as one flat graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.staging.arena import Arena
from ppvae.staging.pieces import PIECES
from ppvae.staging.simplify import simplify

Flat = Callable[..., list[Tensor]]


def stage(function: Flat, inputs: Sequence[Tensor], arena: Arena | None = None, inductor: bool = False) -> Flat:
    """Trace a function once; what comes back runs the same tensor operations and nothing else.

    Same inputs and same random numbers, same bits: no operation is replaced by another that rounds differently. Staging
    itself leaves the generators as they were. Python runs once: whatever it decided or computed is frozen.

    Args:
        function: of tensors, to a list of tensors.
        inputs: examples; shapes, dtypes and devices are kept.
        arena: memory that results are written to instead of fresh memory. The list that a call returns is then
            overwritten by the next.
        inductor: hand the graph to torch.compile, which fuses operations and so rounds differently; memory is then its
            own affair. It takes seconds, and needs a C++ compiler.

    Raises:
        Exception: of many kinds, where a value decides what is done (``.item()``, ``if tensor:``).
    """
    module = traced(function, inputs)
    if arena is not None and not inductor:
        arena.place(module)
    plain = Plain(module)
    if inductor:
        plain.forward = torch.compile(plain.forward, fullgraph=True, dynamic=False, options={"fallback_random": True})
    return plain


def traced(function: Flat, inputs: Sequence[Tensor]) -> GraphModule:
    """The operations of a function, those that are needed."""
    shapes = TracingContext(FakeTensorMode(allow_fallback_kernels=True))  # else each operation makes its own, in 0.5 ms
    with torch.random.fork_rng({t.device for t in inputs if t.is_cuda}), tracing(shapes):
        module = make_fx(function, decomposition_table=PIECES)(*inputs)
    simplify(module)
    return module


class Plain:
    """A graph as a Python function. The tensors it holds are arguments, which Python finds sooner than attributes.

    Attributes:
        graph: its operations in order.
    """

    def __init__(self, module: GraphModule) -> None:
        graph = module.graph
        held = [node for node in graph.nodes if node.op == "get_attr"]
        names = list(dict.fromkeys(node.target for node in held))
        self.values = [getattr(module, name) for name in names]
        last = [node for node in graph.nodes if node.op == "placeholder"][-1]
        arguments = {}
        for name in reversed(names):
            with graph.inserting_after(last):
                arguments[name] = graph.placeholder(name)
        for node in held:
            node.replace_all_uses_with(arguments[node.target])
            graph.erase_node(node)
        self.graph = graph
        self.forward = GraphModule(module, graph).forward

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        return self.forward(*inputs, *self.values)
