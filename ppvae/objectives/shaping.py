"""What may be done to the KL of the ELBO: elbo(kl=…).

Each shape says what is subtracted from E_q[log p(x | z)] in place of the KL. Several multiply: ``(free_bits(0.5),
annealed())`` floors the KL and weighs the result. They shape the ELBO's own terms; there are none in a
log-mean-exp of weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ppvae.errors import Problem

Done = Tensor | float  # the share of training done, in [0, 1]
Kl = dict[str, Tensor]  # by site; (…, N), or (N, K) by coordinate


@dataclass(frozen=True)
class beta:  # noqa: N801  (a verb of the library)
    """weight · KL: a lower bound for weight >= 1, no bound below. (Higgins et al. 2017, eq. 4)"""

    weight: float

    def __post_init__(self) -> None:
        _refuse("weight", self.weight, _number(self.weight) and self.weight >= 0, "finite, and 0 or more", "beta(4.0)")


@dataclass(frozen=True)
class annealed:  # noqa: N801
    r"""w(t) · KL, w rising from 0 to 1 over a share of the training, once or in each of several cycles.

    .. math:: w(t) = \min(1, \tau / R), \quad \tau = t M \bmod 1

    with t in [0, 1] the training done, R ``share``, M ``cycles``; at the end w(1) = 1. No bound before.

    Reference: Bowman et al. 2016; Sønderby et al. 2016; cycles: Fu et al. 2019.

    Args:
        share: of each cycle, in (0, 1].
        cycles: 1 is a warm-up.
    """

    share: float = 0.5
    cycles: int = 1

    def __post_init__(self) -> None:
        _refuse_share(self.share)
        whole = isinstance(self.cycles, int) and not isinstance(self.cycles, bool) and self.cycles >= 1
        _refuse("cycles", self.cycles, whole, "a whole number of at least 1", "annealed(share=0.5, cycles=4)")

    def weight(self, done: Done) -> Tensor:
        position = torch.as_tensor(done) * self.cycles
        position = position - position.floor().clamp(max=self.cycles - 1)  # the end belongs to the last cycle
        return (position / self.share).clamp(max=1.0)


@dataclass(frozen=True)
class free_bits:  # noqa: N801
    r"""Sum over groups of max(λ, KL of the group), its mean over the batch: below λ a group is not pressed any further.

    As KL <= max(λ, KL), the mean over the batch is still a lower bound of the mean log-evidence; a row's own number is
    none, since the rows of a batch share the floor.

    Reference: Kingma et al. 2016.

    Args:
        nats: λ, of each group.
        per: "site", or "unit": each coordinate of a site, which needs a KL that is a sum over coordinates.
    """

    nats: float
    per: str = "site"

    def __post_init__(self) -> None:
        fine = _number(self.nats) and self.nats > 0
        _refuse("nats", self.nats, fine, "finite and positive", "free_bits(0.1, per='unit')")
        _refuse("per", self.per, self.per in ("site", "unit"), "'site' or 'unit'", "free_bits(0.1, per='unit')")


@dataclass(frozen=True)
class capacity:  # noqa: N801
    r"""weight · \|KL - C(t)\| in each row, C rising from 0 to ``target`` nats over a share of the training: no bound.

    Where the KL has no closed form the estimate stands inside the absolute value, and its noise adds to it.

    Reference: Burgess et al. 2018, eq. 8.

    Args:
        target: C at the end, nats per row.
        weight: γ, large enough to hold the KL to C (100 and more for images).
        share: of the training over which C rises, in (0, 1].
    """

    target: float
    weight: float
    share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("target", "weight"):
            value = getattr(self, name)
            _refuse(name, value, _number(value) and value > 0, "finite and positive", "capacity(target=10, weight=100)")
        _refuse_share(self.share)

    def at(self, done: Done) -> Tensor:
        return (torch.as_tensor(done) / self.share).clamp(max=1.0) * self.target


Shape = beta | annealed | free_bits | capacity
S = TypeVar("S", beta, annealed, free_bits, capacity)


def shapes_of(kl: Shape | tuple[Shape, ...] | None) -> tuple[Shape, ...]:
    """The shapes of ``elbo(kl=…)``, refused where they do not go together."""
    shapes = () if kl is None else kl if isinstance(kl, tuple) else (kl,)
    for shape in shapes:
        if not isinstance(shape, Shape):
            raise Problem(
                f"kl is {shape!r}",
                "it says what is done to the KL",
                "one or a tuple of ppvae.beta(4.0), ppvae.annealed(), ppvae.free_bits(0.1), ppvae.capacity(10, 100)",
            )
    kinds = [type(shape).__name__ for shape in shapes]
    if len(set(kinds)) < len(kinds) or ("capacity" in kinds and len(kinds) > 1):
        raise Problem(
            f"kl holds {', '.join(kinds)}",
            "each shape comes once, and a capacity, which has a weight and a schedule of its own, comes alone",
            "one of each: kl=(ppvae.free_bits(0.1), ppvae.annealed())",
        )
    return shapes


def refuse_beside(shapes: tuple[Shape, ...], gradient: str) -> None:
    """Shapes for which an estimator of the gradient does not hold."""
    for shape in shapes:
        if gradient != "pathwise" and isinstance(shape, free_bits | capacity):
            raise Problem(
                f"{shape} stands beside gradient={gradient!r}",
                "it bends the mean KL of a batch or of a row, which one draw does not know",
                "gradient='pathwise'; or kl=ppvae.beta(…), kl=ppvae.annealed(…), which only weigh it",
            )


def weight_of(shapes: tuple[Shape, ...], done: Done) -> Tensor | float:
    """What the KL is multiplied by."""
    weight: Tensor | float = 1.0
    for shape in shapes:
        if isinstance(shape, beta):
            weight = weight * shape.weight
        elif isinstance(shape, annealed):
            weight = weight * shape.weight(done)
    return weight


def penalty(shapes: tuple[Shape, ...], kl: Kl, done: Done) -> Tensor | float:
    """What is subtracted from the likelihood in place of the KL, of the KL's own shape (…, N)."""
    if (shape := _of_kind(capacity, shapes)) is not None:
        return shape.weight * (sum(kl.values()) - shape.at(done)).abs()
    if (floor := _of_kind(free_bits, shapes)) is not None:
        return weight_of(shapes, done) * sum(_floor(value, floor.nats) for value in kl.values())
    return weight_of(shapes, done) * sum(kl.values())


