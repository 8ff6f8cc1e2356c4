"""Complete a table: factor analysis fitted to what was observed, exact conditional means for what was not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ppvae import data, exact
from ppvae.cli.shared import Device, Figures, Force, Json, Seed, console, moments, refuse_empty_rows, refuse_existing
from ppvae.errors import Problem
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
    fitted = exact.em(z, best, mask)
    completed = exact.impute_mean(fitted.W, fitted.loc, fitted.scale, z.nan_to_num(), mask) * scale + loc
    frame = holes.frame.copy()
    for j, column in enumerate(frame.columns):
        gaps = ~mask[:, j].cpu().numpy()
        if gaps.any():
            frame[column] = frame[column].astype("float64").mask(gaps, completed[:, j].cpu().numpy())
    data.write_table(frame, output, force)
    console.print(
        f"{len(x)} rows, {x.shape[1]} columns, {int((~mask).sum())} missing cells completed by factor analysis "
        f"with {best} factor{'s' if best > 1 else ''}; written to {output}"
    )
    if errors:
        console.print(
            f"on {int(hidden.sum())} observed cells hidden for the purpose: RMSE {errors[best]:.3f} in standard deviations "
            f"of their columns (the column mean has {_baseline(z, mask & ~hidden, hidden):.3f})"
        )
    figures.results = {
        "rows": len(x),
        "columns": x.shape[1],
        "missing": int((~mask).sum()),
        "latents": best,
        "hidden": int(hidden.sum()),
        "rmse_hidden": errors,
        "rmse_hidden_mean": _baseline(z, mask & ~hidden, hidden),
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


def _error(z: Tensor, mask: Tensor, hidden: Tensor, latents: int) -> float:
    fitted = exact.em(z, latents, mask, iterations=200, tolerance=1e-4)
    found = exact.impute_mean(fitted.W, fitted.loc, fitted.scale, z.nan_to_num(), mask)
    return float((found - z)[hidden].square().mean().sqrt())


def _baseline(z: Tensor, mask: Tensor, hidden: Tensor) -> float:
    mean = torch.where(mask, z, torch.nan).nanmean(0).expand_as(z)
    return float((mean - z)[hidden].square().mean().sqrt()) if hidden.any() else float("nan")


def _refuse(x: Tensor, columns: list[str]) -> None:
    seen = ~x.isnan()
    if seen.all():
        raise Problem(
            "no cell of the table is missing",
            "a marker that was read as a number, or the wrong file",
            "leave missing cells empty, or write NA",
        )
    for j, column in enumerate(columns):
        values = x[seen[:, j], j]
        if not len(values):
            raise Problem(f"the column {column!r} has no value at all", "an unused field", "drop the column")
        if len(values) > 1 and bool((values == values[0]).all()):
            raise Problem(
                f"the column {column!r} is always {values[0].item():g}",
                "a constant field has no spread to model",
                "drop the column, or fill it with its value",
            )
    refuse_empty_rows(x)
    if x.shape[1] < 2:
        raise Problem(
            "the table has one column",
            "a missing cell is inferred from the other cells of its row",
            "a table with more columns",
        )
