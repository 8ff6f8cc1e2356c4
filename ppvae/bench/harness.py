"""Times side by side: the variants of one piece of work, interleaved in one process, and their ratios round by round.

A machine that is shared or warm moves all absolute times, by half and more. Within a round all variants meet the same
machine, so the figure to read is the median over rounds of the *paired* ratio: a variant's time divided by the
reference's time in the same round. Each timed call follows an untimed one of the same variant, so that caches, allocator
and waiting threads stand as they would in a loop of that variant alone.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from ppvae.bench.memory import built

WARM_UP = 3  # rounds
BURST = {"cpu": 1, "cuda": 10}  # calls in a timed run: a GPU is waited for once, as in training


class Unavailable(Exception):
    """A variant cannot be had here; says why."""


class Variant(NamedTuple):
    """One way to do the work.

    Attributes:
        build: makes it ready (networks, optimizer, graphs) and returns what does the work. What that leaves running on a
            GPU is waited for here; what another library does it waits for itself. Raises `Unavailable`.
        share: how much of the work one call does, and times are given for all of it: 20 for a call of twenty steps, 0.02
            where a fiftieth is measured.
        peak: the bytes that it holds at the peak of a call, where torch's allocator does not see them.
    """

    build: Callable[[], Callable[[], object]]
    share: float = 1.0
    peak: Callable[[], float | None] | None = None


class Ready(NamedTuple):
    """A variant that is built.

    Attributes:
        run: does the work.
        share: as in `Variant`.
        peak_MiB: what its tensors hold at the peak of a call, its parameters, moments and buffers included; None: not
            known.
    """

    run: Callable[[], object]
    share: float
    peak_MiB: float | None


class Spread(NamedTuple):
    """A median, and the quartiles on both sides of it."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The median and the quartiles of at least two values (linear interpolation between order statistics)."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def paired(values: Sequence[float], reference: Sequence[float]) -> Spread:
    """The spread of the ratio value / reference of the same round."""
    return spread([a / b for a, b in zip(values, reference, strict=True)])


def ready(variant: Variant, device: torch.device) -> Ready:
    """Build a variant, call it a few times, and see what memory it holds."""
    if variant.peak is None:
        run, held = built(variant.build, device)
    else:
        run, held = variant.build(), variant.peak()
    return Ready(run, variant.share, None if held is None else held / 2**20)


def compare(
    variants: Mapping[str, Ready], reference: str, rounds: int, device: torch.device, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Time the variants of one piece of work.

    Args:
        variants: by name.
        reference: the name of the one whose time the others are divided by.
        rounds: in each, every variant is timed once, in a random order.
        device: where torch works; a GPU is waited for before and after a timed run.
        seed: of the orders.

    Returns:
        By name: ``ms`` (median over rounds) with its quartiles ``ms_low`` and ``ms_high``, ``ms_p20`` (20th
        percentile), ``ratio`` to the reference (median of the paired ratios) with its quartiles, and ``peak_MiB``.
    """
    taken = times(variants, rounds, device, seed)
    return {name: figures(taken[name], taken[reference]) | {"peak_MiB": v.peak_MiB} for name, v in variants.items()}


def times(variants: Mapping[str, Ready], rounds: int, device: torch.device, seed: int = 0) -> dict[str, list[float]]:
    """Milliseconds of each variant, round by round, after rounds that do not count."""
    order = random.Random(seed)
    taken: dict[str, list[float]] = {name: [] for name in variants}
    with _no_collection() as collect:
        for round in range(-WARM_UP, rounds):
            for name in order.sample(list(variants), len(variants)):
                took = _milliseconds(variants[name], device)
                if round >= 0:
                    taken[name].append(took)
            collect()
    return taken


def figures(taken: Sequence[float], reference: Sequence[float]) -> dict[str, float | None]:
    """The figures of one variant, from its times in milliseconds and the reference's."""
    ms, ratio = spread(taken), paired(taken, reference)
    return {
        "ms": ms.median,
        "ms_low": ms.low,
        "ms_high": ms.high,
        "ms_p20": statistics.quantiles(taken, n=5, method="inclusive")[0],
        "ratio": ratio.median,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
    }


def wait(device: torch.device) -> None:
    """Until the GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _milliseconds(variant: Ready, device: torch.device) -> float:
    calls = BURST[device.type]
    variant.run()
    wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        variant.run()
    wait(device)
    return 1e3 * (time.perf_counter() - began) / (calls * variant.share)


@contextmanager
def _no_collection() -> Iterator[Callable[[], object]]:
    """No garbage collection but where it is called for: what there is already is set aside, so that a call is short."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.enable()
        gc.unfreeze()
