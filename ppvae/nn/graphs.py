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
    """The observed links of N graphs side by side, whose nodes are numbered through.

    Attributes:
        ends: (2, 2 E), each link in both directions: from, to.
        scale: (N n, 1), D_ii^(-1/2) of each node.
    """

    ends: Tensor
    scale: Tensor


class Network(nn.Module):
    """Graph convolutions with a ReLU after each: x, mask (N, D), nodes (N, n, F) to the last layer's (N, n, width).

    Without attributes the first layer's input is the identity: each node has a row of weights of its own. Links are listed
    and their messages added up, so a step's cost grows with the links, not with n².

    Args:
        features: D, pairs.
        hidden: widths of the layers.
        attributes: F, or None for no attributes.

    Attributes:
        inputs: width of what the first layer reads: F, or n.
        width: of what comes out; that of the input where there are no layers.
    """

    def __init__(self, features: int, hidden: Sequence[int], attributes: int | None = None) -> None:
        super().__init__()
        _refuse_sizes(hidden, attributes)
        self.nodes, self.attributes = nodes_of(features), attributes
        self.inputs = self.nodes if attributes is None else attributes
        sizes = [self.inputs, *hidden]
        self.width = sizes[-1]
        self.layers = nn.ModuleList(Convolution(n, m) for n, m in itertools.pairwise(sizes))
        self.register_buffer("pairs", torch.triu_indices(self.nodes, self.nodes, 1), persistent=False)  # (2, D)

    def forward(self, x: Tensor, mask: Tensor | bool = True, nodes: Tensor | None = None) -> tuple[Tensor | None, Links]:
        """The last layer's output, None where that is the identity; and the links, for the layers that come after."""
        self._refuse_nodes(x, nodes)
        links = self.links(x, mask)
        for layer in self.layers:
            nodes = layer(nodes, links).relu()
        return nodes, links

    def links(self, x: Tensor, mask: Tensor | bool = True) -> Links:
        """The links of graphs (N, D) where they were observed."""
        row, pair = ((x > 0) & mask).nonzero(as_tuple=True)
        a, b = self.pairs[:, pair] + row * self.nodes
        ends = torch.stack([torch.cat([a, b]), torch.cat([b, a])])
        degree = x.new_ones(len(x) * self.nodes).index_add(0, ends[1], x.new_ones(()).expand(ends.shape[1]))
        return Links(ends, degree.rsqrt()[:, None])

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
    """h ↦ Ã h W without a bias: h (N, n, inputs) to (N, n, outputs). Its weights begin as Glorot & Bengio 2010 say (uniform)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, outputs)))

    def forward(self, h: Tensor | None, links: Links) -> Tensor:
        """``h`` None is the identity of each graph, n = inputs."""
        if h is None:
            h = self.weight.expand(len(links.scale) // len(self.weight), *self.weight.shape)
        else:
            h = h @ self.weight
        return smooth(h, links)


def smooth(h: Tensor, links: Links) -> Tensor:
    """Ã h of each graph, (N, n, width)."""
    sent = h.reshape(-1, h.shape[-1]) * links.scale
    source, target = links.ends
    return (sent.index_add(0, target, sent[source]) * links.scale).view(h.shape)


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
