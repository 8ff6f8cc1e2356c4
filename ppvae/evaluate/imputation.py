"""Score imputations against the truth: their centre by RMSE, their law by CRPS and by the coverage of intervals.

A score of the centre cannot tell an honest law from an overconfident one. Draws (S, N, D) are those of
`ppvae.Posterior.impute` or ``Posterior.gibbs(…).x``; only hidden entries are scored, in the units of the data or of
``scale``. Tensors, or whatever `torch.as_tensor` takes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppvae.errors import Problem

BLOCK_BYTES = 2**26  # of sorted draws at one time


class ImputationScores(NamedTuple):
    """Means over the hidden entries.

    Attributes:
        rmse: root mean square of the difference between the mean and the truth.
        crps: continuous ranked probability score; the mean absolute error of a draw that does not vary.
        coverage: the share of the truth inside its interval: ``level`` where the draws' law is the truth's.
        width: the mean width of the intervals.
        entries: how many were scored.
    """

    rmse: float
    crps: float
    coverage: float
    width: float
    entries: int


def crps(draws: Any, truth: Any) -> Tensor:
    r"""The continuous ranked probability score of S draws, by entry: the fair estimator.

    .. math:: \frac{1}{S} \sum_s |X_s - y| - \frac{1}{2 S (S - 1)} \sum_{s, t} |X_s - X_t|

    Its expectation over the draws is that of their law, :math:`\int (F(x) - 1\{y \le x\})^2 dx`, for any S; a single
    estimate may be negative. By sorting, in O(S log S). In the units of x; smaller is better.

    References: Gneiting & Raftery 2007, eq. 21; Ferro 2014.

    Args:
        draws: (S, …), S at least 2.
        truth: (…).

    Raises:
        Problem: a single draw, shapes that do not fit.
    """
    draws, truth = _entered(draws, truth)
    return _crps(_ordered(draws), truth)


def crps_gaussian(loc: Any, scale: Any, truth: Any) -> Tensor:
    r"""The continuous ranked probability score of N(loc, scale^2), by entry, in closed form.

    .. math:: \sigma \{ u (2 \Phi(u) - 1) + 2 \varphi(u) - \pi^{-1/2} \}, \quad u = (y - \mu) / \sigma

    Reference: Gneiting, Raftery, Westveld & Goldman 2005, eq. 5.
    """
    truth = _floating(truth)
    loc, scale = (torch.as_tensor(value).to(truth) for value in (loc, scale))
    u = (truth - loc) / scale
    density = (-0.5 * u.square()).exp() / math.sqrt(2 * math.pi)
    return scale * (u * torch.erf(u / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def interval(draws: Any, level: float = 0.9) -> tuple[Tensor, Tensor]:
    """The central interval between order statistics of S draws, by entry: (lower, upper).

    Their ranks are (S + 1) (1 - level) / 2 from either end, interpolated. A truth exchangeable with the draws has
    each rank among them equally often, so it is covered with probability ``level`` exactly where that is whole.

    Args:
        draws: (S, …).
        level: between 0 and 1.

    Raises:
        Problem: fewer draws than the level needs, 19 for 0.9.
    """
    draws = _floating(draws)
    _refuse_level(len(draws), level)
    return _interval(_ordered(draws), level)


def coverage(lower: Any, upper: Any, truth: Any, hidden: Any) -> float:
    """The share of the hidden entries (True in ``hidden``) whose truth lies in [lower, upper]."""
    truth = _floating(truth)
    lower, upper = (torch.as_tensor(value).to(truth) for value in (lower, upper))
    hidden = _hidden(hidden, truth)
    return float(((lower <= truth) & (truth <= upper))[hidden].double().mean())


def imputation_scores(
    draws: Any, truth: Any, hidden: Any, mean: Any = None, level: float = 0.9, scale: Any = None
) -> ImputationScores:
    """Score draws of the hidden entries against the truth. Rows go in blocks: memory is bounded beside the draws.

    Args:
        draws: completed rows (S, N, D).
        truth: (N, D); read only where hidden.
        hidden: True where an entry was hidden from what drew, (N, D).
        mean: (N, D), scored by the RMSE; by default the draws' own.
        level: of the intervals.
        scale: a unit by column (D,), its standard deviation say; by default the data's own units.

    Raises:
        Problem: nothing hidden, too few draws for the level, shapes that do not fit, NaN among what is scored.
    """
    draws, truth = _entered(draws, truth)
    _refuse_level(len(draws), level)
    hidden = _hidden(hidden, truth)
    mean = None if mean is None else _like(mean, truth, "the mean")
    unit = torch.ones_like(truth[:1]) if scale is None else torch.as_tensor(scale).to(truth)
    unit = unit.expand_as(truth)
    size = max(1, BLOCK_BYTES // (len(draws) * truth.shape[1] * truth.element_size()))
    sums = torch.zeros(4, dtype=torch.double, device=truth.device)
    for start in range(0, len(truth), size):
        block = slice(start, start + size)
        where = hidden[block]
        units, y = unit[block][where], truth[block][where]  # (M,)
        x = _ordered(draws[:, block][:, where])  # (S, M)
        centre = x.mean(0) if mean is None else mean[block][where]
        lower, upper = _interval(x, level)
        each = torch.stack(
            [((centre - y) / units).square(), _crps(x, y) / units, (lower <= y) & (y <= upper), (upper - lower) / units]
        )
        sums += each.double().sum(1)
    if not sums.isfinite().all():
        raise Problem(
            "the scores are not finite",
            "NaN or infinity in the truth or the draws where entries are hidden, or a scale of 0",
            "hidden[i, j] is True only where the truth is known: hidden & ~torch.isnan(truth)",
        )
    count = int(hidden.sum())
    square, score, covered, width = (sums / count).tolist()
    return ImputationScores(math.sqrt(square), score, covered, width, count)


def _ordered(draws: Tensor) -> Tensor:
    if draws.is_cuda or draws.element_size() < 4:
        return draws.sort(0).values
    return torch.from_numpy(np.sort(draws.detach().numpy(), 0))  # in a twentieth of the time that torch takes on a CPU


def _crps(ordered: Tensor, truth: Tensor) -> Tensor:
    S, away = len(ordered), ordered - truth
    rank = torch.arange(1, S + 1, dtype=away.dtype, device=away.device)
    apart = torch.tensordot(2 * rank - S - 1, away, 1)  # sum_{s < t}: the i-th is i - 1 times the larger of two
    return away.abs().mean(0) - apart / (S * (S - 1))


def _interval(ordered: Tensor, level: float) -> tuple[Tensor, Tensor]:
    rank = round((len(ordered) + 1) * (1 - level) / 2, 9)  # 20 * 0.05 is not quite 1
    below = max(int(rank), 1)
    lower, upper = (
        torch.lerp(values[below - 1], values[below], max(rank - below, 0.0)) for values in (ordered, ordered.flip(0))
    )
    return lower, upper


def _entered(draws: Any, truth: Any) -> tuple[Tensor, Tensor]:
    draws = _floating(draws)
    if draws.dim() < 1 or len(draws) < 2:
        raise Problem(
            f"draws has shape {tuple(draws.shape)}",
            "the spread of a law does not show in one draw",
            "draws (S, N, D) with S of at least 2: impute(draws=100)",
        )
    return draws, _like(truth, draws[0], "the truth")


def _like(value: Any, other: Tensor, name: str) -> Tensor:
    value = torch.as_tensor(value).to(other)
    if value.shape != other.shape:
        raise Problem(
            f"{name} has shape {tuple(value.shape)} and a draw {tuple(other.shape)}",
            "other rows, or draws that are not first",
            "draws (S, N, D), all else (N, D)",
        )
    return value


def _floating(value: Any) -> Tensor:
    value = torch.as_tensor(value)
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())


def _hidden(hidden: Any, truth: Tensor) -> Tensor:
    hidden = torch.as_tensor(hidden, device=truth.device)
    if hidden.dtype != torch.bool or hidden.shape != truth.shape or not hidden.any():
        raise Problem(
            f"hidden is {hidden.dtype} of shape {tuple(hidden.shape)} with {int((hidden != 0).sum())} entries marked, "
            f"the truth has shape {tuple(truth.shape)}",
            "nothing was hidden, or something else stands in its place",
            "one bool an entry, True where it was hidden: mask & ~mask_given",
        )
    return hidden


def _refuse_level(draws: int, level: float) -> None:
    if not 0 < level < 1:
        raise Problem(f"level is {level!r}", "the share of the truth that an interval should hold", "level=0.9")
    least = math.ceil(2 / (1 - level) - 1 - 1e-6)
    if draws < least:
        raise Problem(
            f"{draws} draws for an interval of level {level:g}",
            f"its ends would lie outside of the draws: the whole range of {draws} covers {(draws - 1) / (draws + 1):.0%}",
            f"{least} draws or more, or a lower level",
        )
