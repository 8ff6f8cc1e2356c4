"""Complete a table in the way that foretells its own cells best, and say how well."""

from __future__ import annotations

import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ppvae import data
from ppvae.cli.shared import (
    Device,
    Figures,
    Force,
    Json,
    Seed,
    console,
    errors,
    moments,
    refuse_columns,
    refuse_existing,
)
from ppvae.data import parquet
from ppvae.data.completed import write_completed
from ppvae.data.table import write_new
from ppvae.errors import Caution, Problem
from ppvae.imputation import WAYS, Choice, Completed, Way, choose, complete, draws_for, worth_trying
from ppvae.imputation.ways import factor_analysis
from ppvae.machine import device_of
from ppvae.report.hidden import hide, mean_error
from ppvae.report.imputation import imputation, summary
from ppvae.report.scores import Scores, scores

PICTURED = 20  # draws of each missing cell in the report
MOST = 2**28  # numbers in all draws together: 2 GiB, of which a few copies are made


def impute(
    table: Annotated[
        Path,
        typer.Argument(
            help="A CSV or Parquet file, its columns with names; empty cells, NA, ? are missing. "
            "Columns that are not numbers are passed through."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Where the completed table is written: Parquet by its ending, or CSV."),
    ],
    latents: Annotated[
        int | None,
        typer.Option(min=1, help="Factor analysis with so many factors; default: the best of several ways."),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also try a VAE: minutes.")] = False,
    draws: Annotated[
        int,
        typer.Option(
            min=0, help="Also write so many completed tables, drawn from what is plausible, to NAME.draws.csv."
        ),
    ] = 0,
    report: Annotated[
        Path | None, typer.Option(help="Also write a page that says what was missing and how well it is completed.")
    ] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Complete a table with holes. Observed cells and text are written as they were; the input file is not touched."""
    many = output.with_name(f"{output.stem}.draws{output.suffix if parquet.ends(output) else '.csv'}")
    arguments = {"table": str(table), "output": str(output), "latents": latents, "deep": deep, "draws": draws}
    figures = Figures("impute", arguments | {"seed": seed, "report": report and str(report)}, json)
    if deep and latents:
        raise Problem("both --deep and --latents", "--latents leaves no way to choose", "one of the two")
    _refuse_paths(table, output, many if draws else None, report, json, force)
    with _doing("reading the table"):
        holes = data.read_table(table, text="keep")
    x = torch.as_tensor(holes.values, device=device_of(device))
    _refuse_table(holes, x)
    count = max(draws, draws_for(x))  # what is completed by the draws' mean needs many of them
    _refuse_size(x, count, draws)
    loc, scale = moments(x)
    choosing, scoring = hide((x - loc) / scale, seed)
    ways = _ways(x, latents, deep)
    chosen = decide(x, ways, choosing, scoring, seed)
    way = ways[chosen.name]
    found, hidden_column = _scores(x, way, scoring, seed), scoring.nonzero()[:, 1].cpu().numpy()
    with _doing(f"completing the table by {chosen.name!r}"):
        completed = complete(x, way, count, seed)
    missing = x.isnan()
    filled, drawn = completed.mean[missing].cpu().numpy(), completed.draws[:, missing].cpu().numpy()
    figures.results = {
        "rows": len(x),
        "columns": x.shape[1],
        "passed": holes.passed,
        "passed_missing": int(holes.frame[holes.passed].isna().to_numpy().sum()),
        "missing": len(filled),
        "way": chosen.name,
        "says": way.says,
        "warp": way.warp,
        "tried": {name: tried._asdict() for name, tried in chosen.scores.items()},
        "hidden": int(choosing.sum()),
        "rmse_hidden_mean": _mean_error(x, choosing, scoring) if chosen.scores else None,
        "fit": dict(completed.found),
        "draws": count,
        "score": found.of(),
        "score_draws": draws_for(x),
        "by_column": {
            name: {"missing": int(missing[:, j].sum()), **found.of(hidden_column == j, 1 / float(scale[j]))}
            for j, name in enumerate(holes.columns)
        },
    }
    page = None
    if report:
        said = {"table": table.name, "output": output.name, "seed": seed, "given": latents is not None}
        said |= {"seconds": time.perf_counter() - figures.began, "written": time.strftime("%Y-%m-%d %H:%M")}
        with _doing("writing the report"):
            page = imputation(holes.values, holes.columns, drawn[:PICTURED], figures.results, **said)
    with _doing("writing the table"):
        if draws:
            write_completed(holes, drawn[:draws], many, force)
        if page:
            write_new(report, lambda draft: Path(draft).write_text(page, encoding="utf-8"), force)
        write_completed(holes, filled, output, force)
    figures.write()
    written = [str(output)] + [f"draws to {many}"] * bool(draws) + [f"the report to {report}"] * bool(report)
    for line in summary(figures.results, written):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if found.no_better:
        warnings.warn(
            "the completed cells are no better than their column's mean\n  Likely cause: too few rows for so many columns, or "
            "columns that say nothing about each other\n  Try: more rows, or fewer columns",
            Caution,
            stacklevel=1,
        )


# --- which way, and whether to believe it ---------------------------------------------------------


def decide(x: Tensor, ways: dict[str, Way], choosing: Tensor, scoring: Tensor, seed: int) -> Choice:
    """The way that foretells the cells to choose by best; none sees those that score. A single way is not tried."""
    if len(ways) == 1:
        return Choice(next(iter(ways)), {})
    announced = {name: _announced(name, way) for name, way in ways.items()}
    return choose(x.masked_fill(scoring, torch.nan), announced, seed, choosing)


def _ways(x: Tensor, latents: int | None, deep: bool) -> dict[str, Way]:
    if latents is None:
        return worth_trying(x, deep)
    return {"Factor analysis": WAYS["Factor analysis"]._replace(complete=partial(factor_analysis, latents=latents))}


def _announced(name: str, way: Way) -> Way:
    """The way, saying that it is tried where that takes long."""

    def complete(z: Tensor, draws: int, seed: int) -> Completed:
        with _doing(f"trying {name!r} on cells hidden for the purpose"):
            return way.complete(z, draws, seed)

    return way._replace(complete=complete)


def _scores(x: Tensor, way: Way, hidden: Tensor, seed: int) -> Scores:
    """Of hidden cells, in standard deviations of their columns, by a fit that does not see them."""
    loc, scale = (value.expand_as(x)[hidden] for value in moments(x))
    rest = x.masked_fill(hidden, torch.nan)
    drawn = x.new_empty(draws_for(x), 0)
    if hidden.any():
        with _doing("completing cells that were observed, to see how well that goes"):
            drawn = complete(rest, way, len(drawn), seed).draws[:, hidden]
    mean = rest.nanmean(0).expand_as(x)[hidden]
    return scores(*(((value - loc) / scale).cpu().numpy() for value in (drawn, x[hidden], mean)))


def _mean_error(x: Tensor, hidden: Tensor, unseen: Tensor) -> float:
    """Of the column mean on the cells to choose by, in the units of `choose`, which sees neither set."""
    scale = moments(x.masked_fill(hidden | unseen, torch.nan))[1]
    return mean_error(x / scale, hidden, hidden | unseen)


# --- what is refused, and what is said ------------------------------------------------------------


def _refuse_paths(
    table: Path, output: Path, many: Path | None, report: Path | None, json: Path | None, force: bool
) -> None:
    """Refuse, before any work is done, what would be lost or could not be written."""
    if output.suffix.lower() not in ("", ".csv", ".txt") and not parquet.ends(output):
        raise Problem(
            f"the output is a {output.suffix} file: {output}",
            "tables are written as CSV or Parquet, by the ending",
            output.with_suffix(".csv").name,
        )
    written = {path: name for path, name in ((output, "output"), (many, "output"), (report, "report")) if path}
    for path, name in written.items():
        refuse_existing(path, force)
        if path.exists() and table.exists() and path.samefile(table):
            raise Problem(f"the {name} is the input: {path}", "the table with holes would be lost", "another name")
    places = [path.resolve() for path in (output, many, report, json) if path]
    if len(set(places)) < len(places):
        twice = next(str(path) for path in places if places.count(path) > 1)
        raise Problem(f"{twice} is named twice", "one file would replace the other", "another name")
    for path in [*written, *([json] if json else [])]:
        try:
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise Problem(f"{path.parent} cannot be written: {error}", "no permission", "another folder") from error
    if parquet.ends(table) or parquet.ends(output):
        parquet.arrow()


def _refuse_table(holes: data.Table, x: Tensor) -> None:
    if x.shape[1] < 2:
        raise Problem(
            f"the table has one column{' of numbers' if holes.passed else ''}",
            "a missing cell is inferred from the other numbers of its row",
            "a table with more columns of numbers",
        )
    missing = x.isnan()
    if not missing.any():
        raise Problem(
            f"no cell of the table{' of numbers' if holes.passed else ''} is missing",
            "a marker that was read as a number, holes in text only, or the wrong file",
            "leave missing cells empty, or write NA",
        )
    refuse_columns(x, holes.columns)
    empty = missing.all(1).nonzero().flatten().tolist()
    if empty:
        raise Problem(
            f"no number is observed in {len(empty)} row{'s' if len(empty) > 1 else ''} of the table "
            f"({', '.join(map(holes.where, empty[:5]))})",
            "blank lines, or rows that were never filled in",
            "remove them: there is nothing to infer them from",
        )


def _refuse_size(x: Tensor, count: int, draws: int) -> None:
    if count * x.numel() <= MOST:
        return
    fits = MOST // x.numel()
    raise Problem(
        f"{count} draws of {len(x)} rows and {x.shape[1]} columns are {count * x.numel()} numbers",
        f"more than {MOST} of them take more memory than many machines have",
        f"--draws {fits}" if draws == count and fits >= draws_for(x) else "fewer rows or columns",
    )


@contextmanager
def _doing(what: str, after: float = 2.0) -> Iterator[None]:
    """Say on standard error what is being done, once it takes longer than a person likes to wait unknowing."""
    timer = threading.Timer(
        after, errors.print, [f"{what} …"], {"markup": False, "highlight": False, "soft_wrap": True}
    )
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
