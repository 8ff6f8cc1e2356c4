"""Complete a table: factor analysis fitted to what was observed, exact conditional means for what was not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

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
from ppvae.training import device_of


def impute(
    table: Annotated[Path, typer.Argument(help="A CSV file of numbers with a header; empty cells, NA, ? are missing.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the completed table is written.")],
    latents: Annotated[
        int | None, typer.Option(min=1, help="Factors; default: chosen by entries hidden for the purpose.")
    ] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Complete a table with holes. Observed cells are written as they were; the input file is not touched."""
    figures = Figures("impute", {"table": str(table), "output": str(output), "latents": latents, "seed": seed}, json)
    refuse_existing(output, force)
    if output.exists() and output.samefile(table):
        raise Problem("the output is the input", "the table with holes would be lost", "another name after -o")
    holes = data.read_table(table)
    x = torch.as_tensor(holes.values, device=device_of(device))
    _refuse(x, holes.columns)
    mask = ~x.isnan()
    loc, scale = moments(x)
    z = (x - loc) / scale  # standardised, NaN where missing
    candidates = [latents] if latents else _candidates(x.shape[1])
    hidden = mask & (torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device) < 0.1)
    errors = {k: _error(z, mask & ~hidden, hidden, k) for k in candidates} if hidden.any() else {}
    best = min(errors, key=errors.get) if errors else candidates[0]
    fitted = _fit(z, best, mask, iterations=3000, tolerance=1e-6)
    completed = exact.impute_mean(fitted.W, fitted.loc, fitted.scale, z.nan_to_num(), mask) * scale + loc
    frame = holes.cells.copy()
    for j, column in enumerate(frame.columns):
        gaps = ~mask[:, j].cpu().numpy()
        if gaps.any():
            frame.loc[gaps, column] = [repr(value) for value in completed[mask[:, j].logical_not(), j].tolist()]
    data.write_table(frame, output, force)
    console.print(
        f"{len(x)} rows, {x.shape[1]} columns, {int((~mask).sum())} missing cells completed by factor analysis "
        f"with {best} factor{'s' if best > 1 else ''}; written to {output}"
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


def _candidates(features: int) -> list[int]:
    """1, 2, 3, 5, 8, … factors, fewer than columns."""
    sizes, (a, b) = [], (1, 2)
    while a < min(features, 60):
        sizes.append(a)
        a, b = b, a + b
    return sizes


def _fit(z: Tensor, latents: int, mask: Tensor, **options: Any) -> exact.FactorAnalysis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)  # EM that still gains a little: the hidden cells say what it is worth
        return exact.em(z, latents, mask, **options)


def _error(z: Tensor, mask: Tensor, hidden: Tensor, latents: int) -> float:
    fitted = _fit(z, latents, mask, iterations=200, tolerance=1e-4)
    found = exact.impute_mean(fitted.W, fitted.loc, fitted.scale, z.nan_to_num(), mask)
    return float((found - z)[hidden].square().mean().sqrt())


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
