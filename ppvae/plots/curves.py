"""Curves of a fit: what training reached, and what more particles would show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes

from ppvae.conditioning.posterior import condition
from ppvae.errors import Problem
from ppvae.fitting.folder import METRICS
from ppvae.machine import own_generators
from ppvae.pair import Pair
from ppvae.plots.style import COLOURS, axes_of


def training(history: Sequence[dict[str, Any]] | str | Path, ax: Axes | None = None) -> Axes:
    """The bound after each epoch, and that of the rows held out, where there are some.

    Args:
        history: ``Fit.history``, or a run folder.
        ax: where to draw.

    Raises:
        Problem: no epoch, or a folder without metrics.
    """
    records = history_of(history) if isinstance(history, str | Path) else list(history)
    if not records:
        raise Problem("the history has no epoch", "nothing was trained yet", "fit(pair, x).history")
    ax = axes_of(ax)
    epochs = [record["epoch"] for record in records]
    ax.plot(epochs, [record["bound"] for record in records], color=COLOURS[5], marker=_marker(epochs), label="training")
    if "held_out" in records[0]:
        held_out = [record["held_out"] for record in records]
        ax.plot(epochs, held_out, color=COLOURS[6], marker=_marker(epochs), linestyle="--", label="held out")
        ax.legend()
    ax.set_xlabel("epoch")
    ax.set_ylabel("bound, nats per row")
    return ax


def history_of(folder: str | Path) -> list[dict[str, Any]]:
    """The records that a run folder keeps.

    Raises:
        Problem: a folder without them, or a damaged file.
    """
    path = Path(folder) / METRICS
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise Problem(
            f"{path} cannot be read ({type(error).__name__})",
            "no run folder, or a damaged file",
            "the folder that was given as fit(checkpoint=…)",
        ) from error


def bounds(
    pair: Pair,
    x: Any,
    mask: Any = None,
    particles: Sequence[int] = (1, 2, 5, 10, 20, 50, 100, 200, 500),
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    r"""The importance-weighted bound by its number of particles: mean over the rows and one standard error.

    .. math:: L_P = E \log \tfrac1P \sum_p \tfrac{p(x_o, z_p)}{q(z_p | x_o)}

    It rises with P to log p(x_o) (Burda, Grosse & Salakhutdinov 2016); where it still rises at the end, that is not reached.
    Each P has draws of its own.

    Args:
        pair: a pair with a guide.
        x: (N, D), NaN = missing.
        mask: True = observed.
        particles: numbers P, each at least 1.
        seed: of the draws.
        ax: where to draw.
    """
    if not len(particles) or not all(isinstance(p, int) and p >= 1 for p in particles):
        raise Problem(f"particles is {particles!r}", "numbers of draws, each at least 1", "particles=(1, 5, 50, 500)")
    post, means, errors = condition(pair, x, mask), [], []
    with own_generators(seed):
        for count in particles:
            rows = post.log_evidence(count).double()
            means.append(float(rows.mean()))
            errors.append(float(rows.std() / len(rows) ** 0.5) if len(rows) > 1 else 0.0)
    ax = axes_of(ax)
    middle, error = torch.tensor(means), torch.tensor(errors)
    ax.fill_between(particles, middle - error, middle + error, color=COLOURS[5], alpha=0.2, linewidth=0)
    ax.plot(particles, middle, color=COLOURS[5], marker="o", markersize=4)
    ax.set_xscale("log")
    ax.set_xlabel("particles")
    ax.set_ylabel("bound, nats per row")
    return ax


def _marker(epochs: Sequence[int]) -> str:
    return "o" if len(epochs) == 1 else ""
