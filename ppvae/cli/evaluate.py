"""Evaluate a saved pair: its bound, its log-evidence, and how far the estimate can be trusted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ppvae.cli.scoring import calibration, imputation, labelled, score
from ppvae.cli.shared import Device, Figures, Force, Json, Seed, console, opened, refuse_existing
from ppvae.errors import Problem
from ppvae.files import write_whole
from ppvae.machine import device_of
from ppvae.report.fitted import fitted

Particles = Annotated[int, typer.Option(min=1, help="Importance samples a row.")]
Rows = Annotated[int, typer.Option(min=0, help="Test rows that are scored, drawn at random; 0: all.")]


def evaluate(
    file: Annotated[Path, typer.Argument(help="The folder that `ppvae fit` left, or a file of ppvae.save.")],
    data: Annotated[
        str | None,
        typer.Option(help="A data set by name, or a CSV, Parquet or .npy file; default: the one it was fitted to."),
    ] = None,
    particles: Particles = 5000,
    rows: Rows = 1000,
    hide: Annotated[
        float, typer.Option(min=0, max=0.99, help="Also hide this share of the entries, at random, and impute them.")
    ] = 0.0,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Also test the guide on rows that the pair itself makes, whose latents are known; with --hide that share "
            "of their entries is hidden, and ranked too.",
        ),
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Write the curves of --calibrate to this PNG file.", dir_okay=False)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with pictures and what they mean to this file.", dir_okay=False)
    ] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Score a saved pair on the test rows of its data: ELBO, log-evidence, diagnostics, in nats per row."""
    arguments = dict[str, Any](file=str(file), data=data, particles=particles, rows=rows, hide=hide, seed=seed)
    arguments |= {"calibrate": calibrate, "figure": figure and str(figure), "report": report and str(report)}
    figures = Figures("evaluate", arguments, json)
    if figure is not None:
        if not calibrate:
            raise Problem(
                f"--figure {figure} without --calibrate", "it shows what --calibrate finds", "add --calibrate"
            )
        refuse_existing(figure, force)
    if report is not None:
        refuse_existing(report, force)
    pair, rows_of = opened(file, data)
    if hide and calibrate and pair.hides("x"):
        raise Problem(
            f"--hide {hide} with --calibrate, and the story of {file} says itself why entries are missing",
            "rows that it makes have its own gaps; entries hidden besides would contradict it",
            "--calibrate without --hide, or --hide without --calibrate",
        )
    figures.results = score(pair.to(device_of(device)), rows_of, particles, rows, seed)
    if hide:
        figures.results["imputation"] = imputation(pair, rows_of, hide, rows, seed, calibrate)
    if calibrate:
        figures.results["calibration"] = calibration(pair, rows_of, hide, rows, seed, figure)
    if report is not None:
        entries, label = labelled(pair, rows_of, rows, seed)
        assert pair._built is not None  # it was read from a file
        said = {"name": pair._built[0], "data": rows_of.name, "written": time.strftime("%Y-%m-%d %H:%M")}
        page = fitted(pair, entries, figures.results, file, rows_of.shape, label, **said)
        write_whole(report, lambda draft: Path(draft).write_text(page, encoding="utf-8"))
        console.print(f"the report in {report}")
    figures.write()
