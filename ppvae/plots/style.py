"""What the pictures share: axes, colours, images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ppvae.errors import Problem

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
GAP = "tab:orange"  # a missing pixel


def axes_of(ax: Axes | None, size: tuple[float, float] = (6.0, 4.0)) -> Axes:
    """The axes given, or those of a new figure. Without a display the figure can be saved all the same."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def mosaic(images: np.ndarray | Tensor, shape: tuple[int, int], columns: int) -> np.ndarray:
    """Images (M, D) side by side, so many columns, as one (rows · height, columns · width) array."""
    height, width = shape
    parts = np.asarray(images).reshape(-1, columns, height, width)
    return parts.transpose(0, 2, 1, 3).reshape(-1, columns * width)


def shape_of(shape: Sequence[int], features: int) -> tuple[int, int]:
    """Height and width of images of so many pixels; a leading 1, for one channel, is left out.

    Raises:
        Problem: another number of pixels, or several channels.
    """
    sides = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    height_width = sides[1:] if len(sides) == 3 and sides[0] == 1 else sides
    if len(height_width) != 2 or height_width[0] * height_width[1] != features:
        raise Problem(
            f"shape is {sides}, and a row has {features} entries",
            "height and width of grey images, whose product is the number of entries",
            "shape=(28, 28) for MNIST; data.load(name).shape says it",
        )
    return height_width


def refuse_count(**counts: object) -> None:
    """Numbers of things to draw."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise Problem(f"{name} is {count!r}", "it counts what is drawn: a whole number of at least 1", f"{name}=9")


def refuse_levels(levels: object) -> None:
    """The values that are black and white."""
    if levels is not None and not (isinstance(levels, Sequence) and len(levels) == 2):
        raise Problem(f"levels is {levels!r}", "the values that are black and white", "levels=(0.0, 1.0)")


def separated(ax: Axes, rows: int, columns: int, sides: tuple[int, int]) -> None:
    """Thin lines between images side by side."""
    height, width = sides
    for position in range(1, columns):
        ax.axvline(width * position - 0.5, color=COLOURS[2], linewidth=0.8)
    for position in range(1, rows):
        ax.axhline(height * position - 0.5, color=COLOURS[2], linewidth=0.8)


def bare(ax: Axes, title: str) -> Axes:
    """An image's axes: no ticks, a title."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize=10)
    return ax


def scatter(ax: Axes, points: Tensor, label: Any = None) -> None:
    """Points (N, 2), coloured by label (N,), each label written at that of its points which is nearest to their median."""
    if label is None:
        ax.scatter(points[:, 0], points[:, 1], s=6, color=COLOURS[5], linewidths=0)
        return
    try:
        label = torch.as_tensor(label).long()
    except (TypeError, ValueError) as error:
        raise Problem(f"label cannot be read ({error})", "words", "whole numbers from 0, one a class") from error
    if label.shape != (len(points),) or label.min() < 0:
        raise Problem(
            f"label has the shape {tuple(label.shape)} for {len(points)} rows, or is negative",
            "one whole number from 0 a row",
            "the labels of the same rows",
        )
    for c in label.unique().tolist():
        of_class = points[label == c]
        shade = COLOURS[c % len(COLOURS)]
        ax.scatter(of_class[:, 0], of_class[:, 1], s=6, color=shade, linewidths=0, label=str(c))
        across, up = of_class[(of_class - of_class.median(0).values).square().sum(1).argmin()].tolist()
        box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": shade}
        ax.text(across, up, str(c), fontsize=11, ha="center", va="center", bbox=box)
    ax.legend(title="label", markerscale=3, fontsize=9)
