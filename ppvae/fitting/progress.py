"""One line that says how far a fit is, what its bound is in nats per row, and when it will end."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """A progress line on standard error: on a terminal a bar, elsewhere (with ``show=True``) a plain line an epoch."""

    def __init__(self, epochs: int, steps: int, history: list[dict[str, Any]], show: bool | None) -> None:
        terminal = sys.stderr.isatty()
        self.plain = bool(show) and not terminal
        self.epochs, self.began = epochs, len(history)
        self.seconds = 0.0
        self.bar = Bar(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[bound]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=False,
            disable=not terminal or show is False,
        )
        self.task = self.bar.add_task("fit", total=epochs, completed=len(history), bound="")
        self.share = 1 / steps

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self) -> None:
        if not self.bar.disable:
            self.bar.advance(self.task, self.share)

    def report(self, record: dict[str, Any]) -> None:
        text = f"bound {record['bound']:.2f}"
        if "held_out" in record:
            text += f", held out {record['held_out']:.2f}"
        text += " nats per row"
        self.seconds += record["seconds"]
        self.bar.update(self.task, completed=record["epoch"], bound=text)
        if self.plain:
            left = self.seconds / (record["epoch"] - self.began) * (self.epochs - record["epoch"])
            print(f"epoch {record['epoch']}/{self.epochs}: {text}, {left:.0f} s left", file=sys.stderr, flush=True)
