"""Pictures of objects as meshes, beside the points that they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes

from ppvae.data.meshes import alpha_shape, poisson
from ppvae.errors import Problem
from ppvae.plots.clouds import CELL, PARTS, extents, framed, lit, middle, oriented, paint, paint_points
from ppvae.plots.style import axes_of

METHODS = ("poisson", "alpha")


def surfaces(
    x: Any,
    sizes: Sequence[int],
    exists: Any = None,
    methods: Sequence[str] = METHODS,
    radius: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Each object as points, and as the mesh that each method makes of them: one object a row.

    Args:
        x, sizes, exists: as in `ppvae.plots.cloud`.
        methods: "poisson" (needs ``ppvae[surfaces]``), "alpha", or both.
        radius: of the alpha shape, as in `ppvae.data.alpha_shape`.
        ax: where to draw.

    Raises:
        Problem: as `ppvae.plots.cloud`, `ppvae.data.poisson` and `ppvae.data.alpha_shape`; an unknown method.
    """
    if not methods or any(method not in METHODS for method in methods):
        raise Problem(f"methods is {methods!r}", "a misspelt name", f"some of {', '.join(METHODS)}")
    points, normals, part, there = oriented(x, sizes, exists)
    wide, high = extents(points, there)
    ax = axes_of(ax, (CELL * (1 + len(methods)), CELL * len(points) * high / wide))
    shades = np.array([colors.to_rgb(PARTS[p % len(PARTS)]) for p in range(len(sizes))])
    for n, seen in enumerate(there):
        places, across, own = points[n, seen] - middle(points[n, seen]), normals[n, seen], part[seen]
        up = (len(points) - n - 0.5) * high
        paint_points(ax, places, across, own, shades[own], np.array([0.5 * wide, up]))
        for column, method in enumerate(methods, start=1):
            mesh = poisson(places, across, own) if method == "poisson" else alpha_shape(places, own, radius)
            faces = mesh.vertices[mesh.faces]
            upright = np.cross(faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 0])
            upright /= np.linalg.norm(upright, axis=1, keepdims=True).clip(1e-300)
            paint(ax, faces, lit(shades[mesh.part], upright), np.array([(column + 0.5) * wide, up]))
    for column, title in enumerate(("points", *methods)):
        ax.text((column + 0.5) * wide, len(points) * high, title, ha="center", va="bottom", fontsize=9)
    ax.set_xlim(0, (1 + len(methods)) * wide)
    ax.set_ylim(0, len(points) * high)
    return framed(ax)
