"""How many bits the products of a fit are given. Log-probabilities and weights have float32's in any case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ppvae.errors import Problem
from ppvae.pair import Pair

PRECISIONS = ("float32", "tf32", "bf16")


@contextmanager
def precise(pair: Pair, precision: str) -> Iterator[None]:
    """Run a pair's products with that precision; afterwards as it was.

    - "float32": what the parameters are; nothing is rounded below them.
    - "tf32": a GPU may round the factors of products to 10 bits. On a CPU oneDNN's products are used where they are found
      to round no more than float32 does: on some processors they take half the time of the usual ones.
    - "bf16": the pair's networks run under `torch.autocast`, 8 bits; what they return is float32 again, and so are draws,
      log-probabilities, weights, and the parameters.

    Raises:
        Problem: less precision for parameters in float64, or bf16 for a guide that is declared exact.
    """
    double = any(p.dtype == torch.float64 for p in pair.parameters())
    if precision != "float32" and (double or (precision == "bf16" and pair.exact)):
        raise Problem(
            f"precision is {precision!r} and the pair {'has parameters in float64' if double else 'has an exact guide'}",
            "an identity that holds to rounding is wanted of it",
            "precision='float32', which leaves every type as it is",
        )
    home = next(pair.parameters()).device.type
    with _products(precision, home), _networks(pair, home) if precision == "bf16" else _as_they_are():
        yield


@contextmanager
def _as_they_are() -> Iterator[None]:
    yield


@contextmanager
def _products(precision: str, home: str) -> Iterator[None]:
    """PyTorch's switches are global: put back as they were."""
    before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    short = "high" if home == "cuda" else "medium" if _full_in_onednn() else "highest"
    torch.set_float32_matmul_precision(short if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def _full_in_onednn() -> bool:
    """Whether "medium", which lets a CPU round to bfloat16, rounds no more than float32 here."""
    before = torch.get_float32_matmul_precision()
    numbers = torch.Generator().manual_seed(0)
    a, b = (torch.rand(256, 256, generator=numbers) for _ in range(2))  # positive: nothing cancels
    try:
        torch.set_float32_matmul_precision("medium")
        error = ((a @ b).double() / (a.double() @ b.double()) - 1).abs().max()
    finally:
        torch.set_float32_matmul_precision(before)
    return bool(error < 1e-5)  # bfloat16's is 1e-3


@contextmanager
def _networks(pair: Pair, home: str) -> Iterator[None]:
    """The pair's modules under autocast, their results in the parameters' type."""
    modules = list(pair.children())
    for module in modules:
        module.forward = _short(module.forward, home)
    try:
        yield
    finally:
        for module in modules:
            del module.forward  # the class's own again


def _short(forward: Callable, home: str) -> Callable:
    @wraps(forward)
    def shortened(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(
            home, torch.bfloat16, cache_enabled=False
        ):  # a cached cast would have no gradient when staged
            return _widened(forward(*args, **kwargs))

    return shortened


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, (tuple, list)):
        return type(value)(_widened(v) for v in value)
    return value
