"""Figures 4.1 and 4.2 of the thesis, on the real faces of seed 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppvae import exact
from ppvae.exact import approximations
from ppvae.reproduce.pictures import save
from ppvae.reproduce.run import Run
from ppvae.reproduce.thesis_missing import BUDGETS, EXACT, ROWS, SHAPE, encoders, faces, hide

GREY = {"cmap": "gray", "vmin": -1, "vmax": 1}
SHOWN = (*ROWS[:5], "Conjugate gradient, depth 4", EXACT)
SEEN_ROWS = (0, 4, 8, 12, 16, 20, 24, 28)  # of the image, from the top


def draw_figures(run: Run) -> None:
    """Write figure-4.1.png and figure-4.2.png into the folder of the run."""
    spent = BUDGETS[run.budget]
    train, test = faces(0, spent.frames)
    story = exact.ppca(train, spent.latents)
    for name, figure in (
        ("figure-4.1.png", seven_reconstructions(story, train, test)),
        ("figure-4.2.png", growing(story, test)),
    ):
        save(run, name, figure)


def seven_reconstructions(story: exact.FactorAnalysis, train: Tensor, test: Tensor) -> Any:
    """Figure 4.1: a face without its top left quarter, that quarter by seven encoders, and their squared errors.

    The face is the one whose error under exact inference is the median of the test frames'.
    """
    mask = torch.ones_like(test, dtype=torch.bool).reshape(-1, *SHAPE[1:])
    top, left = SHAPE[1] // 2, SHAPE[2] // 2
    mask[:, :top, :left] = False
    mask = mask.flatten(1)
    denoisers = {
        how: approximations.denoising(*story[:3], train, hide(train, how, 0)) for how in ("Quarters", "Random")
    }
    methods = encoders(story, denoisers["Quarters"], denoisers["Random"])
    errors = (exact.impute_mean(*story[:3], test, mask) - test).square().mean(1)
    n = errors.argsort()[len(errors) // 2]
    x, seen = test[n : n + 1], mask[n : n + 1]

    def quarter(rows: Tensor) -> Tensor:
        return rows.reshape(SHAPE[1:])[:top, :left]

    imputed = {name: quarter(methods[name](x, seen).mean @ story.W.mT + story.loc) for name in SHOWN}
    squares = {name: (image - quarter(x)).square() for name, image in imputed.items()}
    worst = float(max(s.max() for s in squares.values()))
    figure = _figure(15, 4.4)
    axes = figure.subplots(2, 2 + len(SHOWN))
    face = torch.where(seen, x, torch.nan).reshape(SHAPE[1:])
    _show(axes[0, 0], x.reshape(SHAPE[1:]), "face", **GREY)
    _show(axes[1, 0], face, "as observed", **GREY)
    _show(axes[0, 1], quarter(x), "original\nquarter", **GREY)
    axes[1, 1].axis("off")
    for ax, under, name in zip(axes[0, 2:], axes[1, 2:], SHOWN, strict=True):
        _show(ax, imputed[name], name.replace(" ", "\n", 1).replace(", ", ",\n"), **GREY)
        last = _show(
            under, squares[name], f"mean {100 * squares[name].mean():.2f} / 100", cmap="viridis", vmin=0, vmax=worst
        )
    figure.colorbar(last, ax=list(axes[1, 2:]), shrink=0.9, aspect=12, label="squared error of a pixel")
    return figure


def growing(story: exact.FactorAnalysis, test: Tensor) -> Any:
    """Figure 4.2: mean and standard deviation of the pixels below the line, given those above it, by exact inference."""
    x = test[:1]
    height, width = SHAPE[1:]
    figure = _figure(13, 4.6)
    axes = figure.subplots(2, len(SEEN_ROWS) + 1)
    _show(axes[0, -1], x.reshape(height, width), "the face", **GREY)
    axes[1, -1].axis("off")
    results = []
    for count in SEEN_ROWS:
        mask = (torch.arange(height) < count).repeat_interleave(width)[None]
        q = exact.posterior(*story[:3], x, mask)
        variance = (story.W @ q.covariance_matrix[0] * story.W).sum(-1) + story.scale.square()  # of x_j given x_o
        results.append((exact.impute_mean(*story[:3], x, mask), torch.where(mask[0], 0.0, variance.sqrt())))
    top = float(max(sd.max() for _, sd in results))
    for ax, under, count, (mean, sd) in zip(axes[0], axes[1], SEEN_ROWS, results, strict=False):
        _show(ax, mean.reshape(height, width), f"{count} of {height} rows\nobserved", **GREY)
        last = _show(under, sd.reshape(height, width), f"largest {sd.max():.2f}", cmap="viridis", vmin=0, vmax=top)
        for one in (ax, under):
            one.axhline(count - 0.5, color="red", linewidth=1.5)
    axes[0, 0].set_ylabel("observed above the line,\nposterior mean below")
    axes[1, 0].set_ylabel("posterior standard\ndeviation")
    figure.colorbar(last, ax=list(axes[1]), shrink=0.9, aspect=12, label="grey level, of [-1, 1]")
    return figure


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _show(ax: Any, image: Tensor, title: str, **style: Any) -> Any:
    shown = ax.imshow(image.numpy(), **style)
    ax.set_title(title, fontsize=8)
    ax.set_facecolor("tab:orange")  # a missing pixel
    ax.set_xticks([])
    ax.set_yticks([])
    return shown
