"""Intervals that hold whatever the pair is worth: how far its own must be stretched, told by rows whose truth is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppvae.errors import Problem


def conformal(mean: Tensor, scale: Tensor, truth: Tensor, hidden: Tensor, level: float = 0.9) -> float:
    r"""Give the factor c such that mean ± c scale holds a hidden entry of a new row with probability ``level`` or more.

    .. math:: c = \text{the level-quantile of } \sum_n \frac{1}{N + 1} \frac{1}{|h_n|} \sum_{d \in h_n} \delta_{|x_{nd} - m_{nd}| / s_{nd}}
        + \frac{1}{N + 1} \delta_\infty

    It holds for rows that are exchangeable with these, hidden by the same law, and one hidden entry of the row chosen at random,
    however wrong the pair is; not entry by entry, nor given what is observed. Where the pair is right c tends to the quantile of
    its own law: 1.645 for 0.9 of a Gaussian. The pair must not have been fitted to these rows' hidden entries.

    References: Vovk, Gammerman & Shafer 2005; rows with several entries: Lee, Barber & Willett 2023, eq. 6.

    Args:
        mean, scale: of each entry given what is observed, (N, D): ``draws.mean(0)``, ``draws.std(0)`` of ``post.impute``.
        truth: (N, D).
        hidden: bool (N, D): True where an entry was hidden from the pair. A row without any is left out.
        level: at least 0 and below 1.

    Raises:
        Problem: shapes that differ, a scale that is not positive, too few rows for the level.
    """
    shapes = {
        name: tuple(t.shape) for name, t in (("mean", mean), ("scale", scale), ("truth", truth), ("hidden", hidden))
    }
    if len(set(shapes.values())) > 1 or hidden.dim() != 2 or hidden.dtype != torch.bool:
        raise Problem(f"shapes are {shapes}, and hidden holds {hidden.dtype}", "one number an entry", "(N, D) each")
    if not 0 < level < 1:
        raise Problem(f"level is {level!r}", "a probability lies between 0 and 1", "level=0.9")
    used = hidden.any(1)
    rows, entries = int(used.sum()), hidden.sum(1, keepdim=True).clamp(min=1)
    needed = math.ceil(level / (1 - level) - 1e-9)
    if rows < needed:
        raise Problem(
            f"{rows} rows have hidden entries, for intervals of level {level}",
            f"of {rows} rows the largest score may be exceeded with probability 1 / {rows + 1}",
            f"{needed} rows or more, or a lower level",
        )
    scores = ((truth - mean).abs() / scale)[hidden]
    if not scores.isfinite().all():
        raise Problem(
            "a hidden entry has no finite score",
            "a truth or a mean that is NaN, or a scale of 0",
            "the truth of all hidden entries, and two or more draws",
        )
    weight = (1.0 / entries.double()).expand(hidden.shape)[hidden] / (rows + 1)
    order = scores.argsort()
    reached = weight[order].cumsum(0)
    place = int((reached < level - 1e-12).sum())
    return float(scores[order][place])
