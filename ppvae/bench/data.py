"""An epoch over rows that stay in a file, beside the same epoch over the same rows in memory.

`ppvae.fit` of the 784-400-20 pair ``vae`` to rows of float32 bits, once from an array and once from a `numpy.memmap`, round by
round in random order; each fit has two epochs, and the second counts. The file is new, so the page cache of the system holds
it: what is measured is the gathering of rows, not the disk.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

import ppvae
from ppvae.bench.run import Bench, Record
from ppvae.door import Table
from ppvae.fitting.rows import Rows
from ppvae.machine import own_generators

SECONDS = 60
MEMORY, FILE = "in memory", "in a file"


class Epoch(NamedTuple):
    """What one fit took, in seconds.

    Attributes:
        epoch: its second epoch.
        waiting: of both epochs, until the next batch was there.
        both: both epochs.
        before: all that comes before the first step: the door's checks of all rows above all.
    """

    epoch: float
    waiting: float
    both: float
    before: float


def case(bench: Bench, rows: int = 60_000, features: int = 784) -> Iterator[list[Record]]:
    """One setting, rows in memory as the reference."""
    bench.say(f"{rows} rows in memory and in a file")
    bits = np.random.default_rng(bench.seed).random((rows, features), dtype=np.float32) < 0.3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, bits.astype(np.float32))
        sources = {MEMORY: bits.astype(np.float32), FILE: np.load(path, mmap_mode="r")}
        found = rounds_of(sources, bench.rounds or 5, bench)
    setting = f"{rows} x {features} float32, batch 128, the file in the page cache"
    yield [Record(setting, name, figures(epochs, found[MEMORY])) for name, epochs in found.items()]


def rounds_of(sources: dict[str, np.ndarray], rounds: int, bench: Bench) -> dict[str, list[Epoch]]:
    """What every source took in every round; a round before them does not count."""
    order = random.Random(bench.seed)
    found: dict[str, list[Epoch]] = {name: [] for name in sources}
    for round in range(-1, rounds):
        for name in order.sample(list(sources), len(sources)):
            epoch = measured(sources[name], bench)
            if round >= 0:
                found[name].append(epoch)
    return found


def measured(x: np.ndarray, bench: Bench) -> Epoch:
    """One fit of two epochs."""
    with own_generators(bench.seed), _waiting() as waited:
        pair = ppvae.make("vae", x.shape[1], 20, hidden=(400,))
        began = time.perf_counter()
        history = ppvae.fit(pair, x, epochs=2, device=bench.device, progress=False).history
        took = time.perf_counter() - began
    seconds = [record["seconds"] for record in history]
    return Epoch(seconds[1], sum(waited), sum(seconds), took - sum(seconds))


def figures(epochs: list[Epoch], reference: list[Epoch]) -> dict[str, float | None]:
    """Medians over rounds with their quartiles; the ratio is of the epochs of the same round."""
    return {
        **_spread("epoch_s", [e.epoch for e in epochs]),
        **_spread("ratio", [e.epoch / r.epoch for e, r in zip(epochs, reference, strict=True)]),
        **_spread("waiting", [e.waiting / e.both for e in epochs]),
        **_spread("before_s", [e.before for e in epochs]),
    }


def _spread(name: str, values: list[float]) -> dict[str, float | None]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


@contextmanager
def _waiting() -> Iterator[list[float]]:
    """The seconds that each batch of a fit was waited for."""
    waited, batches = [], Rows.batches

    def timed(*arguments: Any) -> Iterator[Table]:
        taken = batches(*arguments)
        while True:
            began = time.perf_counter()
            batch = next(taken, None)
            waited.append(time.perf_counter() - began)
            if batch is None:
                return
            yield batch

    with patch.object(Rows, "batches", timed):
        yield waited
