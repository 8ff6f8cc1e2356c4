"""A fit that can be interrupted: everything it needs to go on bit for bit, in one file written whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.errors import Problem
from ppvae.files import write_whole


class Checkpoint:
    """The state of a fit between two epochs, in memory, and in a file where a path is given.

    Args:
        path: the file; where it exists the state is read from it, generators included.
        model: the modules that are fitted.
        optimizer: theirs.
        of: what the fit is of (options, rows); a file of another fit is refused. In how many processes it was fitted is no
            part of that.
        writes: whether this process writes the file; every one reads it.
    """

    def __init__(
        self,
        path: str | Path | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        of: dict[str, Any],
        writes: bool = True,
    ) -> None:
        self.path, self.model, self.optimizer, self.of, self.writes = path, model, optimizer, of, writes
        self.home = next(model.parameters()).device
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch, self.best_bound = 0, -math.inf
        if path is not None and Path(path).exists():
            self._read()

    def write(self, record: dict[str, Any]) -> None:
        """Take an epoch's record in, note the best state by held-out bound, and write the file."""
        self.history.append(record)
        if record.get("held_out", -math.inf) > self.best_bound:
            self.best_bound, self.best_epoch = record["held_out"], record["epoch"]
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        if self.path is not None and self.writes:
            state = {
                "of": self.of,
                "history": self.history,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "best_bound": self.best_bound,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "cpu": torch.get_rng_state(),
                "cuda": [torch.cuda.get_rng_state(self.home)] if self.home.type == "cuda" else [],
            }
            write_whole(self.path, lambda draft: torch.save(state, draft))

    def restore_best(self) -> None:
        if self.best:
            self.model.load_state_dict(self.best)

    def _read(self) -> None:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise Problem(
                f"the checkpoint {self.path} cannot be read",
                f"a damaged file, or one of something else ({type(error).__name__})",
                "move it away to start anew",
            ) from error
        if not isinstance(state, dict) or "of" not in state:
            raise Problem(f"{self.path} is no checkpoint", "a file of something else", "another path")
        was = state["of"]
        differs = [
            f"{key} was {was.get(key)!r} and is {value!r}" for key, value in self.of.items() if was.get(key) != value
        ]
        if differs:
            raise Problem(
                f"the checkpoint {self.path} is of another fit: {'; '.join(differs)}",
                "other data or options under the same path",
                "the same call as before, another path, or remove that file to start anew",
            )
        self.history[:] = state["history"]
        self.best, self.best_epoch, self.best_bound = state["best"], state["best_epoch"], state["best_bound"]
        self.model.load_state_dict(state["model"])
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0]["lr"] = rate.fill_(float(self.optimizer.param_groups[0]["lr"]))  # on its device
        torch.set_rng_state(state["cpu"])
        if state["cuda"] and self.home.type == "cuda":  # each process has a GPU of its own, and the same numbers on it
            torch.cuda.set_rng_state(state["cuda"][0], self.home)
