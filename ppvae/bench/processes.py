"""A step of two processes with one thread each, beside a step of one process with one thread and with two.

The step is a VAE's, 784-400-20, on 512 and on 4,096 rows of random bits, in float32. Both processes live throughout. In a
round the first steps alone with one thread, alone with two, and both step together, in a random order, while the other
waits; so all three meet the same machine. Beside them stands what the sum over the processes takes by itself, and the largest
difference of the bound between together and alone, over 24 steps in float64. Always on the CPU.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import spawn

import ppvae
from ppvae.bench.harness import figures
from ppvae.bench.run import Bench, Record
from ppvae.door import Table, enter
from ppvae.fitting.parts import Part
from ppvae.fitting.processes import ALONE, Processes, join, meeting
from ppvae.fitting.update import Update

SECONDS = 45
COUNT, FEATURES, HIDDEN, LATENTS = 2, 784, 400, 20
STEPS = {512: 20, 4096: 3}  # of each way in a round, by rows
WARM_UP = 5  # steps until a shape is staged and compared with the eager step
ONE, TWO, TOGETHER = "one process, 1 thread", "one process, 2 threads", "two processes, 1 thread each"


def case(bench: Bench, steps: Mapping[int, int] = STEPS) -> Iterator[list[Record]]:
    """Time steps on so many rows, so often in a round each; one process with two threads is the reference."""
    bench.say("starting two processes")
    store, told = meeting(COUNT)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        spawn(_work, (told, bench.rounds or 15, dict(steps), found), COUNT)
        taken, differs = json.loads(found.read_text())
    del store  # it serves until here
    for rows, times in taken.items():
        setting = f"batch {rows}, on the CPU"
        yield [
            Record(setting, name, figures(values, times[TWO]) | {"peak_MiB": None}) for name, values in times.items()
        ]
    setting = "the bound, together and alone, 24 steps in float64"
    yield [Record(setting, "largest difference", {"nats_per_row": differs})]


def _work(rank: int, told: dict[str, str], rounds: int, steps: dict[int, int], found: Path) -> None:
    os.environ |= {**told, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    processes, _ = join("cpu")
    taken = {rows: _compare(processes, rows, many, rounds) for rows, many in steps.items()}
    differs = _difference(processes)
    if processes.first:
        found.write_text(json.dumps([taken, differs]))


def _compare(processes: Processes, rows: int, steps: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a step, round by round; none in the second process."""
    table = _bits(rows, torch.float32)
    alone, together = _stepper(table, ALONE, torch.float32), _stepper(table, processes, torch.float32)
    gradients = torch.zeros(sum(p.numel() for p in ppvae.make("vae", FEATURES, LATENTS, hidden=(HIDDEN,)).parameters()))
    ways: dict[str, tuple[int, bool, Callable[[], object]]] = {
        ONE: (1, False, alone),
        TWO: (2, False, alone),
        TOGETHER: (1, True, together),
        "their sum alone": (1, True, lambda: processes.add(gradients)),
    }
    order = random.Random(0)  # the same in both processes
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round in range(-1, rounds):
        for name in order.sample(list(ways), len(ways)):
            threads, both, step = ways[name]
            dist.barrier()
            if both or processes.first:
                torch.set_num_threads(threads)
                took = _milliseconds(step, steps if round >= 0 else WARM_UP)
                torch.set_num_threads(1)
                if round >= 0:
                    taken[name].append(took)
            dist.barrier()
    return taken


def _milliseconds(step: Callable[[], object], steps: int) -> float:
    step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return 1e3 * (time.perf_counter() - began) / steps


def _difference(processes: Processes) -> float:
    table = _bits(101, torch.float64)
    alone, together = (_stepper(table, who, torch.float64) for who in (ALONE, processes))
    largest = 0.0
    for turn in range(24):
        bounds = []
        for step in (alone, together):
            torch.manual_seed(turn)
            bounds.append(float(step()[0]))
        largest = max(largest, abs(bounds[0] - bounds[1]))
    return largest


def _stepper(table: Table, processes: Processes, dtype: torch.dtype) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    pair = ppvae.make("vae", FEATURES, LATENTS, hidden=(HIDDEN,)).to(dtype)
    update = Update(pair, ppvae.elbo(), list(pair.parameters()), processes=processes)
    done, share = torch.zeros((), dtype=torch.float64), processes.share(len(table))
    own = table.rows(share.rows)
    batch = table if processes.alone else Part(own.values, own.masks, own.total, share)
    return lambda: update(batch, done)


def _bits(rows: int, dtype: torch.dtype) -> Table:
    torch.manual_seed(1)
    x = (torch.rand(rows, FEATURES) < 0.3).to(dtype)
    return enter(ppvae.make("vae", FEATURES, LATENTS, hidden=(HIDDEN,)).to(dtype), x)
