"""Digits on demand: samples of the conditional VAE, called by a classifier that has seen real digits only.

The label stands in story and guide. Rows of z are drawn from the prior and decoded under each of the ten labels
(``--figures``: one z a row, one label a column). *Called as asked* is the share of them in which a classifier reads the
label that was asked for, of draws x ~ p(x | z, label) and of their means; on real test digits it shows what the
classifier itself can do. It is a fully connected network of 200 units, fitted to one binary observation of the training
rows.

Digits are binarized anew at each use, the test rows once. Samples stand beside real digits in the same form: draws are
bits, means are grey.

Budgets: cpu, 30 passes, 1000 rows of z, the classifier on 20,000 rows, about 3 minutes a seed; full, 200 passes, 10,000
rows of z, the classifier on 60,000.

Reference: Sohn, Lee & Yan 2015.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import ppvae
from ppvae.machine import own_generators
from ppvae.reproduce.fitting import bound, images, mean, train
from ppvae.reproduce.pictures import board, save
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

SHARE = "called as asked"
SHOWN = 10  # rows of z in the picture


class Budget(NamedTuple):
    """What is spent: the data, rows to train on and to score, passes, widths, rows of z, the classifier's rows."""

    data: str
    train: int
    test: int
    epochs: int
    hidden: tuple[int, ...]
    samples: int
    classified: int


BUDGETS = {
    "smoke": Budget("digits_binary", 1000, 100, 2, (16,), 20, 1000),
    "cpu": Budget("mnist", 60_000, 2000, 30, (400, 200), 1000, 20_000),
    "full": Budget("mnist", 60_000, 10_000, 200, (400, 200), 10_000, 60_000),
}


@seeds(1)
def conditional(run: Run) -> list[Cell]:
    """Samples under each label, and real digits."""
    spent = BUDGETS[run.budget]
    return cells([_one_seed(run, spent, seed) for seed in range(run.seeds)], {})


TABLES = {"conditional": conditional}


def _one_seed(run: Run, spent: Budget, seed: int) -> dict[Place, float]:
    rows = images(run, spent.data, spent.train, spent.test)
    table = {"x": rows.stored, "label": rows.train_label}
    sizes: dict[str, Any] = {"latents": 20, "hidden": spent.hidden}
    what = "Conditional VAE"
    pair = train(run, what, seed, "conditional_vae", table, spent.epochs, redraw=rows.redraw, **sizes)
    run.say(f"classifier, {spent.classified} rows")
    classifier = classify(rows.train[: spent.classified], rows.train_label[: spent.classified], seed)
    with own_generators(seed):
        draws, means, asked = on_demand(pair, spent.samples)
    found: dict[Place, float] = {}
    judged = {
        f"{what}, draws": called(classifier, draws, asked).reshape(-1, 10).mean(1),  # the ten of one z hang together
        f"{what}, means": called(classifier, means, asked).reshape(-1, 10).mean(1),
        "Real": called(classifier, rows.test, rows.test_label),
    }
    for row, share in judged.items():
        found[row, SHARE], found[row, f"{SHARE}, standard error"] = mean(share)
    scores = bound(pair, {"x": rows.test, "label": rows.test_label}, seed)
    found[f"{what}, draws", "test ELBO"], found[f"{what}, draws", "test ELBO, standard error"] = mean(scores)
    if run.figures is not None and seed == 0:
        title = f"{spent.data}: E[x | z, label], one z a row"
        figure, ax = board(means[: 10 * SHOWN], rows.shape, 10, title, 0.0, 1.0)
        ax.set_xticks([rows.shape[1] * (c + 0.5) for c in range(10)], range(10))
        ax.set_xlabel("label")
        save(run, f"conditional-{spent.data}.png", figure)
    return found


def on_demand(pair: ppvae.Pair, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws and means of x under each of the ten labels for so many z, (10 count, D), and the labels; a z's ten rows follow
    one another."""
    home = next(pair.parameters())
    label = torch.arange(10).repeat(count)
    z = torch.randn(count, pair.decoder.latents).repeat_interleave(10, 0)
    with torch.no_grad():
        x = pair.decoder(z.to(home), label.to(home.device))
        return x.sample().cpu(), x.mean.cpu(), label


def classify(x: Tensor, label: Tensor, seed: int) -> Any:
    """A classifier of rows, fitted."""
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((200,), early_stopping=True, max_iter=30, random_state=seed).fit(x.numpy(), label.numpy())


def called(classifier: Any, x: Tensor, label: Tensor) -> Tensor:
    """1 where the classifier calls a row by its label, else 0, (N,)."""
    return torch.from_numpy(np.equal(classifier.predict(x.numpy()), label.numpy())).double()
