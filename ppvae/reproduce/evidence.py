"""How far estimates of the evidence can be trusted: from both sides, on rows of which the truth is known or bracketed.

Rows are simulated from the story, so that a chain can be run backward from the latents they were made from: annealed importance
sampling forward bounds their log-evidence from below, backward from above (bidirectional Monte Carlo). Beside it stand the ELBO and
the importance-weighted estimate of the same rows; for factor analysis, under a guide that is far from the posterior and with entries
missing, the exact value too. Of real test rows there is no upper bound: the same estimates from below.

Nats per row. Budgets: cpu, a VAE (784-200-200-50) after 10 passes over MNIST, 50 rows, 16 chains of 500 temperatures.

References: Grosse, Ghahramani & Adams 2015; Wu et al. 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import ppvae
from ppvae import evaluate, exact
from ppvae.reproduce.fitting import bound, images, log_evidence, train
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

EXACT, ELBO, WEIGHTS, LOWER, UPPER = "Exact", "ELBO", "Importance weights", "AIS, lower", "AIS backward, upper"
LINEAR, SIMULATED, REAL = "Factor analysis, simulated rows", "VAE, simulated rows", "VAE, test rows"


class Budget(NamedTuple):
    """What is spent: the data, rows of each split, passes, rows bracketed, particles, chains, temperatures."""

    data: str
    train: int
    test: int
    epochs: int
    rows: int
    particles: int
    chains: int
    temperatures: int


BUDGETS = {
    "smoke": Budget("digits_binary", 300, 50, 2, 10, 100, 4, 30),
    "cpu": Budget("mnist", 60_000, 1000, 10, 50, 5000, 16, 500),
    "full": Budget("mnist", 60_000, 10_000, 500, 500, 5000, 64, 5000),
}


@seeds(1)  # of many minutes each
def evidence(run: Run) -> list[Cell]:
    """The bracket and what stands below it, over seeds."""
    spent, found = BUDGETS[run.budget], []
    source = images(run, spent.data, spent.train, spent.test)
    for seed in range(run.seeds):
        torch.manual_seed(seed)
        run.say(f"factor analysis, seed {seed}")
        pair, x, mask = far_guide(spent.rows)
        scores, rows = bracket(pair, x, mask, spent, seed)
        d = pair.decoder
        with torch.no_grad():
            truth = exact.log_evidence(d.W, d.loc, d.scale, rows.nan_to_num(), ~rows.isnan())
        column = _column(LINEAR, scores | {EXACT: truth})
        vae = train(
            run, "VAE", seed, "vae", source.stored, spent.epochs, redraw=source.redraw, latents=50, hidden=(200, 200)
        )
        real = source.test[: spent.rows]
        run.say(f"{spent.rows} simulated rows from both sides, seed {seed}")
        column |= _column(SIMULATED, bracket(vae, real, None, spent, seed)[0])
        run.say(f"{spent.rows} test rows, seed {seed}")
        found.append(column | _column(REAL, below(vae, real, spent, seed)))
    return cells(found, {})


TABLES = {"evidence": evidence}


def far_guide(rows: int, features: int = 12, latents: int = 3) -> tuple[ppvae.Pair, Tensor, Tensor]:
    """Factor analysis with a third of the entries missing and an amortized guide that was never trained."""
    pair = ppvae.make("factor_analysis_diagonal", features, latents)
    pair.decoder.set_(torch.randn(features, latents), torch.randn(features), 0.5 + torch.rand(features))
    with torch.no_grad():
        x = pair.model(size=rows)
    return pair, x, torch.rand(x.shape) > 1 / 3


def bracket(
    pair: ppvae.Pair, x: Tensor, mask: Tensor | None, spent: Budget, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Both bounds of rows simulated under the masks of x, what stands below them, and the rows, NaN where hidden."""
    torch.manual_seed(seed)
    found = evaluate.bdmc(pair, x, mask, chains=spent.chains, temperatures=spent.temperatures)
    rows = found.rows["x"]
    scores = {
        ELBO: bound(pair, rows, seed),
        WEIGHTS: log_evidence(pair, rows, spent.particles, seed),
        LOWER: found.lower,
        UPPER: found.upper,
    }
    return scores, rows


def below(pair: ppvae.Pair, x: Tensor, spent: Budget, seed: int) -> dict[str, Tensor]:
    """The estimates from below, of rows as they are."""
    torch.manual_seed(seed)
    annealed = evaluate.ais(pair, x, chains=spent.chains, temperatures=spent.temperatures)
    return {
        ELBO: bound(pair, x, seed),
        WEIGHTS: log_evidence(pair, x, spent.particles, seed),
        LOWER: annealed.log_evidence,
    }


def _column(name: str, scores: dict[str, Tensor]) -> dict[Place, float]:
    """Means over the rows; with both bounds, their distance, and that of the worst row."""
    column = {(row, name): float(value.mean()) for row, value in scores.items()}
    if UPPER in scores:
        apart = scores[UPPER] - scores[LOWER]
        column["upper - lower", name], column["upper - lower, widest row", name] = (
            float(apart.mean()),
            float(apart.max()),
        )
    return column
