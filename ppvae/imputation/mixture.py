"""Mixtures of Gaussians as a way to complete a table: several fits, from several starts, share the draws.

One fit by EM ends in a local maximum and takes it for known. Fits from several starts disagree about as much as the table leaves open:
their average has a smaller error than each, and draws from them all are as wide as they should be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.evaluate.imputation import crps
from ppvae.exact.mixture import GaussianMixture, gaussian_mixture, mixture_conditional, mixture_draws
from ppvae.imputation.completed import Completed
from ppvae.imputation.hidden import tenth
from ppvae.machine import own_generators

SIZES = (1, 2, 4, 8, 15, 30)  # components tried, while hidden entries say that more are better
PRIORS = (0.1, 1.0)
ROWS = 1  # entries seen of each column, for each column of each component, at least
FITS, TRIED = 8, 2  # fits that share the draws, and those by which a size and a prior are judged
DRAWS = 40  # of a hidden entry, from which its score is taken
TOLERANCE = 1e-3  # nats per row: many rough fits are worth more than few fine ones


def gaussians(z: Tensor, draws: int, seed: int) -> Completed:
    """Mixtures of Gaussians by EM, their size and prior those that foretell a hidden tenth of the observed entries best.

    Args:
        z: rows (N, D) on their columns' scales, NaN = missing.
        draws: S, shared among the fits.
        seed: equal seeds give equal numbers.
    """
    scores = hidden_scores(z, seed)
    components, prior = min(scores, key=scores.__getitem__) if scores else (1, PRIORS[-1])
    fits = _fits(z, components, prior, min(FITS, draws), seed)
    with own_generators(seed):
        mean, drawn = _completed(z, fits, draws)
    found = {
        "components": components,
        "prior": prior,
        "crps_by_size_and_prior": {f"{c}, {p:g}": v for (c, p), v in scores.items()},
    }
    return Completed(torch.where(z.isnan(), mean, z), drawn, found)


def hidden_scores(z: Tensor, seed: int) -> dict[tuple[int, float], float]:
    """The mean CRPS of a hidden tenth by number of components and prior; two sizes in a row without a gain are the last."""
    hidden = tenth(z, seed)
    if not hidden.any():
        return {}
    rest = z.masked_fill(hidden, torch.nan)
    most = int((~rest.isnan()).sum(0).min()) // (ROWS * z.shape[1])
    sizes = [size for size in SIZES if size <= max(most, 1)]
    scores: dict[tuple[int, float], float] = {}
    for i, components in enumerate(sizes):
        for prior in PRIORS:
            with own_generators(seed):
                _, drawn = _completed(rest, _fits(rest, components, prior, TRIED, seed), DRAWS)
            scores[components, prior] = float(crps(drawn[:, hidden], z[hidden]).mean())
        if (
            min(scores, key=scores.__getitem__)[0] < sizes[max(i - 1, 0)]
        ):  # two sizes in a row foretell it worse than a smaller one
            break
    return scores


def _completed(z: Tensor, fits: list[GaussianMixture], draws: int) -> tuple[Tensor, Tensor]:
    """The mean of the fits' conditional means, (N, D), and draws of which each fit has its share, (S, N, D)."""
    seen = ~z.isnan()
    mean = torch.stack([mixture_conditional(fit, z, seen) for fit in fits]).mean(0)
    shares = [len(part) for part in torch.arange(draws).tensor_split(len(fits))]
    return mean, torch.cat([mixture_draws(fit, z, seen, share) for fit, share in zip(fits, shares, strict=True)])


def _fits(z: Tensor, components: int, prior: float, count: int, seed: int) -> list[GaussianMixture]:
    count = 1 if components == 1 else count  # one maximum
    return [
        gaussian_mixture(z, components, prior=prior, tolerance=TOLERANCE, seed=1000 * seed + i) for i in range(count)
    ]
