"""How many bits the products of a fit are given. Log-probabilities and weights have float32's in any case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ppvae.errors import Problem
from ppvae.pair import Pair

PRECISIONS = ("float32", "tf32", "bf16")
PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


@contextmanager
def precise(pair: Pair, precision: str) -> Iterator[None]:
    """Run a pair's products with that precision; afterwards as it was.

    - "float32": what the parameters are; nothing is rounded below them.
    - "tf32": a GPU may round the factors of products to 10 bits. On a CPU oneDNN's products are used where they are found
      to round no more than float32 does: on some processors they take half the time of the usual ones.
    - "bf16": linear and convolutional layers run under `torch.autocast`, 8 bits; what they return is float32 again, and so
      are draws, log-probabilities, weights, and the parameters.

    Raises:
        Problem: less precision for parameters in float64, or bf16 for a guide that is declared exact.
    """
    double = any(p.dtype == torch.float64 for p in pair.parameters())
    if precision != "float32" and (double or (precision == "bf16" and pair.exact)):
        raise Problem(
            f"precision is {precision!r} and the pair {'has parameters in float64' if double else 'has an exact guide'}",
            "its answers are meant to hold to float64's rounding, or to be exact: shorter products would spoil them",
            "precision='float32', which leaves every type as it is",
        )
    home = next(pair.parameters()).device.type
    with _products(precision, home), _layers(pair, home) if precision == "bf16" else nullcontext():
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
def _layers(pair: Pair, home: str) -> Iterator[None]:
    """The pair's layers that multiply by weights, under autocast, their results in the parameters' type.

    Not whole networks: a head makes its distribution inside, of what the last layer returned.
    """
    layers = [module for module in pair.modules() if isinstance(module, PRODUCTS)]
    own = [vars(layer).get("forward") for layer in layers]  # somebody's patch, or nothing: then the class's counts
    for layer in layers:
        vars(layer)["forward"] = _short(layer.forward, home)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del vars(layer)["forward"]
            if forward is not None:
                vars(layer)["forward"] = forward


def _short(forward: Callable[[Tensor], Tensor], home: str) -> Callable[[Tensor], Tensor]:
    def shortened(h: Tensor) -> Tensor:
        with torch.autocast(home, torch.bfloat16, cache_enabled=False):  # a cached cast would be frozen when staged
            return forward(h).float()

    return shortened
