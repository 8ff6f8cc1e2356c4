"""A function of tensors recorded as one CUDA graph: what a small step costs on a GPU is launching it, and a graph is one
launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Captured:
    """Record what a function does on the GPU, and do it again on other values of its inputs.

    It must read no value (no ``.item()``) and find everything else that it reads or writes, parameters and the state of an
    optimizer, at the same place each time. Recording runs nothing. Random numbers go on from call to call: a replay takes
    them from the generator as the function would.

    Args:
        function: of as many tensors as ``inputs``, to a list of tensors.
        inputs: examples, on one GPU.
    """

    def __init__(self, function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> None:
        self.inputs = [t.clone() for t in inputs]
        self.replay, self.outputs = record(function, self.inputs)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """What the function returns for these; overwritten by the next call."""
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.replay()
        return self.outputs


def record(function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
    """Record a function as a CUDA graph: what runs it again, and where its results then stand."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(*inputs)
    return graph.replay, outputs
