"""Reproduce a table of the documents, beside the figures that were published."""

from __future__ import annotations

import json as jsonlib
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from ppvae.cli.shared import Json, console, machine, refuse_loss
from ppvae.errors import Problem
from ppvae.files import write_whole
from ppvae.reproduce import Cell, Run, names, table


def reproduce(
    name: Annotated[str, typer.Argument(help=f"The table: {', '.join(names())}.")],
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Repetitions, each with its own split, masks and draws.",
            show_default="10, fewer where one takes minutes",
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="smoke (few rows: it runs), cpu (minutes), full.")] = "cpu",
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures that go with the table.")] = None,
    json: Json = None,
) -> None:
    """Make a table from the data up: each cell's mean and standard deviation over seeds, and the published figure."""
    make = table(name)
    seeds = getattr(make, "seeds", 10) if seeds is None else seeds
    if json is not None:
        refuse_loss(json)
    if figures is not None and figures.exists() and not figures.is_dir():
        raise Problem(f"{figures} is a file", "a folder is needed for the pictures", "--figures FOLDER")
    if figures is not None and any(figures.glob("*.png")):
        raise Problem(f"{figures} holds pictures already", "they might be replaced", "--figures of another folder")
    began = time.perf_counter()
    run = Run(seeds, budget, figures, lambda text: console.print(f"{text} ({time.perf_counter() - began:.0f} s)"))
    try:
        cells = make(run)
    except KeyboardInterrupt:
        console.print("stopped; a table is written when it is whole" + (f", so there is no {json}" if json else ""))
        raise typer.Exit(130) from None
    seconds = round(time.perf_counter() - began, 1)
    if budget == "smoke":
        console.print("budget smoke: few rows and a smaller model, not to be compared with what was published")
    for part in _parts(cells):
        console.print(part)
    console.print("mean ± standard deviation over seeds; in brackets what was published")
    for source, words in run.data.items():
        console.print(f"{source}: {words}")
    console.print(
        f"{name}, {seeds} {'seed' if seeds == 1 else 'seeds'}, budget {budget}, {seconds} s"
        + (f"; figures in {figures}" if figures else "")
    )
    if json is not None:
        record = {
            "name": name,
            "budget": budget,
            "seeds": seeds,
            "machine": machine(),
            "seconds": seconds,
            "results": [cell._asdict() for cell in cells],
        } | ({"data": run.data} if run.data else {})
        write_whole(json, lambda draft: Path(draft).write_text(jsonlib.dumps(record, indent=2) + "\n"))


def _parts(cells: list[Cell]) -> list[Table]:
    """Tables of at most four columns: those that were published, then what goes with them."""
    columns = list(dict.fromkeys(cell.column for cell in cells))
    published = [c for c in columns if any(cell.column == c and cell.reference is not None for cell in cells)]
    rest = [c for c in columns if c not in published]
    texts = {(cell.row, cell.column): _text(cell) for cell in cells}
    found = []
    for shown in (published, *(rest[i : i + 4] for i in range(0, len(rest), 4))):
        if shown:
            part = Table(Column("", overflow="fold"), *shown)
            for row in dict.fromkeys(cell.row for cell in cells):
                part.add_row(row, *(texts.get((row, c), "") for c in shown))
            found.append(part)
    return found


def _text(cell: Cell) -> str:
    spread = "" if cell.sd is None else f" ± {cell.sd:.2g}"
    reference = "" if cell.reference is None else f" [dim]({cell.reference:g})[/]"
    return f"{cell.value:.4g}{spread}{reference}"
