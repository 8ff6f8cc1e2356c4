"""What a guide's latents carry: which of them are used, at what rate, and how much of it tells the rows apart."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from ppvae.conditioning.posterior import Posterior, condition
from ppvae.errors import refuse_count
from ppvae.evaluate.density import Latents, guide_draws, guide_log_prob
from ppvae.pair import Pair
from ppvae.tracing.terms import analytic_kl, elbo_terms
from ppvae.tracing.traces import Traces, added, by_row, log_prob, run

ACTIVE = 0.01  # Burda et al. 2016, section 5
POINTS = 32  # points of the aggregate posterior that are held against all rows at once


class Units(NamedTuple):
    """The coordinates of one latent site.

    Attributes:
        kl: mean KL of each over the rows, in nats (U,); None where the site's KL is no sum over coordinates in closed form.
        variance: Var_x(E_q[z_u | x]) (U,): what of each coordinate follows the data.
        active: variance above 0.01 (U,).
        rate: mean KL of the whole site over the rows, in nats; a Monte Carlo estimate where there is no closed form.
    """

    kl: Tensor | None
    variance: Tensor
    active: Tensor
    rate: Tensor


class RateDistortion(NamedTuple):
    """The two halves of the ELBO of each row, (N,) in nats: elbo = -(rate + distortion) (Alemi et al. 2018).

    Attributes:
        rate: KL(q(z | x) || p(z)), all sites together.
        distortion: -E_q[log p(x_o | z)].
    """

    rate: Tensor
    distortion: Tensor


class Information(NamedTuple):
    """Where the mean rate goes: rate = mutual_information + marginal_kl, in nats.

    Attributes:
        rate: mean KL(q(z | x_n) || p(z)) over the rows, at the draws of the other two.
        mutual_information: I(n; z) between the number of a row and its latents, at most log N.
        marginal_kl: KL(q(z) || p(z)) of the aggregate posterior q(z) = mean of q(z | x_n) over these N rows.
        standard_error: of mutual_information, over the draws.
    """

    rate: float
    mutual_information: float
    marginal_kl: float
    standard_error: float


def units(pair: Pair, x: Any, mask: Any = None, draws: int = 10) -> dict[str, Units]:
    """Say which coordinates of each latent are used.

    Reference: Burda, Grosse & Salakhutdinov 2016, section 5: a unit is active where Var_x(E_q[z_u | x]) > 0.01.

    Args:
        pair: its latents are continuous and local.
        x: (N, D) array, tensor or DataFrame, NaN = missing; at least two rows.
        mask: True = observed.
        draws: of latents on which another latent's distribution depends; their noise is subtracted from the variance.
    """
    refuse_count("draws", draws)
    post = condition(pair, x, mask)
    with post.evaluating():
        latents = Latents(pair, post.table)
        blocks = [_of_block(run(pair, rows, draws, enumerate=False), latents) for rows in post.row_blocks(draws)]
    found = {}
    for name in latents.shapes:
        kls, rates, means, noises = zip(*(block[name] for block in blocks), strict=True)
        kl = None if kls[0] is None else torch.cat(kls).mean(0)
        variance = torch.cat(means).var(0) - torch.cat(noises).mean(0)
        found[name] = Units(kl, variance, variance > ACTIVE, torch.cat(rates).mean())
    return found


def rate_distortion(pair: Pair, x: Any, mask: Any = None, draws: int = 10) -> RateDistortion:
    """Split the ELBO of each row into what the latents cost and what they leave unexplained; ``draws`` averaged over."""
    refuse_count("draws", draws)
    post = condition(pair, x, mask)
    with post.evaluating():
        terms = [elbo_terms(pair, rows, draws) for rows in post.row_blocks(draws)]
    rate = torch.cat([sum(t.kl.values(), torch.zeros_like(t.likelihood)) for t in terms])
    return RateDistortion(rate, -torch.cat([t.likelihood for t in terms]))


def information(pair: Pair, x: Any, mask: Any = None, draws: int = 1) -> Information:
    r"""Split the mean rate into the information that the latents carry on the rows, and a shift that helps nobody.

    .. math:: \frac1N \sum_n \mathrm{KL}(q(z|x_n) \| p(z)) = I_q(n; z) + \mathrm{KL}(q(z) \| p(z)), \quad
        I_q(n; z) = \frac1N \sum_n E_{q(z|x_n)} \Big[ \log q(z|x_n) - \log \frac1N \sum_m q(z|x_m) \Big]

    For these N rows both terms are estimated without bias. As estimate of I(x; z) over all rows that there could be,
    I(n; z) is too low: it cannot exceed log N, so a value near log N says only that the rows are told apart.
    Every draw is held against every row: N^2 ``draws`` densities, in blocks.

    Reference: Hoffman & Johnson 2016.

    Args:
        pair: its latents are continuous and local.
        x: (N, D) array, tensor or DataFrame, NaN = missing.
        mask: True = observed.
        draws: of each row.
    """
    refuse_count("draws", draws)
    post = condition(pair, x, mask)
    table, N = post.table, len(post.table)
    own, aggregate, prior = [], [], []
    with post.evaluating():
        names = Latents(pair, table).shapes
        for _ in range(draws):
            for rows in post.row_blocks(POINTS):
                z = {name: value for name, value in guide_draws(pair, rows, 1).items() if name in names}  # (1, n, …)
                own.append(guide_log_prob(pair, rows, z)[0])
                traces = run(pair, rows, enumerate=False, at={name: value[0] for name, value in z.items()})
                prior.append(added(by_row(log_prob(traces.model.nodes[name]), traces)[0] for name in names))
                points = {name: value.transpose(0, 1).split(POINTS) for name, value in z.items()}  # (POINTS, 1, …)
                for chunk in zip(*points.values(), strict=True):
                    aggregate.append(_mixture(post, dict(zip(points, chunk, strict=True))) - math.log(N))
    log_q, log_aggregate, log_p = (torch.cat(parts).double() for parts in (own, aggregate, prior))
    carried = log_q - log_aggregate
    return Information(
        float((log_q - log_p).mean()),
        float(carried.mean()),
        float((log_aggregate - log_p).mean()),
        float(carried.std() / math.sqrt(len(carried))),
    )


def _mixture(post: Posterior, points: dict[str, Tensor]) -> Tensor:
    """log sum_m q(z_s | x_m) over all rows, (S,)."""
    return torch.stack(
        [guide_log_prob(post.pair, rows, points).logsumexp(1) for rows in post.row_blocks(POINTS)]
    ).logsumexp(0)


def _of_block(traces: Traces, latents: Latents) -> dict[str, tuple[Tensor | None, Tensor, Tensor, Tensor]]:
    """KL by coordinate (n, U) or None, KL (n,), E_q[z | x] (n, U) and the noise of that mean (n, U), of each site."""
    found = {}
    P, n = traces.particles, traces.rows
    for name in latents.shapes:
        site, twin = traces.guide.nodes[name], traces.model.nodes[name]
        closed = analytic_kl(name, traces)
        each = None if closed is None else _by_coordinate(site["fn"], twin["fn"])
        kl = None if each is None else each.expand(site["value"].shape).reshape(P, n, -1).mean(0)
        rate = by_row(log_prob(site) - log_prob(twin) if closed is None else closed, traces).mean(0)
        centre = _centre(site).expand(site["value"].shape).reshape(P, n, -1)
        noise = centre.var(0) / P if P > 1 else torch.zeros_like(centre[0])
        found[name] = kl, rate, centre.mean(0), noise
    return found


def _by_coordinate(q: Distribution, p: Distribution) -> Tensor | None:
    while isinstance(q, Independent) and isinstance(p, Independent):
        q, p = q.base_dist, p.base_dist
    return None if q.event_shape else kl_divergence(q, p)


def _centre(site: dict[str, Any]) -> Tensor:
    """The mean of a site given the latents before it; the draw itself where there is no closed form."""
    try:
        return site["fn"].mean
    except NotImplementedError:
        return site["value"]
