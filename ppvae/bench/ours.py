"""This library's steps, one class for all cases: the one place that knows how `ppvae.fit` steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ppvae
from ppvae.bench.by_hand import RATE
from ppvae.bench.harness import Unavailable, Variant
from ppvae.bench.run import Bench
from ppvae.door import enter
from ppvae.fitting.precision import precise
from ppvae.fitting.update import Update
from ppvae.pair import Pair


class Mode(NamedTuple):
    """How a step runs: `ppvae.fit`'s ``compile``, whether it is recorded as a CUDA graph, as there, or not, and ``precision``
    (of which bf16, by layers' hooks, is not timed)."""

    compile: str
    recorded: bool = True
    precision: str = "float32"


MODES = {
    "ppvae, eager": Mode("off"),
    "ppvae, staged": Mode("auto", recorded=False),
    "ppvae, staged, tf32": Mode("auto", recorded=False, precision="tf32"),
    "ppvae, Inductor": Mode("inductor", recorded=False),
    "ppvae, Inductor, tf32": Mode("inductor", recorded=False, precision="tf32"),
}
ON_GPU = {"ppvae, staged, CUDA graph": Mode("auto"), "ppvae, Inductor, CUDA graph": Mode("inductor")}
STAGED = Mode("auto")


class Ours:
    """A step as `ppvae.fit` makes it: the gradients of the mean bound, and fused Adam.

    Args:
        pair: trained in place.
        x: the batch, as `ppvae.fit` takes it.
        objective: a bound per row.
        mode: how it runs.
    """

    def __init__(self, pair: Pair, x: Any, objective: Callable, mode: Mode = STAGED) -> None:
        self._update = Update(pair, objective, list(pair.parameters()), RATE, compile=mode.compile)
        if not mode.recorded:
            self._update.uncaptured = self._update.uncaptured or "asked for"
        with precise(pair, mode.precision):
            self._products = torch.get_float32_matmul_precision()
        self._table = enter(pair, x)
        self._done = torch.zeros((), dtype=torch.float64, device=next(pair.parameters()).device)

    def __call__(self) -> Tensor:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self._products)
        try:
            return self._update(self._table, self._done)
        finally:
            torch.set_float32_matmul_precision(before)

    @property
    def eager(self) -> str:
        """Why it runs eagerly; empty where it is staged."""
        how = self._update.how
        return how if how.startswith("eager") else ""


def modes(bench: Bench, make: Callable[[], Pair], x: Tensor, objective: Callable) -> dict[str, Variant]:
    """The step in every mode that this machine has, each with a pair of its own."""
    ppvae.check(make().to(bench.device), x)

    def build(mode: Mode) -> Ours:
        step = Ours(make().to(bench.device), x, objective, mode)
        step()
        if mode.compile != "off" and step.eager:
            raise Unavailable(step.eager)
        return step

    had = MODES | (ON_GPU if bench.device.type == "cuda" else {})
    return {name: Variant(lambda mode=mode: build(mode)) for name, mode in had.items()}


def bits(bench: Bench, rows: int, features: int) -> Tensor:
    """Rows of bits, three in ten of them 1, (N, D)."""
    draw = torch.Generator().manual_seed(bench.seed)
    return torch.bernoulli(torch.full((rows, features), 0.3), generator=draw).to(bench.device)
