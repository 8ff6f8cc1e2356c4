"""Sums of products in log space, for `pyro.ops.contract`, that do not vanish.

Pyro's own shifts each factor by its own largest value and multiplies their exponentials. Where one factor is largest
while another is smallest (the class that explains the pixels best under the most unlikely z), all products are 0 once the
two differ by 88 nats in float32, and the bound is -inf. Here the logarithms are added first.
"""

from __future__ import annotations

from typing import Any

from pyro.ops.einsum.util import Tensordot
from pyro.ops.rings import LogRing
from torch import Tensor


class Ring(LogRing):
    """Pyro's ring of log-probabilities, with the contraction of this module."""

    _backend = "ppvae.tracing.logspace"


def einsum(equation: str, *operands: Tensor, **_: Any) -> Tensor:
    """log sum exp of the sum of the operands: "ab,bc->ac" sums b out."""
    inputs, output = equation.split("->")
    inputs = inputs.split(",")
    dims = output + "".join(sorted(set("".join(inputs)) - set(output)))
    total: Any = sum(aligned(operand, names, dims) for operand, names in zip(operands, inputs, strict=True))
    out = list(range(len(output), len(dims)))
    return total.logsumexp(out) if out else total


def transpose(value: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Permute the dims."""
    return value.permute(axes)


tensordot = Tensordot(einsum)


def aligned(value: Tensor, names: str, dims: str) -> Tensor:
    """A tensor whose dims have these names, as one that broadcasts over ``dims``."""
    own = [d for d in dims if d in names]
    sizes = dict(zip(names, value.shape, strict=True))
    return value.permute([names.index(d) for d in own]).reshape([sizes.get(d, 1) for d in dims])
