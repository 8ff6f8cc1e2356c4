"""The device that work runs on, and its generators of random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ppvae.errors import Problem


@contextmanager
def own_generators(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def device_of(device: str | torch.device) -> torch.device:
    """The device of that name; "auto": a GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise Problem(f"there is no device {device!r}", "a misspelt name", "auto, cpu, or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Problem(
            "the device is cuda and torch sees no GPU", "no GPU here, or a CPU build of torch", "device='auto'"
        )
    return device
