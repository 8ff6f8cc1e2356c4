"""The report of `ppvae impute`: what was missing, the fit, and whether to believe the completed cells."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ppvae.report.page import render
from ppvae.report.pictures import ROWS, distributions, pattern, shares

SHOWN = 60  # columns, at most: those with most holes


def imputation(
    values: np.ndarray,
    columns: Sequence[str],
    drawn: np.ndarray,
    results: dict[str, Any],
    classes: Sequence[Sequence[Any]] | None = None,
    **said: Any,
) -> str:
    """Give the page as HTML.

    Args:
        values: (N, D), NaN = missing.
        columns: D names.
        drawn: draws of the M missing cells, row by row, (S, M).
        results: the figures that ``--json`` writes.
        classes: of each column, what its codes stand for, nothing of numbers; None: all are numbers.
        said: what the page says besides: table, output, seed, seconds, written (the time).
    """
    seen = ~np.isnan(values)
    missing = (~seen).sum(0)
    shown = np.sort(np.argsort(-missing, kind="stable")[:SHOWN])
    column = np.argwhere(~seen)[:, 1]
    score, names = results["score"], classes or [()] * len(columns)
    return render(
        "imputation.html",
        **said,
        **{"classes": None, "energy": None, "stretch": None, **results},
        pattern=pattern(seen[:, shown], [int(j) + 1 for j in shown], np.random.default_rng(said["seed"])),
        pattern_width=max(24, len(shown)),
        pattern_rows=min(len(seen), ROWS),
        complete_rows=int(seen.all(1).sum()),
        pictured=len(drawn),
        expected=_expected(score),
        shown=[
            {
                "number": int(j) + 1,
                "name": columns[j],
                "missing": int(missing[j]),
                "share": float(missing[j] / len(seen)),
                "classes": [str(name) for name in names[j]],
                "picture": (distributions if not len(names[j]) else partial(shares, classes=len(names[j])))(
                    values[seen[:, j], j], drawn[:, column == j].ravel()
                ),
                "score": results["by_column"][columns[j]],
            }
            for j in shown
        ],
    )


def summary(results: dict[str, Any], written: Sequence[str]) -> list[str]:
    """The same in a few lines.

    Args:
        results: as in `imputation`.
        written: what was written where.
    """
    passed, gaps, score, K = (
        *(results[name] for name in ("passed", "passed_missing", "score")),
        results["fit"].get("latents"),
    )
    factors = f" with {K} factor{'s' if K > 1 else ''}" if K else ""
    classes = results.get("classes")
    said = [
        f"{results['rows']} rows, {results['columns']} columns{' of numbers' if passed and not classes else ''}, {results['missing']} "
        f"missing cell{'s' if results['missing'] > 1 else ''} completed by {results['way']!r}{factors}; written to {', '.join(written)}"
    ]
    if passed:
        names = ", ".join(passed[:10]) + f" and {len(passed) - 10} more" * (len(passed) > 10)
        stay = f"; {gaps} empty cells in them stay empty" if gaps else ""
        what = "neither numbers nor classes" if classes else "not numbers"
        many = f"columns that are {what}" if len(passed) > 1 else f"column that is {what}"
        said.append(f"{len(passed)} {many} passed through: {names}{stay}")
    if score["entries"]:
        said.append(
            f"of {score['entries']} observed cells hidden for the purpose 90 % intervals held {score['held']} "
            f"({100 * score['coverage']:.1f} %); RMSE {score['rmse']:.3f} in standard deviations of their columns "
            f"(the column mean has {score['rmse_mean']:.3f})"
        )
    if classes and classes["entries"]:
        said.append(
            f"of {classes['entries']} hidden cells of classes {classes['right']} are right "
            f"({100 * classes['right'] / classes['entries']:.1f} %; the commonest class of each column is in "
            f"{classes['right_common']})"
        )
    return said


def _expected(score: dict[str, Any]) -> tuple[float, float] | None:
    """Between which shares intervals that are right hold, 19 times of 20, were the cells independent."""
    if not score["entries"]:
        return None
    level, error = score["level"], 1.96 * (score["level"] * (1 - score["level"]) / score["entries"]) ** 0.5
    return level - error, min(1.0, level + error)
