"""Objects of parts: surface points in correspondence, their normals, and which parts there are.

Rows hold six numbers a point, (x, y, z, nx, ny, nz), part by part; NaN where the part is absent: not unknown, there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ppvae.data import bikes, chairs, planes
from ppvae.data.chance import generator
from ppvae.data.draws import Draws
from ppvae.data.humans import FACTORS, NAMES, humans, spread_out
from ppvae.data.segmented import Segmented, checked
from ppvae.errors import Problem

MAKERS: dict[str, ModuleType] = {"chairs": chairs, "planes": planes, "bikes": bikes}
UNITS = {
    "chairs": "metres",
    "planes": "units of about two thirds of a plane's length",
    "bikes": "metres",
    "humans": "metres",
}
ROWS = 1500  # made, if no number is asked for
WIDTH = 6  # numbers a point
SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}


@dataclass(frozen=True, eq=False, repr=False)
class Shapes:
    """Objects of one class.

    Attributes:
        name: of the class.
        x: (N, D) float32, D = 6 M: M surface points, part by part, each (x, y, z, nx, ny, nz) with a unit outward normal. NaN
            where the part is absent.
        exists: (N, P) float32, 1 = the part is there.
        sizes: columns of each part, 6 times its points; part p is one block of columns.
        part_names: of the P parts.
        mirror: the axis, 0, 1 or 2, across which objects are mirror images of themselves.
        factors: (N, F) float32, what the objects were made from.
        factor_names: of the F factors.
        split: row indices (int64) of "train", "valid" and "test".
        scaling: what was done to the numbers.
    """

    name: str
    x: Tensor
    exists: Tensor
    sizes: tuple[int, ...]
    part_names: tuple[str, ...]
    mirror: int
    factors: Tensor
    factor_names: tuple[str, ...]
    split: dict[str, Tensor] = field(default_factory=dict)
    scaling: str = ""

    @property
    def points(self) -> Tensor:
        """Surface points, (N, M, 3)."""
        return self.x.reshape(len(self.x), -1, WIDTH)[..., :3]

    @property
    def normals(self) -> Tensor:
        """Unit outward normals, (N, M, 3)."""
        return self.x.reshape(len(self.x), -1, WIDTH)[..., 3:]

    def rows(self, split: str) -> dict[str, Tensor]:
        """The rows of one part of the split, as `ppvae.fit` takes them: {"x": (n, D), "exists": (n, P)}."""
        if split not in self.split:
            raise Problem(f"there is no split {split!r}", "a misspelt name", " or ".join(self.split))
        rows = self.split[split]
        return {"x": self.x[rows], "exists": self.exists[rows]}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(rows)}" for name, rows in self.split.items())
        points = f"{self.x.shape[1] // WIDTH} points, {len(self.sizes)} parts"
        return f"<{self.name}: {len(self.x)} × {self.x.shape[1]} ({points}); {sizes}; {self.scaling}>"


def shapes(
    name: str, rows: int | None = None, seed: int = 0, points: int | None = None, folder: str | Path | None = None
) -> Shapes:
    """Objects of a class: chairs, planes and bikes are made here, of smooth surfaces that bend with the object's style; humans
    are read from a file.

    Args:
        name: "chairs", "planes", "bikes" or "humans".
        rows: N; None: 1500, or all 1200 humans.
        seed: of what is made, and of the split; a made row is the same for every N.
        points: at most so many, M; None: about 500, or all 1024 of a human.
        folder: where human_shapes.npz lies; else the environment variable PPVAE_DATA.

    Raises:
        Problem: an unknown name, rows or points out of range; humans without their file.

    Example:
        >>> data = shapes("chairs", rows=100)
        >>> data.exists.shape, data.x.shape[1] == sum(data.sizes)
        (torch.Size([100, 10]), True)
    """
    names = (*MAKERS, "humans")
    if name not in names:
        close = get_close_matches(str(name), names, n=1, cutoff=0.5)
        meant = f"a misspelling of {close[0]!r}" if close else "no class of objects has this name"
        raise Problem(f"objects {name!r}", meant, f"one of {', '.join(names)}")
    _refuse_count("rows", rows, 1)
    _refuse_count("points", points, 1)
    return _read(rows, seed, points, folder) if name == "humans" else _made(name, rows or ROWS, seed, points)


def shapes_of(
    points: Any,
    normals: Any,
    part: Any,
    exists: Any,
    part_names: Sequence[str],
    name: str = "shapes",
    mirror: int = 0,
    factors: Any = None,
    factor_names: Sequence[str] = (),
    seed: int = 0,
    scaling: str = "as given",
) -> Shapes:
    """Objects of your own: points that correspond, segmented into parts.

    Args:
        points: (N, M, 3); what stands where a part is absent is not looked at.
        normals: (N, M, 3), of length 1.
        part: (M,) whole numbers 0 … P - 1, the part of each point. Points are reordered part by part.
        exists: (N, P) of 0 and 1.
        part_names: P names.
        name, mirror, scaling: as in `Shapes`.
        factors, factor_names: (N, F) and F names, or none.
        seed: of the split into 70, 10 and 20 % of the rows.

    Raises:
        Problem: shapes that do not fit; a part without points, or one that is in no row; NaN in a part that exists; normals of
            another length.
    """
    found = checked(points, normals, part, exists, tuple(part_names), mirror)
    given = torch.zeros(len(found.points), 0) if factors is None else torch.as_tensor(factors)
    if given.shape != (len(found.points), len(factor_names)):
        seen = f"factors has shape {tuple(given.shape)} for {len(found.points)} rows and {len(factor_names)} names"
        raise Problem(seen, "a column of factors has one name", "factors (N, F) and F factor_names")
    return _assembled(found, tuple(part_names), name, mirror, given, tuple(factor_names), seed, scaling)


def _assembled(
    found: Segmented,
    part_names: tuple[str, ...],
    name: str,
    mirror: int,
    factors: Tensor,
    factor_names: tuple[str, ...],
    seed: int,
    scaling: str,
) -> Shapes:
    """Points and normals as rows, part by part, NaN where a part is absent."""
    order = found.part.argsort(stable=True)
    both = torch.cat([found.points, found.normals], -1)[:, order].float()
    x = both.masked_fill(~found.exists[:, found.part[order], None], float("nan")).flatten(1)
    sizes = tuple((WIDTH * found.part.bincount(minlength=len(part_names))).tolist())
    exists, split = found.exists.float(), _split(len(x), seed)
    return Shapes(name, x, exists, sizes, part_names, mirror, factors.float(), factor_names, split, scaling)


def _made(name: str, rows: int, seed: int, points: int | None) -> Shapes:
    maker = MAKERS[name]
    grain = 1.0 if points is None else _grain(maker, points)
    parts, exists, factors = maker.make(Draws(rows, seed), grain)
    places, normals = (torch.cat(both, 1) for both in zip(*parts.values(), strict=True))
    part = torch.arange(len(parts)).repeat_interleave(torch.tensor([p.points.shape[1] for p in parts.values()]))
    found = Segmented(_centred(places, exists[:, part]), normals, part, exists)
    said = f"in {UNITS[name]}, the middle of each one's box at y = z = 0"
    return _assembled(found, tuple(parts), name, 0, torch.cat(list(factors.values()), 1), tuple(factors), seed, said)


def _centred(points: Tensor, there: Tensor) -> Tensor:
    """The middle of what is there at y = z = 0; x = 0 stays the plane of symmetry."""
    inf = float("inf")
    low = points.masked_fill(~there[..., None], inf).amin(1, keepdim=True)
    high = points.masked_fill(~there[..., None], -inf).amax(1, keepdim=True)
    middle = (low + high) / 2
    middle[..., 0] = 0
    return points - middle


def _grain(maker: ModuleType, points: int) -> float:
    """The finest grids that give at most so many points."""

    def count(grain: float) -> int:
        return sum(part.points.shape[1] for part in maker.make(Draws(1, 0), grain)[0].values())

    low, high = 0.0, 2 + 2 * (points / count(1.0)) ** 0.5  # a grid has as many points as the square of its grain says
    if count(low) > points:
        raise Problem(f"points is {points}", "too few for the parts' grids", f"points={count(low)} or more")
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) <= points else (low, middle)
    return low


def _read(rows: int | None, seed: int, points: int | None, folder: str | Path | None) -> Shapes:
    bodies = humans(folder)
    kept = torch.arange(bodies.points.shape[1])
    if points is not None:
        if not len(NAMES) <= points <= len(kept):
            raise Problem(f"points is {points}", f"a body has {len(kept)} points in {len(NAMES)} parts", "points=256")
        kept = spread_out(bodies.points, bodies.part, points)
    count = len(bodies.points)
    if rows is not None and rows > count:
        raise Problem(f"rows is {rows}", f"there are {count} bodies", f"rows={count}, or None for all of them")
    places, normals, factors = (
        part[:rows] for part in (bodies.points[:, kept], bodies.normals[:, kept], bodies.factors)
    )
    found = Segmented(places, normals, bodies.part[kept], torch.ones(len(places), len(NAMES), dtype=torch.bool))
    return _assembled(found, NAMES, "humans", 0, factors, FACTORS, seed, f"in {UNITS['humans']}, each body's mean at 0")


def _split(rows: int, seed: int) -> dict[str, Tensor]:
    order = torch.randperm(rows, generator=generator(seed))
    train, valid = round(SHARES["train"] * rows), round(SHARES["valid"] * rows)
    return dict(zip(SHARES, order.split([train, valid, rows - train - valid]), strict=True))


def _refuse_count(name: str, count: Any, least: int) -> None:
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < least):
        raise Problem(f"{name} is {count!r}", "a whole number of at least 1, or None", f"{name}=300")
