"""Run a command in several processes on this machine: the environment that torchrun would give them, one output, one exit
code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import IO, Any

import torch
from torch.multiprocessing import ProcessContext, ProcessExitedException, ProcessRaisedException, spawn

from ppvae.cli.shared import Terminated
from ppvae.errors import Problem
from ppvae.fitting.processes import GRACE, cores, meeting
from ppvae.machine import device_of

PATIENCE = 30.0  # seconds that the first process has to end itself after Ctrl-C


def in_processes(count: int, device: str) -> int:
    """Run this very command in so many processes; the threads of one are divided among them.

    The first process speaks; what another says is shown where it alone failed. Where one ends otherwise than it should, all
    are ended. Ctrl-C reaches each of them once.

    Returns:
        The exit code: that of the process that failed, 130 after Ctrl-C, or 143 after SIGTERM.

    Raises:
        Problem: more processes than there are places for, or one that was ended from outside.
    """
    _refuse_places(count, device)
    store, told = meeting(count)
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count))}
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # that it ends the others is no news
    resource_tracker.ensure_running()  # where it starts in what follows, it lets Ctrl-C through again
    with tempfile.TemporaryDirectory() as said:
        with _environment({**told, **threads}), _no_interrupt():
            context = spawn(_work, (sys.argv, said), count, join=False)
        code = _wait(context, Path(said))
    del store  # it serves until here
    return code


def _work(rank: int, words: list[str], said: str) -> None:
    """One process: the command, as it would run alone."""
    from ppvae.cli import main

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    sys.argv = words
    if rank > 0:
        _redirect(sys.stdout, os.devnull)
        _redirect(sys.stderr, f"{said}/{rank}")
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a terminal's Ctrl-C goes to the process that started this one, which passes it on
    try:
        _allow_interrupt()
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as end:
        if rank > 0 and end.code not in (0, None, 130):
            time.sleep(GRACE)  # the first says the same, and is heard
        raise


def _wait(context: ProcessContext, said: Path) -> int:
    try:
        while not context.join():
            pass
    except KeyboardInterrupt as stop:
        _interrupt(context)
        return 143 if isinstance(stop, Terminated) else 130
    except ProcessRaisedException as error:
        print(error, file=sys.stderr)
        return 1
    except ProcessExitedException as error:
        if error.signal_name is not None:
            raise Problem(
                f"process {error.error_index + 1} of {len(context.processes)} was ended by {error.signal_name}",
                "somebody ended it, or the system did for want of memory",
                "fewer processes; the same command goes on from the last whole epoch",
            ) from None
        if error.error_index > 0:
            print((said / str(error.error_index)).read_text(), end="", file=sys.stderr)
        return error.exit_code
    return 0


def _interrupt(context: ProcessContext) -> None:
    """Ctrl-C for all of them; the first has time to put things away."""
    try:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        context.processes[0].join(PATIENCE)
    finally:
        for process in context.processes:
            process.terminate()
            process.join()


def _refuse_places(count: int, device: str) -> None:
    gpu = device_of(device).type == "cuda"
    places = torch.cuda.device_count() if gpu else cores()
    if count > places:
        raise Problem(
            f"--processes is {count} and there {'is' if places == 1 else 'are'} {places} {'GPU' if gpu else 'core'}"
            f"{'' if places == 1 else 's'}",
            "each process needs one of its own: more of them would wait for one another",
            f"--processes {places}",
        )


@contextmanager
def _environment(told: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= told
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits, in processes that are started here too, until they are ready for it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        _allow_interrupt()


def _allow_interrupt() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _redirect(stream: IO[Any], path: str) -> None:
    stream.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(handle, stream.fileno())
    os.close(handle)
