"""Several processes that fit one pair: which they are, and what they say to one another.

`torchrun` starts them and ends all where one ends; `torch.distributed` carries the sums, over gloo on CPUs and over nccl on
GPUs. Here is no engine: a process asks who it is, which rows of a batch are its own, and for sums.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ppvae.errors import Caution, Problem
from ppvae.machine import device_of
from ppvae.tracing.shared import observed_together
from ppvae.tracing.whole import Share

HOME = "127.0.0.1"
TIMEOUT = timedelta(minutes=10)  # for one that neither comes nor ends
GRACE = 3.0  # seconds that a process waits to be ended with the others, before it speaks for itself


@dataclass(frozen=True)
class Processes:
    """The processes of one fit, as one of them sees them.

    Attributes:
        rank: its own number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, total: int) -> Share:
        """The rows of a batch of ``total`` that are this process's own: as many as the others', or one more."""
        each, more = divmod(total, self.size)
        count = each + (self.rank < more)
        return Share(self.rank * each + min(self.rank, more) if count else 0, count, total)

    def add(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place; all get the same bits."""
        if not self.alone:
            with _together():
                dist.all_reduce(tensor)
        return tensor

    def observing(self, share: Share) -> AbstractContextManager[None]:
        """In it, whatever is drawn in tensors of own rows is drawn as for the whole batch."""
        return nullcontext() if self.alone else observed_together(share, self.add)

    def copy(self, module: nn.Module) -> None:
        """Give all processes the first one's parameters and buffers."""
        if not self.alone:
            with _together():
                for tensor in (*(p.data for p in module.parameters()), *module.buffers()):  # those not saved, too
                    dist.broadcast(tensor, 0)

    def agree(self, seen: dict[str, Any]) -> None:
        """Refuse to go on where the processes do not see the same.

        Raises:
            Problem: in all of them, with what differs.
        """
        first, *others = self.gathered(seen)
        for rank, other in enumerate(others, 1):
            differs = [f"{k} is {first.get(k)!r} and {other.get(k)!r}" for k in first if first.get(k) != other.get(k)]
            if differs:
                raise Problem(
                    f"the processes do not fit the same: in the first and in number {rank + 1} {'; '.join(differs)}",
                    "they read other data, drew them without a seed, or are meant to fit each for itself",
                    "the same rows and options in each process; for fits side by side start each without torchrun",
                )

    def agreed(self, record: dict[str, Any]) -> dict[str, Any]:
        """The first process's record of an epoch, in all.

        Raises:
            Problem: the generators fell out of step.
        """
        if self.alone:
            return record
        found = self.gathered((record, _generators()))
        if len({generators for _, generators in found}) > 1:
            raise Problem(
                "the processes' generators of random numbers are no longer in step",
                "the pair, its objective or redraw takes as many random numbers as its values make it take",
                "one process",
            )
        return found[0][0]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """In it, a caution that the first process gives is not given again."""
        with warnings.catch_warnings() if not self.first else nullcontext():
            if not self.first:
                warnings.simplefilter("ignore", Caution)
            yield

    def gathered(self, value: Any) -> list[Any]:
        """The value of each process, in all."""
        if self.alone:
            return [value]
        found = [None] * self.size
        with _together():
            dist.all_gather_object(found, value)
        return found


ALONE = Processes()


def join(device: str | torch.device) -> tuple[Processes, torch.device]:
    """The processes of this fit, and the device that this one works on.

    Where `torch.distributed` was not begun, and `torchrun` says that there are several processes, it is begun here.

    Raises:
        Problem: more processes than GPUs, a GPU by number, an environment that is not torchrun's.
    """
    device = device_of(device)
    begun = dist.is_available() and dist.is_initialized()
    if (dist.get_world_size() if begun else int(os.environ.get("WORLD_SIZE", 1))) == 1:
        return ALONE, device
    _refuse_shared_gpus(device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if not begun:
        _caution_few_cores(device)
        _begin("nccl" if device.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size()), device


def meeting(count: int) -> tuple[dist.TCPStore, dict[str, str]]:
    """A place where so many processes of this machine meet, at a port that the system chose, and what their environment
    must say of it, as torchrun's does. Each also needs ``RANK`` and ``LOCAL_RANK``."""
    store = dist.TCPStore(HOME, 0, None, True, wait_for_workers=False)
    return store, {
        "MASTER_ADDR": HOME,
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def cores() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(backend: str) -> None:
    lacking = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if lacking or not dist.is_available():
        raise Problem(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and "
            + (f"{', '.join(lacking)} not set" if lacking else "this torch was built without torch.distributed"),
            "something else than torchrun set it, or a build of torch for one process",
            "torchrun --nproc-per-node=2 script.py; for one process: unset WORLD_SIZE",
        )
    with _together():
        dist.init_process_group(backend, timeout=TIMEOUT)
    atexit.register(_end)
    if dist.get_rank() > 0:
        sys.excepthook = _after_the_first(sys.excepthook)


def _end() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _refuse_shared_gpus(device: torch.device) -> None:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device.type == "cuda" and (here > torch.cuda.device_count() or (device.index is not None and here > 1)):
        raise Problem(
            f"{here} processes on this machine, {torch.cuda.device_count()} GPUs, and device={str(device)!r}",
            "each process needs a GPU of its own",
            "as many processes as GPUs and device='cuda'; or device='cpu'",
        )


def _caution_few_cores(device: torch.device) -> None:
    here, first = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), os.environ.get("LOCAL_RANK", "0") == "0"
    if device.type == "cpu" and here > cores() and first:
        warnings.warn(
            f"{here} processes on {cores()} cores\n  Likely cause: more of them than the processor has\n"
            f"  Try: {cores()} processes; more of them wait for one another",
            Caution,
            stacklevel=4,
        )


@contextmanager
def _together() -> Iterator[None]:
    """What processes do together fails in all where one has ended: whoever started them ends them then, and the one that
    failed has said why. So a process waits for its end before it says anything."""
    try:
        yield
    except RuntimeError as error:
        time.sleep(GRACE)
        raise Problem(
            f"the other processes of this fit cannot be reached ({str(error).splitlines()[0]})",
            "one of them failed, was ended, or ran out of memory",
            "look for its message; with a checkpoint the same call goes on from the last whole epoch",
        ) from error


def _after_the_first(hook: Any) -> Any:
    """Problems are mostly the same in all processes: the others wait for the first to say it, whereupon all are ended."""

    def said(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        if isinstance(error, Problem):
            time.sleep(GRACE)
        hook(kind, error, traceback)

    return said


def _generators() -> tuple[int, ...]:
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]
    return tuple(zlib.crc32(state.numpy().tobytes()) for state in states)
