"""What a user's segmented objects must be."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppvae.errors import Problem

UNIT = 0.02  # a normal's length may differ from 1 by so much, as those do that were kept in eight bits


class Segmented(NamedTuple):
    """Points and normals (N, M, 3), the part of each point (M,) int64, and which parts there are, (N, P) bool."""

    points: Tensor
    normals: Tensor
    part: Tensor
    exists: Tensor


def checked(points: Any, normals: Any, part: Any, exists: Any, part_names: tuple[str, ...], mirror: int) -> Segmented:
    """The arguments of `ppvae.data.shapes_of`, as tensors.

    Raises:
        Problem: as said there.
    """
    points, normals, part, exists = (
        numbers(name, value)
        for name, value in (("points", points), ("normals", normals), ("part", part), ("exists", exists))
    )
    _refuse_sizes(points, normals, part, exists, len(part_names))
    if mirror not in (0, 1, 2):
        raise Problem(f"mirror is {mirror!r}", "the axis across which objects are mirror images", "mirror=0 for x")
    if not part_names or not all(isinstance(name, str) for name in part_names):
        raise Problem(f"part_names is {part_names!r}", "one name a part", 'part_names=("seat", "back")')
    if (part != part.floor()).any() or part.min() < 0 or part.max() >= len(part_names):
        seen = f"part runs from {part.min().item():g} to {part.max().item():g} for {len(part_names)} names"
        raise Problem(
            seen, "the part of each point is a whole number 0 … P - 1", "a name for each part; counted from 0"
        )
    found = Segmented(points, normals, part.long(), exists == 1)
    _refuse_parts(found, exists, part_names)
    _refuse_values(found, part_names)
    return found


def numbers(name: str, value: Any) -> Tensor:
    """As float64 on the CPU, or a Problem."""
    try:
        return torch.as_tensor(value).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Problem(f"{name} cannot be read ({error})", "words, or lists of unequal lengths", "a tensor") from error


def _refuse_sizes(points: Tensor, normals: Tensor, part: Tensor, exists: Tensor, P: int) -> None:
    if points.dim() != 3 or points.shape[-1] != 3 or not points.numel():
        raise Problem(f"points has shape {tuple(points.shape)}", "N objects of M points", "points (N, M, 3), N, M >= 1")
    N, M = points.shape[:2]
    wanted = {"normals": (normals, (N, M, 3)), "part": (part, (M,)), "exists": (exists, (N, P))}
    for name, (value, shape) in wanted.items():
        if value.shape != shape:
            cause = f"points has shape {tuple(points.shape)}, part_names {P} names"
            raise Problem(f"{name} has shape {tuple(value.shape)}", cause, f"{name} {shape}")


def _refuse_parts(found: Segmented, exists: Tensor, part_names: tuple[str, ...]) -> None:
    other = (exists != 0) & (exists != 1)
    if other.any():
        n, p = other.nonzero()[0].tolist()
        seen = f"exists is {exists[n, p].item():g} in row {n}, part {part_names[p]!r}"
        raise Problem(seen, "a part is there or not", "exists of 0 and 1")
    counts = found.part.bincount(minlength=len(part_names))
    for p, name in enumerate(part_names):
        if not counts[p]:
            raise Problem(f"part {name!r} has no points", "no entry of part names it", f"leave {name!r} out")
        if not found.exists[:, p].any():
            cause = f"exists[:, {p}] is 0 in all {len(exists)} rows: nothing can be learned of it"
            raise Problem(f"part {name!r} is in no row", cause, f"leave {name!r} and its points out")


def _refuse_values(found: Segmented, part_names: tuple[str, ...]) -> None:
    there = found.exists[:, found.part]
    for what, values in (("points", found.points), ("normals", found.normals)):
        bad = ~values.isfinite().all(-1) & there
        if bad.any():
            n, m = bad.nonzero()[0].tolist()
            seen = f"{what} of row {n}, point {m} is {values[n, m].tolist()}, and part {part_names[found.part[m]]!r} exists"
            raise Problem(seen, "a hole in the scan, or exists that is wrong", "exists=0 for a part that is not there")
    length = found.normals.norm(dim=-1)
    bad = ((length - 1).abs() > UNIT) & there
    if bad.any():
        n, m = bad.nonzero()[0].tolist()
        seen = f"the normal of row {n}, point {m} has length {length[n, m].item():.4g}"
        raise Problem(seen, "normals are directions", "normals / normals.norm(dim=-1, keepdim=True)")
