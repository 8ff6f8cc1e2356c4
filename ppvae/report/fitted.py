"""The report of `ppvae evaluate`: what a fitted pair is worth, what its latents are used for, and whether to believe it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ppvae import evaluate, plots
from ppvae.errors import Problem
from ppvae.fitting.folder import CONFIG, ENVIRONMENT, METRICS
from ppvae.machine import machine, own_generators
from ppvae.pair import Pair
from ppvae.plots.curves import history_of
from ppvae.plots.images import board
from ppvae.plots.values import latent_of, means_at
from ppvae.report.page import render
from ppvae.report.pictures import inline

BOUNDS = 100  # test rows of which the bound by particles is shown
MAPPED = 2000  # codes in the plane, at most
EPOCHS = 12  # rows of the table of training, at most
SAMPLES = 8  # a side
FAIR = 0.01  # a p-value below which draws do not rank as they should


def fitted(
    pair: Pair,
    entries: dict[str, Tensor],
    results: dict[str, Any],
    run: Path,
    shape: tuple[int, ...] | None = None,
    label: Tensor | None = None,
    **said: Any,
) -> str:
    """Give the page as HTML.

    Args:
        pair: the fitted pair.
        entries: the test rows that were scored, by entry.
        results: the figures that ``--json`` writes.
        run: its folder, or a file of `ppvae.save`, of which nothing is known about the training.
        shape: of images; None: the rows are none.
        label: of the test rows, or None.
        said: what the page says besides: name, data, written (the time).
    """
    seed, test = results["seed"], {k: v for k, v in results.items() if k not in ("imputation", "calibration")}
    history = history_of(run) if (run / METRICS).exists() else []
    last = history[-1] if history else {}
    objective = str(_config(run).get("objective"))
    bounded = objective.startswith("elbo(") and objective.endswith("kl=None)")  # the number that is scored here
    calibration = results.get("calibration")
    with own_generators(seed):
        pictures = _pictures(pair, entries, shape, label, seed)
    units = pictures.pop("units")
    terms = _terms(last)
    return render(
        "fitted.html",
        **said,
        **pictures,
        test=test,
        features=entries["x"].shape[1],
        parameters=sum(p.numel() for p in pair.parameters()),
        units=units,
        history=history,
        seconds=sum(record["seconds"] for record in history),
        last=last,
        held_out=last.get("held_out"),
        gap=last["bound"] - test["elbo"] if last and bounded else None,
        training=_drawn(lambda ax: plots.training(history, ax), (6.8, 3.4)) if history else None,
        terms=terms,
        table=[_row(record) for record in _thinned(history)],
        calibration=calibration,
        calibrated=calibration is not None
        and min(*calibration["sbc_p_value"].values(), calibration["tarp_p_value"]) > FAIR,
        imputation=results.get("imputation"),
        made=_made(run),
    )


def _pictures(
    pair: Pair, entries: dict[str, Tensor], shape: tuple[int, ...] | None, label: Tensor | None, seed: int
) -> dict[str, Any]:
    """Every picture that the pair allows; None where one does not."""
    x = entries["x"]
    few = {name: value[:BOUNDS] for name, value in entries.items()}
    found: dict[str, Any] = dict.fromkeys(("units", "kl", "kl_width", "codes", "reconstructions", "samples"))
    found["bounds"] = _tried(lambda ax: plots.bounds(pair, few, seed=seed, ax=ax), (6.0, 3.2))
    found["bounds_rows"] = min(BOUNDS, len(x))
    found["graph"] = _tried(lambda ax: plots.graph(pair, {k: v[:5] for k, v in entries.items()}, ax=ax), (4.2, 3.4))
    try:
        name = latent_of(pair)
        units = evaluate.units(pair, entries)[name]
    except Problem:  # several latents, a discrete one, a global one: these pictures show one vector
        return found
    count = len(units.active)
    found["units"] = {"name": name, "active": int(units.active.sum()), "count": count}
    found["kl_width"] = max(24, 1.4 * count)
    found["kl"] = _tried(lambda ax: plots.kl(pair, entries, ax=ax), (max(4.0, 0.24 * count + 1), 3.0))
    some = None if label is None else label[:MAPPED]
    mapped = {key: value[:MAPPED] for key, value in entries.items()}
    found["codes"] = _tried(lambda ax: plots.codes(pair, mapped, label=some, ax=ax), (6.0, 6.0))
    if shape is not None and min(shape[1:]) > 1 and len(entries) == 1:  # a table has one row of pixels
        row = x[(~x.isnan()).all(1)][:1]
        if len(row):
            found["reconstructions"] = _tried(lambda ax: plots.reconstructions(pair, row, shape, ax=ax), (8.0, 5.2))
            z = torch.randn(SAMPLES**2, count)
            low, high = float(x.nan_to_num().min()), float(x.nan_to_num().max())
            title = "E[x | z], z from the prior"
            found["samples"] = _tried(
                lambda ax: board(means_at(pair, z), shape, SAMPLES, (low, high), title, ax), (6.0, 6.4)
            )
    return found


def _tried(draw: Callable[[Axes], Axes], size: tuple[float, float]) -> str | None:
    try:
        return _drawn(draw, size)
    except Problem:
        return None


def _drawn(draw: Callable[[Axes], Axes], size: tuple[float, float]) -> str:
    figure = Figure(size, layout="constrained")
    draw(figure.subplots())
    return inline(figure)


def _terms(record: dict[str, Any]) -> list[str]:
    held_out = ["held out"] if "held_out" in record else []
    return [*held_out, *(["likelihood", *(f"KL {name}" for name in record["kl"])] if "kl" in record else [])]


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose terms stand under their headings."""
    kl = {f"KL {name}": value for name, value in record.get("kl", {}).items()}
    return {**record, **kl, "held out": record.get("held_out")}


def _thinned(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of the epochs, the first and the last among them."""
    if len(history) <= EPOCHS:
        return history
    places = torch.linspace(0, len(history) - 1, EPOCHS).round().long().unique().tolist()
    return [history[place] for place in places]


def _config(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / CONFIG).read_text())
    except (OSError, ValueError):
        return {}


def _made(run: Path) -> dict[str, Any]:
    """What is known of how and where it was fitted, and where this page was made."""
    told = {key.replace("_", " "): value for key, value in _config(run).items() if key != "data"}
    try:
        begun = json.loads((run / ENVIRONMENT).read_text())
    except (OSError, ValueError):
        begun = []
    where = begun[0] if begun else machine()
    again = {"gone on with": f"{len(begun) - 1} times"} if len(begun) > 1 else {}
    return told | {key.replace("_", " "): value for key, value in where.items() if key != "epochs_behind"} | again
