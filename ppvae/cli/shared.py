"""What the commands share: their common options, the data they name, and the figures they write."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor

from ppvae import data
from ppvae.catalogue import RUN, read
from ppvae.data.arrays import read_array
from ppvae.errors import Problem
from ppvae.files import write_whole
from ppvae.fitting.folder import COMMAND
from ppvae.machine import machine
from ppvae.pair import Pair

console = Console()
errors = Console(stderr=True)

Json = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.", dir_okay=False)]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same numbers.")]
Device = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, or cuda.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@dataclass
class Figures:
    """What a command found, to print and to keep: written as one JSON file, whole or not at all."""

    command: str
    arguments: dict[str, Any]
    path: Path | None
    results: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        if self.path is not None:
            self._refuse_loss(self.path)

    def _refuse_loss(self, path: Path) -> None:
        taken = [
            name
            for name, value in self.arguments.items()
            if name != "json" and value and Path(str(value)).resolve() == path.resolve()
        ]
        if taken:
            raise Problem(f"--json and {taken[0]} are the same file", "one would replace the other", "another name")
        refuse_loss(path)

    def write(self) -> None:
        """Write them where ``--json`` says."""
        if self.path is None:
            return
        record = {
            "command": self.command,
            "arguments": self.arguments,
            "machine": machine(),
            "seconds": round(time.perf_counter() - self.began, 3),
            "results": self.results,
        }
        text = jsonlib.dumps(record, indent=2, default=str) + "\n"
        write_whole(self.path, lambda draft: Path(draft).write_text(text))


@dataclass
class Source:
    """The rows that a command works on: a data set by name, or a table of numbers.

    Attributes:
        name: as given.
        train, test: stored rows, by name of the entry; those of a .npy file to train on stay in it.
        redraw: observes stored rows anew (dynamic binarization).
        likelihood: the one that suits them.
        scaling: what was done to the numbers; printed beside every likelihood.
        shape: (channels, height, width) of an image, or None.
        columns: names of a table's columns, or None.
    """

    name: str
    train: Mapping[str, Tensor | np.ndarray]
    test: dict[str, Tensor]
    redraw: Any
    likelihood: str
    scaling: str
    shape: tuple[int, ...] | None = None
    columns: list[str] | None = None

    @property
    def features(self) -> int:
        return self.train["x"].shape[1]

    def entries(self, split: str, pair: Pair, seed: int = 0) -> dict[str, Tensor]:
        """The entries of a split that a pair takes, x as one fixed observation."""
        rows = dict(getattr(self, split))
        if self.redraw is not None:
            rows["x"] = self.redraw(rows["x"], generator=torch.Generator().manual_seed(seed))
        return self.taken(rows, pair)

    def taken(self, rows: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
        """The entries that the pair takes; a covariate that the data lack is named."""
        missing = [name for name, needed in pair.entries.items() if needed and name not in rows]
        if missing:
            raise Problem(
                f"the pair needs {', '.join(map(repr, missing))} and {self.name} has no such entry",
                "it conditions on a covariate",
                f"data that have it, from Python: ppvae.fit(pair, {{'x': x, {missing[0]!r}: …}}); or another pair: ppvae list",
            )
        return {name: value for name, value in rows.items() if name in pair.entries}


def source(name: str) -> Source:
    """The data that ``--data`` names: a data set, a CSV or Parquet file of numbers (standardised; every fifth row is test),
    or an array in a .npy file, which is not loaded (as it is; its last fifth is test, 10,000 rows at most)."""
    if name.lower().endswith(".npy"):
        return _array(name)
    if name.lower().endswith((".csv", ".txt", ".tsv", ".parquet", ".pq")) or Path(name).is_file():
        return _table(name)
    found = data.load(name)

    def rows(split: str) -> dict[str, Tensor]:
        entries = {"x": found.rows(split)}
        return entries if found.label is None else {**entries, "label": found.labels(split)}

    return Source(name, rows("train"), rows("test"), found.redraw, found.likelihood, found.scaling, found.shape)


def _table(name: str) -> Source:
    table = data.read_table(name)
    x = torch.as_tensor(table.values)
    refuse_columns(x, table.columns)
    refuse_empty_rows(x, table.where)
    test = torch.arange(len(x)) % 5 == 4
    if not test.any():
        raise Problem(
            f"{name} has {len(x)} rows", "a fifth of the rows is set aside as test", "a table of at least 5 rows"
        )
    loc, scale = moments(x[~test])
    x = (x - loc) / scale
    return Source(
        name,
        {"x": x[~test]},
        {"x": x[test]},
        None,
        "normal",
        "columns standardised by the training rows",
        columns=table.columns,
    )


def _array(name: str) -> Source:
    x = read_array(name)
    test = min(len(x) // 5, 10_000)  # these are loaded
    if not test:
        raise Problem(
            f"{name} has {len(x)} rows", "a fifth of the rows is set aside as test", "an array of at least 5 rows"
        )
    rows = torch.as_tensor(np.array(x[-test:], dtype=float)).to(torch.get_default_dtype())
    binary = bool(((rows == 0) | (rows == 1) | rows.isnan()).all())
    scaling = f"numbers as in the file; its last {test} rows are test"
    return Source(name, {"x": x[:-test]}, {"x": rows}, None, "bernoulli" if binary else "normal", scaling)


def opened(file: Path, name: str | None) -> tuple[Pair, Source]:
    """A fitted pair, and the data ``name``, or else those that its folder or file says it was fitted to."""
    pair, notes = read(file)
    begun = file / COMMAND
    if file.is_dir() and not (file / RUN[0]).exists() and begun.exists():
        notes = kept_command(begun)
        errors.print(f"[yellow]Note:[/] the run in {file} is not finished; ppvae fit --resume {file} goes on")
    name = name or notes.get("data")
    if name is None:
        raise Problem(f"{file} does not say what it was fitted to", "it was saved from Python", "--data NAME")
    return pair, source(name)


def kept_command(command: Path) -> dict[str, Any]:
    """The arguments that a run was begun with, from its folder."""
    try:
        was = jsonlib.loads(command.read_text())
    except (OSError, ValueError) as error:
        raise Problem(
            f"{command} cannot be read ({type(error).__name__})",
            "a damaged file",
            "the whole command again, with --force",
        ) from error
    if not isinstance(was, dict):
        raise Problem(
            f"{command} holds no command", "a file of something else", "the whole command again, with --force"
        )
    return was


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column's observed entries, (D,) each; 1 for a column without spread."""
    loc = x.nanmean(0)
    scale = (x - loc).square().nanmean(0).sqrt()
    return loc.nan_to_num(), torch.where(scale > 0, scale, 1.0).nan_to_num(1.0)


