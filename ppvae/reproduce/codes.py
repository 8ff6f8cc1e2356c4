"""What two-dimensional and twenty-dimensional codes show: manifolds of digits and faces, and t-SNE.

*manifold*: a VAE with two latents on MNIST and one on the Frey faces. Equally spaced points u of the unit square go
through the inverse normal CDF, z = Φ⁻¹(u), so that each stands for the same prior mass, and through the decoder: E[x |
z] on a grid of 20 × 20 (``--figures``). Scored: the ELBO on test rows; for digits the share of test rows whose nearest
code, E_q[z | x], has their label.

*tsne*: the same share for codes of 20 latents, for their t-SNE in the plane, and for the pixels themselves.

Digits are binarized anew at each use (Bernoulli), the test rows once; faces are grey in [-1, 1] (Normal, one learned
scale a pixel: a density, whose ELBO has no zero and is not comparable with the digits').

Budgets: cpu, 10 passes over the digits and 200 over the faces, 2000 test digits, about a minute a seed each; full, 200
and 2000 passes, 10,000 test digits.

References: Kingma & Welling 2014, figure 4; van der Maaten & Hinton 2008.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppvae import plots
from ppvae.reproduce.fitting import bound, codes, images, mean, train
from ppvae.reproduce.pictures import plane, save, sheet
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

SIDE = 20


class Budget(NamedTuple):
    """What is spent: digits and faces by name, rows of digits to train on and to score, passes over digits and over
    faces, widths."""

    digits: str
    faces: str
    train: int
    test: int
    epochs: int
    face_epochs: int
    hidden: tuple[int, ...]


BUDGETS = {
    "smoke": Budget("digits_binary", "digits", 256, 60, 1, 1, (16,)),
    "cpu": Budget("mnist", "frey", 60_000, 2000, 10, 200, (400, 200)),
    "full": Budget("mnist", "frey", 60_000, 10_000, 200, 2000, (400, 200)),
}


@seeds(1)
def manifold(run: Run) -> list[Cell]:
    """Two latents: digits and faces."""
    spent = BUDGETS[run.budget]
    return cells([_manifold(run, spent, seed) for seed in range(run.seeds)], {})


@seeds(1)
def tsne(run: Run) -> list[Cell]:
    """Twenty latents of digits, and their t-SNE."""
    spent = BUDGETS[run.budget]
    return cells([_tsne(run, spent, seed) for seed in range(run.seeds)], {})


TABLES = {"manifold": manifold, "tsne": tsne}


def _manifold(run: Run, spent: Budget, seed: int) -> dict[Place, float]:
    found: dict[Place, float] = {}
    for row, name, epochs in (("Digits", spent.digits, spent.epochs), ("Faces", spent.faces, spent.face_epochs)):
        rows = images(run, name, spent.train, spent.test)
        sizes: dict[str, Any] = {"latents": 2, "hidden": spent.hidden, "likelihood": rows.likelihood}
        pair = train(run, row, seed, "vae", rows.stored, epochs, redraw=rows.redraw, **sizes)
        found[row, "test ELBO"], found[row, "test ELBO, standard error"] = mean(bound(pair, rows.test, seed))
        if row == "Digits":
            same = agreement(codes(pair, rows.test), rows.test_label)
            found[row, "nearest code has the label"], found[row, "share's standard error"] = mean(same)
        if run.figures is not None and seed == 0:
            black = 0.0 if rows.likelihood == "bernoulli" else float(rows.stored.min())
            figure = sheet(8, 8 * rows.shape[0] / rows.shape[1] + 0.6)
            plots.manifold(pair, rows.shape, SIDE, (black, float(rows.stored.max())), figure.subplots()).set_title(name)
            save(run, f"manifold-{name}.png", figure)
    return found


def _tsne(run: Run, spent: Budget, seed: int) -> dict[Place, float]:
    from sklearn.manifold import TSNE

    rows = images(run, spent.digits, spent.train, spent.test)
    sizes: dict[str, Any] = {"latents": 20, "hidden": spent.hidden}
    pair = train(run, "20 latents", seed, "vae", rows.stored, spent.epochs, redraw=rows.redraw, **sizes)
    code = codes(pair, rows.test)
    run.say(f"t-SNE of {len(code)} codes")
    flat = torch.from_numpy(TSNE(init="pca", random_state=seed).fit_transform(code.numpy()))
    found: dict[Place, float] = {}
    for row, points in (("Codes, 20 latents", code), ("t-SNE of the codes", flat), ("Pixels", rows.test)):
        same = agreement(points, rows.test_label)
        found[row, "nearest neighbour has the label"], found[row, "share's standard error"] = mean(same)
        if points is code:
            found[row, "test ELBO"], found[row, "test ELBO, standard error"] = mean(bound(pair, rows.test, seed))
    if run.figures is not None and seed == 0:
        title = f"t-SNE of E[z | x], 20 latents, {len(code)} test rows of {spent.digits}"
        save(run, f"tsne-{spent.digits}.png", plane(flat, rows.test_label, title))
    return found


def agreement(points: Tensor, label: Tensor) -> Tensor:
    """1 where the nearest other point has the same label, else 0, (N,)."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(points.numpy()).kneighbors(return_distance=False)[:, 0]
    return (label[torch.from_numpy(nearest)] == label).double()
