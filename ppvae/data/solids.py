"""Closed surfaces of many rows at once: a template's points, moved by a smooth map of each row.

A template is the surface of a rounded box, a tube or a ring, with points on a fixed grid and two tangents t₁, t₂ at each,
t₁ × t₂ outward. A map f of space, one of each row, turns it into a part; point m of a part is therefore the same place in each
row. The normal is the cross product of the moved tangents, J t₁ × J t₂, with J t by central differences in float64: their error,
about 1e-10, is below the rounding of the float32 in which normals are kept. Maps keep the orientation (the determinant of J is
positive), so that normals stay outward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]  # (M, 3) of a template to (N, M, 3)
STEP = 1e-5  # of the central differences
THIN = 0.25  # radius of a ring's tube, of its large circle's radius


class Template(NamedTuple):
    """Points on a grid and their tangents, (M, 3) float64 each."""

    points: Tensor
    first: Tensor
    second: Tensor


class Surface(NamedTuple):
    """Points of a part and their outward unit normals, (N, M, 3) each."""

    points: Tensor
    normals: Tensor


def surface(template: Template, shape: Map) -> Surface:
    """The part that a map makes of a template."""
    points, first, second = moved(shape, *template)
    return Surface(points, torch.nn.functional.normalize(torch.linalg.cross(first, second), dim=-1))


def moved(shape: Map, points: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points by the map, and tangents by its Jacobian."""
    ahead, aside = ((shape(points + STEP * t) - shape(points - STEP * t)) / (2 * STEP) for t in (first, second))
    return shape(points), ahead, aside


def joined(*surfaces: Surface) -> Surface:
    """Several surfaces as one part."""
    return Surface(*(torch.cat(both, 1) for both in zip(*surfaces, strict=True)))


def mirrored(part: Surface) -> Surface:
    """The part on the other side of x = 0: point m goes to its mirror image."""
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=part.points.dtype)
    return Surface(part.points * flip, part.normals * flip)


def at(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Coordinates that broadcast, as points."""
    return torch.stack(torch.broadcast_tensors(x, y, z), -1)


def box(grain: float, *cells: int, power: float = 8.0) -> Template:
    """The cube [-1, 1]³ with rounded edges, |a|^power + |b|^power + |c|^power = 1; so many cells along each side."""
    counts = [max(1, round(grain * count)) for count in cells]
    points, first, second = (torch.cat(part) for part in zip(*_faces(counts), strict=True))
    return _rounded(points, first, second, torch.abs, power)


def _faces(counts: list[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
    unit = torch.eye(3, dtype=torch.float64)
    faces = []
    for axis in range(3):
        b, c = (axis + 1) % 3, (axis + 2) % 3
        grid = torch.cartesian_prod(_centres(counts[b]), _centres(counts[c]))
        for side in (-1.0, 1.0):
            points = side * unit[axis] + grid[:, :1] * unit[b] + grid[:, 1:] * unit[c]
            faces.append((points, (side * unit[b]).expand_as(points), unit[c].expand_as(points)))
    return faces


def tube(grain: float, around: int, along: int, power: float = 6.0) -> Template:
    """The cylinder a² + b² = 1, -1 < c < 1 with rounded rims and one ring of points on each cap; power=2: a ball.

    Angles are counted from the axis b, so that the points are their own mirror images across a = 0.
    """
    around, along = max(3, round(grain * around)), max(1, round(grain * along))
    angle = 2 * math.pi * torch.arange(around, dtype=torch.float64) / around
    ones, none = torch.ones_like(angle), torch.zeros_like(angle)
    out, on = at(angle.sin(), angle.cos(), none), at(angle.cos(), -angle.sin(), none)
    up = at(none, none, ones)
    rings = [(0.55 * out - up, out), *((out + level * up, up) for level in _centres(along)), (0.55 * out + up, -out)]
    points, first = (torch.cat(part) for part in zip(*rings, strict=True))

    def sides(p: Tensor) -> Tensor:
        return torch.stack([p[:, :2].square().sum(-1).sqrt(), p[:, 2].abs()], -1)

    return _rounded(points, first, on.repeat(along + 2, 1), sides, power)


def ring(grain: float, around: int, across: int) -> Template:
    """A ring about the axis a: its large circle has radius 1, its tube radius `THIN`."""
    around, across = max(3, round(grain * around)), max(3, round(grain * across))
    large = 2 * math.pi * torch.arange(around, dtype=torch.float64).repeat_interleave(across) / around
    small = 2 * math.pi * torch.arange(across, dtype=torch.float64).repeat(around) / across

    far, none = 1 + THIN * small.cos(), torch.zeros_like(large)
    points = at(THIN * small.sin(), far * large.cos(), far * large.sin())
    first = at(none, -large.sin(), large.cos())
    return Template(points, first, at(small.cos(), -small.sin() * large.cos(), -small.sin() * large.sin()))


def _centres(count: int) -> Tensor:
    """The middles of so many equal cells of [-1, 1]."""
    return (2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1


def _rounded(points: Tensor, first: Tensor, second: Tensor, sides: Map, power: float) -> Template:
    """A template pulled towards the origin until the norm of order `power` of its sides is 1."""

    def pulled(p: Tensor) -> Tensor:
        return p / sides(p).pow(power).sum(-1, keepdim=True).pow(1 / power)

    return Template(*moved(pulled, points, first, second))
