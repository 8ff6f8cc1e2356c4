"""Things of several parts, each of which may be absent: which of them exist, and the features that they have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae.errors import Problem
from ppvae.nn.filled import observed


class Patterns(NamedTuple):
    """The patterns of existence among some rows, as plain numbers: P bits each, and how many rows have each."""

    bits: list[list[int]]
    rows: list[int]


def patterns(exists: Any) -> Patterns:
    """Count the patterns of ``exists`` (N, P), 1 = the part is there, the most frequent first.

    Raises:
        Problem: no matrix, or something else than 0 and 1.
    """
    bits = torch.as_tensor(exists)
    if bits.dim() != 2 or not ((bits == 0) | (bits == 1)).all():
        raise Problem(
            f"existences of shape {tuple(bits.shape)}, such as {bits.flatten()[:3].tolist()}",
            "they are one bit a part: (N, P), 1 where the part is there",
            "patterns(shapes.exists), complete",
        )
    found, count = bits.long().unique(dim=0, return_counts=True)
    order = count.argsort(descending=True, stable=True)
    return Patterns(found[order].tolist(), count[order].tolist())


class Existence(dist.TorchDistribution):
    r"""Which parts exist: the frequencies of the patterns that were seen, and a little for each other one.

    .. math:: p(e) = \frac{N_e + 2^{-P}}{N + 1}

    the mean under a Dirichlet prior that weighs one row, spread evenly over all patterns. Where it is known of some parts whether
    they exist it is conditioned on that, in closed form.

    Reference: Nash & Williams 2017, The shape variational autoencoder, eq. 3.4 (there by maximum likelihood, which gives any
    other pattern probability 0).

    Args:
        bits: the patterns that were seen, (C, P).
        rows: how many rows had each, (C,).
        least: 1 where a part is known to exist, (…, P); batch (…).
        most: 0 where a part is known to be absent, (…, P).
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, bits: Tensor, rows: Tensor, least: Tensor, most: Tensor) -> None:
        self.bits, self.rows, self.least, self.most = bits, rows, least, most
        super().__init__(least.shape[:-1], least.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Existence:
        least, most = (bound.expand(*batch_shape, -1) for bound in (self.least, self.most))
        return Existence(self.bits, self.rows, least, most)

    def _weights(self) -> Tensor:
        """Of each pattern that was seen and, last, of all patterns alike, (…, C + 1)."""
        least, most = self.least.unsqueeze(-2), self.most.unsqueeze(-2)
        fits = ((self.bits >= least) & (self.bits <= most)).all(-1)  # (…, C)
        known = (self.least == self.most).sum(-1, keepdim=True)
        return torch.cat([self.rows * fits, 0.5 ** known.to(self.rows)], -1)

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        weights = self._weights().expand(*shape, -1)
        chosen = torch.multinomial(weights.reshape(-1, weights.shape[-1]), 1).reshape(shape)
        least, most = (bound.expand(*shape, -1) for bound in (self.least, self.most))
        free = torch.bernoulli(torch.full_like(least, 0.5)).clamp(least, most)
        seen = torch.cat([self.bits, self.bits.new_zeros(1, self.bits.shape[-1])])[chosen]
        return torch.where((chosen == len(self.bits)).unsqueeze(-1), free, seen)

    def log_prob(self, value: Tensor) -> Tensor:
        weight = self._same(value).to(self.rows) @ self.rows + 0.5 ** self.bits.shape[-1]  # (…,)
        log = weight.log() - self._weights().sum(-1).log()
        return torch.where(((value >= self.least) & (value <= self.most)).all(-1), log, -math.inf)

    def _same(self, value: Tensor) -> Tensor:
        """Whether it is the pattern, (…, C)."""
        return (value.unsqueeze(-2) == self.bits).all(-1)

    def caution(self, value: Tensor, seen: Tensor) -> str | None:
        """What someone who scores these values (N, P), of which the rows ``seen`` (N,) count, should know; the door asks."""
        new = ~self._same(value).any(-1) & seen
        if not len(self.bits) or not new.any():
            return None
        first = int(new.nonzero()[0, 0])
        return (
            f"{int(new.sum())} of {len(new)} rows have parts in a pattern that no training row had, the first row {first}: "
            f"{value[first].long().tolist()}. They are scored, by the little that p(e) leaves for such patterns, and no network "
            "was trained on them. Look at these rows apart; or make the pair with patterns of rows that have them."
        )


class PartwiseNormal(dist.TorchDistribution):
    r"""Features that are Normal where their part exists and 0 where it does not, (…, N, D).

    .. math:: x_d \sim N(loc_d, scale_d^2) \text{ where } e_{p(d)} = 1, \quad x_d = 0 \text{ where } e_{p(d)} = 0

    0 stands for "there is nothing". Its density there is 1 at 0, and 0 elsewhere: that of a point.

    Reference: Nash & Williams 2017, eq. 3.2-3.3.

    Args:
        loc, scale: (…, D).
        exists: bool, (…, D).
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real
    has_rsample = True
    has_points = True  # complete rows say which parts exist

    def __init__(self, loc: Tensor, scale: Tensor, exists: Tensor) -> None:
        shape = torch.broadcast_shapes(loc.shape, scale.shape, exists.shape)
        self.loc, self.scale, self.exists = loc, scale, exists
        super().__init__(shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> PartwiseNormal:
        return PartwiseNormal(*(value.expand(batch_shape) for value in (self.loc, self.scale, self.exists)))

    @property
    def mean(self) -> Tensor:
        return torch.where(self.exists, self.loc, 0.0).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        return torch.where(self.exists, self.scale.square(), 0.0).expand(self.batch_shape)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        noise = torch.randn(torch.Size(sample_shape) + self.batch_shape, dtype=self.loc.dtype, device=self.loc.device)
        return torch.where(self.exists, self.loc + self.scale * noise, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        normal = dist.Normal(self.loc, self.scale, validate_args=False).log_prob(value)
        return torch.where(self.exists, normal, torch.where(value == 0, 0.0, -math.inf))


class Parts(nn.Module):
    """How a row's features are divided among its parts, and which of these exist.

    Args:
        features: D.
        sizes: the features of each part, in their order; they add up to D.
        seen: the patterns that the training rows have, `patterns`; None: all are as probable.

    Raises:
        Problem: sizes that do not add up; a part without features, or that never occurs.
    """

    bits: Tensor
    rows: Tensor
    member: Tensor

    def __init__(self, features: int, sizes: Sequence[int] | None, seen: Patterns | None = None) -> None:
        super().__init__()
        self.sizes = [features] if sizes is None else list(sizes)
        P = len(self.sizes)
        if sum(self.sizes) != features or min(self.sizes, default=0) < 1:
            raise Problem(
                f"parts of {self.sizes} features, {sum(self.sizes)} in all, for {features} features",
                "each feature belongs to one part, and a part has some",
                "parts=shapes.sizes: the columns of each part in their order",
            )
        bits, rows = Patterns([], []) if seen is None else Patterns(*seen)
        if any(len(pattern) != P for pattern in bits) or len(bits) != len(rows):
            raise Problem(
                f"{len(bits)} patterns, {len(rows)} counts of rows, {len(bits[0]) if bits else 0} parts for {P} parts",
                "those of another class of objects",
                "patterns=ppvae.nn.patterns(exists) of the rows to train on",
            )
        never = [p for p in range(P) if bits and not any(pattern[p] for pattern in bits)]
        if never:
            raise Problem(
                f"part {never[0]} occurs in no row",
                "nothing can be learnt about its features",
                "leaving out the part and its columns, or rows that have it",
            )
        place = torch.arange(P).repeat_interleave(torch.tensor(self.sizes))
        self.register_buffer(
            "bits", torch.tensor(bits, dtype=torch.get_default_dtype()).reshape(-1, P), persistent=False
        )
        self.register_buffer("rows", torch.tensor(rows, dtype=torch.get_default_dtype()), persistent=False)
        self.register_buffer("member", nn.functional.one_hot(place, P).to(self.bits), persistent=False)  # (D, P)

    def __len__(self) -> int:
        return len(self.sizes)

    def law(self) -> Existence:
        """p(e), batch ()."""
        zero = self.member.new_zeros(len(self))
        return Existence(self.bits, self.rows, zero, zero + 1)

    def given(self, x: Tensor, mask: Tensor | bool) -> Existence:
        """p(e | x_o), batch (…, N, 1): a part of which something was observed exists, and one of which only 0 was, does not."""
        there = self.seen(x, mask, x != 0)
        most = there | ~self.seen(x, mask)
        return Existence(self.bits, self.rows, there.to(x).unsqueeze(-2), most.to(x).unsqueeze(-2))

    def seen(self, x: Tensor, mask: Tensor | bool, also: Tensor | bool = True) -> Tensor:
        """Whether a feature of each part was observed and is ``also``, bool (…, N, P)."""
        return ((observed(x, mask) & also).to(self.member) @ self.member) > 0

    def spread(self, exists: Tensor) -> Tensor:
        """A bit of each part, (…, P), given to its features, bool (…, D)."""
        return (exists.to(self.member) @ self.member.mT) > 0
