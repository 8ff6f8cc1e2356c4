"""Evaluate a saved pair: its bound, its log-evidence, and how far the estimate can be trusted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import track
from torch import Tensor

import ppvae
from ppvae.catalogue import read
from ppvae.cli.shared import Device, Figures, Json, Seed, Source, console, errors, source, standard_error
from ppvae.errors import Problem
from ppvae.machine import device_of
from ppvae.pair import Pair

Particles = Annotated[int, typer.Option(min=1, help="Importance samples a row.")]
Rows = Annotated[int, typer.Option(min=0, help="Test rows that are scored, drawn at random; 0: all.")]

DRAWS = 99  # the 5th and the 95th bound a 90 % interval
CHUNK = 100  # rows scored between two steps of the progress line


def evaluate(
    file: Annotated[Path, typer.Argument(help="A pair that `ppvae fit` wrote.")],
    data: Annotated[
        str | None,
        typer.Option(help="A data set by name, or a CSV, Parquet or .npy file; default: the one it was fitted to."),
    ] = None,
    particles: Particles = 5000,
    rows: Rows = 1000,
    hide: Annotated[
        float, typer.Option(min=0, max=0.99, help="Also hide this share of the entries, at random, and impute them.")
    ] = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Score a saved pair on the test rows of its data: ELBO, log-evidence, diagnostics, in nats per row."""
    arguments = {"file": str(file), "data": data, "particles": particles, "rows": rows, "hide": hide, "seed": seed}
    figures = Figures("evaluate", arguments, json)
    pair, notes = read(file)
    name = data or notes.get("data")
    if name is None:
        raise Problem(f"{file} does not say what it was fitted to", "it was saved from Python", "--data NAME")
    rows_of = source(name)
    figures.results = score(pair.to(device_of(device)), rows_of, particles, rows, seed)
    if hide:
        figures.results["imputation"] = imputation(pair, rows_of, hide, rows, seed)
    figures.write()


def score(pair: Pair, rows_of: Source, particles: int, rows: int, seed: int) -> dict[str, Any]:
    """Print and return the figures of the test rows (a random subset of ``rows``; 0: all)."""
    entries, total = _test_rows(pair, rows_of, rows, seed)
    began = time.perf_counter()
    figures: dict[str, Any] = {
        "data": rows_of.name,
        "scaling": rows_of.scaling,
        "rows": len(entries["x"]),
        "test_rows": total,
        "seed": seed,
    }
    bound, evidence, trust = [], [], []
    pair.eval()
    for start in track(
        range(0, len(entries["x"]), CHUNK), "scoring", console=errors, transient=True, disable=not errors.is_terminal
    ):
        post = ppvae.condition(pair, {name: value[start : start + CHUNK] for name, value in entries.items()})
        with torch.no_grad():
            bound.append(ppvae.elbo(10)(pair, post.table))
        if not post.global_latents:
            evidence.append(post.log_evidence(particles))
            trust.append(post.diagnostics(1000))
    _state(figures, "elbo", torch.cat(bound))
    if evidence:
        _state(figures, "log_evidence", torch.cat(evidence))
        ess, k = (torch.cat([found[name] for found in trust]) for name in ("ess", "pareto_k"))
        figures |= {
            "particles": 1 if pair.exact else particles,
            "ess_median": float(ess.median()),
            "pareto_k_above_0.7": float((k > 0.7).double().mean()),
        }
    else:
        console.print(
            f"a latent outside the data plate ({', '.join(post.global_latents)}): no row has a log-evidence of its own"
        )
    figures["seconds"] = round(time.perf_counter() - began, 1)
    console.print(
        f"on {figures['rows']} of {total} test rows of {rows_of.name} ({rows_of.scaling}), {figures['seconds']} s:"
    )
    for name in ("elbo", "log_evidence"):
        if name in figures:
            note = f", {figures['particles']} particles" if name == "log_evidence" else ""
            console.print(f"  {name:13} {figures[name]:10.3f} ± {figures[name + '_se']:.3f} nats per row{note}")
    if "ess_median" in figures:
        console.print(
            f"  of 1000 draws the median row has {figures['ess_median']:.0f} effective; "
            f"Pareto k above 0.7 in {figures['pareto_k_above_0.7']:.1%} of rows"
        )
    return figures


def imputation(pair: Pair, rows_of: Source, hide: float, rows: int, seed: int) -> dict[str, Any]:
    """Hide entries of the test rows completely at random, complete them, and print how well that went."""
    entries, _ = _test_rows(pair, rows_of, rows, seed)
    x = entries["x"]
    if not pair.takes_mask("x"):
        raise Problem("the pair takes no mask", "its story was written for complete rows", "--hide 0")
    hidden = (torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < hide) & ~x.isnan()
    if not hidden.any():
        raise Problem(f"--hide {hide} hides none of {x.numel()} entries", "too few rows for it", "a larger share")
    torch.manual_seed(seed)
    post = ppvae.condition(pair, {**entries, "x": x.masked_fill(hidden, torch.nan)})
    drawn, mean = post.impute(DRAWS).to(x), post.impute_mean(1000).to(x)
    scores = ppvae.evaluate.imputation_scores(drawn, x, hidden, mean=mean)._asdict()
    console.print(
        f"  {scores['entries']} entries hidden at random ({hide:.0%}): RMSE {scores['rmse']:.3f}, CRPS {scores['crps']:.3f}; "
        f"90 % intervals of {DRAWS} draws hold {scores['coverage']:.1%} of them, mean width {scores['width']:.3f}"
    )
    return {"hide": hide, "draws": DRAWS, **scores}


def _test_rows(pair: Pair, rows_of: Source, rows: int, seed: int) -> tuple[dict[str, Tensor], int]:
    """A random subset of the test rows (0: all), and how many there are."""
    entries = rows_of.entries("test", pair, seed)
    total = len(entries["x"])
    torch.manual_seed(seed)
    chosen = torch.randperm(total)[: rows or total].sort().values
    return {name: value[chosen] for name, value in entries.items()}, total


def _state(figures: dict[str, Any], name: str, values: Tensor) -> None:
    figures[name], figures[name + "_se"] = float(values.mean()), standard_error(values)
