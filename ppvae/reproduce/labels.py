"""A few labels among many rows: digits by M2 and M1+M2, and the half-moons by M2 and the auxiliary model.

*Digits*: 100 labels, ten a class, drawn by the seed from the training rows; the error of q(y | x) on the test rows. M2 reads
pixels; M1+M2 reads the 50 latents of a VAE of the same rows (their means), with a Normal likelihood. The rows that
show their class stand in the table many times, which is a large gamma with less noise. Beside them what the labels
alone say: the nearest of the 100, and logistic regression, on the same inputs.

*Half-moons*: 10,000 rows of two interleaved arcs with noise 0.1, three labels a class; the error on 10,000 others, and log p(x)
in nats. Of three fits that with the highest number in training is kept. "every label" is a network of the same width that was shown all classes.

Pictures (``--figures``), of seed 0: digits drawn under each class, one style a row; the styles' and M1's codes, two principal
components by class; what each model makes of the moons' plane.

Budgets: cpu, 60,000 rows, 10 passes of M2 and 40 of M1+M2; full, 100 and 400, wider networks.

References: Kingma, Rezende, Mohamed & Welling 2014, table 1; Narayanaswamy et al. 2017; Maaløe et al. 2016, section 4.1 and table 2.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from joblib import Parallel, delayed
from torch import Tensor

import ppvae
from ppvae import data
from ppvae.data.chance import generator
from ppvae.evaluate import class_probabilities
from ppvae.machine import own_generators
from ppvae.reproduce.pictures import COLOURS, board, save
from ppvae.reproduce.run import Cell, Place, Run, cells

M2, M1M2, ADGM = "M2", "M1+M2", "ADGM"
NEAREST, LOGISTIC, ALL = "nearest label", "logistic regression", "every label"
ERROR = "error %"
PUBLISHED = {(M2, f"100 labels, {ERROR}"): 11.97, (M1M2, f"100 labels, {ERROR}"): 3.33}
SHOWN = 8  # styles in the picture


class Budget(NamedTuple):
    """What is spent: the data, rows, passes of M1, M2 and M1+M2, widths, labels a class."""

    data: str
    rows: int
    passes: tuple[int, int, int]
    hidden: tuple[int, ...]
    labels: int
    moons: tuple[int, int]
    """Rows of the half-moons, and passes."""


BUDGETS = {
    "smoke": Budget("digits_binary", 600, (2, 2, 2), (32,), 10, (600, 2)),
    "cpu": Budget("mnist", 60_000, (20, 10, 40), (400,), 10, (10_000, 30)),
    "full": Budget("mnist", 60_000, (200, 100, 400), (600, 600), 10, (10_000, 200)),
}
STYLES, CODES = 50, 50  # latents of M2, and of M1
SHARE = 0.2  # of the table's rows show their class, once those that do are repeated


# --- digits -------------------------------------------------------------------------------------------------------------


def semi_supervised(run: Run) -> list[Cell]:
    """Every seed's errors, seeds side by side."""
    spent = BUDGETS[run.budget]
    source = data.load(spent.data)
    run.data[spent.data] = (
        f"{source.scaling}; {min(spent.rows, len(source.split['train']))} rows, {10 * spent.labels} labels"
    )
    found = _side_by_side(run, _digits, [(seed, spent, run.figures is not None) for seed in range(run.seeds)])
    _draw_digits(run, found[0].pop(PICTURES, None))
    return cells(found, PUBLISHED)


semi_supervised.seeds = 5
PICTURES = ("pictures", "")


