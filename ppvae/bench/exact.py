"""Exact inference in factor analysis, half of the entries missing, each row its own half, float64.

What all answers need is one product of the mask with the packed rank-one terms, (N, D) x (D, K (K + 1) / 2), and a
Cholesky factor for every row: these two alone, in the same chunks, are the reference. Beside it stand ``exact.log_evidence``
and ``exact.impute_mean``, which need the mean of z; ``exact.posterior``, which needs a triangular inverse besides (a second
reference has it too) and N K^2 numbers of room; a loop in NumPy that solves each row's K x K system; and data in which rows
share four patterns, or have no gaps.

Where all rows would take long, some are timed and the time is multiplied: the setting says so. ``peak_MiB`` is by how much
the process grew in a call, the answer included.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppvae import exact
from ppvae.bench.harness import figures
from ppvae.bench.imputation import row_by_row
from ppvae.bench.run import Bench, Record
from ppvae.exact.linear_gaussian import block_rows, chunk_rows, packed_pairs, precision

SECONDS = 240
SIZES = (
    *((rows, 560, latents) for rows in (1000, 10_000, 100_000) for latents in (10, 43, 100)),
    *((1965, features, 43) for features in (100, 560, 2000)),
)
LOOPED = 200  # rows of the loop
ENOUGH = 10_000  # rows of the references
LONG = 5e6  # N K^2 from which there are three rounds
HUGE = 5e8  # N K^2 from which only the evidence is timed
FLOOR, INVERTED, LOOP = (
    "packed product and Cholesky alone",
    "the same and the triangular inverse",
    "row by row in NumPy",
)

Run = Callable[[], object]


def case(bench: Bench, sizes: Iterable[tuple[int, int, int]] = SIZES) -> Iterator[list[Record]]:
    """Time all of them for each (rows, features, latents)."""
    for size in sizes:
        yield one(bench, *size)


def one(bench: Bench, rows: int, features: int, latents: int) -> list[Record]:
    """The records of one size."""
    timed = min(rows, ENOUGH)
    setting = f"{rows} rows, {features} features, {latents} latents"
    setting += "" if timed == rows else f"; references on {timed} rows"
    bench.say(setting)
    runs = variants(rows, features, latents, bench.seed)
    taken = times(runs, bench.rounds or (3 if rows * latents**2 > LONG else 9), bench.seed)
    found = []
    for name, (run, _) in runs.items():
        more = {"us_per_row": 1e3 * statistics.median(taken[name]) / rows, "peak_MiB": peak(run)}
        found.append(Record(setting, name, figures(taken[name], taken[FLOOR]) | more))
    return found


def variants(rows: int, features: int, latents: int, seed: int) -> dict[str, tuple[Run, float]]:
    """What runs, and which share of the rows it does, by name."""
    W, loc, scale, x, mask = story(rows, features, latents, seed)
    some = [value.numpy() for value in (W, loc, scale, x[:LOOPED], mask[:LOOPED])]
    four, timed = mask[:4].repeat(-(-rows // 4), 1)[:rows], mask[:ENOUGH]
    runs: dict[str, tuple[Run, float]] = {
        FLOOR: (floor(W, scale, timed), len(timed) / rows),
        "exact.log_evidence": (lambda: exact.log_evidence(W, loc, scale, x, mask), 1.0),
        "exact.impute_mean": (lambda: exact.impute_mean(W, loc, scale, x, mask), 1.0),
        INVERTED: (floor(W, scale, timed, inverse=True), len(timed) / rows),
        "exact.posterior": (lambda: exact.posterior(W, loc, scale, x, mask), 1.0),
        LOOP: (lambda: row_by_row(*some), len(some[3]) / rows),
        "exact.log_evidence, four patterns": (lambda: exact.log_evidence(W, loc, scale, x, four), 1.0),
        "exact.log_evidence, no gaps": (lambda: exact.log_evidence(W, loc, scale, x), 1.0),
    }
    if rows * latents**2 > HUGE:
        del runs["exact.impute_mean"], runs[INVERTED], runs["exact.posterior"]
    return runs


def story(rows: int, features: int, latents: int, seed: int) -> tuple[Tensor, ...]:
    """W, loc, scale, rows that they explain, and a mask that hides half of their entries."""
    draw = torch.Generator().manual_seed(seed)
    kwargs: dict[str, Any] = {"generator": draw, "dtype": torch.float64}
    W, loc = torch.randn(features, latents, **kwargs) / latents**0.5, torch.randn(features, **kwargs)
    scale = 0.3 + torch.rand(features, **kwargs)
    x = torch.randn(rows, features, **kwargs).mul_(scale).add_(loc)
    for part in x.split(ENOUGH):
        part.addmm_(torch.randn(len(part), latents, **kwargs), W.mT)
    return W, loc, scale, x, torch.rand(rows, features, generator=draw) < 0.5


def floor(W: Tensor, scale: Tensor, mask: Tensor, inverse: bool = False) -> Run:
    """The product, then the factorisation (and the inverse) of precisions that lie ready, in chunks as `ppvae.exact` cuts
    them; mask and rank-one terms lie ready too. Only inverses are kept."""
    A = W / scale.unsqueeze(-1)
    (D, K), size = A.shape, A.element_size()
    rows, few = chunk_rows(D, K, size), block_rows(K, size)
    terms, numbers, eye = packed_pairs(A), mask.to(A.dtype), torch.eye(K, dtype=A.dtype)
    ready = precision(A, mask[:few])

    def run() -> None:
        room, start = A.new_empty(len(mask) if inverse else 0, K, K), 0
        for part in numbers.split(rows):
            part @ terms
            for block in part.split(few):
                L = torch.linalg.cholesky(ready[: len(block)])
                if inverse:
                    room[start : start + len(block)] = torch.linalg.solve_triangular(L, eye, upper=False)
                    start += len(block)

    return run


def times(variants: dict[str, tuple[Run, float]], rounds: int, seed: int) -> dict[str, list[float]]:
    """Milliseconds of each variant for all rows, round by round, in a random order, after one that does not count."""
    order = random.Random(seed)
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for round in range(-1, rounds):
        for name in order.sample(list(variants), len(variants)):
            run, share = variants[name]
            began = time.perf_counter()
            run()
            if round >= 0:
                taken[name].append(1e3 * (time.perf_counter() - began) / share)
    return taken


def peak(run: Run) -> float | None:
    """By how many MiB the process grew in a call; None where the system does not say."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        return None
    clear.write_text("5")  # the high-water mark becomes what is held now
    before = _high_water(status)
    run()
    return (_high_water(status) - before) / 1024


def _high_water(status: Path) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
