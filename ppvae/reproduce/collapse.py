"""Posterior collapse shown, and what cures it.

The story has two stochastic layers under tanh networks (64-64-64-20-32-32-10) and sees the binary 8 × 8 digits. Early on
the decoder explains no row better for knowing its latents, the KL drives q(z | x) onto the prior, and with it goes the
signal from which the decoder could learn: after 200 passes of the plain ELBO both layers together carry 0.2 nats (mean of
three seeds). Three remedies leave story, guide, steps and learning rate as they are: the KL weighed by w(t) rising from 0
to 1, once or in four cycles, which is too little here, and free bits, which press a layer's KL no further than its floor.

Scored by the plain ELBO on test rows, KL by layer, and active units (Var_x E_q[z_u | x] > 0.01). z1 is nearest the
data.

Budgets: cpu, 200 passes, half a minute a seed; full, 2000 passes.

References: Bowman et al. 2016; Sønderby et al. 2016 (warm-up); Fu et al. 2019 (cycles); Kingma et al. 2016 (free bits).
"""

from __future__ import annotations

from typing import NamedTuple

import ppvae
from ppvae import evaluate
from ppvae.reproduce.fitting import bound, images, mean, train
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

FLOOR = 2.0  # nats of each layer
OBJECTIVES = {
    "Plain": ppvae.elbo(),
    "Annealed": ppvae.elbo(kl=ppvae.annealed(0.5)),
    "Cyclic": ppvae.elbo(kl=ppvae.annealed(0.5, cycles=4)),
    "Free bits": ppvae.elbo(kl=ppvae.free_bits(FLOOR)),
}


class Budget(NamedTuple):
    """What is spent: rows to train on and passes over them."""

    train: int
    epochs: int


BUDGETS = {"smoke": Budget(256, 2), "cpu": Budget(10**9, 200), "full": Budget(10**9, 2000)}


@seeds(3)
def collapse(run: Run) -> list[Cell]:
    """The same story and guide under four objectives."""
    spent = BUDGETS[run.budget]
    return cells([_one_seed(run, spent, seed) for seed in range(run.seeds)], {})  # no document has these figures


TABLES = {"collapse": collapse}


def _one_seed(run: Run, spent: Budget, seed: int) -> dict[Place, float]:
    rows = images(run, "digits_binary", spent.train, 10**9)
    found: dict[Place, float] = {}
    for row, objective in OBJECTIVES.items():
        pair = train(
            run,
            row,
            seed,
            "two_layer",
            rows.stored,
            spent.epochs,
            objective,
            rows.redraw,
            latents=10,
            hidden=(64, 32),
        )
        found[row, "test ELBO"], found[row, "test ELBO, standard error"] = mean(bound(pair, rows.test, seed))
        for site, units in evaluate.units(pair, rows.test).items():
            found[row, f"KL of {site}"] = float(units.rate)
            found[row, f"active units of {site}"] = float(units.active.sum())
    return found
