r"""Calibration: posteriors under random masks where the truth is simulated, and intervals of hidden cells on five tables.

*Simulated rows.* Each pair makes rows of its own, half of whose entries are hidden at random; z and the hidden x are ranked among 99
of the guide's draws given what is left. p-values (SBC: the least over coordinates, times their number; TARP) of a calibrated guide are
even. Coverage of 90 % intervals of z stands beside the *computed* one of a factorised guide, the mean over masks of

    2 Phi(1.645 sqrt((1 / L_kk) / (L^-1)_kk)) - 1,   L = I + sum_j m_j w_j w_j' / psi_j

The pairs are factor analysis of banknote with its exact guide, with the factorised one of the exact mean, with the posterior of
mean-filled rows, and a VAE trained on that table with half of its entries hidden.

*Five tables*, half of the entries hidden at random: CRPS in standard deviations of a column and the share of 90 % intervals that hold,
of one Gaussian by EM, and of our choice: of one Gaussian with uncertain parameters on warped columns and of mixtures of Gaussians on
standardised and on warped ones, that with the least CRPS on a tenth of what was observed. "conformal": mean ± c sd, c learned from one half of the
rows, scored on the other. Columns with few values are covered more often than asked: an interval's ends are values too. Beside them
our VAE by the importance-weighted bound of missing data and chained forests, which give one value a cell: no coverage of theirs.

References: Talts et al. 2018; Lemos et al. 2023; Lee, Barber & Willett 2023; protocol of the tables as in ``ppvae reproduce imputation``.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from joblib import Parallel, delayed
from scipy import stats
from torch import Tensor

import ppvae
from ppvae import data, exact
from ppvae.evaluate import conformal, coverage, imputation_scores, sbc, tarp
from ppvae.imputation import WAYS, choose, complete, draws_for
from ppvae.imputation.completed import Completed
from ppvae.models.factor_analysis import Decoder
from ppvae.models.factor_analysis import model as story
from ppvae.pair import Pair
from ppvae.reproduce import imputation
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

FIVE = ("banknote", "breast", "concrete", "wine_red", "wine_white")
CHOICE, BASELINE = "Our choice", "Gaussian by EM"
LEARNED_BY_IWAE, FORESTS = "VAE, warped columns", "IterativeImputer, forests"
CANDIDATES = (
    "Gaussian, uncertain parameters, warped columns",
    "Gaussian mixture",
    "Gaussian mixture, warped columns",
)
EXACT, FACTORISED, FILLED, LEARNED = (
    "Factor analysis, exact",
    "Factor analysis, factorised",
    "Factor analysis, mean-filled",
    "VAE on banknote",
)
DRAWS, LEVEL = 99, 0.9
RATE = 0.5
LATENTS = 4
TURN = (
    torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.double) / 2**0.5
)  # p(x) stays, and the posterior's axes lie between the latents


class Budget(NamedTuple):
    """What is spent: simulated rows, epochs of the VAE, tables and rows of each at most, steps and trees of the others."""

    simulated: int
    epochs: int
    tables: tuple[str, ...]
    rows: int
    peers: imputation.Budget


BUDGETS = {
    "smoke": Budget(60, 1, ("banknote",), 100, imputation.BUDGETS["smoke"]),
    "cpu": Budget(1000, 100, FIVE, 2000, imputation.BUDGETS["cpu"]),
    "full": Budget(10_000, 1000, FIVE, 10**9, imputation.BUDGETS["full"]),
}


@seeds(5)
def calibration(run: Run) -> list[Cell]:
    """Both tables of every seed, on all processor cores."""
    spent = BUDGETS[run.budget]
    jobs = [(table, seed) for seed in range(run.seeds) for table in (None, *spent.tables)]
    workers = Parallel(n_jobs=os.cpu_count(), return_as="generator_unordered")
    found: dict[int, dict[Place, float]] = {seed: {} for seed in range(run.seeds)}
    for done, (seed, table, scores) in enumerate(workers(delayed(_one)(*job, spent) for job in jobs), 1):
        found[seed] |= scores
        run.say(f"{table or 'simulated rows'}, seed {seed}: {done} of {len(jobs)}")
    first = sorted(found[0], key=lambda place: place[1] not in SIMULATED)
    return cells([{place: scores[place] for place in first} for scores in found.values()], {})


TABLES = {"calibration": calibration}
SIMULATED = ("SBC of z, p-value", "SBC of hidden x, p-value", "TARP, p-value", "90 % of z holds", "90 % of z, computed")


def _one(table: str | None, seed: int, spent: Budget) -> tuple[int, str | None, dict[Place, float]]:
    torch.set_num_threads(1)  # the jobs go side by side
    return seed, table, simulated(seed, spent) if table is None else completed(table, seed, spent)


def simulated(seed: int, spent: Budget) -> dict[Place, float]:
    """The checks by simulated rows, of each pair."""
    found: dict[Place, float] = {}
    fitted = exact.em(data.load("banknote").x.double(), 2)
    pairs = {
        EXACT: ppvae.make("factor_analysis_exact", features=4, latents=2),
        FACTORISED: Pair(story, factorised, decoder=Decoder(4, 2)),
        FILLED: ppvae.make("factor_analysis_fca", features=4, latents=2),
    }
    for row, made in pairs.items():
        made.decoder.set_(fitted.W @ TURN, fitted.loc, fitted.scale)
        found |= {(row, column): value for column, value in checked(made, spent.simulated, seed).items()}
    x = data.load("banknote").rows("train")
    pair = ppvae.make("vae", features=4, latents=LATENTS, hidden=(64,), likelihood="normal", encoder="experts")
    mask = data.mcar(x, RATE, seed)
    seen = mask.any(1)
    ppvae.fit(
        pair, x[seen], mask[seen], epochs=spent.epochs, batch_size=64, learning_rate=2e-3, seed=seed, progress=False
    )
    return found | {(LEARNED, column): value for column, value in checked(pair, spent.simulated, seed).items()}


def factorised(decoder: Decoder, x: Tensor, mask: Tensor | bool = True) -> None:
    """z_k | x_o ~ N(its exact mean, 1 / L_kk), each by itself."""
    q = exact.mean_field(decoder.W, decoder.loc, decoder.scale, x, mask).base_dist
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(q.loc[:, None], q.scale[:, None]).to_event(1))


def checked(pair: Pair, rows: int, seed: int) -> dict[str, float]:
    """SBC and TARP under masks, and how often 90 % intervals of z hold."""
    x = torch.zeros(rows, 4)
    law = _Law(seed)
    torch.manual_seed(seed)
    ranks = sbc(pair, x, law, DRAWS)
    masks = torch.cat(law.masks)
    p = [p * len(p) for p in (ranks.p_value["z"], ranks.p_value["x"])]
    tail = round((DRAWS + 1) * (1 - LEVEL) / 2)
    z = ranks.ranks["z"]
    inside = ((z >= tail) & (z <= DRAWS - tail)).double().mean()
    values = (*(min(1.0, float(value.min())) for value in p), tarp(pair, x, _Law(seed), DRAWS).p_value, float(inside))
    found = dict(zip(SIMULATED, values, strict=False))
    return found | ({SIMULATED[4]: computed(pair, masks)} if hasattr(pair.decoder, "W") else {})


class _Law:
    """Half of the entries, another mask for each block of rows; it remembers them."""

    def __init__(self, seed: int) -> None:
        self.turn = itertools.count(1000 * seed)
        self.masks: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.masks.append(data.mcar(x, RATE, next(self.turn)))
        return self.masks[-1]


def computed(pair: Pair, mask: Tensor) -> float:
    """How often intervals with the variances 1 / L_kk around the exact mean hold z_k, over masks and k."""
    W, scale = pair.decoder.W.detach().double(), pair.decoder.scale.detach().double()
    A = W / scale[:, None]
    L = torch.eye(W.shape[1], dtype=W.dtype) + torch.einsum("nd,dk,dl->nkl", mask.to(W), A, A)
    true = torch.linalg.inv(L).diagonal(dim1=-2, dim2=-1)
    ratio = (1 / L.diagonal(dim1=-2, dim2=-1) / true).sqrt()
    return float((2 * stats.norm.cdf(stats.norm.ppf((1 + LEVEL) / 2) * ratio.numpy()) - 1).mean())


def completed(table: str, seed: int, spent: Budget) -> dict[Place, float]:
    """One table under one mask: squared error, CRPS, its ratio to that of the baseline, and coverage before and after."""
    x = imputation.rows_of(table, seed, spent.rows)
    mask = data.mcar(x, RATE, seed)
    holes, scale = x.masked_fill(~mask, torch.nan), x.std(0, correction=0)
    values: dict[str, Completed] = {}
    scores, seconds = {}, {}
    methods: dict[str, Callable[[], Completed]] = {
        name: partial(complete, holes, way, draws_for(holes), seed)
        for name, way in imputation.ways_of(spent.peers).items()
        if name in (BASELINE, *CANDIDATES, LEARNED_BY_IWAE)
    }
    methods[FORESTS] = lambda: imputation.peers(spent.peers)[FORESTS](holes, seed)
    for name, method in methods.items():
        began = time.perf_counter()
        values[name] = method()
        seconds[name] = time.perf_counter() - began
        scores[name] = imputation_scores(values[name].draws, x, ~mask, mean=values[name].mean, scale=scale)
    began = time.perf_counter()
    chosen = choose(holes, {name: WAYS[name] for name in CANDIDATES}, seed).name
    seconds[CHOICE] = seconds[chosen] + time.perf_counter() - began
    scores[CHOICE], values[CHOICE] = scores[chosen], values[chosen]
    found: dict[Place, float] = {}
    for name, score in scores.items():
        found |= {
            (name, f"{table}, MSE"): score.rmse**2,
            (name, f"{table}, CRPS"): score.crps,
            (name, f"{table}, CRPS / baseline"): score.crps / scores[BASELINE].crps,
            (name, f"{table}, seconds"): seconds[name],
        }
        if name == FORESTS:
            continue
        before, after = stretched(values[name], x, ~mask, seed)
        found |= {
            (name, f"{table}, coverage"): score.coverage,
            (name, f"{table}, coverage, one half"): before,
            (name, f"{table}, coverage, conformal"): after,
        }
    return found


def stretched(found: Completed, x: Tensor, hidden: Tensor, seed: int) -> tuple[float, float]:
    """Coverage on one half of the rows, of the draws' 90 % intervals and of those that the other half stretched."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    learn, test = order[: len(x) // 2], order[len(x) // 2 :]
    centre, scale = found.draws.mean(0), found.draws.std(0)
    scale = scale.clamp(min=1e-9 * x.std(0))  # where all draws agree
    c = conformal(centre[learn], scale[learn], x[learn], hidden[learn], LEVEL)
    low, high = ppvae.evaluate.interval(found.draws[:, test], LEVEL)
    reach = c * scale[test]
    ends = ((low, high), (centre[test] - reach, centre[test] + reach))
    before, after = (coverage(*end, x[test], hidden[test]) for end in ends)
    return before, after
