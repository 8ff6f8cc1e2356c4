"""Pictures of a report, as text that stands in the page. No name of a table enters them: names stand beside them."""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

OBSERVED, IMPUTED, EMPTY = "#8fb8d8", "#b34700", "#e9edf1"  # told apart in grey, too
HOLE = "#0b4a78"
ROWS = 400  # rows of a table that the picture of its holes shows, at most
BINS = 24


def pattern(seen: np.ndarray, numbers: list[int], random: np.random.Generator) -> str:
    """Where the holes are: a sample of the rows, those with the same holes together, fewest holes on top.

    Args:
        seen: True = observed, (N, D).
        numbers: what the columns are called below the picture, D.
        random: chooses the rows.
    """
    rows = np.sort(random.choice(len(seen), min(len(seen), ROWS), replace=False))
    seen = seen[rows]
    seen = seen[np.lexsort((*(~seen).T, (~seen).sum(1)))]
    width = min(10, max(3.5, 0.17 * seen.shape[1] + 1))
    figure = Figure((width, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(~seen, aspect="auto", interpolation="none", cmap=ListedColormap([EMPTY, HOLE]), vmin=0, vmax=1)
    step = 1 if seen.shape[1] <= 30 else 5
    axes.set_xticks(range(0, seen.shape[1], step), [str(n) for n in numbers[::step]], fontsize=8)
    axes.set_yticks([])
    axes.set_xlabel("column, by its number below", fontsize=9)
    axes.set_ylabel(f"{len(seen):,} rows", fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return inline(figure)


def distributions(observed: np.ndarray, imputed: np.ndarray) -> str:
    """Histograms of one column, each of area 1: what was observed (filled), what was drawn for its holes (line).

    Between the 0.5 % and 99.5 % quantiles of both; the outermost bars hold what lies beyond.
    """
    both = np.quantile(observed, [0.005, 0.995]), np.quantile(imputed, [0.005, 0.995]) if len(imputed) else []
    ends = np.concatenate(both)
    edges = np.linspace(ends.min(), ends.max(), BINS + 1) if np.ptp(ends) else ends.min() + np.linspace(-1, 1, BINS + 1)
    figure = Figure((2.3, 1.35), layout="constrained")
    axes = figure.subplots()
    axes.stairs(_density(observed, edges), edges, fill=True, color=OBSERVED)
    if len(imputed):
        axes.stairs(_density(imputed, edges), edges, color=IMPUTED, linewidth=1.6)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=3)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["left", "top", "right"]].set_visible(False)
    return inline(figure)


def shares(observed: np.ndarray, imputed: np.ndarray, classes: int) -> str:
    """Of one column of classes, the share of each, by its number from 1: what was observed (filled), what was drawn (line)."""
    edges = np.arange(classes + 1) + 0.5
    figure = Figure((2.3, 1.35), layout="constrained")
    axes = figure.subplots()
    axes.stairs(_density(observed + 1, edges), edges, fill=True, color=OBSERVED)
    if len(imputed):
        axes.stairs(_density(imputed + 1, edges), edges, color=IMPUTED, linewidth=1.6)
    axes.set_yticks([])
    axes.set_xticks(range(1, classes + 1, -(-classes // 10)))
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["left", "top", "right"]].set_visible(False)
    return inline(figure)


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)


def inline(figure: Figure) -> str:
    """A figure as text that stands in a page."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
