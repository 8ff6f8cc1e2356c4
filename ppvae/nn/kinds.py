r"""The kinds that a column of a table can be of, and the scales of columns.

real            x = loc + scale · y,  y ~ Normal
positive        log x = loc + scale · y,  y ~ Normal
count           0, 1, 2, …, negative binomial
ordinal:C       0 … C-1 in their order, cumulative logit
categorical:C   0 … C-1 in no order
binary          0 or 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppvae.errors import Problem

SUPPORTS = {"real": constraints.real, "positive": constraints.positive, "count": constraints.nonnegative_integer}
NAMES = (*SUPPORTS, "ordinal:C", "categorical:C", "binary")

Scales = Sequence[tuple[float, float]]  # of each column: location and unit


def classes(kind: str) -> int:
    """C of a kind with classes, 2 of "binary", 0 of numbers."""
    if kind == "binary":
        return 2
    name, _, count = kind.partition(":")
    return int(count) if name in ("ordinal", "categorical") else 0


def coded(kind: str) -> bool:
    """Whether the values are codes of classes that have no mean: ordinal and categorical."""
    return ":" in kind


def support(kind: str) -> Constraint:
    """The values that a column of that kind can have."""
    count = classes(kind)
    return constraints.integer_interval(0, count - 1) if count else SUPPORTS[kind]


def kinds_of(kinds: Sequence[str] | None, features: int) -> tuple[str, ...]:
    """The kinds of D columns, all real by default.

    Raises:
        Problem: a kind that there is not, fewer than two classes, more or fewer kinds than columns.
    """
    if kinds is None:
        return ("real",) * features
    if isinstance(kinds, str) or len(kinds) != features:
        count = "one word" if isinstance(kinds, str) else f"{len(kinds)} kinds"
        raise Problem(
            f"kinds is {count} for {features} columns",
            "each column has a kind of its own",
            'kinds=("real", "binary", …)',
        )
    for j, kind in enumerate(kinds):
        if not isinstance(kind, str) or not _known(kind):
            raise Problem(
                f"column {j} is of the kind {kind!r}",
                "a misspelt kind, or one without its number of classes, at least 2",
                f"one of: {', '.join(NAMES)}, such as ordinal:5",
            )
    return tuple(kinds)


def _known(kind: str) -> bool:
    name, colon, count = kind.partition(":")
    if not colon:
        return name in SUPPORTS or name == "binary"
    return name in ("ordinal", "categorical") and count.isdecimal() and int(count) >= 2


def grouped(kinds: Sequence[str]) -> dict[str, list[int]]:
    """Where the columns of each kind stand, kinds in the order in which they first appear."""
    groups: dict[str, list[int]] = {}
    for j, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(j)
    return groups


def arranged(kinds: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The columns kind by kind, (D,), and where each then stands, (D,): the inverse."""
    order = torch.tensor([j for group in grouped(kinds).values() for j in group])
    return order, order.argsort()


def scales(x: Any, kinds: Sequence[str]) -> tuple[tuple[float, float], ...]:
    """The location and the unit of each column, from what was observed: plain numbers, which `ppvae.save` keeps.

    Mean and standard deviation of a real column, of the logarithm of a positive one, of log(1 + x) of counts; 0 and 1
    for classes. A story whose columns have these scales is a density in the table's own units. Rounded to float32, so
    that they are the same in every precision.

    Args:
        x: (N, D), NaN = missing.
        kinds: of its columns.

    Raises:
        Problem: kinds that do not fit, a value that its column's kind does not have.
    """
    x = torch.as_tensor(x, dtype=torch.float64)
    kinds = kinds_of(kinds, x.shape[1])
    refuse_outside(x, kinds)
    return tuple(_scale(x[~x[:, j].isnan(), j], kind) for j, kind in enumerate(kinds))


def _scale(seen: Tensor, kind: str) -> tuple[float, float]:
    if classes(kind) or not len(seen):
        return 0.0, 1.0
    y = on_scale(seen, kind)
    loc, scale = y.mean(), y.std(correction=0)
    unit = scale if scale > 1e-12 * (1 + loc.abs()) else torch.ones_like(scale)
    return float(loc.float()), float(unit.float())


def scale_tensor(scales: Scales | None, features: int) -> Tensor:
    """Scales as (D, 2) of the default dtype, through float32: the same numbers whichever precision a pair is loaded in."""
    if scales is None:
        return torch.tensor([[0.0, 1.0]] * features)
    units = torch.tensor([list(pair) for pair in scales], dtype=torch.float32)
    if units.shape != (features, 2) or not units.isfinite().all() or not (units[:, 1] > 0).all():
        raise Problem(
            f"scales has {len(scales)} entries for {features} columns, or one that is no location and positive unit",
            "scales of another table, or made by hand",
            "scales=ppvae.nn.kinds.scales(x, kinds)",
        )
    return units.to(torch.get_default_dtype())


def on_scale(x: Tensor, kind: str) -> Tensor:
    """Numbers where a kind is additive: positive ones' logarithm, the logarithm of 1 + counts, real ones as they are."""
    return {"positive": torch.log, "count": torch.log1p}.get(kind, lambda value: value)(x)


def refuse_outside(x: Tensor, kinds: Sequence[str]) -> None:
    """Refuse a value (N, D; NaN = missing) that its column's kind does not have, with the place where it stands."""
    for j, kind in enumerate(kinds):
        bad = ~support(kind).check(x[:, j]) & ~x[:, j].isnan() | x[:, j].isinf()
        if bad.any():
            n = int(bad.nonzero()[0])
            raise Problem(
                f"column {j} holds {x[n, j].item():.6g} in row {n} ({int(bad.sum())} such values), and is of the kind {kind}",
                "a kind for another column, a code for missing, or classes that are not numbered from 0",
                "another kind for this column; NaN where a value is missing; ppvae.data.Schema numbers classes",
            )
