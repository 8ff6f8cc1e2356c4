"""Complete a table: factor analysis fitted to what was observed, exact conditional means for what was not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from torch import Tensor

import ppvae
from ppvae import data, exact
from ppvae.cli.shared import (
    Device,
    Figures,
    Force,
    Json,
    Seed,
    console,
    moments,
    refuse_columns,
    refuse_empty_rows,
    refuse_existing,
)
from ppvae.errors import Caution, Problem
from ppvae.exact.choice import candidates, em_quietly, hidden_errors, spared
from ppvae.training import device_of

if TYPE_CHECKING:
    import pandas


def impute(
    table: Annotated[Path, typer.Argument(help="A CSV file of numbers with a header; empty cells, NA, ? are missing.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the completed table is written.")],
    latents: Annotated[
        int | None, typer.Option(min=1, help="Factors; default: chosen by entries hidden for the purpose.")
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            min=0, help="Also write so many completed tables, drawn from what is plausible, to NAME.draws.csv."
        ),
    ] = 0,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Complete a table with holes. Observed cells are written as they were; the input file is not touched."""
    many = output.with_name(f"{output.stem}.draws.csv")
    arguments = {"table": str(table), "output": str(output), "latents": latents, "draws": draws, "seed": seed}
    figures = Figures("impute", arguments, json)
    for path in [output, many] if draws else [output]:
        refuse_existing(path, force)
        if path.exists() and table.exists() and path.samefile(table):
            raise Problem("the output is the input", "the table with holes would be lost", "another name after -o")
    holes = data.read_table(table)
    x = torch.as_tensor(holes.values, device=device_of(device))
    _refuse(x, holes.columns)
    mask = ~x.isnan()
    loc, scale = moments(x)
    z = (x - loc) / scale  # standardised, NaN where missing
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device)
    hidden = spared(z, drawn < 0.1)
    sizes = [latents] if latents else candidates(x.shape[1])
    errors = hidden_errors(z, hidden, sizes) if hidden.any() else {}
    best = min(errors, key=errors.get) if errors else sizes[0]
    fitted = em_quietly(z, best, iterations=3000, tolerance=1e-6)
    completed = exact.impute_mean(fitted.W, fitted.loc, fitted.scale, z.nan_to_num(), mask) * scale + loc
    if draws:
        torch.manual_seed(seed)
        data.write_table(_stacked(holes.cells, mask, _draws(fitted, z, mask, draws) * scale + loc), many, force)
    data.write_table(_filled(holes.cells, mask, completed), output, force)
    where = f"{output}, {draws} draws to {many}" if draws else output
    console.print(
        f"{len(x)} rows, {x.shape[1]} columns, {int((~mask).sum())} missing cells completed by factor analysis "
        f"with {best} factor{'s' if best > 1 else ''}; written to {where}"
    )
    baseline = _baseline(z, mask & ~hidden, hidden)
    if errors:
        console.print(
            f"on {int(hidden.sum())} observed cells hidden for the purpose: RMSE {errors[best]:.3f} in standard deviations "
            f"of their columns (the column mean has {baseline:.3f})"
        )
        if errors[best] >= baseline:
            warnings.warn(
                "the completed cells are no better than their column's mean\n  Likely cause: too few rows for so many columns, or "
                "columns that say nothing about each other\n  Try: more rows, or fewer columns",
                Caution,
                stacklevel=1,
            )
    figures.results = {
        "rows": len(x),
        "columns": x.shape[1],
        "missing": int((~mask).sum()),
        "latents": best,
        "hidden": int(hidden.sum()),
        "rmse_hidden": errors,
        "rmse_hidden_mean": baseline,
        "log_likelihood": float(fitted.log_likelihood[-1]),
    }
    figures.write()


def _draws(fitted: exact.FactorAnalysis, z: Tensor, mask: Tensor, draws: int) -> Tensor:
    """Completed tables from p(x_m | x_o), (S, N, D)."""
    pair = ppvae.make("factor_analysis_exact", z.shape[1], fitted.W.shape[1]).to(z)
    pair.decoder.set_(fitted.W, fitted.loc, fitted.scale)
    return ppvae.condition(pair, z, mask).impute(draws)


def _filled(cells: pandas.DataFrame, mask: Tensor, completed: Tensor) -> pandas.DataFrame:
    """The cells as they stood, the missing ones replaced by (N, D) values."""
    frame = cells.copy()
    for j, column in enumerate(frame.columns):
        gaps = ~mask[:, j]
        if gaps.any():
            frame.loc[gaps.cpu().numpy(), column] = [repr(value) for value in completed[gaps, j].tolist()]
    return frame


def _stacked(cells: pandas.DataFrame, mask: Tensor, completed: Tensor) -> pandas.DataFrame:
    """Completed tables (S, N, D) below one another, numbered in a first column."""
    import pandas

    name = "draw" if "draw" not in cells.columns else ".draw"
    tables = [_filled(cells, mask, one) for one in completed]
    return pandas.concat(tables, keys=range(1, len(tables) + 1), names=[name]).reset_index(level=0)


def _baseline(z: Tensor, mask: Tensor, hidden: Tensor) -> float:
    mean = torch.where(mask, z, torch.nan).nanmean(0).expand_as(z)
    return float((mean - z)[hidden].square().mean().sqrt()) if hidden.any() else float("nan")


def _refuse(x: Tensor, columns: list[str]) -> None:
    if x.shape[1] < 2:
        raise Problem(
            "the table has one column",
            "a missing cell is inferred from the other cells of its row",
            "a table with more columns",
        )
    seen = ~x.isnan()
    if seen.all():
        raise Problem(
            "no cell of the table is missing",
            "a marker that was read as a number, or the wrong file",
            "leave missing cells empty, or write NA",
        )
    refuse_columns(x, columns)
    refuse_empty_rows(x)
