"""Which way to complete a table: the one that foretells entries best that were observed and hidden for the purpose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ppvae.evaluate.imputation import ImputationScores, imputation_scores
from ppvae.imputation.hidden import tenth
from ppvae.imputation.ways import WAYS, Way, complete

LARGEST = 2**26  # numbers in all draws together: half a GiB, of which a few copies are made
COVARIANCE = (
    5e8  # N D³ up to which a covariance is drawn: half a minute a fit on one core, 250 rounds of N Cholesky factors
)
COMPONENTS = 15  # a mixture's covariances cost so many times one's


class Choice(NamedTuple):
    """What `choose` found.

    Attributes:
        name: of the way with the least CRPS.
        scores: of each way that was tried, in standard deviations of the columns.
    """

    name: str
    scores: dict[str, ImputationScores]


def choose(x: Tensor, ways: Mapping[str, Way] = WAYS, seed: int = 0, hidden: Tensor | None = None) -> Choice:
    r"""Hide a tenth of what was observed, complete the table in each way, and take the one with the least CRPS there.

    The continuous ranked probability score is a distance between distribution and truth in the truth's units: a sharp
    distribution in the right place has a small one, an overconfident or a vague one does not (Gneiting & Raftery 2007).
    Where nothing can be hidden, the first way is taken.

    Args:
        x: (N, D), NaN = missing; every column varies.
        ways: by name.
        seed: of what is hidden, and of the ways.
        hidden: the observed entries to hide (N, D); by default a tenth of them.
    """
    hidden = tenth(x, seed) if hidden is None else hidden
    if not hidden.any():
        return Choice(next(iter(ways)), {})
    rest = x.masked_fill(hidden, torch.nan)
    scale = (rest - rest.nanmean(0)).square().nanmean(0).sqrt()
    scores = {}
    for name, way in ways.items():
        found = complete(rest, way, draws_for(x), seed)
        scores[name] = imputation_scores(found.draws, x, hidden, mean=found.mean, scale=scale)
    return Choice(min(scores, key=lambda name: scores[name].crps), scores)


def worth_trying(x: Tensor, deep: bool = False) -> dict[str, Way]:
    """The ways that take seconds on a table of this size; ``deep``: and those that take minutes, mixtures and a VAE."""
    names = ["Factor analysis", "Factor analysis, warped columns"]
    if len(x) * x.shape[1] ** 3 <= COVARIANCE:
        names += ["Gaussian, uncertain parameters", "Gaussian, uncertain parameters, warped columns"]
    if deep and len(x) * x.shape[1] ** 3 <= COVARIANCE / COMPONENTS:
        names += ["Gaussian mixture", "Gaussian mixture, warped columns"]
    names += ["VAE, warped columns"] * deep
    return {name: WAYS[name] for name in names}


def draws_for(x: Tensor) -> int:
    """How many draws describe what is missing: 199 where memory allows; 90 % intervals are exact at 19, 39, 99 and 199."""
    return next((draws for draws in (199, 99, 39) if draws * x.numel() <= LARGEST), 19)
