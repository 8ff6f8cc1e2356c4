"""Are the posteriors of a pair calibrated? Simulation-based checks: rows made by the story itself, whose latents are known.

Each simulated row is one replicate, seen where the data are seen. If the draws that the pair gives for it come from the
posterior, its true latents are one draw more, which nothing tells apart from the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppvae.conditioning.posterior import Posterior, condition
from ppvae.door import Table
from ppvae.errors import Problem, refuse_count
from ppvae.evaluate.density import guide_draws, simulate
from ppvae.pair import Pair


class Ranks(NamedTuple):
    """Ranks of the true latents among draws, by site.

    Attributes:
        ranks: how many of the S draws are smaller, 0 … S, (N, U).
        p_value: chi-squared test of each coordinate's ranks against the uniform distribution (U,).
    """

    ranks: dict[str, Tensor]
    p_value: dict[str, Tensor]


class Coverage(NamedTuple):
    """Expected coverage of credible regions around random points.

    Attributes:
        level: credibility levels, 0 … 1 (L,).
        coverage: the share of rows whose true latents lie inside the region of that level (L,).
        deviation: the largest distance between the two, over all levels.
        p_value: Kolmogorov and Smirnov's, of that distance or more where the draws come from the posterior.
    """

    level: Tensor
    coverage: Tensor
    deviation: float
    p_value: float


def sbc(pair: Pair, x: Any, mask: Any = None, draws: int = 99, particles: int | None = None) -> Ranks:
    """Rank the latents of simulated rows among draws of their posterior: simulation-based calibration.

    Ranks pile up at both ends where the draws are too narrow, in the middle where they are too wide, at one end where they
    are off to a side.

    Reference: Talts, Betancourt, Simpson, Vehtari & Gelman 2018, theorem 1.

    Args:
        pair: its latents are local.
        x: rows whose number, covariates and missing entries the simulated rows take.
        mask: True = observed.
        draws: S of each row.
        particles: None checks the guide itself; a number, the draws of `Posterior.sample` with that pool.

    Raises:
        Problem: no latents, or a global one, of which all rows together are one replicate.
    """
    refuse_count("draws", draws)
    post = condition(pair, x, mask)
    parts: dict[str, list[Tensor]] = {}
    for truth, drawn, _ in _replicates(post, draws, particles):
        for name, value in drawn.items():
            less, equal = (value < truth[name]).sum(0), (value == truth[name]).sum(0)
            ties = (torch.rand_like(truth[name]) * (equal + 1)).floor().to(less)  # 0 where there are none
            parts.setdefault(name, []).append(less + ties)
    ranks = {name: torch.cat(part) for name, part in parts.items()}
    return Ranks(ranks, {name: _uniformity(value, draws) for name, value in ranks.items()})


def tarp(pair: Pair, x: Any, mask: Any = None, draws: int = 99, particles: int | None = None) -> Coverage:
    """Test all latents together: the coverage of balls around random points, by simulated rows.

    A ball around a point of the row's own choosing holds the draws that are nearer to it than the true latents are; its
    share of the draws is uniform if they come from the posterior. The points are random linear functions of what was
    observed: did they not depend on it, a guide that always answers with the prior would pass.

    Reference: Lemos, Coogan, Hezaveh & Perreault-Levasseur 2023. Arguments and errors as in `sbc`.
    """
    from scipy import stats  # takes a second to import

    refuse_count("draws", draws)
    post = condition(pair, x, mask)
    if "x" not in post.table.values:
        raise Problem("there is no x", "the balls' centres are functions of it", "sbc ranks the latents without it")
    shares = []
    for truth, drawn, rows in _replicates(post, draws, particles):
        z = torch.cat([drawn[name].reshape(draws, len(rows), -1) for name in drawn], -1)  # (S, n, U)
        true = torch.cat([truth[name].reshape(len(rows), -1) for name in drawn], -1)  # (n, U)
        point, spread = _points(z, rows)
        away = ((torch.cat([true[None], z]) - point) / spread).square().sum(-1)  # (1 + S, n)
        nearer, equal = (away[1:] < away[0]).sum(0), (away[1:] == away[0]).sum(0)
        shares.append((nearer + torch.rand_like(away[0]) * (equal + 1)) / (draws + 1))  # uniform, not only on a grid
    share = torch.cat(shares).double().cpu()
    level = torch.linspace(0, 1, 101, dtype=torch.double)
    test = stats.kstest(share.numpy(), "uniform")
    coverage = (share[:, None] <= level).double().mean(0)
    return Coverage(level, coverage, float(test.statistic), float(test.pvalue))


def _replicates(
    post: Posterior, draws: int, particles: int | None
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor], Table]]:
    """Blocks of simulated rows: their true latents (n, U), draws of them (S, n, U), and the rows."""
    pair = post.pair
    if post.global_latents:
        raise Problem(
            f"the latent {min(post.global_latents)!r} is global: it stands outside the data plate",
            "all rows together are one replicate, and one rank says nothing",
            "a pair whose row is a whole data set",
        )
    with post.evaluating():
        for data in post.row_blocks(max(draws, particles or 0)):
            truth, rows = simulate(pair, data)
            if particles is None:
                drawn = guide_draws(pair, rows, draws)
            else:
                drawn = condition(pair, rows).sample(draws, particles)
            drawn = {name: v.reshape(draws, len(rows), -1) for name, v in drawn.items() if name in truth}
            if not drawn:
                raise Problem(
                    "the guide draws no latent of the story", "there is nothing to rank", "a pair with a guide"
                )
            yield {name: truth[name].reshape(len(rows), -1) for name in drawn}, drawn, rows


def _uniformity(ranks: Tensor, draws: int) -> Tensor:
    """The p-value of each column of ranks 0 … S, in at most twenty bins of at least five expected rows."""
    from scipy import stats

    bins = max(2, min(20, draws + 1, len(ranks) // 5))
    bin_of = (torch.arange(draws + 1) * bins) // (draws + 1)
    expected = bin_of.bincount(minlength=bins) * (len(ranks) / (draws + 1))
    counts = torch.stack([bin_of[column].bincount(minlength=bins) for column in ranks.cpu().T])
    distance = ((counts - expected).square() / expected).sum(-1)
    return torch.as_tensor(stats.chi2.sf(distance.numpy(), bins - 1))


def _points(z: Tensor, rows: Table) -> tuple[Tensor, Tensor]:
    """Centres of the balls (n, U), and the unit of each coordinate (U,); both known before the true latents are."""
    x = rows.values["x"]
    mask = rows.masks.get("x", torch.ones_like(x, dtype=torch.bool))
    seen = torch.where(mask, x, 0.0)
    centred = torch.where(mask, x - seen.sum(0) / mask.sum(0).clamp(min=1), 0.0)
    unit = centred.square().mean(0).sqrt().clamp(min=torch.finfo(x.dtype).eps)
    turn = torch.randn(x.shape[1], z.shape[-1], dtype=x.dtype, device=x.device) / x.shape[1] ** 0.5
    flat = z.flatten(0, 1)
    spread = flat.std(0).clamp(min=torch.finfo(z.dtype).tiny)
    return flat.mean(0) + spread * (centred / unit @ turn), spread
