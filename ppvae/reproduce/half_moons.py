"""Two half-moons told apart by three labels each: M2 and the auxiliary model.

10,000 rows of two interleaved arcs with noise 0.1, three labels a class; the error on 10,000 others, and log p(x) in nats. Of five fits
that with the highest number in training is kept. "every label" is a network of the same width that was shown all classes.
``--figures``: what each model of seed 0 makes of the plane.

Budgets: cpu, 30 passes; full, 200.

Reference: Maaløe, Sønderby, Sønderby & Winther 2016, section 4.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

import ppvae
from ppvae.evaluate import class_probabilities
from ppvae.machine import own_generators
from ppvae.reproduce.few_labels import (
    ERROR,
    M2,
    NEAREST,
    PICTURES,
    classifiers,
    error_percent,
    few,
    repeated,
    side_by_side,
)
from ppvae.reproduce.pictures import save
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

ADGM, ALL = "ADGM", "every label"


class Budget(NamedTuple):
    """What is spent: rows, and passes."""

    rows: int
    passes: int


BUDGETS = {"smoke": Budget(600, 2), "cpu": Budget(10_000, 30), "full": Budget(10_000, 200)}
LATENTS = 1  # an arc has one coordinate; with two, z could tell the arcs apart by itself
STARTS = 5  # fits from other first weights, of which that with the highest number in training is kept: no test label is asked
NAMED = 10.0  # alpha: the six rows that show their class are few beside what the bound asks of all


@seeds(5)
def half_moons(run: Run) -> list[Cell]:
    """Every seed's errors and bounds, seeds side by side."""
    spent = BUDGETS[run.budget]
    run.data["half-moons"] = f"{spent.rows} rows, noise 0.1, three labels a class; as many test rows"
    found = side_by_side(run, _moons, [(seed, spent) for seed in range(run.seeds)])
    drawn = found[0].pop(PICTURES)
    for scores in found[1:]:
        scores.pop(PICTURES)
    if run.figures is not None:
        _draw_moons(run, *drawn)
    return cells(found, {})


TABLES = {"half-moons": half_moons}


def _moons(seed: int, spent: Budget) -> dict[Place, Any]:
    from sklearn.datasets import make_moons
    from sklearn.neural_network import MLPClassifier

    rows, passes = spent
    drawn = [make_moons(rows, noise=0.1, random_state=2 * seed + i) for i in (0, 1)]
    (x, label), (test, truth) = ((torch.tensor(a, dtype=torch.float32), torch.tensor(b)) for a, b in drawn)
    shown = few(label, 3, seed)
    table = repeated(x, label, shown)
    found: dict[Place, Any] = {}
    maps = {}
    plane = torch.cartesian_prod(torch.linspace(-1.6, 2.6, 120), torch.linspace(-1.1, 1.6, 80))
    for name, made in ((M2, "semi_supervised_vae"), (ADGM, "adgm")):
        fitted = max((_fit_moons(made, table, passes, STARTS * seed + i) for i in range(STARTS)), key=_reached)
        pair = fitted.pair
        with own_generators(seed):
            found[name, ERROR] = error_percent(class_probabilities(pair, test, particles=50), truth)
            found[name, "log p(x), test rows"] = float(ppvae.condition(pair, test[:1000]).log_evidence(200).mean())
            maps[name] = class_probabilities(pair, plane, particles=50)[:, 1]
        found[name, "seconds"] = sum(r["seconds"] for r in fitted.history)
    every = MLPClassifier((100, 100), random_state=seed, early_stopping=True).fit(x.numpy(), label.numpy())
    found[ALL, ERROR] = 100 * float((torch.from_numpy(every.predict(test.numpy())) != truth).double().mean())
    nearest = classifiers()[NEAREST].fit(x[shown].numpy(), label[shown].numpy())
    found[NEAREST, ERROR] = 100 * float((torch.from_numpy(nearest.predict(test.numpy())) != truth).double().mean())
    found[PICTURES] = (x[:1000], x[shown], label[shown], plane, maps)
    return found


def _fit_moons(made: str, table: dict[str, Tensor], passes: int, seed: int) -> ppvae.Fit:
    with own_generators(seed):
        pair = ppvae.make(made, 2, LATENTS, hidden=(100, 100), likelihood="normal", classes=2)
    bound = ppvae.elbo(kl=ppvae.annealed(0.3))  # from the start z costs more than it tells, and would be lost
    return ppvae.fit(
        pair,
        table,
        objective=ppvae.semi_supervised(bound, alpha=NAMED),
        epochs=passes,
        batch_size=100,
        learning_rate=1e-2,
        seed=seed,
        progress=False,
    )


def _reached(fitted: ppvae.Fit) -> float:
    return fitted.history[-1]["bound"]


def _draw_moons(run: Run, x: Tensor, shown: Tensor, label: Tensor, plane: Tensor, maps: dict[str, Tensor]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(maps), figsize=(11, 4), sharey=True, layout="constrained")
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        grid = values.reshape(120, 80).T.cpu()
        drawn = ax.contourf(
            plane[::80, 0], plane[:80, 1], grid, levels=torch.linspace(0, 1, 11), cmap="PuOr", alpha=0.7
        )
        ax.plot(*x.T, ".", color="0.3", markersize=2)
        for c, marker in ((0, "s"), (1, "o")):
            ax.plot(
                *shown[label == c].T,
                marker,
                color="black",
                markersize=9,
                markerfacecolor="white",
                label=f"class {c}, shown",
            )
        ax.set_title(f"{name}: q(y = 1 | x)")
        ax.set_xlabel("x1")
    axes[0].set_ylabel("x2")
    axes[0].legend(loc="lower left")
    figure.colorbar(drawn, ax=list(axes), label="q(y = 1 | x)")
    save(run, "labels-moons.png", figure)
    pyplot.close(figure)
