"""Entries that are missing because they are large: models that know why beside models that do not.

Columns are standardised; in the first half of them every value above the column's mean is missing, so that the mask is the same
for all seeds, which are those of the fits. RMSE of the missing entries, in standard deviations; a row's missing entries are
completed by their mean given what was observed and what was not, importance-weighted with 1,000 particles.

*Ignoring* is the same story with a mask that depends on nothing (the VAE), or its maximum likelihood (factor analysis, a Gaussian).
*Agnostic* lets an entry's being missing depend on every column, *self-masking* on its own, *sign known* says besides that large
values go missing. Latents: columns less one; the networks have two tanh layers of 128. Published: PPCA stands where ours is factor
analysis.

Budgets: cpu, 2,500 steps of 128 rows for factor analysis and of 64 for a VAE; full, 10,000 and the published 100,000.

Reference: Ipsen, Mattei & Frellsen 2021, table 1.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from joblib import Parallel, delayed
from torch import Tensor

import ppvae
from ppvae import exact
from ppvae.data import uci
from ppvae.exact.choice import em_quietly
from ppvae.exact.gaussian import conditional, gaussian
from ppvae.machine import own_generators
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

TABLES_OF = ("banknote", "concrete", "wine_red", "wine_white", "breast")
PARTICLES = 20
LINEAR, DEEP = "factor_analysis_not_at_random", "vae_not_at_random"


class Method(NamedTuple):
    """A pair of the catalogue, its options, rows a step and the learning rate."""

    pair: str
    options: dict[str, Any]
    batch: int
    learning_rate: float


def _method(pair: str, **options: object) -> Method:
    return Method(pair, options, *((128, 5e-3) if pair == LINEAR else (64, 2e-3)))


METHODS = {
    "Factor analysis, agnostic": _method(LINEAR, mechanism="agnostic"),
    "Factor analysis, self-masking": _method(LINEAR, mechanism="self_masking"),
    "Factor analysis, sign known": _method(LINEAR, mechanism="sign_known"),
    "VAE, ignoring": _method(DEEP, mechanism="group"),  # no groups: no column says anything
    "VAE, agnostic": _method(DEEP, mechanism="agnostic"),
    "VAE, self-masking": _method(DEEP, mechanism="self_masking"),
    "VAE, sign known": _method(DEEP, mechanism="sign_known"),
}
WITHOUT = ("Column means", "Gaussian by EM", "Factor analysis, ignoring")
_PUBLISHED = {
    "Column means": (1.73, 1.85, 1.83, 1.74, 1.82),
    "Factor analysis, ignoring": (1.39, 1.61, 1.61, 1.57, 0.90),
    "Factor analysis, agnostic": (1.25, 1.47, 1.32, 1.27, 0.78),
    "Factor analysis, self-masking": (0.57, 1.31, 1.13, 0.99, 0.72),
    "Factor analysis, sign known": (0.57, 1.31, 1.13, 0.99, 0.72),
    "VAE, ignoring": (1.19, 1.66, 1.62, 1.55, 1.20),
    "VAE, agnostic": (0.80, 2.63, 1.30, 1.37, 1.10),
    "VAE, self-masking": (1.88, 1.26, 1.08, 1.04, 0.74),
    "VAE, sign known": (0.74, 1.12, 1.07, 1.04, 0.76),
}
REFERENCE: dict[Place, float] = {
    (row, table): value for row, values in _PUBLISHED.items() for table, value in zip(TABLES_OF, values, strict=True)
}


class Budget(NamedTuple):
    """What is spent: tables, rows of each at most, steps of factor analysis and of a VAE, iterations of EM, particles that
    complete a row."""

    tables: tuple[str, ...]
    rows: int
    steps: dict[str, int]
    iterations: int
    particles: int


BUDGETS = {
    "smoke": Budget(("breast",), 120, {LINEAR: 20, DEEP: 20}, 20, 50),
    "cpu": Budget(TABLES_OF, 10**9, {LINEAR: 2500, DEEP: 2500}, 1000, 1000),
    "full": Budget(TABLES_OF, 10**9, {LINEAR: 10_000, DEEP: 100_000}, 5000, 10_000),
}


@seeds(5)
def not_miwae(run: Run) -> list[Cell]:
    """Every table, method and seed, on all processor cores."""
    spent = BUDGETS[run.budget]
    jobs = [(table, method, seed) for seed in range(run.seeds) for table in spent.tables for method in METHODS]
    found: list[dict[Place, float]] = [{} for _ in range(run.seeds)]
    for table in spent.tables:
        found[0] |= without(table, spent)
        run.data[table] = (
            f"standardised; of the first {_columns(table) // 2} of {_columns(table)} columns all above the mean missing"
        )
    workers = Parallel(n_jobs=os.cpu_count(), return_as="generator_unordered")
    for done, (place, seed, value) in enumerate(workers(delayed(one)(*job, spent) for job in jobs), 1):
        found[seed][place] = value
        run.say(f"{', '.join(place)}, seed {seed}: {value:.3f}; {done} of {len(jobs)}")
    order = [(row, table) for row in (*WITHOUT, *METHODS) for table in spent.tables]
    return cells([{place: of[place] for place in order if place in of} for of in found], REFERENCE)


TABLES = {"not-miwae": not_miwae}


def protocol(table: str, most: int) -> tuple[Tensor, Tensor]:
    """The standardised table (N, D), at most so many rows of it, and its mask: True = observed."""
    x = uci.numbers(table)[:most].float()
    x = x[:, x.std(0) > 0]
    x = (x - x.mean(0)) / x.std(0, correction=0)
    mask = torch.ones_like(x, dtype=torch.bool)
    half = x.shape[1] // 2
    mask[:, :half] = x[:, :half] <= 0
    return x, mask


def rmse(completed: Tensor, x: Tensor, mask: Tensor) -> float:
    """Of the missing entries."""
    return float((completed - x)[~mask].square().mean().sqrt())


def without(table: str, spent: Budget) -> dict[Place, float]:
    """What does not depend on a seed: methods that ignore the mechanism, at their maximum likelihood."""
    x, mask = (part.double() if part.is_floating_point() else part for part in protocol(table, spent.rows))
    holes = x.masked_fill(~mask, torch.nan)
    means = torch.where(mask, x, holes.nanmean(0))
    whole = gaussian(holes, iterations=spent.iterations, tolerance=1e-5)
    factors = em_quietly(holes, x.shape[1] - 1, iterations=spent.iterations, tolerance=1e-5)
    found = (
        means,
        conditional(whole.loc, whole.covariance, holes, mask)[0],
        exact.impute_mean(*factors[:3], holes.nan_to_num(), mask),
    )
    return {(row, table): rmse(value, x, mask) for row, value in zip(WITHOUT, found, strict=True)}


def one(table: str, name: str, seed: int, spent: Budget) -> tuple[Place, int, float]:
    """One fit: the RMSE of what it completes."""
    torch.set_num_threads(1)  # the fits go side by side
    x, mask = protocol(table, spent.rows)
    method, D = METHODS[name], x.shape[1]
    batch = min(method.batch, len(x))
    with own_generators(seed):
        pair = ppvae.make(method.pair, features=D, latents=D - 1, **method.options)
    ppvae.fit(
        pair,
        x,
        mask,
        objective=ppvae.iw_elbo(PARTICLES),
        epochs=max(1, round(spent.steps[method.pair] * batch / len(x))),
        batch_size=batch,
        learning_rate=method.learning_rate,
        seed=seed,
        progress=False,
    )
    with own_generators(seed):
        completed = ppvae.condition(pair, x, mask).impute_mean(spent.particles)
    return (name, table), seed, rmse(completed.to(x), x, mask)


def _columns(table: str) -> int:
    return uci.numbers(table).shape[1]
