"""How far an encoder is from the exact posterior of a linear-Gaussian story, in closed form."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppvae.door import enter
from ppvae.errors import Problem
from ppvae.exact.chunks import factorised
from ppvae.exact.linear_gaussian import checked
from ppvae.exact.solving import half_log_det, solve
from ppvae.pair import Pair
from ppvae.tracing.traces import run


def kl_to_posterior(
    q: dist.TorchDistribution, W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool = True
) -> Tensor:
    r"""Give KL(q || p(z | x_o)) of every row, (N,), in nats: how far the bound with q lies below log p(x_o).

    .. math:: \tfrac12 \big( \operatorname{tr} P\Sigma - K - \log |P\Sigma| + (m - m_q)^\top P (m - m_q) \big)

    Args:
        q: MultivariateNormal or Independent Normal of event (K,); batch (N,), or (N, 1) as a guide's site has it.
        W, loc, scale, x, mask: as in `ppvae.exact.posterior`.

    Raises:
        Problem: a distribution of another kind or shape.
    """
    scale, mask = checked(W, loc, scale, x, mask)
    mean, root = _moments(q, len(x), W.shape[1])
    dtype, (W, loc, scale, x) = x.dtype, (t.double() for t in (W, loc, scale, x))  # near 0 everything cancels
    blocks = (block for chunk in factorised(W, loc, scale, x, mask) for block in chunk.blocks())
    values, start = [], 0
    for L, b in blocks:
        here = slice(start, start := start + len(b))
        apart = (solve(L, b) - mean[here].double()).unsqueeze(-1)  # (k, K, 1)
        M = L.mT @ root[here].double()  # |M|^2 = tr P Sigma, |det M|^2 = |P Sigma|
        log_det = half_log_det(L) + half_log_det(root[here].double())
        squares = M.square().sum((-2, -1)) + (L.mT @ apart).square().sum((-2, -1))
        values.append(0.5 * (squares - W.shape[1]) - log_det)
    return torch.cat(values).to(dtype)


def kl(pair: Pair, x: Any, mask: Any = None) -> Tensor:
    """Give KL(guide || exact posterior) of every row, (N,), in nats, for any linear-Gaussian pair and any mask.

    Args:
        pair: its story is z ~ N(0, I), x | z ~ N(W z + loc, diag(scale^2)) with a module ``decoder`` that has W, loc and
            scale; its guide draws z from a Gaussian.
        x: (N, D) array, tensor or DataFrame, NaN = missing.
        mask: True = observed, (N, D), or (N,) or (N, 1) by row.

    Raises:
        Problem: a story that is not linear-Gaussian, a guide that draws from something else.
    """
    table = enter(pair, x, mask)
    decoder: Any = getattr(pair, "decoder", None)
    if not all(isinstance(getattr(decoder, name, None), Tensor) for name in ("W", "loc", "scale")):
        raise Problem(
            "the pair has no decoder with W, loc and scale",
            "its posterior has no closed form here",
            "a factor analysis; for any other pair: objective against condition(pair, x).log_evidence()",
        )
    with torch.no_grad():
        traces = run(pair, table)
        drawn = list(traces.drawn())
        if len(drawn) != 1:
            raise Problem(
                f"the guide draws {[name for name, _ in drawn]}",
                "one latent z ~ N(0, I) has a closed form",
                "a pair with one latent",
            )
        ((name, site),) = drawn
        prior = traces.model.nodes[name]["fn"]
        if not ((prior.mean == 0).all() and (prior.variance == 1).all()):
            raise Problem(
                f"the prior of {name!r} is not N(0, I)",
                "W and loc do not describe the story alone",
                "put the prior's mean and spread into W and loc",
            )
        return kl_to_posterior(
            site["fn"], decoder.W, decoder.loc, decoder.scale, table.values["x"], table.masks.get("x", True)
        )


def _moments(q: Any, rows: int, latents: int) -> tuple[Tensor, Tensor]:
    """Mean (N, K) and a lower triangular factor of the covariance (N, K, K)."""
    if isinstance(q, torch.distributions.MultivariateNormal):
        root = q.scale_tril
    elif isinstance(q, torch.distributions.Independent) and isinstance(q.base_dist, torch.distributions.Normal):
        root = torch.diag_embed(q.base_dist.scale)
    else:
        raise Problem(
            f"q is {type(q).__name__}",
            "the closed form is that of two Gaussians",
            "a MultivariateNormal, or a Normal with .to_event(1)",
        )
    if q.event_shape != (latents,) or q.batch_shape.numel() != rows:
        raise Problem(
            f"q has batch {tuple(q.batch_shape)} and event {tuple(q.event_shape)} for {rows} rows of {latents} latents",
            "q belongs to other rows or another story",
            f"batch ({rows},) and event ({latents},)",
        )
    return q.mean.reshape(rows, latents), root.reshape(rows, latents, latents)
