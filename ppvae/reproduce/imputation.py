"""Eight tables of numbers with entries hidden: ours beside the imputers of scikit-learn, wins and losses.

Entries are hidden completely at random (a fifth, a half), or at random given columns that stay observed (a half of the rest as far
as these allow). Errors are in standard deviations of a column's values. RMSE scores the centre, CRPS the whole law, coverage the
90 % intervals; a method that gives one value a cell is its own law, and its CRPS is the mean absolute error. Peers draw where
they can: `IterativeImputer` with BayesianRidge by ``sample_posterior`` under 19 seeds. HyperImpute (Jarrett et al. 2022) is among
them where it is installed.

*Our choice* is the way that scores the least CRPS on a tenth of what was observed, hidden once more for the purpose; its seconds
include the choice.

References: Mattei & Frellsen 2019, section 4.2 (protocol); Muzellec et al. 2020 (missing at random).
"""

from __future__ import annotations

import importlib.util
import os
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from ppvae import data
from ppvae.data import uci
from ppvae.evaluate.imputation import imputation_scores
from ppvae.imputation import WAYS, choose, complete, draws_for, ways
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

EIGHT = tuple(uci.MAKERS)
CHOICE = "Our choice"
CANDIDATES = (
    "Factor analysis, warped columns",
    "Gaussian, uncertain parameters",
    "Gaussian, uncertain parameters, warped columns",
    "Gaussian mixture",
    "Gaussian mixture, warped columns",
    "VAE, warped columns",
)
PEER_DRAWS = 19  # the fewest whose extremes are a 90 % interval
LAWS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "MCAR 50 %": lambda x, seed: data.mcar(x, 0.5, seed),
    "MCAR 20 %": lambda x, seed: data.mcar(x, 0.2, seed),
    "MAR 35 %": lambda x, seed: data.mar(x, 0.35, seed),
}


class Budget(NamedTuple):
    """What is spent: which tables, rows of each at most, steps of a VAE, trees of a forest, rounds of chained equations with a
    ridge and with a forest, and how many masks of each law at most."""

    tables: tuple[str, ...]
    rows: int
    steps: int
    trees: int
    rounds: tuple[int, int]
    masks: dict[str, int]


ALL = dict.fromkeys(LAWS, 10**9)
BUDGETS = {
    "smoke": Budget(("breast",), 150, 20, 3, (1, 1), {"MCAR 50 %": 10**9}),
    "cpu": Budget(EIGHT, 2000, 1500, 50, (10, 3), {**ALL, "MCAR 20 %": 1, "MAR 35 %": 1}),
    "full": Budget(EIGHT, 10**9, ways.VAE_STEPS, 100, (10, 10), ALL),
}


@seeds(5)  # masks, of many minutes each
def imputation(run: Run) -> list[Cell]:
    """Every table, law and mask, on all processor cores."""
    spent = BUDGETS[run.budget]
    jobs = [
        (table, law, seed)
        for law, masks in spent.masks.items()
        for seed in range(min(run.seeds, masks))
        for table in spent.tables
    ]
    workers = Parallel(n_jobs=os.cpu_count(), return_as="generator_unordered")
    found: dict[int, dict[Place, float]] = {seed: {} for seed in range(run.seeds)}
    for done, (seed, table, law, scores) in enumerate(workers(delayed(one)(*job, spent) for job in jobs), 1):
        found[seed] |= scores
        run.say(f"{table}, {law}, mask {seed + 1}: {done} of {len(jobs)}")
    order = [
        (row, f"{table}, {law}, {measure}")
        for law in spent.masks
        for table in spent.tables
        for row in (*ways_of(spent), *peers(spent), CHOICE)
        for measure in MEASURES
    ]
    runs = [{place: seed[place] for place in order if place in seed} for seed in found.values()]
    return cells(runs, {})  # no document has these tables under these masks


TABLES = {"imputation": imputation}
MEASURES = ("RMSE", "CRPS", "coverage", "seconds")


