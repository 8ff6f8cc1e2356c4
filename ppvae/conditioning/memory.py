"""How much memory a block may take, and how its lack shows."""

from __future__ import annotations

from pathlib import Path

import torch

BLOCK_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}  # of one temporary, where memory abounds
SHARE = 32  # a block holds several temporaries, and a network's inner layers may be wider than what it gives


def block_bytes(device: torch.device) -> int:
    """The bytes of one temporary of a block: those of `BLOCK_BYTES`, and at most a 32nd of what is free.

    Rounded down to a power of two, so that the same seed gives the same blocks, and the same draws, also where somewhat
    more or less is free.
    """
    most = BLOCK_BYTES["cuda" if device.type == "cuda" else "cpu"]
    free = free_bytes(device)
    return most if free is None else min(most, 2 ** max((free // SHARE).bit_length() - 1, 0))


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
