"""Pictures of the tables of fitted images."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ppvae.files import write_whole
from ppvae.reproduce.run import Run

# Okabe & Ito 2008, with Tol's wine and olive for the ninth and tenth class: told apart by colour-blind readers
COLOURS = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#882255",
    "#999933",
)


def save(run: Run, name: str, figure: Any) -> None:
    """Write a figure as PNG into the run's folder, whole or not at all."""
    run.figures.mkdir(parents=True, exist_ok=True)
    write_whole(run.figures / name, lambda draft: figure.savefig(draft, dpi=110, format="png"))


def mosaic(images: Tensor, shape: tuple[int, int], columns: int) -> np.ndarray:
    """Images (M, D) side by side, so many columns, as one (rows · height, columns · width) array."""
    height, width = shape
    return images.reshape(-1, columns, height, width).permute(0, 2, 1, 3).reshape(-1, columns * width).numpy()


def board(
    images: Tensor, shape: tuple[int, int], columns: int, title: str, black: float, white: float
) -> tuple[Any, Any]:
    """A figure of images side by side, grey levels from ``black`` to ``white``, and its axes."""
    figure = _figure(8, 8 * len(images) * shape[0] / (columns**2 * shape[1]) + 0.6)
    ax = figure.subplots()
    ax.imshow(mosaic(images, shape, columns), cmap="gray", vmin=black, vmax=white, interpolation="nearest")
    ax.set_title(title, fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])
    return figure, ax


def scatter(points: Tensor, label: Tensor, title: str) -> Any:
    """Points (N, 2) coloured by label, each label written at that of its points which is nearest to their median."""
    figure = _figure(8, 8)
    ax = figure.subplots()
    for c in label.unique().tolist():
        of_class = points[label == c]
        ax.scatter(*of_class.T.numpy(), s=6, color=COLOURS[c], linewidths=0, label=str(c))
        middle = of_class[(of_class - of_class.median(0).values).square().sum(1).argmin()].tolist()
        box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": COLOURS[c]}
        ax.text(*middle, str(c), fontsize=13, ha="center", va="center", bbox=box)
    ax.legend(title="label", markerscale=3, fontsize=9)
    ax.set_title(title, fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])
    return figure


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
