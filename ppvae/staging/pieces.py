"""Operations that staging takes apart, into the very kernels that they call: these can write to memory that is there.

`relu` calls `clamp_min` and `x * 2.0` multiplies by a number wrapped as a tensor; the cross-entropy of logits is
(1 - x) logits - log sigmoid(logits). Each keeps the order of its roundings, so the bits are the same; the tests of every
pair hold the staged step to that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _relu(x: Tensor) -> Tensor:
    return aten.clamp_min.default(x, 0)


def _once(x: Tensor) -> Tensor:
    """Of rows that were expanded along a dim, one: the same numbers need no computing again."""
    for dim, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True)):
        x = aten.slice.Tensor(x, dim, 0, 1) if stride == 0 and size > 1 else x
    return x


def _cross_entropy(
    logits: Tensor, x: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: int = 1
) -> Any:
    if weight is not None or pos_weight is not None or reduction != 0:
        return NotImplemented
    less = aten.mul.Tensor(aten.sub.Tensor(x.new_ones(()), _once(x)), logits)
    return aten.sub.Tensor(less, aten.log_sigmoid_forward.default(logits)[0])


PIECES: dict[Any, Callable] = {
    aten.relu.default: _relu,
    aten.binary_cross_entropy_with_logits.default: _cross_entropy,
    aten.mul.Scalar: aten.mul.Tensor,
    aten.div.Scalar: aten.div.Tensor,
    aten.add.Scalar: aten.add.Tensor,
    aten.sub.Scalar: aten.sub.Tensor,
}
