"""Multiple imputation: one answer, and its error, from the answers that each completed table gives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from ppvae.errors import Problem


class Pooled(NamedTuple):
    """Estimates pooled over M completed tables, each of the shape of one estimate.

    Attributes:
        estimate: the mean of the tables' estimates.
        error: its standard error, what is not known of the missing entries included.
        degrees: of freedom of the t distribution that it has; infinite where all tables agree.
        missing: the share of the variance that comes from the missing entries, in [0, 1].
    """

    estimate: Tensor
    error: Tensor
    degrees: Tensor
    missing: Tensor

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The interval that holds the truth in a share ``level`` of repetitions."""
        if not 0 < level < 1:
            raise Problem(f"level is {level!r}", "a share of repetitions lies between 0 and 1", "level=0.95")
        reach = torch.as_tensor(stats.t.ppf((1 + level) / 2, self.degrees.cpu())).to(self.error) * self.error
        return self.estimate - reach, self.estimate + reach


def rubin(estimates: Tensor, variances: Tensor) -> Pooled:
    r"""Pool what M completed tables say, by Rubin's rules.

    .. math:: \bar Q = \tfrac1M \sum_m Q_m, \quad T = \bar U + (1 + \tfrac1M) B, \quad
        \nu = (M - 1) \big(1 + \frac{\bar U}{(1 + 1/M) B}\big)^2

    with :math:`\bar U` the mean of the variances and B the variance between the estimates. Intervals cover only where the tables are
    draws of p(x_m | x_o) that also vary by what is not known of the parameters (proper imputations): draws of one fitted pair do
    not, and their intervals are too short where little is observed.

    Reference: Rubin 1987, section 3.1.

    Args:
        estimates: Q of each table, (M, …): ``post.impute(draws=M).mean(1)``.
        variances: the squared standard errors that each table alone would have, (M, …).

    Raises:
        Problem: fewer than two tables, shapes that differ, a variance that is negative or not finite.
    """
    if estimates.shape != variances.shape or estimates.dim() == 0 or len(estimates) < 2:
        raise Problem(
            f"estimates have shape {tuple(estimates.shape)} and variances {tuple(variances.shape)}",
            "one of each for each of two or more completed tables",
            "post.impute(draws=20), and the same statistic of each draw",
        )
    if not (estimates.isfinite().all() and variances.isfinite().all() and (variances >= 0).all()):
        raise Problem(
            "an estimate or a variance is not finite, or a variance is negative",
            "standard errors in the place of variances, or a statistic of nothing",
            "the squared standard error of each estimate",
        )
    M, within, between = len(estimates), variances.mean(0), estimates.var(0)
    more = (1 + 1 / M) * between
    total = within + more
    missing = torch.where(total > 0, more / total, 0.0)
    return Pooled(estimates.mean(0), total.sqrt(), (M - 1) / missing.square(), missing)
