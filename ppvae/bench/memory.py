"""The memory that a variant's tensors hold at the peak of a call: its parameters, moments and buffers, and what a call adds.

On a CPU it is summed from the allocations that torch's profiler reports from before the variant is built, which do not
depend on what the machine did before; what a BLAS keeps for itself is not among them. On a GPU it is what torch's
allocator took from the device, in its blocks of 2 MiB and more, so that the pool of a CUDA graph counts too.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile, record_function

MEASURED = "ppvae.bench: measured"
BEFORE = 5  # calls until a step is staged, compared and recorded, and an optimizer has its moments


def built(build: Callable[[], Callable[[], object]], device: torch.device) -> tuple[Callable[[], object], float]:
    """Build a variant and call it: what does the work, and the bytes held at the peak of a later call."""
    gc.collect()
    return _on_gpu(build, device) if device.type == "cuda" else _on_cpu(build)


def _on_gpu(build: Callable[[], Callable[[], object]], device: torch.device) -> tuple[Callable[[], object], float]:
    before = _reserved(device)
    run = build()
    for _ in range(BEFORE):
        run()
    _reserved(device)  # gives back what only building took
    run()
    torch.cuda.synchronize(device)
    return run, float(torch.cuda.memory_reserved(device) - before)


def _reserved(device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def _on_cpu(build: Callable[[], Callable[[], object]]) -> tuple[Callable[[], object], float]:
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run = build()
        for _ in range(BEFORE):
            run()
        with record_function(MEASURED):
            run()
    events = recorded.profiler.kineto_results.events()
    began = next(event.start_ns() for event in events if event.name() == MEASURED)
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = sum(change for when, change in changes if when < began)
    peak = held
    for _, change in ((when, change) for when, change in changes if when >= began):
        held += change
        peak = max(peak, held)
    return run, float(peak)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that the profiler's C++ side writes to standard error, whatever the level of its log."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