def _digits(seed: int, spent: Budget, pictures: bool) -> dict[Place, Any]:
    source = data.load(spent.data)
    x, label = source.rows("train")[: spent.rows], source.labels("train")[: spent.rows]
    test, truth = source.observed("test"), source.labels("test")
    shown = few(label, spent.labels, seed)
    with own_generators(seed):
        codes = ppvae.make("vae", x.shape[1], CODES, hidden=spent.hidden)
    _fit(codes, {"x": x}, ppvae.elbo(), spent.passes[0], seed, source.redraw)
    seen = source.observed("train", seed)[: spent.rows]
    z, z_test = (_means(codes, rows) for rows in (seen, test))
    found: dict[Place, Any] = {}
    column = f"{10 * spent.labels} labels, {ERROR}"
    for name, rows, other, likelihood, passes, redraw in (
        (M2, x, test, "bernoulli", spent.passes[1], source.redraw),
        (M1M2, z, z_test, "normal", spent.passes[2], None),
    ):
        with own_generators(seed):
            pair = ppvae.make("semi_supervised_vae", rows.shape[1], STYLES, hidden=spent.hidden, likelihood=likelihood)
        table = repeated(rows, label, shown)
        _fit(pair, table, ppvae.semi_supervised(), passes, seed, redraw)
        found[name, column] = _error(class_probabilities(pair, other), truth)
        if name == M2 and pictures:
            found[PICTURES] = (_under_each_class(pair, seed), _styles(pair, test), z_test, truth, source.shape[1:])
    for name, rows, other in (("pixels", seen, test), ("M1's codes", z, z_test)):
        for what, classifier in _classifiers().items():
            fitted = classifier.fit(rows[shown].numpy(), label[shown].numpy())
            wrong = torch.from_numpy(fitted.predict(other.numpy())) != truth
            found[f"{what}, {name}", column] = 100 * float(wrong.double().mean())
    return found


def few(label: Tensor, each: int, seed: int) -> Tensor:
    """The places of so many rows of each class, drawn by the seed."""
    order = torch.randperm(len(label), generator=generator(seed))
    return torch.cat([order[label[order] == c][:each] for c in label.unique()])


def repeated(x: Tensor, label: Tensor, shown: Tensor) -> dict[str, Tensor]:
    """The rows, none of which shows its class, and those of ``shown``, which do, so often that they are a fifth of all."""
    times = max(1, round(SHARE / (1 - SHARE) * len(x) / len(shown)))
    y = torch.full((len(x),), torch.nan)
    return {
        "x": torch.cat([x, x[shown].repeat(times, 1)]),
        "y": torch.cat([y, label[shown].to(y).repeat(times)]),
    }


def _fit(pair: ppvae.Pair, table: dict[str, Tensor], objective: Any, passes: int, seed: int, redraw: Any) -> None:
    ppvae.fit(
        pair,
        table,
        objective=objective,
        epochs=passes,
        batch_size=250,
        learning_rate=2e-3,
        seed=seed,
        redraw=redraw,
        progress=False,
    )


def _means(pair: ppvae.Pair, x: Tensor) -> Tensor:
    home = next(pair.parameters())
    with torch.no_grad():
        return torch.cat([pair.encoder(rows.to(home)).mean.squeeze(-2).cpu() for rows in x.split(5000)])


def _error(probabilities: Tensor, truth: Tensor) -> float:
    return 100 * float((probabilities.argmax(-1).cpu() != truth).double().mean())


def _classifiers() -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    return {NEAREST: KNeighborsClassifier(1), LOGISTIC: LogisticRegression(max_iter=2000)}


def _under_each_class(pair: ppvae.Pair, seed: int) -> Tensor:
    """E[x | z, y] for some styles z, each under the ten classes, (10 SHOWN, D)."""
    home = next(pair.parameters())
    z = torch.randn(SHOWN, pair.decoder.latents, generator=generator(seed)).repeat_interleave(10, 0)
    with torch.no_grad():
        return pair.decoder.x(z[:, None].to(home), torch.arange(10.0).repeat(SHOWN)[:, None].to(home)).mean.cpu()


def _styles(pair: ppvae.Pair, x: Tensor) -> Tensor:
    """E[z | x, y] at the class that the guide gives, (N, K)."""
    home = next(pair.parameters())
    with torch.no_grad():
        y = class_probabilities(pair, x).argmax(-1)[:, None].to(home)
        return pair.encoder.z(x.to(home), y).mean.squeeze(-2).cpu()


