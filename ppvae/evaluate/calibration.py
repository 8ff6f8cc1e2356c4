"""Are the posteriors of a pair calibrated? Simulation-based checks: rows made by the story itself, whose latents are known.

Each simulated row is one replicate, seen where the data are seen, or where a law of missing entries says. If the draws that the
pair gives for it come from the posterior, its true latents are one draw more, which nothing tells apart from the others; and so are
the entries that a law hid, which the story draws from the latents' draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppvae.conditioning.completion import completed
from ppvae.conditioning.posterior import Posterior, condition
from ppvae.door import Table
from ppvae.errors import Problem, refuse_count
from ppvae.evaluate.density import guide_draws, simulate
from ppvae.pair import Pair
from ppvae.tracing.traces import run

Law = Callable[[Tensor], Any]
"""Complete rows (n, D) to their mask, True = observed, such as ``lambda x: ppvae.data.mcar(x, 0.5, seed)``."""
FEWEST = 10  # rows: two bins of five


class Ranks(NamedTuple):
    """Ranks of the true latents among draws, by site; under a law of missing entries also of x.

    Attributes:
        ranks: how many of the S draws are smaller, 0 … S, (N, U); of x (N, D), -1 where it was observed.
        p_value: chi-squared test of each coordinate's ranks against the uniform distribution (U,); NaN of a column of x that was
            hidden in fewer than ten rows.
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


def sbc(pair: Pair, x: Any, mask: Any | Law = None, draws: int = 99, particles: int | None = None) -> Ranks:
    """Rank the latents of simulated rows among draws of their posterior: simulation-based calibration.

    Ranks pile up at both ends where the draws are too narrow, in the middle where they are too wide, at one end where they
    are off to a side.

    Reference: Talts, Betancourt, Simpson, Vehtari & Gelman 2018, theorem 1.

    Args:
        pair: its latents are local.
        x: rows whose number, covariates and missing entries the simulated rows take.
        mask: True = observed; or a law, which hides entries of the simulated rows instead, block by block. Where it looks at what it
            hides (MNAR), a pair that knows nothing of it is not calibrated.
        draws: S of each row.
        particles: None checks the guide itself; a number, the draws of `Posterior.sample` with that pool.

    Raises:
        Problem: fewer than ten rows; no latents, or a global one, of which all rows together are one replicate.
    """
    post, law = _entered(pair, x, mask, draws)
    parts: dict[str, list[Tensor]] = {}
    for truth, drawn, rows in _replicates(post, law, draws, particles):
        for name, value in drawn.items():
            less, equal = (value < truth[name]).sum(0), (value == truth[name]).sum(0)
            ties = (torch.rand_like(truth[name]) * (equal + 1)).floor().to(less)  # 0 where there are none
            ranks = less + ties
            parts.setdefault(name, []).append(ranks.masked_fill(rows.masks["x"], -1) if name == "x" else ranks)
    together = {name: torch.cat(part) for name, part in parts.items()}
    return Ranks(together, {name: _uniformity(value, draws) for name, value in together.items()})


def tarp(pair: Pair, x: Any, mask: Any | Law = None, draws: int = 99, particles: int | None = None) -> Coverage:
    """Test all latents together: the coverage of balls around random points, by simulated rows.

    A ball around a point of the row's own choosing holds the draws that are nearer to it than the true latents are; its
    share of the draws is uniform if they come from the posterior. The points are random linear functions of what was
    observed: did they not depend on it, a guide that always answers with the prior would pass.

    Reference: Lemos, Coogan, Hezaveh & Perreault-Levasseur 2023. Arguments and errors as in `sbc`.
    """
    from scipy import stats  # takes a second to import

    post, law = _entered(pair, x, mask, draws)
    if "x" not in post.table.values:
        raise Problem("there is no x", "the balls' centres are functions of it", "sbc ranks the latents without it")
    shares = []
    for truth, drawn, rows in _replicates(post, law, draws, particles):
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
    post: Posterior, law: Law | None, draws: int, particles: int | None
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor], Table]]:
    """Blocks of simulated rows: their true latents (n, U), draws of them (S, n, U), and the rows; under a law x is among them,
    draws with the observed entries in their places."""
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
            if law is not None:
                rows = _hidden(rows, law)
            if particles is None:
                _refuse_dependent(pair, rows)
                latents = guide_draws(pair, rows, draws)
            else:
                latents = condition(pair, rows).resampled(rows, draws, particles)
            drawn = {name: v.reshape(draws, len(rows), -1) for name, v in latents.items() if name in truth}
            if not drawn:
                raise Problem(
                    "the guide draws no latent of the story", "there is nothing to rank", "a pair with a guide"
                )
            if law is not None:
                truth["x"], drawn["x"] = rows.values["x"], completed(pair, rows, latents, draws)
            yield {name: truth[name].reshape(len(rows), -1) for name in drawn}, drawn, rows


def _refuse_dependent(pair: Pair, rows: Table) -> None:
    """Draws in turn (`ppvae.nn.Mixture`) are spread more evenly than a truth among them would be."""
    for name, site in run(pair, rows.rows(slice(0, 1)), enumerate=False).drawn():
        if not getattr(site["fn"], "independent_draws", True):
            raise Problem(
                f"the guide draws {name!r} from a {type(site['fn']).__name__}, from its components in turn",
                "a row's draws depend on one another, and the rank of the truth among them is not even",
                "draws chosen by their weights: particles=1000",
            )


def _entered(pair: Pair, x: Any, mask: Any | Law, draws: int) -> tuple[Posterior, Law | None]:
    refuse_count("draws", draws)
    law = mask if callable(mask) else None
    post = condition(pair, x, None if law else mask)
    if len(post.table) < FEWEST:
        raise Problem(
            f"{len(post.table)} rows to test calibration by",
            "each row is one replicate, and so few say nothing",
            f"{FEWEST} rows at least; some hundreds find an error of a tenth",
        )
    if law and not pair.takes_mask("x"):
        why = "the story says itself what is missing" if pair.hides("x") else "a story of complete rows"
        raise Problem("a law of missing entries, and a story that takes no mask of x", why, "mask=None")
    return post, law


def _hidden(rows: Table, law: Law) -> Table:
    """The rows, observed where the law says."""
    x = rows.values["x"]
    mask = torch.as_tensor(law(x), device=x.device)
    if mask.dtype != torch.bool or mask.shape != x.shape:
        raise Problem(
            f"the law gives a mask of {mask.dtype} and shape {tuple(mask.shape)} for rows of shape {tuple(x.shape)}",
            "it takes complete rows and says which entries stay",
            "lambda x: ppvae.data.mcar(x, 0.5, seed)",
        )
    return replace(rows, masks={**rows.masks, "x": mask})


def _uniformity(ranks: Tensor, draws: int) -> Tensor:
    """The p-value of each column of ranks 0 … S, in at most twenty bins of at least five expected rows; those of -1 are left out."""
    return torch.stack([_evenness(column[column >= 0], draws) for column in ranks.cpu().T])


def _evenness(ranks: Tensor, draws: int) -> Tensor:
    from scipy import stats

    if len(ranks) < FEWEST:
        return torch.tensor(torch.nan, dtype=torch.double)
    bins = max(2, min(20, draws + 1, len(ranks) // 5))
    bin_of = (torch.arange(draws + 1) * bins) // (draws + 1)
    expected = bin_of.bincount(minlength=bins) * (len(ranks) / (draws + 1))
    distance = ((bin_of[ranks].bincount(minlength=bins) - expected).square() / expected).sum()
    return torch.as_tensor(stats.chi2.sf(float(distance), bins - 1), dtype=torch.double)


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
