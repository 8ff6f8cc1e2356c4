r"""Links that were held out, predicted by graph autoencoders: Cora and Citeseer, with the words of the documents and without.

A tenth of the links and as many pairs without one are held out to be scored, a twentieth for choices; none is read in
training. A pair's score is sigmoid(E_q[z_i] · E_q[z_j]); AUC and average precision (AP) are of the links held out against
the pairs held out beside them. As published: 200 steps of Adam with rate 0.01 on the whole graph, one hidden layer of 32
units, 16 latents, `ppvae.balanced` weights, the KL counted once (VGAE) or not at all (GAE), 0 and 1 as words.

Budgets: cpu and full are the same, ten splits, of which each seed is one; smoke a made-up graph of blocks.

Reference: Kipf & Welling 2016, table 1.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from joblib import Parallel, delayed
from torch import Tensor

import ppvae
from ppvae.data.graphs import Graph, HeldOut, graph, graph_pairs, held_out_links
from ppvae.machine import own_generators
from ppvae.reproduce.pictures import save, scatter
from ppvae.reproduce.run import Cell, Place, Run, cells

WEIGHTS = {"x": ppvae.balanced}
OBJECTIVES = {
    "vgae": ppvae.elbo(likelihood=WEIGHTS),
    "gae": ppvae.elbo(kl=ppvae.beta(0.0), likelihood=WEIGHTS),
}
ROWS = {  # the pair, and whether it reads attributes
    "VGAE": ("vgae", True),
    "GAE": ("gae", True),
    "VGAE, no features": ("vgae", False),
    "GAE, no features": ("gae", False),
}
COLUMNS = ("Cora, AUC", "Cora, AP", "Citeseer, AUC", "Citeseer, AP")
PUBLISHED = {
    "VGAE": (0.914, 0.926, 0.908, 0.920),
    "GAE": (0.910, 0.920, 0.895, 0.899),
    "VGAE, no features": (0.840, 0.877, 0.789, 0.841),
    "GAE, no features": (0.843, 0.881, 0.787, 0.841),
}
REFERENCE = {
    (row, column): value for row, values in PUBLISHED.items() for column, value in zip(COLUMNS, values, strict=True)
}
LATENTS, HIDDEN, RATE = 16, (32,), 0.01


class Budget(NamedTuple):
    """What is spent: the graphs, and steps on each."""

    graphs: tuple[str, ...]
    epochs: int


BUDGETS = {
    "smoke": Budget(("blocks",), 20),
    "cpu": Budget(("cora", "citeseer"), 200),
    "full": Budget(("cora", "citeseer"), 200),
}


def vgae(run: Run) -> list[Cell]:
    """Every row on every graph and split, on all processor cores."""
    spent = BUDGETS[run.budget]
    for name in spent.graphs:
        data = _load(name)
        words = f"{data.nodes} nodes, {data.edges.shape[1]} links, {data.attributes.shape[-1]} attributes of 0 and 1"
        run.data[name] = f"{words}; 10 % of the links held out to be scored, 5 % for choices"
    jobs = [(name, row, seed) for seed in range(run.seeds) for name in spent.graphs for row in ROWS]
    workers = Parallel(n_jobs=os.cpu_count(), return_as="generator_unordered")
    found: dict[int, dict[Place, float]] = {seed: {} for seed in range(run.seeds)}
    for done, (job, scores, codes) in enumerate(workers(delayed(_one)(*job, spent.epochs) for job in jobs), 1):
        name, row, seed = job
        found[seed] |= scores
        said = ", ".join(f"{column} {value:.3f}" for (_, column), value in scores.items())
        run.say(f"{row}, seed {seed}: {said}; {done} of {len(jobs)}")
        if run.figures is not None and (name, row, seed) == (spent.graphs[0], next(iter(ROWS)), 0):
            _picture(run, _load(name), codes)
    first = sorted(found[0], key=lambda place: list(ROWS).index(place[0]))
    return cells([{place: scores[place] for place in first} for scores in found.values()], REFERENCE)


vgae.seeds = 10
TABLES = {"vgae": vgae}


def _one(name: str, row: str, seed: int, epochs: int) -> tuple[tuple[str, str, int], dict[Place, float], Tensor]:
    """One row on one split: its scores, and the mean codes (n, K)."""
    torch.set_num_threads(1)  # the jobs go side by side
    data, (pair, reads) = _load(name), ROWS[row]
    split = held_out_links(data.x, seed)
    codes, scores = fit_codes(pair, data, split, reads, epochs, seed)
    names = (f"{name.capitalize()}, AUC", f"{name.capitalize()}, AP")
    found = ranked(scores, data.x, split.test)
    return (name, row, seed), {(row, column): value for column, value in zip(names, found, strict=True)}, codes


def fit_codes(pair: str, data: Graph, split: HeldOut, reads: bool, epochs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Fit a pair of the catalogue to a graph: the mean codes E_q[z], (n, K), and each pair's probability under them, (1, D)."""
    entries = {"x": data.x} | ({"nodes": data.attributes} if reads else {})
    F = data.attributes.shape[-1] if reads else None
    with own_generators(seed):
        made = ppvae.make(pair, data.x.shape[1], LATENTS, hidden=HIDDEN, attributes=F)
    ppvae.fit(
        made,
        entries,
        split.mask,
        objective=OBJECTIVES[pair],
        epochs=epochs,
        learning_rate=RATE,
        schedule="constant",
        seed=seed,
        device="cpu",
        progress=False,
    )
    with torch.no_grad():
        mean = made.encoder(data.x, split.mask, entries.get("nodes")).mean
        return mean[0, 0], made.decoder(mean).probs


def ranked(scores: Tensor, x: Tensor, held_out: Tensor) -> tuple[float, float]:
    """AUC and average precision of the links among the pairs that were held out; all (1, D)."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    true, score = x[held_out].numpy(), scores[held_out].numpy()
    return float(roc_auc_score(true, score)), float(average_precision_score(true, score))


def _load(name: str) -> Graph:
    return blocks() if name == "blocks" else graph(name)


def blocks(nodes: int = 60, groups: int = 3, within: float = 0.5, between: float = 0.05, seed: int = 0) -> Graph:
    """A stochastic block model: two nodes of a group are linked with probability ``within``, others with ``between``. The
    attributes are three random bits a group, half of them flipped in one of ten nodes."""
    chance = torch.Generator().manual_seed(seed)
    label = torch.arange(nodes) % groups
    i, j = torch.triu_indices(nodes, nodes, 1)
    linked = torch.rand(len(i), generator=chance) < torch.where(label[i] == label[j], within, between)
    edges = torch.stack([i, j])[:, linked]
    bits = torch.nn.functional.one_hot(label, groups).bool() ^ (torch.rand(nodes, groups, generator=chance) < 0.1)
    return Graph("blocks", graph_pairs(edges, nodes), nodes, bits.float()[None], label, edges)


def _picture(run: Run, data: Graph, codes: Tensor) -> None:
    """The codes along their two principal axes, coloured by class."""
    known = data.label >= 0
    centred = codes - codes.mean(0)
    flat = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    figure = scatter(
        flat[known], data.label[known], f"{data.name}: E[z | links left, words], two principal axes, by field"
    )
    save(run, f"vgae-{data.name}.png", figure)