def _draw_digits(run: Run, drawn: tuple | None) -> None:
    if drawn is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    images, styles, codes, truth, shape = drawn
    figure, ax = board(images, shape, 10, "M2: E[x | z, y], one style z a row", 0.0, 1.0)
    ax.set_xticks([shape[1] * (c + 0.5) for c in range(10)], range(10))
    ax.set_xlabel("class")
    save(run, "labels-classes.png", figure)
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5))
    for ax, (title, points) in zip(
        axes, (("M1: codes of rows", codes), ("M2: styles of rows, class aside", styles)), strict=True
    ):
        centred = points - points.mean(0)
        plane = centred @ torch.linalg.svd(centred, full_matrices=False)[2][:2].T
        for c in range(10):
            ax.plot(*plane[truth == c][:200].T, ".", color=COLOURS[c], label=str(c), markersize=4)
        ax.set_title(title)
        ax.set_xlabel("first principal component")
    axes[0].set_ylabel("second principal component")
    axes[1].legend(title="class", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    save(run, "labels-codes.png", figure)
    pyplot.close(figure)


# --- half-moons ---------------------------------------------------------------------------------------------------------


def half_moons(run: Run) -> list[Cell]:
    """Every seed's errors and bounds, seeds side by side."""
    spent = BUDGETS[run.budget]
    run.data["half-moons"] = f"{spent.moons[0]} rows, noise 0.1, three labels a class; as many test rows"
    found = _side_by_side(run, _moons, [(seed, spent) for seed in range(run.seeds)])
    drawn = found[0].pop(PICTURES)
    for scores in found[1:]:
        scores.pop(PICTURES)
    if run.figures is not None:
        _draw_moons(run, *drawn)
    return cells(found, {})


half_moons.seeds = 5
TABLES = {"semi-supervised": semi_supervised, "half-moons": half_moons}
LATENTS = 1  # an arc has one coordinate; with two, z tells the arcs apart and y is not needed
STARTS = 3  # fits from other first weights, of which that with the highest number in training is kept: no test label is asked
NAMED = 10.0  # alpha: at 1 an arc may end in the other's class, where the bound is as high


def _moons(seed: int, spent: Budget) -> dict[Place, Any]:
    from sklearn.datasets import make_moons
    from sklearn.neural_network import MLPClassifier

    rows, passes = spent.moons
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
            found[name, ERROR] = _error(class_probabilities(pair, test, particles=50), truth)
            found[name, "log p(x), test rows"] = float(ppvae.condition(pair, test[:1000]).log_evidence(200).mean())
            maps[name] = class_probabilities(pair, plane, particles=50)[:, 1]
        found[name, "seconds"] = sum(r["seconds"] for r in fitted.history)
    every = MLPClassifier((100, 100), random_state=seed, early_stopping=True).fit(x.numpy(), label.numpy())
    found[ALL, ERROR] = 100 * float((torch.from_numpy(every.predict(test.numpy())) != truth).double().mean())
    nearest = _classifiers()[NEAREST].fit(x[shown].numpy(), label[shown].numpy())
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
        learning_rate=3e-3,
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
    figure.colorbar(drawn, ax=list(axes))
    save(run, "labels-moons.png", figure)
    pyplot.close(figure)


def _side_by_side(run: Run, one: Callable[..., dict[Place, Any]], jobs: list[tuple]) -> list[dict[Place, Any]]:
    """Each seed's result, in the seeds' order, on as many cores as there are."""
    workers = Parallel(n_jobs=min(len(jobs), os.cpu_count() or 1), return_as="generator")
    found = []
    for scores in workers(delayed(_alone)(one, job) for job in jobs):
        found.append(scores)
        run.say(f"seed {len(found)} of {len(jobs)}")
    return found


def _alone(one: Callable[..., dict[Place, Any]], job: tuple) -> dict[Place, Any]:
    if os.cpu_count() != 1 and not torch.cuda.is_available():
        torch.set_num_threads(1)  # the jobs go side by side
    return one(*job)
