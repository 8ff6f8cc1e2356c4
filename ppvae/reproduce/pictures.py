"""Pictures of the tables of fitted images."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ppvae.files import write_whole
from ppvae.plots.images import board as side_by_side
from ppvae.plots.style import bare, scatter
from ppvae.reproduce.run import Run


def save(run: Run, name: str, figure: Any) -> None:
    """Write a figure as PNG into the run's folder, whole or not at all."""
    assert run.figures is not None  # who draws has asked
    run.figures.mkdir(parents=True, exist_ok=True)
    write_whole(run.figures / name, lambda draft: figure.savefig(draft, dpi=110, format="png"))


def board(
    images: Tensor, shape: tuple[int, int], columns: int, title: str, black: float, white: float
) -> tuple[Any, Any]:
    """A figure of images side by side, grey levels from ``black`` to ``white``, and its axes."""
    figure = sheet(8, 8 * len(images) * shape[0] / (columns**2 * shape[1]) + 0.6)
    return figure, side_by_side(images, shape, columns, (black, white), title, figure.subplots())


def plane(points: Tensor, label: Tensor, title: str) -> Any:
    """A figure of points (N, 2) coloured by label."""
    figure = sheet(8, 8)
    ax = figure.subplots()
    scatter(ax, points, label)
    bare(ax, title)
    return figure


def sheet(width: float, height: float) -> Any:
    """An empty figure, known to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
