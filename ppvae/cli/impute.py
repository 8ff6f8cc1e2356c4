"""Complete a table in the way that foretells its own cells best, and say how well."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from ppvae import data
from ppvae.cli.impute_checks import refuse_paths, refuse_table
from ppvae.cli.impute_mixed import Done, impute_mixed, said_kinds
from ppvae.cli.shared import (
    Device,
    Figures,
    Force,
    Json,
    Seed,
    console,
    errors,
    moments,
)
from ppvae.data import parquet
from ppvae.data.completed import write_completed
from ppvae.data.lines import Lines
from ppvae.data.table import write_new
from ppvae.errors import Caution, Problem
from ppvae.imputation import WAYS, Choice, Completed, Way, choose, complete, draws_for, worth_trying
from ppvae.imputation.sheet import Sheet
from ppvae.imputation.ways import factor_analysis
from ppvae.machine import device_of
from ppvae.report.hidden import hide, mean_error
from ppvae.report.imputation import imputation, summary
from ppvae.report.pooled import means
from ppvae.report.scores import Scores, scores

PICTURED = 20  # draws of each missing cell in the report
Hidden = tuple[Tensor, Tensor]  # cells to choose by, and others that score
MOST = 2**28  # numbers in all draws together: 2 GiB, of which a few copies are made


def impute(
    table: Annotated[
        Path,
        typer.Argument(
            help="A CSV or Parquet file, its columns with names; empty cells, NA, ? are missing. Of a table of 100 rows or more "
            "words that repeat are completed too; names, dates and text are passed through."
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
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=KIND",
            help="What a column is, where that is not guessed: real, positive, count, ordinal, categorical, binary, or aside "
            "(passed through); or its classes in order, 'size=small<medium<large'. May be given often.",
        ),
    ] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Complete a table with holes. Observed cells and text are written as they were; the input file is not touched."""
    many = output.parent / f"{output.stem}.draws{output.suffix if parquet.ends(output) else '.csv'}"
    arguments = dict[str, Any](table=str(table), output=str(output), latents=latents, deep=deep, draws=draws)
    arguments |= {"kind": kind} if kind else {}
    figures = Figures("impute", arguments | {"seed": seed, "report": report and str(report)}, json)
    if deep and latents:
        raise Problem("both --deep and --latents", "--latents leaves no way to choose", "one of the two")
    if kind and latents:
        raise Problem(
            "both --kind and --latents", "factors are of numbers, and all else is passed through", "one of the two"
        )
    kinds = said_kinds(kind or [])
    refuse_paths(table, output, many if draws else None, report, json, force)
    with _doing("reading the table"):
        sheet = Sheet.of(data.read_table(table, text="words"), kinds, guess=latents is None)
        if not sheet.columns:
            data.read_table(table, text="keep")  # says which columns there are, and that none is of numbers
    holes = sheet.table
    x = torch.as_tensor(holes.values, device=device_of(device))
    refuse_table(holes, x, sheet.mixed)
    count = max(draws, draws_for(x))  # what is completed by the draws' mean needs many of them
    _refuse_size(x, count, draws)
    loc, scale = moments(x)
    choosing, scoring = hide((x - loc) / scale, seed)
    done = (_mixed if sheet.mixed else _numbers)(
        sheet, x, (choosing, scoring), (count, draws_for(x)), latents, deep, seed
    )
    missing = x.isnan()
    filled, drawn = done.completed.mean[missing].cpu().numpy(), done.completed.draws[:, missing].cpu().numpy()
    figures.results = {
        "rows": len(x),
        "columns": x.shape[1],
        "passed": holes.passed,
        "passed_missing": int(holes.frame[holes.passed].isna().to_numpy().sum()),
        "missing": len(filled),
        "draws": count,
        "score_draws": draws_for(x),
        **done.results,
        "means": _means(sheet, done.completed.draws),
    }
    page = None
    if report:
        said = {"table": table.name, "output": output.name, "seed": seed, "given": latents is not None}
        said |= {"seconds": time.perf_counter() - figures.began, "written": time.strftime("%Y-%m-%d %H:%M")}
        with _doing("writing the report"):
            page = imputation(holes.values, holes.columns, drawn[:PICTURED], figures.results, sheet.classes, **said)
    lines = isinstance(holes.sheet, Lines) and not parquet.ends(output)
    with _doing("writing the table"):
        if draws:
            write_completed(holes, sheet.cells(drawn[:draws], lines), many, force)
        if report and page:
            write_new(report, lambda draft: Path(draft).write_text(page, encoding="utf-8"), force)
        write_completed(holes, sheet.cells(filled, lines), output, force)
    figures.write()
    written = [str(output)] + [f"draws to {many}"] * bool(draws) + [f"the report to {report}"] * bool(report)
    for line in summary(figures.results, written):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if done.no_better:
        warnings.warn(
            f"the completed cells are no better than their column's {'own law' if sheet.mixed else 'mean'}\n  Likely cause: too few rows for so many columns, or "
            "columns that say nothing about each other\n  Try: more rows, or fewer columns",
            Caution,
            stacklevel=1,
        )


# --- which way, and whether to believe it ---------------------------------------------------------


def _mixed(
    sheet: Sheet, x: Tensor, hidden: Hidden, draws: tuple[int, int], latents: int | None, deep: bool, seed: int
) -> Done:
    return impute_mixed(sheet, x, hidden, draws, deep, seed, _doing)


def _numbers(
    sheet: Sheet, x: Tensor, hidden: Hidden, draws: tuple[int, int], latents: int | None, deep: bool, seed: int
) -> Done:
    """Complete a table of numbers: the way, the draws of each missing cell and the figures."""
    choosing, scoring = hidden
    ways = _ways(x, latents, deep)
    chosen = decide(x, ways, choosing, scoring, seed)
    way = ways[chosen.name]
    found, column = _scores(x, way, scoring, seed), scoring.nonzero()[:, 1].cpu().numpy()
    with _doing(f"completing the table by {chosen.name!r}"):
        completed = complete(x, way, draws[0], seed)
    missing, scale = x.isnan(), moments(x)[1]
    results = {
        "way": chosen.name,
        "says": way.says,
        "warp": way.warp,
        "tried": {name: tried._asdict() for name, tried in chosen.scores.items()},
        "hidden": int(choosing.sum()),
        "rmse_hidden_mean": _mean_error(x, choosing, scoring) if chosen.scores else None,
        "fit": dict(completed.found),
        "score": found.of(),
        "stretch": found.stretch(scoring),
        "by_column": {
            name: {"missing": int(missing[:, j].sum()), **found.of(column == j, 1 / float(scale[j]))}
            for j, name in enumerate(sheet.table.columns)
        },
    }
    return Done(completed, results, found.no_better)


def _means(sheet: Sheet, draws: Tensor) -> dict[str, dict[str, float]]:
    """`means` of the columns of numbers that had holes."""
    names, holes = sheet.table.columns, np.isnan(sheet.table.values).any(0)
    numbers = [j for j, known in enumerate(sheet.columns) if holes[j] and not known.values]
    return means(draws[..., numbers], [names[j] for j in numbers]) if len(draws[0]) > 1 and numbers else {}


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
