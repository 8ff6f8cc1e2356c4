"""A fit that can be interrupted: everything it needs to go on bit for bit, in its run folder."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.catalogue import record_of
from ppvae.errors import Caution, Problem
from ppvae.files import read_record, write_record
from ppvae.fitting.diagnosis import Before
from ppvae.fitting.folder import BEST, LAST, PREVIOUS, Folder
from ppvae.fitting.passes import Position
from ppvae.pair import Pair

EVERY = 10.0  # seconds between two checkpoints at least: what a process that is killed loses
SHARE = 50  # a checkpoint that takes long is written less often: after so many times its own time
FORMAT = 2
KINDS = {"of": dict, "history": list, "best": dict, "best_epoch": int, "best_bound": float, "device": str, "cuda": list}


class Checkpoint:
    """The state of a fit between two steps, in memory, and in a run folder where one is given.

    Args:
        path: the folder; where it holds a checkpoint the state is read from it, generators included.
        model: the modules that are fitted.
        optimizer: theirs.
        of: what the fit is of (options, rows); a checkpoint of another fit is refused. In how many processes it was fitted is
            no part of that.
        pair: what `ppvae.load` reads from it.
        writes: whether this process writes; every one reads.

    Attributes:
        history: the records of the epochs that are done.
        position: where in the next epoch it stands; None at its beginning.
    """

    def __init__(
        self,
        path: str | Path | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        of: dict[str, Any],
        pair: Pair,
        writes: bool = True,
    ) -> None:
        self.model, self.optimizer, self.of, self.pair = model, optimizer, of, pair
        self.home = next(model.parameters()).device
        self.history: list[dict[str, Any]] = []
        self.position: Position | None = None
        self.best: dict[str, Tensor] = {}
        self.best_epoch, self.best_bound = 0, -math.inf
        folder = None if path is None else Folder(path, of)
        if folder is not None:
            self._resume(folder)
        self.folder = folder if writes else None
        if self.folder is not None:
            self.folder.begin(len(self.history))
        self.kept, self.wait, self.written = len(self.history), EVERY, time.monotonic()

    @contextmanager
    def whole(self, epoch: int) -> Iterator[Before]:
        """An epoch is done or it is not: one that is broken off, by Ctrl-C too, leaves the state before it, which is written."""
        before, start = None, self.position
        try:
            before = Before(self.model, self.optimizer)
            yield before
        except BaseException:
            if before is not None and len(self.history) == epoch:
                before.restore()
                self.position = start
            self.finish()
            raise

    def add(self, record: dict[str, Any]) -> None:
        """Take an epoch's record in and note the best state by held-out bound; write where it is time."""
        if record.get("held_out", -math.inf) > self.best_bound:
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.best_bound, self.best_epoch = record["held_out"], record["epoch"]
        self.position = None
        self.history.append(record)  # last: what is broken off before is done again
        if not self.kept or self._due():
            self.write()

    def pause(self, position: Position) -> None:
        """Between two steps: write where it is time."""
        if self._due():
            self.position = position
            self.write()

    def finish(self) -> None:
        """Write what is not written yet. The state is that after the last of the records."""
        if self.kept < len(self.history):
            self.write()

    def write(self) -> None:
        """Write the state; the checkpoint that stood there is kept beside it."""
        if self.folder is None:
            return
        began, path = time.monotonic(), self.folder.path
        state = record_of(self.pair) | {
            "format": FORMAT,
            "of": self.of,
            "history": self.history,
            "position": None if self.position is None else vars(self.position),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_bound": self.best_bound,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "device": self.home.type,
            "cpu": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state(self.home)] if self.home.type == "cuda" else [],
        }
        self.folder.write_metrics(self.history)
        if self.best_epoch > self.kept:
            best = {name.removeprefix("0."): value for name, value in self.best.items() if name.startswith("0.")}
            notes = {"epoch": self.best_epoch, "held_out": self.best_bound}
            write_record(path / BEST, record_of(self.pair) | {"state": best, "notes": notes})
        write_record(path / LAST, state, before=path / PREVIOUS)
        self.kept, self.written = len(self.history), time.monotonic()
        self.wait = max(EVERY, SHARE * (self.written - began))

    def restore_best(self) -> None:
        if self.best:
            self.model.load_state_dict(self.best)

    def _due(self) -> bool:
        return self.folder is not None and time.monotonic() - self.written >= self.wait

    # --- going on ---------------------------------------------------------------------------------------

    def _resume(self, folder: Folder) -> None:
        """From the newest checkpoint that can be read."""
        damaged = None
        for path in folder.checkpoints:
            try:
                state = read_record(path)
            except Problem as problem:
                damaged = damaged or problem
                continue
            if damaged is not None:
                warnings.warn(f"{damaged.seen}: going on from the checkpoint before it, {path}", Caution, stacklevel=4)
            self._take(path, state)
            return
        if damaged is not None:
            raise Problem(damaged.seen, damaged.cause, f"move {folder.path} away to start anew") from damaged

    def _take(self, path: Path, state: dict[str, Any]) -> None:
        try:
            self._refuse_other(path, state)
            self._restore(state)
        except Problem:
            raise
        except Exception as error:  # modules, optimizer and generators each raise their own kind
            raise Problem(
                f"the checkpoint {path} does not hold what a fit goes on from ({type(error).__name__}: {error})",
                "another version of ppvae wrote it, or somebody did",
                "the version that wrote it, or another folder to start anew",
            ) from error

    def _restore(self, state: dict[str, Any]) -> None:
        wrong = [name for name, kind in KINDS.items() if not isinstance(state[name], kind)]
        if not wrong and [record["epoch"] for record in state["history"]] != list(range(1, len(state["history"]) + 1)):
            wrong = ["history"]
        if not wrong and state["best"] and state["best"].keys() != state["model"].keys():
            wrong = ["best"]
        if wrong:
            raise ValueError(", ".join(wrong))
        self.history[:] = state["history"]
        self.best, self.best_epoch, self.best_bound = state["best"], state["best_epoch"], state["best_bound"]
        if state["position"] is not None:
            self.position = Position(**state["position"])
        self.model.load_state_dict(state["model"])
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0]["lr"] = rate.fill_(float(self.optimizer.param_groups[0]["lr"]))  # on its device
        torch.set_rng_state(state["cpu"])
        if state["cuda"] and self.home.type == "cuda":  # each process has a GPU of its own, and the same numbers on it
            torch.cuda.set_rng_state(state["cuda"][0], self.home)

    def _refuse_other(self, path: Path, state: dict[str, Any]) -> None:
        if "of" not in state:
            raise Problem(f"{path} is no checkpoint", "a pair that was saved under its name", "another folder")
        if state.get("format") != FORMAT:
            raise Problem(
                f"the checkpoint {path} has the format {state.get('format')!r} and not {FORMAT}",
                "another version of ppvae wrote it",
                "the version that wrote it, or another folder to start anew",
            )
        was = state["of"]
        differs = [
            f"{key} was {was.get(key)!r} and is {value!r}" for key, value in self.of.items() if was.get(key) != value
        ]
        if differs:
            raise Problem(
                f"the checkpoint {path} is of another fit: {'; '.join(differs)}",
                "other data or options under the same path",
                f"the same call as before, or another folder; or remove {path.parent} to start anew",
            )
        if state["position"] is not None and state["device"] != self.home.type:
            raise Problem(
                f"the checkpoint {path} stands in the middle of an epoch on {state['device']}, and the fit goes on {self.home.type}",
                "the order of its rows was drawn there",
                f"device={state['device']!r}; a checkpoint between two epochs goes on anywhere",
            )
