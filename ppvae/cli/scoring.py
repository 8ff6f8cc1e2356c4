"""What the command line says of a pair on the test rows of its data: scores, imputations, calibration; printed and returned."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

import ppvae
from ppvae import data as ppdata
from ppvae.cli.shared import Source, console, errors, standard_error
from ppvae.errors import Problem
from ppvae.evaluate import conformal, coverage, imputation_scores, interval, pareto_threshold, rubin, sbc, tarp
from ppvae.pair import Pair
from ppvae.report.calibration import picture

DRAWS = 99  # the 5th and the 95th bound a 90 % interval
CHUNK = 100  # rows scored between two steps of the progress line
TRUSTED = 1000  # weights a row by which Pareto's k is told
LEVELS = 0.5, 0.9  # of the intervals
FEWEST = 9  # rows that can say how far a 90 % interval reaches


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
            trust.append(post.diagnostics(TRUSTED))
    _state(figures, "elbo", torch.cat(bound))
    if evidence:
        _state(figures, "log_evidence", torch.cat(evidence))
        ess, k = (torch.cat([found[name] for found in trust]) for name in ("ess", "pareto_k"))
        figures |= {
            "particles": 1 if pair.exact else particles,
            "ess_median": float(ess.median()),
            "pareto_threshold": pareto_threshold(TRUSTED),
            "pareto_k_above_threshold": float((k > pareto_threshold(TRUSTED)).double().mean()),
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
            f"  of {TRUSTED} draws the median row has {figures['ess_median']:.0f} effective; Pareto k is above "
            f"{figures['pareto_threshold']:.2f}, what so many allow, in {figures['pareto_k_above_threshold']:.1%} of rows"
        )
    return figures


def imputation(
    pair: Pair, rows_of: Source, hide: float, rows: int, seed: int, calibrate: bool = False
) -> dict[str, Any]:
    """Hide entries of the test rows completely at random, complete them, and print how well that went.

    Where enough rows have hidden entries it says whether intervals hold, before and after one half of the rows has stretched them;
    with ``calibrate`` too few rows are refused.
    """
    entries, _ = _test_rows(pair, rows_of, rows, seed)
    x = entries["x"]
    if not (pair.takes_mask("x") or pair.hides("x")):
        raise Problem("the pair takes no mask", "its story was written for complete rows", "--hide 0")
    hidden = (torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < hide) & ~x.isnan()
    if not hidden.any():
        raise Problem(f"--hide {hide} hides none of {x.numel()} entries", "too few rows for it", "a larger share")
    halves = _halves(hidden, seed, calibrate)
    torch.manual_seed(seed)
    told = pair.seen(x, ~x.isnan())  # what is hidden here was seen: a story of the mask is not told otherwise
    post = ppvae.condition(pair, {**entries, **told, "x": x.masked_fill(hidden, torch.nan)})
    drawn, mean = post.impute(DRAWS).to(x), post.impute_mean(1000).to(x)
    scores = imputation_scores(drawn, x, hidden, mean=mean)._asdict()
    console.print(
        f"  {scores['entries']} entries hidden at random ({hide:.0%}): RMSE {scores['rmse']:.3f}, CRPS {scores['crps']:.3f}; "
        f"90 % intervals of {DRAWS} draws hold {scores['coverage']:.1%} of them, mean width {scores['width']:.3f}"
    )
    held = intervals(drawn, x, hidden, *halves) if halves else []
    return {"hide": hide, "draws": DRAWS, **scores, "intervals": held, "means": column_means(drawn, x, hidden)}


def column_means(drawn: Tensor, x: Tensor, hidden: Tensor) -> dict[str, Any]:
    """How many columns' means Rubin's 95 % intervals hold, of those that were whole before; printed. Pooled over completed tables of
    the rows that tell the truth, an interval that allows for other rows too holds more often."""
    columns = hidden.any(0) & ~x.isnan().any(0)
    if len(x) < 2 or not columns.any():
        return {"columns": 0}
    drawn, truth = drawn[..., columns].double(), x[:, columns].double().mean(0)
    low, high = rubin(drawn.mean(1), drawn.var(1) / len(x)).interval()
    held = int(((low <= truth) & (truth <= high)).sum())
    console.print(f"  Rubin's 95 % intervals of the mean hold it in {held} of {len(truth)} columns")
    return {"columns": len(truth), "held": held}


def intervals(drawn: Tensor, x: Tensor, hidden: Tensor, learn: Tensor, test: Tensor) -> list[dict[str, float]]:
    """Coverage in the rows ``test``, of the draws' intervals and of those that the rows ``learn`` stretch; printed."""
    mean, scale = drawn.mean(0), drawn.std(0)
    if (scale[hidden] == 0).any():
        console.print("  some hidden entries have one value in all draws: no factor stretches their intervals")
        return []
    found = []
    for level in LEVELS:
        factor = conformal(mean[learn], scale[learn], x[learn], hidden[learn], level)
        low, high = interval(drawn[:, test], level)
        m, reach = mean[test], factor * scale[test]
        before = coverage(low, high, x[test], hidden[test])
        after = coverage(m - reach, m + reach, x[test], hidden[test])
        found.append({"level": level, "before": before, "factor": factor, "after": after})
        console.print(
            f"  {level:.0%} intervals hold {before:.1%} in one half of the rows; mean ± {factor:.2f} standard deviations, "
            f"learned on the other half: {after:.1%}"
        )
    return found