def refuse_columns(x: Tensor, columns: list[str]) -> None:
    """Refuse the columns of a table that hold nothing, or always the same, by their names."""
    for j, column in enumerate(columns):
        values = x[~x[:, j].isnan(), j]
        if not len(values):
            raise Problem(f"the column {column!r} has no value at all", "an unused field", "drop the column")
        if bool((values == values[0]).all()):
            raise Problem(
                f"the column {column!r} is always {values[0].item():g}",
                "a constant field has no spread to model",
                "drop the column, or fill it with its value",
            )


def refuse_empty_rows(x: Tensor, where: Callable[[int], str]) -> None:
    """Refuse the rows of a table in which nothing is observed, by what ``where`` calls them: their line in the file."""
    empty = x.isnan().all(1).nonzero().flatten().tolist()
    if empty:
        raise Problem(
            f"nothing is observed in {len(empty)} row{'s' if len(empty) > 1 else ''} of the table ({', '.join(map(where, empty[:5]))})",
            "blank lines, or rows that were never filled in",
            "remove them: there is nothing to infer them from",
        )


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse to overwrite, before any work is done."""
    refuse_folder(path)
    if path.exists() and not force:
        raise Problem(f"{path} exists", "it would be overwritten", "another name, or --force")


def refuse_loss(path: Path) -> None:
    """Figures replace earlier figures, and nothing else."""
    refuse_folder(path)
    if path.exists():
        try:
            known = {"machine", "results"} <= set(jsonlib.loads(path.read_text()))
        except (ValueError, TypeError, OSError):
            known = False
        if not known:
            raise Problem(
                f"{path} exists and does not hold figures", "it would be overwritten", "another name after --json"
            )


def refuse_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise Problem(f"there is no folder {path.parent}", "a misspelt path", f"mkdir -p {path.parent}")
    if path.is_dir():
        raise Problem(f"{path} is a folder", "a file name is needed", f"{path}/result")


def standard_error(values: Tensor) -> float:
    """Of the mean over rows."""
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