def one(table: str, law: str, seed: int, spent: Budget) -> tuple[int, str, str, dict[Place, float]]:
    """One table under one mask: every method's scores, by row and column."""
    torch.set_num_threads(1)  # the masks go side by side
    x = rows_of(table, seed, spent.rows)
    mask = LAWS[law](x, seed)
    holes, scale = x.masked_fill(~mask, torch.nan), x.std(0, correction=0)
    own = ways_of(spent)
    methods = {name: lambda way=way: complete(holes, way, draws_for(holes), seed) for name, way in own.items()}
    methods |= {name: lambda impute=impute: impute(holes, seed) for name, impute in peers(spent).items()}
    found: dict[Place, float] = {}
    for name, method in methods.items():
        began = time.perf_counter()
        completed = method()
        seconds = time.perf_counter() - began
        scores = imputation_scores(completed.draws, x, ~mask, mean=completed.mean, scale=scale)
        for measure, value in zip(MEASURES, (scores.rmse, scores.crps, scores.coverage, seconds), strict=True):
            found[name, f"{table}, {law}, {measure}"] = value
    began = time.perf_counter()
    chosen = choose(holes, {name: own[name] for name in CANDIDATES}, seed).name
    seconds = time.perf_counter() - began
    for measure in MEASURES:
        column = f"{table}, {law}, {measure}"
        found[CHOICE, column] = found[chosen, column] + (seconds if measure == "seconds" else 0)
    return seed, table, law, found


def rows_of(table: str, seed: int, most: int) -> Tensor:
    """The table's numbers, at most so many rows of it, drawn by the seed; columns that do not vary in them left out."""
    x = uci.numbers(table)
    if len(x) > most:
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:most]]
    return x[:, x.std(0) > 0]


def ways_of(spent: Budget) -> dict[str, ways.Way]:
    """Ours, the VAE with the steps of this budget."""
    return {
        name: way._replace(complete=lambda z, draws, seed: ways.vae(z, draws, seed, steps=spent.steps))
        if way.complete is ways.vae
        else way
        for name, way in WAYS.items()
    }


def peers(spent: Budget) -> dict[str, Callable[[Tensor, int], ways.Completed]]:
    """scikit-learn's imputers, and HyperImpute where it is installed, on standardised columns, in the table's units; one draw
    many times where there is no law."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer

    def neighbours(z: np.ndarray, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
        mean = KNNImputer(n_neighbors=10).fit_transform(z)
        return mean, []

    def ridge(z: np.ndarray, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
        rounds = spent.rounds[0]
        drawn = [
            IterativeImputer(max_iter=rounds, sample_posterior=True, random_state=PEER_DRAWS * seed + i).fit_transform(
                z
            )
            for i in range(PEER_DRAWS)
        ]
        return IterativeImputer(max_iter=rounds, random_state=seed).fit_transform(z), drawn

    def forests(z: np.ndarray, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
        forest = RandomForestRegressor(spent.trees, max_features="sqrt", random_state=seed)
        return IterativeImputer(forest, max_iter=spent.rounds[1], random_state=seed).fit_transform(z), []

    def hyper(z: np.ndarray, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
        import pandas
        from hyperimpute.plugins.imputers import Imputers

        return Imputers().get("hyperimpute", random_state=seed).fit_transform(pandas.DataFrame(z)).to_numpy(), []

    def on_standardised(impute: Callable) -> Callable[[Tensor, int], ways.Completed]:
        def method(x: Tensor, seed: int) -> ways.Completed:
            loc = x.nanmean(0)
            scale = (x - loc).square().nanmean(0).sqrt()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that chained equations have not converged
                mean, drawn = impute(((x - loc) / scale).numpy(), seed)
            values = [torch.from_numpy(value) * scale + loc for value in (mean, *drawn)]
            return ways.Completed(values[0], torch.stack(values[1:] or PEER_DRAWS * values[:1]))

        return method

    found = {"KNNImputer": neighbours, "IterativeImputer, BayesianRidge": ridge, "IterativeImputer, forests": forests}
    if importlib.util.find_spec("hyperimpute"):
        found["HyperImpute"] = hyper
    return {name: on_standardised(impute) for name, impute in found.items()}
