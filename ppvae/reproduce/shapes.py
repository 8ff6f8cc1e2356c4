"""Objects of parts: ShapeVAE, ShapeFA and the diagonal Gaussian with 8 and 64 latents, as in tables 3.1 and 3.2 of the thesis.

Chairs, planes and bikes of `ppvae.data.shapes`, made for this, and real bodies that were fitted by one mesh; not the thesis's
objects, whose figures do not compare. Every coordinate has noise of variance 1e-3 added once, the least variance that the VAE
allows (thesis, 3.5.1): without it the density of exact surfaces has no bound, and the linear model, which has no such least, would
win by its last digits.

*completion*: squared error a dimension of parts that were dropped with probability 0.25 (not all, not none), from their mean over 25
draws of pseudo-Gibbs, burn-in 100, gap 10, x its mean given z (thesis, 3.5.2). ShapeFA needs no chain: E[x_m | x_o] under its exact
posterior, 100 draws. The diagonal Gaussian gives the mean of the part among the training rows of that pattern. The noise alone
makes 0.001.

*log p*: nats a dimension of test objects given which parts they have. ShapeFA and the Gaussian exactly; ShapeVAE by importance
weights, a lower bound, of the first of them.

*asymmetry* of 1000 objects drawn (means of x), in units of length; of the data without noise beside it. *active units*: variance over rows of E_q[z
| x] above 0.01. *normals*: mean angle to the true ones, of objects of which the points and which parts there are were given; the
noise of the true ones makes 2.3 degrees.

``--figures``: samples, completions, normals, traversals, interpolations, activity, symmetry and surfaces.

Budgets: cpu, at most 500 points an object, alpha = 10 (100 for ten times as many features); full, 10,000 particles for every
test object, the thesis's sizes (but 64 for ShapeFA's parts, of which the smallest has 96 features), 500 passes at 1e-4.

References: Nash & Williams 2017, The shape variational autoencoder; Nash, thesis, chapter 3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

import ppvae
from ppvae.data.shapes import Shapes, shapes
from ppvae.errors import Problem
from ppvae.evaluate import symmetry, units
from ppvae.machine import own_generators
from ppvae.models import shape_gaussian
from ppvae.nn import patterns
from ppvae.nn.parts import Parts
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds
from ppvae.reproduce.shapes_pictures import Drawn, draw

NOISE = 1e-3  # its variance: thesis, 3.5.1
DROPPED = 0.25
GAUSSIAN, VAE, FA = "Diag. Gaussian", "ShapeVAE", "ShapeFA"


class Budget(NamedTuple):
    """What is spent: rows, points of an object (None: all), passes and the rate they begin with, weight of the KL, the VAE's widths and
    part size, ShapeFA's part size, iterations of EM; objects whose evidence is estimated by so many particles; objects to complete;
    steps of a chain: draws, burn-in, gap."""

    rows: int
    points: int | None
    passes: int
    rate: float
    alpha: float
    hidden: tuple[int, int]
    size: int
    linear: int
    iterations: int
    scored: int
    particles: int
    completed: int
    chain: tuple[int, int, int]


BUDGETS = {
    "smoke": Budget(60, 500, 1, 1e-3, 1.0, (16, 16), 8, 9, 3, 3, 10, 4, (2, 2, 1)),
    "cpu": Budget(1200, 500, 100, 1e-3, 10.0, (256, 256), 64, 16, 50, 25, 10_000, 60, (25, 100, 10)),
    "full": Budget(4000, None, 500, 1e-4, 100.0, (512, 512), 256, 64, 500, 10_000, 10_000, 1000, (25, 100, 10)),
}
CLASSES = ("chairs", "planes", "bikes", "humans")
BODIES = 1200  # that there are
LATENTS = (8, 64)
MEASURES = ("completion", "log p", "asymmetry", "normals", "active units")
ROWS = (*(f"{model}-{K}" for model in (VAE, FA) for K in LATENTS), GAUSSIAN, "Data")
ANGLES = 24  # objects of which the points alone are given


@seeds(1)
def table(run: Run) -> list[Cell]:
    """Every class in turn. Bodies are left out where their file is not, for it has no public home."""
    spent, classes = BUDGETS[run.budget], list(CLASSES)
    try:
        shapes("humans", rows=1)
    except Problem as problem:
        classes.remove("humans")
        run.say(f"humans are left out: {problem.seen}")
        run.data["humans"] = f"left out: {problem.seen}; {problem.remedy}"
    found = [_one_seed(run, spent, classes, seed) for seed in range(run.seeds)]
    order = [(row, f"{measure}, {name}") for measure in MEASURES for name in CLASSES for row in ROWS]
    return cells([{place: one[place] for place in order if place in one} for one in found], {})


TABLES = {"shapes": table}


def _one_seed(run: Run, spent: Budget, classes: list[str], seed: int) -> dict[Place, float]:
    found: dict[Place, float] = {}
    for name in classes:
        rows = min(spent.rows, BODIES) if name == "humans" else spent.rows
        clean = shapes(name, rows=rows, points=spent.points, seed=seed)
        made = noisy(clean, seed)
        train, test = made.rows("train"), made.rows("test")
        run.data[name] = (
            f"{made.scaling}; {len(train['x'])} rows to train on, {len(test['x'])} to test on, D = {made.x.shape[1]}"
        )
        seen = patterns(train["exists"])
        dropped = drop_parts(made, test, spent.completed, seed)
        pairs: dict[str, ppvae.Pair] = {}
        for K in LATENTS:
            pairs[f"{VAE}-{K}"] = fit_vae(run, made, train, seen, K, spent, seed)
            pairs[f"{FA}-{K}"] = fit_linear(run, made, train, seen, K, spent, seed)
        decoder = shape_gaussian.Decoder(Parts(made.x.shape[1], made.sizes, seen), train["x"], train["exists"], NOISE)
        pairs[GAUSSIAN] = ppvae.Pair(shape_gaussian.model, decoder=decoder)
        found |= scored(run, made, clean.rows("test")["x"], test, dropped, pairs, spent, seed)
    return found


def scored(
    run: Run,
    made: Shapes,
    clean: Tensor,
    test: dict[str, Tensor],
    dropped: Dropped,
    pairs: dict[str, ppvae.Pair],
    spent: Budget,
    seed: int,
) -> dict[Place, float]:
    """Every figure of a class, and its pictures."""
    name, found = made.name, {("Data", f"asymmetry, {made.name}"): asymmetry(made, clean)}
    completions: dict[str, Tensor] = {}
    drawn: dict[str, Tensor] = {}
    for model, pair in pairs.items():
        with own_generators(seed):
            completions |= completed(model, pair, dropped, spent)
            found[model, f"log p, {name}"] = float(evidence(model, pair, test, spent).mean())
            if model != GAUSSIAN:
                drawn[model] = samples(pair, 1000)
                found[model, f"asymmetry, {name}"] = asymmetry(made, drawn[model])
            if model.startswith(VAE):
                found[model, f"active units, {name}"] = float(units(pair, test)["z"].active.sum())
                recovered = with_normals(pair, test, spent)
                found[model, f"normals, {name}"] = angle(recovered, test["x"][: len(recovered)])
        run.say(f"{name}: {model} scored")
    for model, values in completions.items():
        found[model, f"completion, {name}"] = float(error(values, dropped).mean())
    if run.figures is not None and seed == 0:
        shown = {model: drawn[model] for model in (f"{FA}-8", f"{VAE}-64")}
        ways = {model: completions[model] for model in shown}
        shown = {"data, without noise": clean} | shown
        draw(run, Drawn(made, test, shown, pairs[f"{VAE}-64"], *dropped, ways, recovered))
    return found


class Dropped(NamedTuple):
    """Objects some of whose parts are hidden: all of x (NaN: absent), what is given of it, existences."""

    truth: Tensor
    x: Tensor
    exists: Tensor


def noisy(made: Shapes, seed: int) -> Shapes:
    """The shapes with noise in every coordinate, drawn once."""
    draw = torch.Generator().manual_seed(seed)
    return replace(made, x=made.x + NOISE**0.5 * torch.randn(made.x.shape, generator=draw))


def drop_parts(made: Shapes, test: dict[str, Tensor], objects: int, seed: int) -> Dropped:
    """Test objects drawn with replacement, each of whose parts is hidden with probability 0.25, but not all and not none."""
    draw = torch.Generator().manual_seed(seed)
    which = torch.randint(len(test["x"]), (objects,), generator=draw)
    x, exists = test["x"][which], test["exists"][which] > 0
    kept = exists.clone()
    while True:
        again = (kept == exists).all(-1) | ~kept.any(-1)
        if not again.any():
            break
        kept[again] = exists[again] & (torch.rand(int(again.sum()), exists.shape[1], generator=draw) >= DROPPED)
    columns = kept.repeat_interleave(torch.tensor(made.sizes), -1)
    return Dropped(x, torch.where(columns, x, torch.nan), exists.to(x))


def fit_vae(
    run: Run, made: Shapes, train: dict[str, Tensor], seen: Any, latents: int, spent: Budget, seed: int
) -> ppvae.Pair:
    with own_generators(seed):
        pair = ppvae.make(
            "shape_vae",
            made.x.shape[1],
            latents,
            parts=made.sizes,
            patterns=seen,
            hidden=spent.hidden,
            size=spent.size,
            min_variance=NOISE,
        )
    fitted = ppvae.fit(
        pair,
        train,
        objective=ppvae.elbo(kl=ppvae.beta(spent.alpha)),
        epochs=spent.passes,
        batch_size=min(100, len(train["x"]) // 2),
        learning_rate=spent.rate,
        seed=seed,
        held_out=0.1,
        patience=20,
    )
    run.say(f"{made.name}: {VAE}-{latents}, {len(fitted.history)} passes")
    return pair


def fit_linear(
    run: Run, made: Shapes, train: dict[str, Tensor], seen: Any, latents: int, spent: Budget, seed: int
) -> ppvae.Pair:
    layers = ppvae.exact.layerwise(
        train["x"].double(), made.sizes, latents, spent.linear, iterations=spent.iterations, tolerance=0.1
    )
    pair = ppvae.make("shape_fa", made.x.shape[1], latents, parts=made.sizes, patterns=seen, size=spent.linear).double()
    pair.decoder.top.set_(*layers.top)
    pair.decoder.bottom.set_(*layers.bottom)
    run.say(f"{made.name}: {FA}-{latents}, {len(layers.log_likelihood) - 2} iterations")
    return pair


def completed(model: str, pair: ppvae.Pair, dropped: Dropped, spent: Budget) -> dict[str, Tensor]:
    """Complete objects (N, D) by the ways that a model has, by row of the table."""
    posterior = ppvae.condition(pair, {"x": dropped.x, "exists": dropped.exists})
    if model == GAUSSIAN:
        return {model: posterior.impute_mean(1)}
    if pair.exact:
        return {model: posterior.impute_mean(100).float()}
    draws, burn_in, gap = spent.chain
    return {model: posterior.gibbs(draws, burn_in, gap, metropolis=False, means=True).x.mean(0)}


def error(values: Tensor, dropped: Dropped) -> Tensor:
    """Mean squared error over the hidden entries of each object, (N,)."""
    hidden = dropped.x.isnan() & ~dropped.truth.isnan()
    squares = torch.where(hidden, (values - dropped.truth).square(), 0.0)
    return squares.sum(-1) / hidden.sum(-1)


def evidence(model: str, pair: ppvae.Pair, test: dict[str, Tensor], spent: Budget) -> Tensor:
    """log p(x | e) of test objects in nats a dimension, (N,)."""
    rows = {name: value[: spent.scored] for name, value in test.items()} if model.startswith(VAE) else test
    found = ppvae.condition(pair, rows).log_evidence(spent.particles)
    if model != GAUSSIAN:
        found = found - pair.decoder.parts.law().log_prob(rows["exists"])
    return found / (~rows["x"].isnan()).sum(-1)


def samples(pair: ppvae.Pair, objects: int) -> Tensor:
    """Objects of the story: E[x | latents] of draws of the latents, (N, D), NaN where a part is absent."""
    with torch.no_grad():
        nodes = poutine.trace(pair.model).get_trace(size=objects).nodes
    law = nodes["x"]["fn"]
    x = torch.where(law.exists, law.mean, torch.nan).float().cpu()
    return x[law.exists.any(-1).cpu()]  # p(e) leaves a little for nothing at all


def asymmetry(made: Shapes, x: Tensor) -> float:
    """Mean distance of objects (N, D) from their mirror images."""
    return float(symmetry(x.unflatten(-1, (-1, 6))[..., :3], made.mirror).mean())


def with_normals(pair: ppvae.Pair, test: dict[str, Tensor], spent: Budget) -> Tensor:
    """Test objects (N, D) of which the points alone were given, their normals by pseudo-Gibbs."""
    x, exists = test["x"][:ANGLES], test["exists"][:ANGLES]
    values = x.unflatten(-1, (-1, 6))
    given = torch.cat([values[..., :3], torch.full_like(values[..., 3:], torch.nan)], -1).flatten(-2)
    draws, burn_in, gap = spent.chain
    chain = ppvae.condition(pair, {"x": given, "exists": exists}).gibbs(
        draws, burn_in, gap, metropolis=False, means=True
    )
    return torch.where(x.isnan(), torch.nan, chain.x.mean(0))


def angle(found: Tensor, truth: Tensor) -> float:
    """Mean angle in degrees between the normals of rows (N, D)."""
    a, b = (x.unflatten(-1, (-1, 6))[..., 3:] for x in (found, truth))
    return float(torch.rad2deg(torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1).acos()).nanmean())
