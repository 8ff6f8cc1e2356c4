"""Images on demand from some of their attributes: TELBO beside JMVAE and BiVCCA, by the three C's.

Digits stand big or small, upright or turned, in a quadrant of a canvas (`ppvae.data.mnist_attributes`, split "comp"). A query asks
for some of the four attributes. Draws of z answer it, and the mean images E[x | z] are judged by a convolutional network that
was trained on other placements of the digits, of all 240 concepts; its share of right answers on real test images stands beside.

Queries: *4 asked*, the 216 concepts that were trained on; *1-3 asked*, every choice of one to three attributes; *held out*, the
24 concepts that no training row has (compositionality). Half of each is kept to choose by, the other half is scored; of those
held out all are scored. Coverage is held against the frequencies among the training rows that a query fits.

Each method draws z from its own q(z | y_o), as published, and, *weighted*, from p(z | y_o) by importance weights
(`ppvae.condition`). JVAE trains no q(z | y_o): it answers by draws of the prior under weights p(y_o | z). Its story is TELBO's,
whose parameters follow the same gradient, so no fit of its own is made.

One weight of log p(y | z) for all, in every term: that of a few under which the three methods, fitted with fewer passes, have
together the largest correctness plus coverage on the queries kept for it. JMVAE has alpha = 0.1, the middle of Suzuki et al.; BiVCCA
mu = 0.5.

Budgets: cpu, 32 x 32, 20,000 rows, 8 minutes of one processor; full, 64 x 64, 55,000 rows, for a GPU.

Reference: Vedantam, Fischer, Huang & Murphy 2018; Suzuki et al. 2016; Wang et al. 2016.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ppvae
from ppvae.data.digits import digits_binary
from ppvae.data.mnist_attributes import COUNTS, Attributes, mnist_attributes, with_attributes
from ppvae.evaluate import imagination as three_cs
from ppvae.machine import own_generators
from ppvae.objectives.modalities import bivcca, jmvae, telbo
from ppvae.reproduce.fitting import mean
from ppvae.reproduce.judge import Judge, judged, taught
from ppvae.reproduce.pictures import board, save
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

METHODS: dict[str, Callable[[float], Callable[..., Tensor]]] = {
    "TELBO": lambda weight: telbo({"y": weight}, alone={"y": weight}),
    "JMVAE": lambda weight: jmvae(0.1, {"y": weight}),
    "BiVCCA": lambda weight: bivcca(0.5, {"y": weight}),
}
MEASURES = ("correctness, 4 asked", "correctness, 1-3 asked", "coverage, 1-3 asked", "compositionality")
SHOWN = [[3, None, None, None], [None, 0, None, None], [None, None, 1, 2], [7, None, None, 0], [0, 1, None, 3]]
COLUMNS = 12  # draws of a query in the picture
POOL = 20_000  # draws of the prior for JVAE


class Budget(NamedTuple):
    """What is spent: the canvas, rows, passes to choose the weight and to fit, weights, sizes, draws a query, the judge's passes."""

    canvas: int
    rows: tuple[int, int, int]
    tried: int
    epochs: int
    weights: tuple[float, ...]
    hidden: tuple[int, ...]
    latents: int
    draws: int
    taught: int


BUDGETS = {
    "smoke": Budget(32, (512, 100, 100), 1, 2, (1.0, 10.0), (32,), 4, 5, 1),
    "cpu": Budget(32, (20_000, 1000, 2000), 3, 20, (10.0, 50.0), (400, 200), 20, 20, 6),
    "full": Budget(64, (55_000, 5000, 10_000), 20, 200, (1.0, 10.0, 50.0, 100.0), (800, 400), 50, 100, 30),
}


class Queries(NamedTuple):
    """Attributes that are asked for, NaN where left open, (Q, A) each, and of the abstract ones the law of each attribute."""

    concrete: Tensor
    abstract: Tensor
    truth: list[Tensor]


@seeds(1)
def imagination(run: Run) -> list[Cell]:
    """The three C's of each method, and what the judge can do."""
    spent = BUDGETS[run.budget]
    return cells([_one_seed(run, spent, seed) for seed in range(run.seeds)], {})


TABLES = {"imagination": imagination}


