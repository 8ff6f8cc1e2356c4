"""The demo: fit digits with half of their pixels missing, put the pixels back, and see who knows how sure to be."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor

import ppvae
from ppvae.cli.shared import Device, Figures, Json, Seed, console, standard_error
from ppvae.files import write_whole
from ppvae.machine import device_of

SHOWN = 8  # digits in the picture


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the picture and the draws.", file_okay=False)
    ] = Path("demo"),
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Fit exact factor analysis and a VAE to digits with half of the entries missing, and impute them."""
    where = device_of(device)
    figures = Figures("demo", {"output": str(output), "seed": seed}, json)
    output.mkdir(parents=True, exist_ok=True)
    digits = ppvae.data.load("digits")
    train, test = digits.rows("train"), digits.rows("test")
    seen, mask = ppvae.data.mcar(train, 0.5, seed=seed), ppvae.data.mcar(test, 0.5, seed=seed + 1)
    test, mask = test.to(where), mask.to(where)
    console.print(
        f"digits: {len(train)} training and {len(test)} test rows of {digits.features} pixels ({digits.scaling}), half missing"
    )

    torch.manual_seed(seed)
    pairs: dict[str, tuple[ppvae.Pair, dict[str, Any]]] = {
        "factor analysis, exact": (
            ppvae.make("factor_analysis_exact", digits.features, 16),
            {"epochs": 60, "learning_rate": 2e-2},
        ),
        "VAE": (
            ppvae.make("vae", digits.features, 16, hidden=(256, 128), likelihood="normal"),
            {"epochs": 300, "objective": ppvae.iw_elbo(5), "learning_rate": 1e-3},
        ),
    }
    completed = {"column mean": torch.where(mask, test, _column_mean(train, seen).to(where))}
    posteriors = {}
    for name, (pair, options) in pairs.items():
        began = time.perf_counter()
        result = ppvae.fit(pair, train, seen, seed=seed, device=device, **options)
        posteriors[name] = ppvae.condition(pair, test, mask)
        completed[name] = posteriors[name].impute_mean(1000)
        console.print(
            f"{name}: {len(result.history)} epochs, {time.perf_counter() - began:.0f} s; log-evidence of what is observed "
            f"of a test row {posteriors[name].log_evidence(1000).mean():.2f} nats"
        )
    errors = {name: _squared_error(test, rows, mask) for name, rows in completed.items()}
    shown = Table("imputation", "mean squared error of a missing pixel × 1000", "± standard error")
    for name, error in errors.items():
        shown.add_row(name, f"{1000 * error.mean():.2f}", f"{1000 * standard_error(error):.2f}")
        figures.results[name] = {"mse": float(error.mean()), "se": standard_error(error), "rows": len(error)}
    console.print(shown)

    picture, tree = output / "imputation.png", output / "posterior.nc"
    spread = {name: post.impute(200).std(0) for name, post in posteriors.items()}
    write_whole(picture, lambda draft: _draw(draft, test, mask, completed, spread, errors))
    few = {name: ppvae.condition(pair, test[:50], mask[:50]) for name, (pair, _) in pairs.items()}
    write_whole(tree, lambda draft: few["VAE"].to_datatree(200).to_netcdf(draft, engine="h5netcdf"))
    console.print(f"picture: {picture}\ndraws for ArviZ (VAE, 50 test rows): {tree}")
    figures.write()


def _column_mean(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x, torch.nan).nanmean(0)


def _squared_error(x: Tensor, completed: Tensor, mask: Tensor) -> Tensor:
    """Mean over a row's missing entries, (N,)."""
    return ((completed - x).square() * ~mask).sum(1) / (~mask).sum(1)


def _draw(
    path: str,
    x: Tensor,
    mask: Tensor,
    completed: dict[str, Tensor],
    spread: dict[str, Tensor],
    errors: dict[str, Tensor],
) -> None:
    """Rows of images: what was there, what was seen, what each method puts back, and how unsure it says it is."""
    from matplotlib.figure import Figure

    lines: list[tuple[str, Tensor, dict[str, Any]]] = [
        ("original", x, {"cmap": "gray", "vmin": 0, "vmax": 1}),
        ("observed half", torch.where(mask, x, torch.nan), {"cmap": "gray", "vmin": 0, "vmax": 1}),
    ]
    lines += [
        (f"{name}\nMSE {errors[name].mean():.4f}", rows, {"cmap": "gray", "vmin": 0, "vmax": 1})
        for name, rows in completed.items()
    ]
    top = float(max(s[:SHOWN].max() for s in spread.values()))
    lines += [(f"{name}\nposterior sd", sd, {"cmap": "viridis", "vmin": 0, "vmax": top}) for name, sd in spread.items()]
    figure = Figure(figsize=(1.05 * SHOWN + 2.6, 1.12 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), SHOWN, squeeze=False)
    for (name, rows, style), line in zip(lines, axes, strict=True):
        for image, ax in zip(rows[:SHOWN].cpu(), line, strict=True):
            shown = ax.imshow(image.reshape(8, 8).numpy(), **style)
            ax.set_facecolor("tab:orange")  # a missing pixel
            ax.set_xticks([])
            ax.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    spread_axes = list(axes[-len(spread) :].flat)
    figure.colorbar(shown, ax=spread_axes, shrink=0.8, label="standard deviation\n(grey level, 0 to 1)", aspect=12)
    title = "Digits with half of the pixels missing (orange), and what each method puts there"
    figure.suptitle(f"{title}\nMSE: of the missing pixels, mean over all {len(x)} test digits", fontsize=11)
    figure.savefig(path, dpi=110, format="png")
