"""More latents than needed do not overfit: train and test ELBO of the VAE on MNIST, from 2 latents to 200.

A fully connected VAE (784-500-K) is fitted by the ELBO with the KL in closed form; pixels are binarized anew at each
use, the scored rows once. *Test ELBO minus 20 latents* is the mean over test rows of the difference to the story with
20, row by row, beside its standard error: what superfluous latents cost. *Active units* are those with Var_x E_q[z_u |
x] > 0.01 (Burda et al. 2016): the others are left at the prior.

The published figure has curves and no numbers: 3, 5, 10, 20 and 200 latents, 500 hidden units.

Budgets: cpu, 10 passes, 2000 rows of each split scored, about 7 minutes a seed: few for a test of overfitting, and
superfluous latents take steps to be left, so that train and test bound both fall a little from 20 latents to 200; full,
200 passes, 10,000 rows scored.

Reference: Kingma & Welling 2014, figure 2.
"""

from __future__ import annotations

from typing import NamedTuple

from ppvae import evaluate
from ppvae.reproduce.fitting import bound, images, mean, train
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

BASE = 20


class Budget(NamedTuple):
    """What is spent: the data, rows to train on, rows of each split to score, passes, hidden units, and the numbers of
    latents."""

    data: str
    train: int
    scored: int
    epochs: int
    hidden: int
    latents: tuple[int, ...]


BUDGETS = {
    "smoke": Budget("digits_binary", 256, 50, 1, 16, (2, 20, 200)),
    "cpu": Budget("mnist", 60_000, 2000, 10, 500, (2, 5, 10, 20, 50, 100, 200)),
    "full": Budget("mnist", 60_000, 10_000, 200, 500, (2, 5, 10, 20, 50, 100, 200)),
}


@seeds(1)
def latents(run: Run) -> list[Cell]:
    """One row for each number of latents."""
    spent = BUDGETS[run.budget]
    return cells([_one_seed(run, spent, seed) for seed in range(run.seeds)], {})


TABLES = {"latents": latents}


def _one_seed(run: Run, spent: Budget, seed: int) -> dict[Place, float]:
    rows = images(run, spent.data, spent.train, spent.scored)
    found: dict[Place, float] = {}
    test = {}
    for count in spent.latents:
        row = f"{count} latents"
        pair = train(
            run,
            row,
            seed,
            "vae",
            rows.stored,
            spent.epochs,
            redraw=rows.redraw,
            latents=count,
            hidden=(spent.hidden,),
        )
        test[row] = bound(pair, rows.test, seed)
        found[row, "train ELBO"], _ = mean(bound(pair, rows.train[: spent.scored], seed))
        found[row, "test ELBO"], found[row, "test ELBO, standard error"] = mean(test[row])
        found[row, "active units"] = float(evaluate.units(pair, rows.test)["z"].active.sum())
    for row, values in test.items():
        less = mean(values - test[f"{BASE} latents"])
        found[row, f"test ELBO minus {BASE} latents"], found[row, "difference's standard error"] = less
    return found
