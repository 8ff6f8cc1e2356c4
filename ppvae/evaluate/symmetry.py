"""How far objects are from being their own mirror images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppvae.errors import Problem

AT_ONCE = 2**24  # distances


def symmetry(points: Any, axis: int) -> Tensor:
    r"""The mean distance from the points of an object to its mirror image, 0 where it is symmetric:

    .. math:: \frac{1}{M} \sum_m \min_l \lVert p_m - F p_l \rVert,

    with :math:`F` the flip of one coordinate's sign.

    Args:
        points: (N, M, 3), NaN where a part is absent; the mirror is the plane where coordinate `axis` is 0.
        axis: 0, 1 or 2; `ppvae.data.shapes(name).mirror`.

    Returns:
        (N,), in the units of the points.

    Raises:
        Problem: another shape or axis, an object without points.
    """
    points = torch.as_tensor(points).detach()
    if points.dim() != 3 or points.shape[-1] != 3 or not points.is_floating_point():
        seen = f"points has shape {tuple(points.shape)} and holds {points.dtype}"
        raise Problem(seen, "rows of numbers, or one object", "points (N, M, 3), as ppvae.data.shapes(name).points")
    if not isinstance(axis, int) or isinstance(axis, bool) or axis not in (0, 1, 2):
        raise Problem(
            f"axis is {axis!r}", "the coordinate whose sign is flipped", "axis=0 for mirror images across x = 0"
        )
    there = points.isfinite().all(-1)
    if not there.any(1).all():
        row = int((~there.any(1)).nonzero()[0])
        raise Problem(
            f"row {row} has no points", "every part of it is absent, or its means are not finite", "leave it out"
        )
    rows = max(1, AT_ONCE // points.shape[1] ** 2)
    chunks = zip(points.split(rows), there.split(rows), strict=True)
    return torch.cat([_distance(some, seen, axis) for some, seen in chunks]) if len(points) else points.new_zeros(0)


def _distance(points: Tensor, there: Tensor, axis: int) -> Tensor:
    here = points.masked_fill(~there[..., None], 0)
    flipped = here.clone()
    flipped[..., axis] *= -1
    # Differences, not products: a point on its own image has the distance 0, and not the root of a rounding error.
    between = torch.cdist(here, flipped, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = between.masked_fill(~there[:, None], float("inf")).amin(-1)
    return nearest.masked_fill(~there, 0).sum(1) / there.sum(1)
