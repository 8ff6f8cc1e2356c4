"""Values alone: what may be done faster where nothing is differentiated, transformed or traced."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


def unwatched(*tensors: Tensor) -> bool:
    """True where values alone are asked for: no gradient of either mode, no transform of torch.func, no trace."""
    return (
        get_proxy_mode() is None
        and not torch.compiler.is_compiling()
        and not any(
            (torch.is_grad_enabled() and t.requires_grad)
            or torch._C._functorch.is_functorch_wrapped_tensor(t)
            or (t.is_floating_point() and forward_ad.unpack_dual(t).tangent is not None)
            for t in tensors
        )
    )


class Seen:
    """Rows of a mask, ready to select by: (n, D), or (n, 1) by row; True = observed.

    `torch.where` branches at every entry, and a processor cannot foresee the branches of a random mask: it loses 2 ns at
    each, more than the matrix products of 10 latents cost. Where values alone are asked for, entries are selected as bits.

    Args:
        mask: boolean.
        weight: a number for each feature (D,).
        by_bits: whether `unwatched` holds of all that is selected from, which has the dtype of weight.

    Attributes:
        weights: weight where observed, 0 elsewhere (n, D).
    """

    def __init__(self, mask: Tensor, weight: Tensor, by_bits: bool) -> None:
        self.mask = mask
        # all ones, or none; a bool's byte may be another than 1 where it was made by a view
        self.bits = mask.view(torch.uint8).ne(0).view(torch.int8).neg().to(INTEGERS[weight.dtype]) if by_bits else None
        self.weights = self.keep(weight)

    def keep(self, value: Tensor, out: Tensor | None = None) -> Tensor:
        """Give value where observed and 0 elsewhere, whatever stands there, NaN included; out: memory for it."""
        if self.bits is None:
            return torch.where(self.mask, value, torch.zeros_like(value))
        out = None if out is None else out.view(self.bits.dtype)
        return torch.bitwise_and(value.view(self.bits.dtype), self.bits, out=out).view(value.dtype)

    def choose(self, value: Tensor, other: Tensor) -> Tensor:
        """Give value where observed, bit for bit, and other elsewhere."""
        if self.bits is None:
            return torch.where(self.mask, value, other)
        value, spare = (t.view(self.bits.dtype) for t in (value.to(other.dtype), other))
        return (value ^ spare).bitwise_and_(self.bits).bitwise_xor_(spare).view(other.dtype)


def joined(parts: Iterable[tuple[Tensor, ...]], rows: int) -> Any:  # a tuple as long as theirs
    """Put the answers of chunks one below the other, `rows` in all.

    Where values alone are asked for, each is written where it belongs as soon as it comes, and is never held twice.
    """
    parts = iter(parts)
    first = next(parts)
    if len(first[0]) == rows:
        return first
    if not unwatched(*first):
        return tuple(torch.cat(pieces) for pieces in zip(first, *parts, strict=True))
    wholes, start = [_room(rows, piece) for piece in first], 0
    for part in chain([first], parts):
        for whole, piece in zip(wholes, part, strict=True):
            whole[start : start + len(piece)] = piece
        start += len(part[0])
    return tuple(wholes)


def _room(rows: int, piece: Tensor) -> Tensor:
    """Give memory for `rows` rows like those of piece.

    NumPy asks Linux for pages of 2 MiB where it allocates much, torch does not: the first writes to an answer, page by
    page, are 4 times as fast.
    """
    if piece.device.type != "cpu" or piece.dtype == torch.bfloat16:
        return piece.new_empty(rows, *piece.shape[1:])
    return torch.from_numpy(np.empty((rows, *piece.shape[1:]), piece.numpy().dtype))


def reuse_memory() -> None:
    """Let the chunks of one call use the same memory again, instead of new pages from the system for each.

    glibc hands blocks above a threshold back when they are freed, and a new page costs as much as computing 4 KiB of an
    answer. The threshold becomes the size of the largest such block that was freed, at most 32 MiB; nothing is written
    to this one. Other allocators do not care.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
