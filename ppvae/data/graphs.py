"""Graphs: citation networks by name, a list of links as a row of pairs, and links held out to be predicted.

A graph of n nodes is one row of D = n (n - 1) / 2 bits, one for each pair i < j in the order of
``torch.triu_indices(n, n, 1)``.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppvae.data.chance import generator
from ppvae.data.sources import Source, fetch
from ppvae.errors import Caution, Problem

# The arrays of <name>.npz, made of the Planetoid split's files (Yang, Cohen & Salakhutdinov 2016): links once and in order,
# self-loops left out; the words of each document, as the rows of a sparse matrix of ones. Their sha256, as float64.
ARRAYS = ("edges", "feat_indptr", "feat_indices", "feat_shape", "labels")
CANONICAL = {
    "cora": (
        "0d42d3992412e82ec479c810625babc62a8c82ca2e46a886fbadb2eeb54da11f",
        "be26e49a44f07cc0ec96aa33e6e1444786fbaf270bd74b6335f9e6e5a8e646d9",
        "c0967403c36098b25d388ad322a153cf21a7346b156681fc052d31c32b388068",
        "ec15c5bbd67de8c4e70add791ad65733398d818efd11a00c9a09acba9f7e6259",
        "17cfc8217db1122b86fe9cd8d3b61e7eb2c454bfc5a76a8684df9a29887dbee8",
    ),
    "citeseer": (
        "fc52f31bf2a4398ce40fab6f2a35ad6d1dff83b9f6abeebff27afdfa043adf40",
        "26e7797421693300abfdd5c68935050c26d325ee420682db2cbfa4796683f6af",
        "8c1b436e09875d72ca8a932747064f4a8023fcdc56b831c31d5f3178652866f0",
        "200cb54c39b799c70fe94c37ca0b8033af6f2792089c8a0e0de970b14b424435",
        "f28c43cc1942fa7008fc510387fd89ee355ec8670f1d54a0b7d980ecaba592d1",
    ),
}


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """One graph.

    Attributes:
        name: as `graph` was asked for it.
        x: (1, D) float32, 1 = linked.
        nodes: n.
        attributes: (1, n, F) float32, or None.
        label: (n,) int64, -1 where a node has none; or None.
        edges: (2, E) int64, each link once, the smaller end first.
    """

    name: str
    x: Tensor
    nodes: int
    attributes: Tensor | None
    label: Tensor | None
    edges: Tensor

    def __repr__(self) -> str:
        F = 0 if self.attributes is None else self.attributes.shape[-1]
        return f"<{self.name}: {self.nodes} nodes, {self.edges.shape[1]} links, {F} attributes>"


class HeldOut(NamedTuple):
    """Pairs of one graph that are set aside, (1, D) bools each.

    Attributes:
        mask: True where a pair is left to train on: the entry mask of x.
        valid: True at links and as many non-links for choices.
        test: True at links and as many non-links to be scored.
    """

    mask: Tensor
    valid: Tensor
    test: Tensor


def graph(name: str, *, folder: str | Path | None = None) -> Graph:
    """Load a citation network: documents, who cites whom either way, the words that each holds (0 or 1), and its field.

    cora: 2708 nodes, 5278 links, 1433 words. citeseer: 3327 nodes, 4552 links, 3703 words; 48 nodes have no link, 15
    others neither words nor a label.

    Args:
        name: "cora" or "citeseer".
        folder: where planetoid/<name>.npz lies; else the environment variable PPVAE_DATA.

    Raises:
        Problem: an unknown name; no folder; a file that is missing, damaged or other than the checked one.
    """
    if name not in CANONICAL:
        raise Problem(f"there is no graph {name!r}", "a misspelt name", f"one of: {', '.join(CANONICAL)}")
    edges, start, words, shape, label = _arrays(name, folder)
    n, edges = len(label), edges.sort(0).values
    attributes = torch.zeros(1, *shape.tolist(), dtype=torch.float32)
    attributes[0, torch.arange(n).repeat_interleave(start.diff()), words] = 1
    return Graph(name, _row(edges, n), n, attributes, label, edges)


def graph_pairs(edges: Any, nodes: int) -> Tensor:
    """Turn a list of links into a row of pairs, (1, D) float32, D = nodes (nodes - 1) / 2.

    Args:
        edges: (2, E) whole numbers 0 … nodes - 1, each link once, in either direction.
        nodes: n, those without a link included.

    Raises:
        Problem: another shape, ends that are no nodes, a node linked to itself, a link given twice, no link at all.
    """
    ends = _numbers(edges)
    if not isinstance(nodes, int) or isinstance(nodes, bool) or nodes < 2:
        raise Problem(f"nodes is {nodes!r}", "a graph has two nodes or more", "nodes=int(edges.max()) + 1")
    if ends.dim() != 2 or len(ends) != 2:
        seen, remedy = f"edges has shape {tuple(ends.shape)}", "edges.T, if each row is a link"
        raise Problem(seen, "a link is a column: two rows of ends, (2, E)", remedy)
    if not ends.shape[1]:
        raise Problem("there is no link", "an empty list: nothing can be learned of it", "a graph with links")
    _refuse_ends(ends, nodes)
    ends = ends.long().sort(0).values
    place, first, counts = torch.unique(_place(ends, nodes), return_inverse=True, return_counts=True)
    if (counts > 1).any():
        twice = (first == (counts > 1).nonzero()[0]).nonzero().flatten()[:2].tolist()
        i, j = ends[:, twice[0]].tolist()
        raise Problem(
            f"the link of {i} and {j} stands in columns {twice[0]} and {twice[1]} ({int((counts > 1).sum())} such links)",
            "a list with both directions of a link, or a multigraph; a pair of nodes is one bit",
            "each link once: torch.unique(edges.sort(0).values, dim=1)",
        )
    alone = nodes - len(ends.unique())
    if alone:
        warnings.warn(
            f"{alone} of {nodes} nodes have no link\n  Likely cause: links that were left out, or a number of nodes "
            "that is too large\n  Try: nothing, if they stand alone; what is said of them rests on their attributes",
            Caution,
            stacklevel=2,
        )
    return _row(ends, nodes)


def held_out_links(x: Tensor, seed: int = 0, valid: float = 0.05, test: float = 0.1) -> HeldOut:
    """Set links aside, and as many pairs that are not linked, at random: the split of Kipf & Welling 2016.

    Args:
        x: one graph, (1, D) of 0 and 1; NaN = missing stays out of every part.
        seed: equal seeds give equal parts.
        valid, test: shares of the links, rounded down; 0 for none.

    Raises:
        Problem: no row of bits, none observed, no link; a share that is none, that is rounded to no link, or leaves none.
    """
    _refuse_row(x)
    row, chance = x.detach().cpu()[0], generator(seed)
    links, others = (row == 1).nonzero().flatten(), (row == 0).nonzero().flatten()
    sizes = [_share(name, share, len(links)) for name, share in (("valid", valid), ("test", test))]
    if sum(sizes) >= min(len(links), len(others) + 1):
        raise Problem(
            f"{sum(sizes)} of {len(links)} links are to be held out, and as many of {len(others)} pairs without one",
            "shares that leave nothing to train on, or a graph of which nearly every pair is linked",
            "smaller shares: valid=0.05, test=0.1",
        )
    parts = [torch.zeros(1, len(row), dtype=torch.bool) for _ in sizes]
    for pairs in (links, others):
        chosen = pairs[torch.randperm(len(pairs), generator=chance)[: sum(sizes)]]
        for part, some in zip(parts, chosen.split(sizes), strict=True):
            part[0, some] = True
    return HeldOut(~row.isnan()[None] & ~parts[0] & ~parts[1], *parts)


def _arrays(name: str, folder: str | Path | None) -> list[Tensor]:
    place = folder or os.environ.get("PPVAE_DATA")
    files = (f"planetoid/{name}.npz", f"{name}.npz")
    root = Path(place or ".").expanduser()
    if not place or (root.is_dir() and not any((root / file).is_file() for file in files)):
        raise Problem(
            f"{files[0]} is not in {root}" if place else f"no folder holds {files[0]}",
            "the graphs are not downloaded: their public home, github.com/kimiyoung/planetoid, keeps them as pickles, which "
            "would run code",
            f"set PPVAE_DATA to a folder with {files[0]}, the arrays {', '.join(ARRAYS)} made of data/ind.{name}.*",
        )
    sources = (Source(sha, files, (), key) for key, sha in zip(ARRAYS, CANONICAL[name], strict=True))
    return [torch.from_numpy(fetch(source, place)).long() for source in sources]


def _numbers(edges: Any) -> Tensor:
    array = edges.detach().cpu().numpy() if isinstance(edges, Tensor) else np.asarray(edges)
    if array.dtype.kind not in "iuf":
        raise Problem(
            f"edges holds {array.dtype} values",
            "names of nodes, or a matrix of links",
            "number the nodes: numpy.unique(names, return_inverse=True); a matrix A: numpy.stack(numpy.triu(A, 1).nonzero())",
        )
    return torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))


def _row(edges: Tensor, nodes: int) -> Tensor:
    x = torch.zeros(1, nodes * (nodes - 1) // 2, dtype=torch.float32)
    x[0, _place(edges, nodes)] = 1
    return x


def _place(edges: Tensor, nodes: int) -> Tensor:
    """The column of each link, i < j: (E,)."""
    i, j = edges
    return i * (2 * nodes - i - 1) // 2 + j - i - 1


def _refuse_ends(ends: Tensor, nodes: int) -> None:
    def refuse(bad: Tensor, what: str, cause: str, remedy: str) -> None:
        if bad.any():
            column = int(bad.any(0).nonzero()[0])
            value = f"link {column} is {ends[:, column].tolist()}"
            raise Problem(f"{value}: {what} ({int(bad.any(0).sum())} such links)", cause, remedy)

    if ends.is_floating_point():
        refuse(ends != ends.floor(), "not whole numbers", "ends are numbers of nodes", "edges of whole numbers")
    outside = (ends < 0) | (ends >= nodes)
    refuse(
        outside, f"outside 0 … {nodes - 1}", "nodes are counted from 0, or there are more of them", "nodes=, edges - 1"
    )
    loops = (ends[0] == ends[1]).expand(2, -1)
    refuse(loops, "a node linked to itself", "a pair is of two nodes", "edges[:, edges[0] != edges[1]]")


def _refuse_row(x: Any) -> None:
    if not isinstance(x, Tensor) or x.dim() != 2 or len(x) != 1:
        seen = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise Problem(f"x is {seen}", "links are held out of one graph: a tensor (1, D)", "x[:1], one graph at a time")
    bits = (x == 0) | (x == 1)
    if not (bits | x.isnan()).all():
        column = int((~(bits | x.isnan()))[0].nonzero()[0])
        raise Problem(
            f"x is {x[0, column].item():.4g} at column {column}", "pairs are 0 or 1, NaN where missing", "x > 0, say"
        )
    if not (x == 1).any():
        seen = "every pair is missing" if x.isnan().all() else "no pair is linked"
        raise Problem(seen, "an empty graph, or a mask that is inverted", "x by ppvae.data.graph_pairs(edges, nodes)")


def _share(name: str, share: float, links: int) -> int:
    """So many links, rounded down."""
    fine = isinstance(share, (int, float)) and not isinstance(share, bool) and 0 <= share < 1
    count = int(share * links + 1e-9) if fine else 0  # 0.29 * 100 is 28.999…
    if not fine or (share and not count):
        cause = f"it is a share of the {links} links, 0 <= {name} < 1" + (", and rounds to none" if fine else "")
        least = max(0.1, math.ceil(100 / max(links, 1)) / 100)
        raise Problem(f"{name} is {share!r}", cause, f"{name}={min(least, 0.99)}, or 0 to hold out none")
    return count
