"""The time until the first step of every pair of the catalogue: construction, then staging; batch 128, 784 features.

An eager first step is beside it: what staging adds. Covariates and rows are drawn from the pair's own story beforehand.
Torch's tracing machinery is imported once a process, at the first staging: the last setting is a new process, from its
first import to the end of its first step.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

import ppvae
from ppvae.bench.harness import spread, wait
from ppvae.bench.ours import STAGED, Mode, Ours
from ppvae.bench.run import Bench, Record
from ppvae.pair import Pair

SECONDS = 60
REPEATS = 3
COVARIATES: dict[str, Callable[[int, int], Tensor]] = {
    "label": lambda rows, latents: torch.randint(10, (rows,)),
    "inputs": lambda rows, latents: torch.randn(rows, latents),
}
NEW_PROCESS = """
import time; began = time.perf_counter()
import torch, ppvae
imported = time.perf_counter()
from ppvae.bench.ours import Ours
pair = ppvae.make("vae", {features}, {latents}).to("{device}")
Ours(pair, torch.ones({rows}, {features}), ppvae.elbo())()
print(imported - began, time.perf_counter() - imported)
"""


def case(
    bench: Bench, names: Sequence[str] | None = None, rows: int = 128, features: int = 784, latents: int = 20
) -> Iterator[list[Record]]:
    """Time the first step of each pair, and of a new process."""
    repeats = bench.rounds or REPEATS
    for name in names or ppvae.names():
        bench.say(name)

        def make(name: str = name) -> Pair:
            return ppvae.make(name, features, latents).to(bench.device)

        made = make()
        needed = [entry for entry, must in made.entries.items() if must and entry != "x"]
        given = {entry: COVARIATES[entry](rows, latents).to(bench.device) for entry in needed}
        with torch.no_grad():
            x = {"x": made.model(size=rows, **given), **given}
        staged = [first(bench, name, make, x, STAGED) for _ in range(repeats)]
        eager = [first(bench, name, make, x, Mode("off")) for _ in range(repeats)]
        yield [Record("each pair", name, _figures(staged, eager))]
    bench.say("a new process")
    yield [Record("a new process", "vae", new_process(bench, rows, features, latents, repeats))]


def first(
    bench: Bench, name: str, make: Callable[[], Pair], x: dict[str, Tensor], mode: Mode
) -> tuple[float, float, float]:
    """Seconds of construction, of the first step, and of the third (the second checks the first)."""
    began = time.perf_counter()
    pair = make()
    wait(bench.device)
    made = time.perf_counter()
    step = Ours(pair, x, ppvae.elbo(), mode)
    step()
    wait(bench.device)
    stepped = time.perf_counter()
    step()
    wait(bench.device)
    again = time.perf_counter()
    step()
    wait(bench.device)
    ended = time.perf_counter()
    if mode.compile != "off" and step.eager:
        bench.leave_out(f"{name}, staged", step.eager)
    return made - began, stepped - made, ended - again


def _figures(
    staged: list[tuple[float, float, float]], eager: list[tuple[float, float, float]]
) -> dict[str, float | None]:
    """Medians over repeats, with quartiles where the first step is staged."""
    construction, first_staged, later_staged = (spread(values) for values in zip(*staged, strict=True))
    _, first_eager, later_eager = (spread(values) for values in zip(*eager, strict=True))
    return {
        "construction_ms": 1e3 * construction.median,
        "first_staged_s": first_staged.median,
        "first_staged_s_low": first_staged.low,
        "first_staged_s_high": first_staged.high,
        "first_eager_s": first_eager.median,
        "later_staged_ms": 1e3 * later_staged.median,
        "later_eager_ms": 1e3 * later_eager.median,
    }


def new_process(bench: Bench, rows: int, features: int, latents: int, repeats: int) -> dict[str, float | None]:
    """Seconds of the imports of a new process, and then of construction and the first step of a VAE."""
    program = NEW_PROCESS.format(rows=rows, features=features, latents=latents, device=bench.device)
    found = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        found.append([float(word) for word in done.stdout.split()])
    imports, stepped = (spread(values) for values in zip(*found, strict=True))
    return {
        "import_s": imports.median,
        "first_staged_s": stepped.median,
        "first_staged_s_low": stepped.low,
        "first_staged_s_high": stepped.high,
    }
