"""Operations that draw, run on the rows of a whole batch where a process holds only some of them.

- Noise of a shape alone (`normal_`, `exponential_`, `rand`, …) is drawn for the whole batch, and cut.
- A draw by numbers of the rows (`bernoulli(p)`, `multinomial(w)`, `normal(loc, scale)`) takes as many numbers of the stream
  for an entry whatever they are: own rows stand in for the others' too, and the result is cut.
- A draw by rejection (`_standard_gamma`, `_sample_dirichlet`, `poisson`, `binomial`) takes as many as its numbers make it
  take. All processes put their rows' numbers together first; such a step is not staged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import TorchDispatchMode

from ppvae.errors import Problem

aten = torch.ops.aten
IN_PLACE = {  # write noise over what stood there
    aten.normal_.default,
    aten.uniform_.default,
    aten.exponential_.default,
    aten.cauchy_.default,
    aten.geometric_.default,
    aten.log_normal_.default,
    aten.random_.default,
    getattr(aten.random_, "from"),
    aten.random_.to,
    aten.bernoulli_.float,
    aten.bernoulli_.Tensor,
}
OF_SIZE = {  # the place of the shape among the arguments
    aten.rand.default: 0,
    aten.randn.default: 0,
    aten.randint.default: 1,
    aten.randint.low: 2,
    aten.normal.float_float: 2,
}
BY_ENTRY = {  # as many numbers of the stream for an entry, whatever the arguments are
    aten.rand_like.default,
    aten.randn_like.default,
    aten.randint_like.default,
    aten.randint_like.low_dtype,
    aten.bernoulli.default,
    aten.bernoulli.p,
    aten.normal.Tensor_Tensor,
    aten.normal.Tensor_float,
    aten.normal.float_Tensor,
    aten.multinomial.default,
}
BY_REJECTION = {
    aten._standard_gamma.default,
    aten._sample_dirichlet.default,
    aten.poisson.default,
    aten.binomial.default,
}

Add = Callable[[Tensor], Tensor]  # of a tensor of all processes, entry by entry


@dataclass(frozen=True)
class Share:
    """Which rows of a batch are this process's own.

    Where there are more processes than rows, some have none: they work on another's first row, which counts nothing.

    Attributes:
        start: the first own row.
        count: own rows.
        total: rows of the whole batch.
    """

    start: int
    count: int
    total: int

    @property
    def worked_on(self) -> int:
        """Rows worked on, one at least."""
        return max(self.count, 1)

    @property
    def rows(self) -> slice:
        """The rows worked on."""
        return slice(self.start, self.start + self.worked_on)

    @property
    def weight(self) -> float:
        """What the mean over own rows counts in the mean over the batch."""
        return self.count / self.total


class Place(NamedTuple):
    """Where rows stand in what is being drawn: ``shape`` leads the shape of the noise, and its dim ``dim`` is the rows."""

    name: str
    shape: tuple[int, ...]
    dim: int

    @property
    def rows(self) -> int:
        return self.shape[self.dim]


class Whole(TorchDispatchMode):
    """Run operations that draw on the rows of the whole batch.

    Args:
        share: own rows.
        add: sums a tensor over the processes, in place.
        place: what is being drawn at the moment; a name alone where all processes draw the same; None: nothing that is known.

    Raises:
        Problem: a draw of which it cannot be told what belongs to which row.
    """

    def __init__(self, share: Share, add: Add, place: Callable[[], Place | str | None]) -> None:
        super().__init__()
        self.share, self.add, self.place = share, add, place

    def __torch_dispatch__(self, op: OpOverload, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, place = kwargs or {}, self.place()
        if torch.Tag.nondeterministic_seeded not in op.tags or isinstance(place, str):
            return op(*args, **kwargs)
        if place is None:
            raise _of_no_site(op)
        cut = _Cut(self.share, place, op)
        if op in OF_SIZE:
            i = OF_SIZE[op]
            return cut.own(op(*args[:i], cut.whole_shape(args[i]), *args[i + 1 :], **kwargs))
        if op in IN_PLACE:
            own, *rest = args
            return own.copy_(cut.own(op(cut.fresh(own), *(cut.repeated(a, own.shape) for a in rest), **kwargs)))
        if op not in BY_ENTRY | BY_REJECTION:
            raise cut.unknown()
        if op in BY_REJECTION and get_proxy_mode() is not None:
            raise RuntimeError(f"{place.name!r} is drawn by rejection: the processes put its numbers together first")
        shape = torch.broadcast_shapes(*(a.shape for a in args if isinstance(a, Tensor)))
        whole = [cut.repeated(a, shape) for a in args]
        if op in BY_REJECTION:
            whole = [self._gathered(a, cut) for a in whole]
        return cut.own(op(*whole, **kwargs))

    def _gathered(self, whole: Any, cut: _Cut) -> Any:
        """The rows of all processes: each adds its own to zeros."""
        if not isinstance(whole, Tensor):
            return whole
        zeros = whole.new_zeros(whole.shape)
        if self.share.count:
            cut.own(zeros).copy_(cut.own(whole))
        return self.add(zeros)


@dataclass(frozen=True)
class _Cut:
    """How the noise of one operation goes from own rows to the whole batch and back.

    What is made for the whole batch has the order in memory that one process would meet: numbers are drawn in that order.
    """

    share: Share
    place: Place
    op: OpOverload

    def whole_shape(self, shape: Sequence[int]) -> list[int]:
        """The shape of the whole batch's noise, of that of own rows."""
        if tuple(shape[: len(self.place.shape)]) != self.place.shape or self.place.rows != self.share.worked_on:
            raise self.unknown()
        return [*shape[: self.place.dim], self.share.total, *shape[self.place.dim + 1 :]]

    def fresh(self, own: Tensor) -> Tensor:
        """Memory for the noise of the whole batch."""
        order, shape = _order(own), self.whole_shape(own.shape)
        return own.new_empty([shape[d] for d in order]).permute(_inverse(order))

    def repeated(self, value: Any, shape: Sequence[int]) -> Any:
        """A tensor of own rows, broadcast to ``shape``, with own rows where they stand in the batch, and in all others'
        places too."""
        if not isinstance(value, Tensor):
            return value
        own = self._apart(value.expand(shape))
        self.whole_shape(own.shape)
        index = (torch.arange(self.share.total, device=own.device) - self.share.start) % self.share.worked_on
        order = _order(own)
        whole = own.permute(order).index_select(order.index(self.place.dim), index).permute(_inverse(order))
        return self._together(whole)

    def own(self, whole: Tensor) -> Tensor:
        """Own rows of what was drawn for the whole batch."""
        if self._flat:
            whole = whole.unflatten(0, self.whole_shape(self.place.shape))
        return self._together(whole.narrow(self.place.dim, self.share.start, self.share.worked_on))

    @property
    def _flat(self) -> bool:
        """Whether the operation takes the site's entries as the rows of a matrix."""
        return self.op is aten.multinomial.default

    def _apart(self, tensor: Tensor) -> Tensor:
        if self._flat and tensor.shape[0] != math.prod(self.place.shape):
            raise self.unknown()
        return tensor.unflatten(0, self.place.shape) if self._flat else tensor

    def _together(self, tensor: Tensor) -> Tensor:
        return tensor.flatten(0, len(self.place.shape) - 1) if self._flat else tensor

    def unknown(self) -> Problem:
        return Problem(
            f"{self.place.name!r} is drawn by {self.op} in a way that several processes cannot share",
            "which of its numbers belong to which row cannot be told from their shapes",
            "one process; or another distribution",
        )


def _order(tensor: Tensor) -> list[int]:
    """The dims as a tensor like this one lies in memory, from the outermost to the innermost."""
    strides = torch.empty_like(tensor).stride()
    return sorted(range(tensor.dim()), key=lambda dim: -strides[dim])


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _of_no_site(op: OpOverload) -> Problem:
    return Problem(
        f"{op} draws outside of all sites of the story and the guide, and several processes fit",
        "dropout, or noise that a network makes by itself: which of its numbers belong to which row cannot be told",
        "one process; or a pair without dropout, whose noise is a site",
    )
