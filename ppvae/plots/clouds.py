"""Pictures of objects made of points with normals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from ppvae.data.meshes import discs
from ppvae.data.segmented import numbers
from ppvae.errors import Problem
from ppvae.plots.style import COLOURS, axes_of, bare, refuse_count

# Of the shared colours black would hide the shading; a light grey stands for parts after the ninth.
PARTS = (*(COLOURS[i] for i in (5, 1, 3, 2, 6, 7, 4, 8, 9)), "#AAAAAA", "#117733", "#DDCC77", "#AA4499")
TURN, TILT = np.deg2rad(38.0), np.deg2rad(22.0)  # of the eye: from the front towards +x, and above
LIGHT = np.array([0.25, 0.8, 0.55]) / np.linalg.norm([0.25, 0.8, 0.55])  # right of, above and before the picture
CELL = 2.0  # inches, the width of one object
WIDTH = 6  # numbers a point


def cloud(
    x: Any,
    sizes: Sequence[int],
    exists: Any = None,
    titles: Sequence[str] | None = None,
    columns: int = 6,
    changed: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Objects side by side, each point a disc across its normal, coloured by part and shaded; nearer ones cover farther ones.

    Seen from the front, 38 degrees to the side and 22 above, all at one scale. Discs are larger where points of a part are far
    from each other.

    Args:
        x: (N, D), six numbers a point, (x, y, z, nx, ny, nz), y up; NaN where a part is absent.
        sizes: columns of each part, as `ppvae.data.Shapes.sizes`.
        exists: (N, P), 0 = the part is left out whatever x says; None: NaN says it.
        titles: one of each object.
        columns: objects in a row of the picture.
        changed: (N, P), 1 = the part was completed: it keeps its colour, the others are grey.
        ax: where to draw.

    Raises:
        Problem: shapes that do not fit, or no finite point in any object.
    """
    points, normals, part, there = oriented(x, sizes, exists)
    refuse_count(columns=columns)
    _refuse_titles(titles, len(points))
    shades = np.array([colors.to_rgb(PARTS[p % len(PARTS)]) for p in part])[None].repeat(len(points), 0)
    if changed is not None:
        kept = per_part("changed", changed, len(points), len(sizes))[:, part]
        shades = np.where(kept[..., None], shades, 0.72)
    columns = min(columns, len(points))
    lines = -(-len(points) // columns)
    wide, high = extents(points, there)
    ax = axes_of(ax, (CELL * columns, CELL * lines * high / wide))
    for n, seen in enumerate(there):
        cell = np.array([(n % columns + 0.5) * wide, (lines - n // columns - 0.5) * high])
        places = points[n, seen] - middle(points[n, seen])
        paint_points(ax, places, normals[n, seen], part[seen], shades[n, seen], cell)
        if titles is not None:
            ax.text(cell[0], cell[1] + 0.5 * high, titles[n], ha="center", va="top", fontsize=8, zorder=3)
    ax.set_xlim(0, columns * wide)
    ax.set_ylim(0, lines * high)
    return framed(ax)


def framed(ax: Axes) -> Axes:
    """Equal scales, no frame."""
    ax.set_aspect("equal")
    ax.axis("off")
    return bare(ax, "")


def oriented(x: Any, sizes: Sequence[int], exists: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points and normals (N, M, 3), the part of each point (M,), and whether it is there (N, M).

    Raises:
        Problem: shapes that do not fit, an object without points.
    """
    x = numbers("x", x)
    counts = [size / WIDTH if isinstance(size, int) else 0.5 for size in sizes]
    if not counts or any(count < 1 or count != int(count) for count in counts):
        raise Problem(f"sizes is {tuple(sizes)}", "columns of each part, six a point", "ppvae.data.shapes(name).sizes")
    if x.dim() != 2 or x.shape[1] != sum(sizes) or not len(x):
        seen = f"x has shape {tuple(x.shape)}, and the parts have {sum(sizes)} columns"
        raise Problem(seen, "one row an object, all its parts", f"x (N, {sum(sizes)}), N of at least 1")
    part = np.repeat(np.arange(len(counts)), [int(count) for count in counts])
    values = x.reshape(len(x), -1, WIDTH).numpy()
    there = np.isfinite(values).all(-1)
    if exists is not None:
        there &= per_part("exists", exists, len(x), len(counts))[:, part]
    if not there.any(1).all():
        row = int((~there.any(1)).nonzero()[0][0])
        raise Problem(f"row {row} has no points to draw", "every part of it is absent, or not finite", "leave it out")
    return values[..., :3], values[..., 3:], part, there


def per_part(name: str, value: Any, rows: int, parts: int) -> np.ndarray:
    """Zeros and ones of each part, as bools (N, P)."""
    found = numbers(name, value)
    if found.shape != (rows, parts):
        seen = f"{name} has shape {tuple(found.shape)} for {rows} objects of {parts} parts"
        raise Problem(seen, "one number a part and object", f"{name} ({rows}, {parts})")
    return (found > 0.5).numpy()


def paint_points(
    ax: Axes, points: np.ndarray, normals: np.ndarray, part: np.ndarray, colour: np.ndarray, cell: np.ndarray
) -> None:
    """Points (M, 3) as discs."""
    paint(ax, discs(points, normals, part), lit(colour, normals), cell)


def paint(ax: Axes, faces: np.ndarray, colour: np.ndarray, cell: np.ndarray) -> None:
    """Flat faces (F, C, 3) of colours (F, 3), the farthest first, around a place in the picture."""
    flat, depth = projected(faces)
    order = depth.mean(1).argsort()
    ax.add_collection(PolyCollection(list((flat + cell)[order]), facecolors=colour[order], linewidths=0, zorder=2))


def middle(points: np.ndarray) -> np.ndarray:
    """Of the box around points (M, 3)."""
    return (points.min(0) + points.max(0)) / 2


def extents(points: np.ndarray, there: np.ndarray) -> tuple[float, float]:
    """Width and height of a cell into which each object fits, seen from the eye."""
    flats = [projected(p[seen] - middle(p[seen]))[0] for p, seen in zip(points, there, strict=True)]
    wide, high = 2.3 * np.max([np.abs(flat).max(0) for flat in flats], 0)
    return float(wide), float(max(high, 0.2 * wide))


def projected(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right and up in the picture (…, 2), and how near to the eye (…)."""
    right, up, near = _eye()
    return np.stack([points @ right, points @ up], -1), points @ near


def lit(colour: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Colours (…, 3) under a lamp that stands with the eye, and light from everywhere."""
    lamp = LIGHT @ np.stack(_eye())
    return np.clip(colour * (0.38 + 0.72 * (normals @ lamp).clip(0, 1))[..., None], 0, 1)


def _eye() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    near = np.array([np.sin(TURN) * np.cos(TILT), np.sin(TILT), np.cos(TURN) * np.cos(TILT)])
    right = np.array([np.cos(TURN), 0.0, -np.sin(TURN)])
    return right, np.cross(near, right), near


def _refuse_titles(titles: Sequence[str] | None, rows: int) -> None:
    if titles is not None and len(titles) != rows:
        raise Problem(f"there are {len(titles)} titles for {rows} objects", "one each", f"titles of {rows} words")