def _halves(hidden: Tensor, seed: int, needed: bool) -> tuple[Tensor, Tensor] | None:
    """Two halves of the rows, drawn by the seed: to stretch intervals by, and to test them; None where they are too few."""
    order = torch.randperm(len(hidden), generator=torch.Generator().manual_seed(seed))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    fewest = min(int(hidden[half].any(1).sum()) for half in halves)
    if fewest < FEWEST and not needed:
        return None
    if fewest < FEWEST:
        raise Problem(
            f"of {len(hidden)} rows one half has {fewest} with hidden entries",
            f"a {max(LEVELS):.0%} interval is stretched and tested by {FEWEST} such rows at least in each half",
            "more --rows (0: all), or a larger --hide",
        )
    return halves


def calibration(
    pair: Pair, rows_of: Source, hide: float, rows: int, seed: int, figure: Path | None = None
) -> dict[str, Any]:
    """Simulate as many rows as are scored, hide a share of their entries, test the guide's draws, print and return p-values."""
    entries, _ = _test_rows(pair, rows_of, rows, seed)
    x = entries["x"]  # of which the simulated rows take only the number
    entries["x"] = torch.where(x.isnan(), pair.fill("x", entries), x)
    turn = itertools.count(seed)  # another mask for each block of rows
    law = (lambda x: ppdata.mcar(x, hide, next(turn))) if hide else None
    torch.manual_seed(seed)
    ranks, held = sbc(pair, entries, law, DRAWS), tarp(pair, entries, law, DRAWS)
    found = {name: _least(p) for name, p in ranks.p_value.items()}
    count = len(entries["x"])
    told = ", ".join(f"{'hidden x' if name == 'x' else name} {p:.2g}" for name, p in found.items())
    hiding = f" with {hide:.0%} hidden" if hide else ""
    console.print(
        f"  {count} rows simulated by the pair{hiding}: p-values of the guide's ranks (SBC): {told}; of regions of all together "
        f"(TARP): {held.p_value:.2g}, coverage is off by {held.deviation:.3f} at most"
    )
    if figure is not None:
        picture(figure, ranks, held, DRAWS, f"{count} rows simulated by the pair{hiding}, the guide's own draws")
        console.print(f"  curves in {figure}")
    return {
        "rows": count,
        "hide": hide,
        "draws": DRAWS,
        "sbc_p_value": found,
        "tarp_p_value": held.p_value,
        "tarp_deviation": held.deviation,
    }


def _least(p: Tensor) -> float:
    """The least of several p-values, times their number (Bonferroni); 1 where none could be told."""
    p = p[~p.isnan()]
    return min(1.0, float(p.min()) * len(p)) if len(p) else 1.0


def _test_rows(pair: Pair, rows_of: Source, rows: int, seed: int) -> tuple[dict[str, Tensor], int]:
    """A random subset of the test rows (0: all), and how many there are."""
    entries = rows_of.entries("test", pair, seed)
    chosen = _chosen(len(entries["x"]), rows, seed)
    return {name: value[chosen] for name, value in entries.items()}, len(entries["x"])


def labelled(pair: Pair, rows_of: Source, rows: int, seed: int) -> tuple[dict[str, Tensor], Tensor | None]:
    """The same rows, and their labels where the data have some."""
    entries, total = _test_rows(pair, rows_of, rows, seed)
    label = rows_of.test.get("label")
    return entries, None if label is None else label[_chosen(total, rows, seed)]


def _chosen(total: int, rows: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.randperm(total)[: rows or total].sort().values


def _state(figures: dict[str, Any], name: str, values: Tensor) -> None:
    figures[name], figures[name + "_se"] = float(values.mean()), standard_error(values)
