"""The folder of a run: what a person reads, beside the checkpoints that a fit goes on from.

    config.json       what is fitted: the pair, the objective, the options, sums by which the data are known again
    environment.json  where, and with which versions, once for each time that it was begun or gone on with
    metrics.jsonl     one record an epoch, a line each
    last.pt           the newest checkpoint, and previous.pt the one before it; `ppvae.load` reads either
    best.pt           the pair with the best held-out bound, where rows are held out

Every file is written whole or not at all.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ppvae.errors import Problem
from ppvae.files import draft_prefix, write_whole
from ppvae.machine import machine

CONFIG, ENVIRONMENT, METRICS = "config.json", "environment.json", "metrics.jsonl"
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
WRITTEN = (CONFIG, ENVIRONMENT, METRICS, LAST, PREVIOUS, BEST)
COMMAND = "command.json"  # of `ppvae fit`, which makes the folder


class Folder:
    """One run's folder.

    Args:
        path: made where it does not exist.
        of: what is fitted.

    Raises:
        Problem: a path that is a file, a folder of something else, one that cannot be written to.
    """

    def __init__(self, path: str | Path, of: dict[str, Any]) -> None:
        self.path, self.of = Path(path), of
        make_folder(self.path)

    @property
    def checkpoints(self) -> list[Path]:
        """Those that exist, the newest first."""
        return [path for path in (self.path / LAST, self.path / PREVIOUS) if path.exists()]

    def begin(self, epochs: int) -> None:
        """Say what is fitted, and where, with so many epochs behind; tidy up after a process that was killed in a write."""
        for name in WRITTEN:
            for draft in self.path.glob(f"{draft_prefix(Path(name))}*"):
                draft.unlink(missing_ok=True)
        self._write(CONFIG, json.dumps(self.of, indent=2, default=str) + "\n")
        try:
            told = json.loads((self.path / ENVIRONMENT).read_text())
        except (OSError, ValueError):
            told = []
        began = {"began": time.strftime("%Y-%m-%d %H:%M:%S %z"), "epochs_behind": epochs}
        self._write(ENVIRONMENT, json.dumps([*told, {**began, **machine()}], indent=2) + "\n")

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        self._write(METRICS, "".join(json.dumps(record) + "\n" for record in history))

    def _write(self, name: str, text: str) -> None:
        write_whole(self.path / name, lambda draft: Path(draft).write_text(text))


def make_folder(path: Path) -> None:
    """Make the folder of a run where it does not exist.

    Raises:
        Problem: as `refuse_other`; a place that may not be written to.
    """
    refuse_other(path)
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise Problem(
            f"the folder {path} cannot be made ({error.strerror})",
            "a full disk, or a place that may not be written to",
            "another path",
        ) from error


def refuse_other(path: Path) -> None:
    """Refuse a file, a folder of something else, and no folder to make it in."""
    if path.exists() and not path.is_dir():
        raise Problem(f"{path} is a file", "a run is kept in a folder", f"another path, such as {path}-run")
    if not path.parent.is_dir():
        raise Problem(f"there is no folder {path.parent}", "a misspelt path", f"mkdir -p {path.parent}")
    found = {file.name for file in path.iterdir() if not file.name.startswith(".")} if path.is_dir() else set()
    if found and not found & {CONFIG, COMMAND}:
        raise Problem(
            f"the folder {path} holds {min(found)!r} and no run",
            "a folder of something else",
            f"one that does not exist yet, such as {path / 'run'}",
        )