def _one_seed(run: Run, spent: Budget, seed: int) -> dict[Place, float]:
    source = images(run.budget, spent, "comp", seed)
    run.data["images"] = f"{source.scaling}; {len(source.split['train'])} rows to train on"
    rows = source.rows("train")
    judge, able = _judge(run, spent, seed)
    found: dict[Place, float] = {("Real images", f"judge: {n}"): v for n, v in zip(source.names, able, strict=True)}
    chosen, scored = queries(rows["y"], seed)
    weight = _weight(run, spent, rows, chosen, judge, seed)
    found["All", "weight of log p(y | z)"] = weight
    for name in METHODS:
        pair = _fitted(run, spent, name, rows, weight, spent.epochs, seed)
        ways = {name: own_draws, f"{name}, weighted": weighted_draws}
        for row, way in (ways | ({"JVAE, weighted prior": prior_draws} if name == "TELBO" else {})).items():
            with own_generators(seed):
                found |= _scored(row, pair, way, scored, source.held_out, rows["y"], spent.draws, judge)
        if run.figures is not None and seed == 0:
            _picture(run, name, pair, source.shape[1:])
    return found


def images(budget: str, spent: Budget, split: str, seed: int) -> Attributes:
    """The rows of a budget: MNIST's digits, or scikit-learn's for the smallest."""
    if budget != "smoke":
        return mnist_attributes(spent.canvas, split, spent.rows, seed)
    source = digits_binary()
    assert source.label is not None
    grey = source.x.reshape(-1, *source.shape[1:])[: sum(spent.rows)]
    return with_attributes(grey, source.label[: len(grey)], spent.canvas, split, spent.rows, seed)


def _judge(run: Run, spent: Budget, seed: int) -> tuple[Judge, list[float]]:
    """The judge, and the share of real test images that it calls rightly, by attribute. Each of its passes has new placements."""
    judge = None
    for epoch in range(spent.taught):
        run.say(f"judge, pass {epoch + 1} of {spent.taught}")
        source = images(run.budget, spent, "iid", 1000 * (seed + 1) + epoch)
        with own_generators(seed + epoch):
            judge = taught(
                judge, source.rows("train"), (1, spent.canvas, spent.canvas), COUNTS, 1 - epoch / spent.taught
            )
    test = source.rows("test")
    assert judge is not None
    return judge, (judged(judge, test["x"]) == test["y"]).double().mean(0).tolist()


def _weight(run: Run, spent: Budget, rows: dict[str, Tensor], chosen: Queries, judge: Judge, seed: int) -> float:
    """The weight of log p(y | z) under which the methods together answer the queries kept for this choice best."""
    worth = {}
    for weight in spent.weights:
        total = 0.0
        for name in METHODS:
            pair = _fitted(run, spent, name, rows, weight, spent.tried, seed)
            with own_generators(seed):
                found = _scored(name, pair, own_draws, chosen, None, rows["y"], spent.draws, judge)
            total += sum(found[name, measure] for measure in MEASURES[:3])
        worth[weight] = total
    return max(worth, key=worth.__getitem__)


def _fitted(
    run: Run, spent: Budget, name: str, rows: dict[str, Tensor], weight: float, epochs: int, seed: int
) -> ppvae.Pair:
    run.say(f"{name}, weight {weight:g}, seed {seed}: {epochs} epochs of {len(rows['x'])} rows")
    sizes: dict[str, Any] = {"latents": spent.latents, "hidden": spent.hidden, "classes": COUNTS}
    with own_generators(seed):
        pair = ppvae.make("multimodal_vae", rows["x"].shape[1], **sizes)
    pair.encoder.joint.requires_grad_(name != "BiVCCA")  # which has no q(z | x, y)
    ppvae.fit(pair, rows, objective=METHODS[name](weight), epochs=epochs, seed=seed)
    return pair


def _scored(
    row: str,
    pair: ppvae.Pair,
    way: Callable,
    asked: Queries,
    held_out: Tensor | None,
    trained: Tensor,
    draws: int,
    judge: Judge,
) -> dict[Place, float]:
    def imagined(of: Tensor) -> Tensor:
        return judged(judge, means(pair, way(pair, of, draws)))  # (Q, S, A)

    abstract, mask = imagined(asked.abstract), ~asked.abstract.isnan()
    values = [
        three_cs.correctness(imagined(asked.concrete), asked.concrete),
        three_cs.correctness(abstract, asked.abstract, mask),
        three_cs.coverage(abstract, mask, asked.truth),
    ]
    if held_out is not None:
        values.append(three_cs.compositionality(imagined(held_out), held_out, trained))
    found = {}
    for measure, value in zip(MEASURES, values, strict=False):
        found[row, measure], found[row, f"{measure}, standard error"] = mean(value)
    return found


