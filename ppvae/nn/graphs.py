r"""Graphs whose rows are pairs of nodes, and the convolution that reads their links.

A graph of n nodes is one row of D = n (n - 1) / 2 bits, one for each pair i < j in the order of ``torch.triu_indices(n, n, 1)``.
A convolution multiplies by

.. math:: \tilde A = D^{-1/2} (A + I) D^{-1/2}, \quad D_{ii} = 1 + \textstyle\sum_j A_{ij}

where A holds the observed links: a missing pair carries no message, and a node without links hears itself alone.

Reference: Kipf & Welling 2017, eq. 2 (the convolution), and 2016 (its use in an encoder).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ppvae.errors import Problem
from ppvae.nn.filled import observed


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


class Links(NamedTuple):
    """The observed links of N graphs.

    Attributes:
        matrix: (N, n, n), A: symmetric, its diagonal 0.
        scale: (N, n, 1), D_ii^(-1/2) of each node.
    """

    matrix: Tensor
    scale: Tensor


class Network(nn.Module):
    """Graph convolutions with a ReLU after each: x, mask (N, D), nodes (N, n, F) to (N, n, width).

    Without attributes the first layer's input is the identity: each node has a row of weights of its own.

    A is a dense matrix. The story scores n² / 2 pairs whatever is linked, so a list of links changes no order of growth; it
    has as many entries as the data have links, so its step would be eager, and that loses more than the list saves.

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
        self.register_buffer("place", places(self.nodes), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | bool = True, nodes: Tensor | None = None) -> tuple[Tensor | None, Links]:
        """The last layer's output, None where that is the identity; and the links, for the layer that comes after."""
        self._refuse_nodes(x, nodes)
        links = self.links(x, mask)
        for layer in self.layers:
            nodes = layer(nodes, links).relu()
        return nodes, links

    def links(self, x: Tensor, mask: Tensor | bool = True) -> Links:
        """The links of graphs (N, D) where they were observed."""
        n, x = self.nodes, torch.where(observed(x, mask), x, 0.0)
        upper = x.new_zeros(len(x), n * n).scatter(-1, self.place.expand(x.shape), x).view(-1, n, n)
        matrix = upper + upper.mT
        return Links(matrix, (1 + matrix.sum(-1, keepdim=True)).rsqrt())

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

    def forward(self, h: Tensor | None, links: Links) -> Tensor:
        """``h`` None is the identity of each graph, n = inputs."""
        sent = (self.weight if h is None else h @ self.weight) * links.scale
        return (links.matrix @ sent + sent) * links.scale


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