def in_force(shapes: tuple[Shape, ...], done: Done) -> dict[str, float]:
    """The numbers of the schedule at a share of the training, for the history."""
    if (shape := _of_kind(capacity, shapes)) is not None:
        return {"capacity": float(shape.at(done))}
    weighs = any(isinstance(shape, beta | annealed) for shape in shapes)
    return {"kl_weight": float(weight_of(shapes, done))} if weighs else {}


def bounds(shapes: tuple[Shape, ...]) -> bool:
    """Whether what is left is a lower bound of the evidence throughout: nowhere less than the KL is subtracted."""
    return not any(isinstance(s, annealed | capacity) or (isinstance(s, beta) and s.weight < 1) for s in shapes)


def _of_kind(kind: type[S], shapes: tuple[Shape, ...]) -> S | None:
    return next((shape for shape in shapes if isinstance(shape, kind)), None)


def _floor(kl: Tensor, nats: float) -> Tensor:
    """The floored mean over the batch, in every row: (N,) or (N, K) to (N,)."""
    return kl.mean(0).clamp(min=nats).sum().expand(len(kl))


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _refuse_share(share: float) -> None:
    fine = _number(share) and 0 < share <= 1
    _refuse("share", share, fine, "a share of the training, 0 < share <= 1", "share=0.5")


def _refuse(name: str, value: object, fine: bool, rule: str, remedy: str) -> None:
    if not fine:
        raise Problem(f"{name} is {value!r}", f"{name} is {rule}", remedy)
