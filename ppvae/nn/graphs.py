r"""Graphs whose rows are pairs of nodes, and the convolution that reads their links.

A graph of n nodes is one row of D = n (n - 1) / 2 bits, one for each pair i < j in the order of
``torch.triu_indices(n, n, 1)``.
A convolution multiplies by

.. math:: \tilde A = D^{-1/2} (A + I) D^{-1/2}, \quad D_{ii} = 1 + \textstyle\sum_j A_{ij}

where A holds the observed links: a missing pair carries no message, and a node without links hears itself alone.

Reference: Kipf & Welling 2017, eq. 2 (the convolution), and 2016 (its use in an encoder).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.errors import Problem


def nodes_of(features: int) -> int:
    """n, the nodes of a graph of D = n (n - 1) / 2 pairs.

    Raises:
        Problem: no number of nodes has so many pairs.
    """
    n = (1 + math.isqrt(1 + 8 * features)) // 2
    if features < 1 or n * (n - 1) // 2 != features:
        raise Problem(
            f"features is {features}, and no graph has so many pairs of nodes",
            f"n nodes have n (n - 1) / 2 pairs: {n} nodes have {n * (n - 1) // 2}, {n + 1} have {n * (n + 1) // 2}",
            "features = n * (n - 1) // 2; x by ppvae.data.graph_pairs(edges, nodes=n)",
        )
    return n


class Network(nn.Module):
    """Graph convolutions with a ReLU after each: x, mask (N, D), nodes (N, n, F) to (N, n, width).

    Without attributes the first layer's input is the identity: each node has a row of weights of its own.

    Args:
        features: D, pairs.
        hidden: widths of the layers.
        attributes: F, or None for no attributes.

    Attributes:
        nodes: n.
        width: of what comes out; that of the input where there are no layers.
    """

    def __init__(self, features: int, hidden: Sequence[int], attributes: int | None = None) -> None:
        super().__init__()
        _refuse_sizes(hidden, attributes)
        self.nodes, self.attributes = nodes_of(features), attributes
        sizes = [self.nodes if attributes is None else attributes, *hidden]
        self.width = sizes[-1]
        self.layers = nn.ModuleList(Convolution(n, m) for n, m in itertools.pairwise(sizes))

    def forward(
        self, x: Tensor, mask: Tensor | bool = True, nodes: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """The last layer's output, None where that is the identity; and the observed links (N, D), True = linked, for the
        layer that comes after."""
        self._refuse_nodes(x, nodes)
        linked = (x > 0) & mask
        for layer in self.layers:
            nodes = layer(nodes, linked).relu()
        return nodes, linked

    def _refuse_nodes(self, x: Tensor, nodes: Tensor | None) -> None:
        n, F = self.nodes, self.attributes
        if nodes is None and F is not None:
            raise Problem(
                f"the pair was made with attributes={F}, and the data hold no 'nodes'",
                "the attributes of the nodes are an entry of the data",
                f"pass {{'x': x, 'nodes': nodes}} with nodes ({len(x)}, {n}, {F}); or make the pair without attributes",
            )
        if nodes is not None and F is None:
            raise Problem(
                f"the data hold 'nodes' of shape {tuple(nodes.shape)}, and the pair was made without attributes",
                "it would ignore them",
                f"make(…, attributes={nodes.shape[-1]}), or leave 'nodes' out",
            )
        if nodes is not None and tuple(nodes.shape) != (len(x), n, F):
            raise Problem(
                f"'nodes' has shape {tuple(nodes.shape)}, where ({len(x)}, {n}, {F}) belongs",
                "attributes of another graph, or without the dim of rows: a graph is one row",
                "nodes[None] for one graph; make(…, attributes=nodes.shape[-1])",
            )


class Convolution(nn.Module):
    """h ↦ Ã h W without a bias: h (N, n, inputs) to (N, n, heads · outputs).

    Each head's weights begin uniform, as Glorot & Bengio 2010 say of (inputs, outputs).
    """

    def __init__(self, inputs: int, outputs: int, heads: int = 1) -> None:
        super().__init__()
        first = [nn.init.xavier_uniform_(torch.empty(inputs, outputs)) for _ in range(heads)]
        self.weight = nn.Parameter(torch.cat(first, 1))

    def forward(self, h: Tensor | None, linked: Tensor) -> Tensor:
        """``h`` None is the identity of each graph, n = inputs; linked (N, D)."""
        return smooth(linked, self.weight.expand(len(linked), -1, -1) if h is None else h @ self.weight)


@torch.library.custom_op("ppvae::smooth", mutates_args=())
def smooth(linked: Tensor, h: Tensor) -> Tensor:
    """Ã h of N graphs: linked (N, D) bools, h (N, n, width).

    The links are listed and their messages added up, n² numbers are nowhere. To whoever stages a step it is one operation: the
    list is as long as the data have links, and a graph of operations knows shapes alone.
    """
    (N, n, width), (row, pair) = h.shape, linked.nonzero(as_tuple=True)
    first = torch.arange(n, device=h.device)
    start = first * (2 * n - first - 1) // 2  # where the pairs (i, i + 1), (i, i + 2), … begin
    i = torch.searchsorted(start, pair, right=True) - 1
    j = pair - start[i] + i + 1
    source, target = torch.cat([i, j]) + row.repeat(2) * n, torch.cat([j, i]) + row.repeat(2) * n
    scale = h.new_ones(N * n).index_add(0, target, h.new_ones(len(target))).rsqrt()[:, None]  # D_ii^(-1/2)
    sent = h.reshape(N * n, width) * scale
    return (sent.index_add(0, target, sent[source]) * scale).view(N, n, width)


@smooth.register_fake
def _(linked: Tensor, h: Tensor) -> Tensor:
    return torch.empty_like(h, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
    return None, smooth(*ctx.saved_tensors, gradient)  # Ã is symmetric


smooth.register_autograd(_backward, setup_context=_keep)


def places(n: int) -> Tensor:
    """Where each pair i < j stands in an n × n matrix, row after row: (D,)."""
    i, j = torch.triu_indices(n, n, 1)
    return i * n + j


def _refuse_sizes(hidden: Sequence[int], attributes: int | None) -> None:
    if isinstance(hidden, int) or not all(isinstance(width, int) and width > 0 for width in hidden):
        raise Problem(
            f"hidden is {hidden!r}", "layer widths are whole numbers, in a tuple", "hidden=(32,); two layers: (64, 32)"
        )
    if attributes is not None and (not isinstance(attributes, int) or isinstance(attributes, bool) or attributes < 1):
        raise Problem(
            f"attributes is {attributes!r}",
            "it counts the attributes of a node",
            "attributes=nodes.shape[-1], or None where there are none",
        )
