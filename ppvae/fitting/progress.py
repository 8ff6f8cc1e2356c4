"""One line that says how far a fit is, what its bound and the bound's terms are in nats per row, how fast it goes and when it
will end."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column

NARROW = 70  # columns of a terminal below which the bar is left out


class Progress:
    """A progress line on standard error: on a terminal a bar, elsewhere (with ``show=True``) a plain line an epoch.

    Args:
        epochs: in all.
        steps: of an epoch.
        rows: of an epoch.
        history: records of the epochs that lie behind.
        show: as in `ppvae.fit`.
    """

    def __init__(self, epochs: int, steps: int, rows: int, history: list[dict[str, Any]], show: bool | None) -> None:
        terminal = sys.stderr.isatty()
        self.plain = bool(show) and not terminal
        self.epochs, self.rows, self.began = epochs, rows, len(history)
        self.seconds = 0.0
        console = Console(stderr=True)
        line = [
            TextColumn("epoch"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        ]
        if console.width >= NARROW:
            line.insert(2, BarColumn(bar_width=10))
        self.bar = Bar(
            *line, TimeRemainingColumn(), console=console, expand=True, disable=not terminal or show is False
        )
        self.task = self.bar.add_task("fit", total=epochs, completed=len(history), said="")
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
        said = summary(record)
        self.seconds += record["seconds"]
        if record["seconds"] > 0:
            said += f", {self.rows / record['seconds']:,.0f} rows/s"
        self.bar.update(self.task, completed=record["epoch"], said=said)
        if self.plain:
            left = self.seconds / (record["epoch"] - self.began) * (self.epochs - record["epoch"])
            print(f"epoch {record['epoch']}/{self.epochs}: {said}, {left:.0f} s left", file=sys.stderr, flush=True)


def summary(record: dict[str, Any]) -> str:
    """An epoch in words, what matters most first: the bound, that of the rows held out, the bound's terms."""
    text = f"bound {record['bound']:.2f}"
    if "held_out" in record:
        text += f", held out {record['held_out']:.2f}"
    if "kl" in record:
        text += f", likelihood {record['likelihood']:.2f}"
        text += "".join(f", KL {name} {value:.2f}" for name, value in record["kl"].items())
    return text + " nats per row"
