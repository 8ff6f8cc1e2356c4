"""An epoch's numbers for TensorBoard, which shows them while a fit goes on: ``tensorboard --logdir FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppvae.errors import Problem


class Events:
    """Writes each epoch's record as scalars: bound, held_out, likelihood, kl/<site>, learning_rate.

    Args:
        folder: of the event files; None: nothing is written.
        history: records of the epochs that lie behind: they are written again, what an earlier process wrote is not shown.

    Raises:
        Problem: TensorBoard is not installed, a folder that cannot be written to.
    """

    def __init__(self, folder: str | Path | None, history: Sequence[dict[str, Any]] = ()) -> None:
        self.writer = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise Problem(
                "TensorBoard is asked for and not installed", "it is no part of ppvae", "pip install tensorboard"
            ) from error
        try:
            self.writer = SummaryWriter(str(folder), purge_step=1)
        except OSError as error:
            raise Problem(
                f"the folder {folder} cannot be written to ({error.strerror})",
                "a file of that name, a full disk, or a place that may not be written to",
                "another folder",
            ) from error
        for record in history:
            self.add(record)

    def add(self, record: dict[str, Any]) -> None:
        if self.writer is None:
            return
        numbers: dict[str, float] = {
            name: record[name] for name in ("bound", "held_out", "likelihood", "learning_rate") if name in record
        }
        numbers |= {f"kl/{name}": value for name, value in record.get("kl", {}).items()}
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, record["epoch"])

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()