# --- queries ------------------------------------------------------------------------------------------


def queries(y: Tensor, seed: int) -> tuple[Queries, Queries]:
    """All queries that fit a training row's attributes (N, A), in two halves: to choose by, and to score."""
    concepts, A = torch.unique(y, dim=0), y.shape[1]
    abstract = []
    for asked in (c for count in range(1, A) for c in itertools.combinations(range(A), count)):
        some = torch.unique(concepts[:, list(asked)], dim=0)
        abstract.append(torch.full((len(some), A), torch.nan).index_copy_(1, torch.tensor(asked), some))
    halves = []
    with own_generators(seed):
        parts = [part[torch.randperm(len(part))] for part in (concepts, torch.cat(abstract))]
    for half in (0, 1):
        concrete, open_ = (part[half::2] for part in parts)
        halves.append(Queries(concrete, open_, laws(open_, y)))
    return halves[0], halves[1]


def laws(asked: Tensor, y: Tensor) -> list[Tensor]:
    """Of each attribute the frequencies of its classes among the rows y (N, A) that fit a query (Q, A), (Q, C)."""
    fits = ((y == asked[:, None]) | asked.isnan()[:, None]).all(-1).double()  # (Q, N)
    return [
        fits @ (y[:, k, None] == torch.arange(count)).double() / fits.sum(1, keepdim=True)
        for k, count in enumerate(COUNTS)
    ]


# --- answers: draws of z, (Q, S, K) ---------------------------------------------------------------------


@torch.no_grad()
def own_draws(pair: ppvae.Pair, asked: Tensor, draws: int) -> Tensor:
    """Of the guide's q(z | y_o)."""
    home = next(pair.parameters())
    mask = ~asked.isnan()
    q = pair.encoder(None, asked.nan_to_num().to(home), True, mask.to(home.device))
    return q.sample((draws,)).squeeze(-2).transpose(0, 1)


def weighted_draws(pair: ppvae.Pair, asked: Tensor, draws: int) -> Tensor:
    """Of p(z | y_o), by importance weights of the guide's draws."""
    return ppvae.condition(pair, {"y": asked}).sample(draws)["z"].transpose(0, 1)


@torch.no_grad()
def prior_draws(pair: ppvae.Pair, asked: Tensor, draws: int) -> Tensor:
    """Of p(z | y_o), by weights p(y_o | z) of the prior's draws, which all queries share."""
    home = next(pair.parameters())
    z, asked = torch.randn(POOL, 1, pair.decoder.latents).to(home), asked.to(home)
    codes = asked.nan_to_num()[:, None].expand(-1, POOL, -1)
    weights = (pair.decoder.y(z).log_prob(codes) * ~asked.isnan()[:, None]).sum(-1)  # (Q, P)
    return z.squeeze(1)[torch.multinomial(weights.softmax(1), draws, replacement=True)]


@torch.no_grad()
def means(pair: ppvae.Pair, z: Tensor) -> Tensor:
    """E[x | z], (Q, S, D)."""
    return pair.decoder.x(z.unsqueeze(-2)).mean.cpu()


def _picture(run: Run, name: str, pair: ppvae.Pair, shape: tuple[int, int]) -> None:
    asked = torch.tensor([[torch.nan if value is None else float(value) for value in row] for row in SHOWN])
    with own_generators(0):
        x = means(pair, own_draws(pair, asked, COLUMNS)).flatten(0, 1)
    figure, ax = board(x, shape, COLUMNS, f"{name}: E[x | z], z ~ q(z | what is asked)", 0.0, 1.0)
    words = ["3", "big", "clockwise, bottom left", "7, top left", "0, small, bottom right"]
    ax.set_yticks([shape[0] * (row + 0.5) for row in range(len(words))], words)
    save(run, f"imagination-{name}.png", figure)
