"""Pictures of calibration: how far the ranks of what is known lie from even, and the coverage of credible regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ppvae.evaluate.calibration import Coverage, Ranks
from ppvae.files import write_whole

HIDDEN = "hidden entries of x"
COLOURS = {HIDDEN: "#b34700"}  # latents in the other
LATENT = "#0b4a78"
BAND = 1.358  # Kolmogorov's 95 % quantile: of 20 curves of a calibrated pair one leaves sqrt(N) of it somewhere


def picture(path: Path, ranks: Ranks, coverage: Coverage, draws: int, said: str) -> None:
    """Write both as one PNG, whole or not at all.

    Left, a curve a latent and one of all hidden entries: the distribution function of the ranks less the even one; above 0 in the left
    half and below in the right half draws are too narrow. Right, TARP: below the line regions hold less than they should. The bands
    hold a calibrated pair's curve 19 times of 20, each for itself.

    Args:
        path: of the file.
        ranks, coverage: of `sbc` and `tarp`.
        draws: S of the ranks.
        said: the title.
    """
    write_whole(path, lambda draft: _figure(ranks, coverage, draws, said).savefig(draft, dpi=130, format="png"))


def _figure(ranks: Ranks, coverage: Coverage, draws: int, said: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure((9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    level = np.arange(draws + 2) / (draws + 1)
    rows = len(_curves(ranks)[0][1])
    _band(left, level, np.zeros_like(level), rows)
    labels: set[str] = set()
    for name, column in _curves(ranks):
        below = np.searchsorted(np.sort(column), np.arange(draws + 2), side="left") / len(column)
        label = None if name in labels else name
        left.plot(level, below - level, color=COLOURS.get(name, LATENT), linewidth=1.2, label=label)
        labels.add(name)
    left.set_xlabel("share of the draws that are smaller")
    left.set_ylabel("share of the rows below that, less the even share")
    left.legend(fontsize=8)
    level, held = coverage.level.numpy(), coverage.coverage.numpy()
    _band(right, level, level, rows)
    right.plot(level, held, color=LATENT)
    right.set_xlabel("credibility of a region around a random point")
    right.set_ylabel("share of the rows whose truth it holds")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(said, fontsize=10)
    return figure


def _curves(ranks: Ranks) -> list[tuple[str, np.ndarray]]:
    """The ranks of each latent's coordinates, and those of all hidden entries together: a mean over columns, no wider than one."""
    found = [(name, column) for name, values in ranks.ranks.items() if name != "x" for column in values.cpu().numpy().T]
    if "x" in ranks.ranks:
        entries = ranks.ranks["x"].cpu().numpy().ravel()
        found.append((HIDDEN, entries[entries >= 0]))
    return found


def _band(axes: Any, level: np.ndarray, centre: np.ndarray, rows: int) -> None:
    reach = BAND / rows**0.5
    axes.fill_between(
        level, centre - reach, centre + reach, color="#e9edf1", linewidth=0, label="calibrated, 19 times of 20"
    )
    axes.plot(level, centre, color="#8a949e", linewidth=0.8, linestyle="--", label="even")
