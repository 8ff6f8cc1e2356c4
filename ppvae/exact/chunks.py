"""Rows in chunks of bounded memory, with the factorised precisions that all exact answers start from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ppvae.errors import Problem
from ppvae.exact import linear_gaussian
from ppvae.exact.linear_gaussian import Precisions, block_rows, chunk_rows, padded, precision
from ppvae.exact.patterns import by_row, repeated
from ppvae.exact.solving import eliminate, half_log_det, solve, solve_by_group
from ppvae.exact.values import Seen, joined, reuse_memory, unwatched

CROWD = 16  # rows of a chunk for each pattern, from which solving group by group beats a copy of a factor for each row
MANY = 16  # times as many rows at once on a GPU, where starting an operation costs more than missing a cache
SMALL = 20  # up to so many latents, elimination in all rows at once beats LAPACK's factorisation of one after another


@dataclass
class Factors:
    """Factorised precisions of some rows.

    Attributes:
        blocks: L, L L^T = precision, of the next `few` rows: (few, K, K), or (K, K) for all of them.
        few: rows a block.
        entries: log(sqrt(2 pi) scale) summed over what is observed; () or (n,).
        solver: gives `Chunk.solved` from b, or None where it cannot; None where the blocks are the fastest way.
    """

    blocks: Iterable[Tensor]
    few: int
    entries: Tensor
    solver: Callable[[Tensor], tuple[Tensor, Tensor] | None] | None = None


@dataclass
class Chunk:
    """Some rows.

    Attributes:
        x: (n, D).
        seen: what is observed; None: everything.
        weights: 1 / scale where observed, 0 elsewhere; (D,) where everything is, else (n, D).
        r: x - loc where observed, 0 elsewhere (n, D).
        spare: memory of r that may be written over (``out=``); None where r is still wanted, for gradients.
        b: W^T Psi^-1 r (n, K).
        factors: of their precisions.
    """

    x: Tensor
    seen: Seen | None
    weights: Tensor
    r: Tensor
    spare: Tensor | None
    b: Tensor
    factors: Factors

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Walk through L and b of few rows at a time."""
        return zip(self.factors.blocks, self.b.split(self.factors.few), strict=True)

    def solved(self) -> tuple[Tensor, Tensor]:
        """Give E[z | x_o] (n, K), and half the log-determinants of the precisions (n,)."""
        if self.factors.solver is not None and (answer := self.factors.solver(self.b)) is not None:
            return answer
        return joined(((solve(L, b), half_log_det(L).expand(len(b))) for L, b in self.blocks()), len(self.b))


def factorised(
    W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | None, *, solved: bool = False
) -> Iterator[Chunk]:
    r"""Walk through the rows, their precisions :math:`I + \sum_j m_{nj} \psi_j^{-1} w_j w_j^\top` factorised.

    Rows share factorisations where all observe everything, and where a mask is by row. With `solved`, also where
    `ppvae.exact.patterns.repeated` finds patterns that rows share, and few latents are eliminated instead of factorised. That
    reads values and rounds otherwise, and is not done while something is staged or differentiated: a guide's posterior
    takes the same way always, so that a staged step gives its bits.

    Args:
        W, loc, scale, x, mask: as `ppvae.exact.linear_gaussian.checked` gives them.
        solved: only `Chunk.solved` is wanted, no factors.
    """
    given = [W, loc, scale, x]
    plain = len({t.dtype for t in given}) == 1 and unwatched(*given, *([] if mask is None else [mask]))
    if plain:
        _refuse(W, scale)
    (D, K), size = W.shape, W.element_size()
    rows = chunk_rows(D, K, size) * (MANY if x.is_cuda else 1)
    few = block_rows(K, size) if plain and not x.is_cuda else rows
    if len(x) > rows:
        reuse_memory()
    weight, entry = scale.reciprocal(), scale.log() + 0.5 * math.log(2 * math.pi)  # (D,)
    A = W * weight.unsqueeze(-1)
    U = padded(A * weight.unsqueeze(-1))
    if plain and not U.isfinite().all():
        raise Problem(
            f"a scale of {float(scale.min()):.3g} beside loadings of up to {float(W.abs().max()):.3g}",
            f"W / scale^2 does not fit into {W.dtype}",
            "float64, or a column whose noise is not so small",
        )

    def chunk(part: Tensor, seen: Seen | None, factors: Factors) -> Chunk:
        r = part - loc
        spare = r if plain else None
        r = r if seen is None else seen.keep(r, out=spare)
        return Chunk(part, seen, weight if seen is None else seen.weights, r, spare, (r @ U)[:, :K], factors)

    if mask is None:
        shared = Factors([torch.linalg.cholesky(precision(A, None))], rows, entry.sum())
        yield from (chunk(part, None, shared) for part in x.split(rows))
        return
    precisions, groups = Precisions(A, weight, entry), None
    if mask.shape[-1] == 1:
        groups = by_row(mask, D)
    elif solved and plain:
        groups = repeated(mask, most=linear_gaussian.CHUNK_BYTES // (size * K**2))
    parts = zip(x.split(rows), (Seen(pattern, weight, plain) for pattern in mask.split(rows)), strict=True)
    if groups is None:
        yield from (
            chunk(part, seen, _own(precisions, seen, few, solved and plain and K <= SMALL)) for part, seen in parts
        )
        return
    patterns, which = groups
    table = Table(precisions, patterns * weight, few, crowded=plain and len(patterns) * CROWD <= rows)
    yield from (chunk(part, seen, table.of(here)) for (part, seen), here in zip(parts, which.split(rows), strict=True))


class Table:
    """The factors of the patterns that rows share."""

    def __init__(self, precisions: Precisions, patterns: Tensor, few: int, crowded: bool) -> None:
        packed = precisions.packed(patterns)
        self.L, self.entries = precisions.cholesky(packed), precisions.sums(packed)
        self.few, self.crowded = few, crowded

    def of(self, numbers: Tensor) -> Factors:
        """Give the factors of rows whose patterns have these numbers (n,)."""
        # Of the transpose, so that columns stay contiguous.
        blocks = (self.L.mT.index_select(0, few).mT for few in numbers.split(self.few))
        solver = partial(solve_by_group, self.L, numbers) if self.crowded else None
        return Factors(blocks, self.few, self.entries.index_select(0, numbers), solver)


def _own(precisions: Precisions, seen: Seen, few: int, small: bool) -> Factors:
    packed = precisions.packed(seen.weights, columns_first=small)
    blocks = map(precisions.cholesky, packed.split(few))
    return Factors(blocks, few, precisions.sums(packed), partial(eliminate, packed) if small else None)


def _refuse(W: Tensor, scale: Tensor) -> None:
    if not (W.isfinite().all() and (scale > 0).all()):
        raise Problem(
            "W that is not finite, or a scale that is not positive",
            "a fit that diverged: the story has no posterior then",
            "the parameters of an earlier fit, a smaller learning rate",
        )
