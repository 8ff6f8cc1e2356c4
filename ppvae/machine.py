"""The device that work runs on: its generators of random numbers, and its memory."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

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


def machine() -> dict[str, Any]:
    """The machine in words: processor, cores, GPU, and the versions that figures depend on."""
    return {
        "system": platform.platform(terse=True),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("pyro-ppl", "numpy", "ppvae")},
    }


def free_bytes(device: torch.device) -> int | None:
    """What can be taken without pushing anything out; None where the system does not say."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, not in use
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines)
    return int(found["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in found else None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was asked for and not there. Pyro raises such errors anew, of the same type."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    said = ("DefaultCPUAllocator", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)
