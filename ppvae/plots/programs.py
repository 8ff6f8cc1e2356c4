"""A pair as a picture of its two programs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch
from pyro.infer.inspect import get_model_relations
from pyro.ops.provenance import track_provenance

from ppvae.door import Table, enter
from ppvae.machine import own_generators
from ppvae.pair import Pair
from ppvae.plots.style import COLOURS, axes_of

RADIUS, STEP = 0.32, 1.3


def graph(pair: Pair, x: Any, mask: Any = None, ax: Axes | None = None) -> Axes:
    """Story and guide as one graph: sites as circles, observed ones grey, arrows of the story drawn out and of the guide
    dashed, plates as frames.

    What depends on what is Pyro's own account of a run (`pyro.infer.inspect.get_model_relations`).

    Args:
        pair: any pair.
        x: a few rows, as `ppvae.fit` takes them.
        mask: True = observed.
        ax: where to draw.
    """
    table = enter(pair, x, mask)
    with own_generators(0):
        story = get_model_relations(pair.model, (), table.call(pair))
        guide = get_model_relations(partial(_told, pair, table))["sample_sample"]
    places = _layered(story["sample_sample"])
    ax = axes_of(
        ax, (1.5 * (1 + max(c for c, _ in places.values())) + 1.5, 1.4 * (1 + max(r for _, r in places.values())) + 0.8)
    )
    where = {name: (STEP * column, -STEP * row) for name, (column, row) in places.items()}
    for depth, (plate, members) in enumerate(sorted(story["plate_sample"].items(), key=lambda item: -len(item[1]))):
        _frame(ax, plate, [where[name] for name in members], depth)
    for name, (a, b) in where.items():
        shade = "0.85" if name in story["observed"] else "white"
        ax.add_patch(Ellipse((a, b), 2 * RADIUS, 2 * RADIUS, facecolor=shade, edgecolor="black", zorder=3))
        ax.text(a, b, name, ha="center", va="center", zorder=4)
    for child, parents in story["sample_sample"].items():
        for parent in parents:
            _arrow(ax, where[parent], where[child], {"color": "black"}, 0.0)
    for child, parents in guide.items():
        for parent in parents:
            if child in where and parent in where:
                _arrow(ax, where[parent], where[child], {"color": COLOURS[6], "linestyle": "--"}, 0.25)
    ax.autoscale_view()
    ax.set_aspect("equal", "datalim")
    ax.axis("off")
    ax.set_title("story drawn out, guide dashed;\ngrey: observed", fontsize=10)
    return ax


def _told(pair: Pair, table: Table) -> None:
    """The guide, its data sites of their own, so that what depends on them is known."""
    data = {
        name: track_provenance(
            pyro.sample(name, dist.Delta(value, event_dim=value.dim()), obs=value), frozenset([name])
        )
        for name, value in table.values.items()
    }
    pair.guide(**{**table.call(pair), **data})


def _layered(parents: dict[str, list[str]]) -> dict[str, tuple[int, int]]:
    """Each site's column and row: below all that it depends on."""
    row: dict[str, int] = {}
    for name, above in parents.items():  # in the order drawn: parents first
        row[name] = 1 + max((row[p] for p in above), default=-1)
    count: dict[int, int] = {}
    found = {}
    for name, r in row.items():
        found[name] = (count.get(r, 0), r)
        count[r] = count.get(r, 0) + 1
    return found


def _frame(ax: Axes, plate: str, points: list[tuple[float, float]], depth: int) -> None:
    gap = 0.72 - 0.2 * depth
    (left, right), (low, high) = ((min(v), max(v)) for v in zip(*points, strict=True))
    box = FancyBboxPatch(
        (left - gap, low - gap),
        right - left + 2 * gap,
        high - low + 2 * gap,
        boxstyle="round,pad=0,rounding_size=0.08",
        fill=False,
        edgecolor="0.5",
    )
    ax.add_patch(box)
    ax.text(right + gap - 0.05, low - gap + 0.03, plate, ha="right", va="bottom", fontsize=8, color="0.4")


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], style: dict[str, Any], bend: float) -> None:
    arrow = FancyArrowPatch(
        start,
        end,
        arrowstyle="-|>",
        mutation_scale=12,
        connectionstyle=f"arc3,rad={bend}",
        shrinkA=0.0,
        shrinkB=0.0,
        patchA=Ellipse(start, 2 * RADIUS, 2 * RADIUS, transform=ax.transData),
        patchB=Ellipse(end, 2 * RADIUS, 2 * RADIUS, transform=ax.transData),
        zorder=2,
        **style,
    )
    ax.add_patch(arrow)
