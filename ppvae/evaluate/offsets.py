"""Free numbers of each row's own, by which a guide's posteriors are moved and improved.

Every Gaussian that the guide draws from gets free numbers of each row's own, at first 0:

    Normal:              loc + scale a,  scale exp(b)
    MultivariateNormal:  loc + L a,      L M,  M lower triangular with diagonal exp(diagonal of b)

so a refined posterior starts as the guide's and stays in its family; a latent that depends on another still does.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.evaluate.density import Latents
from ppvae.pair import Pair
from ppvae.tracing.terms import weights_of
from ppvae.tracing.traces import by_row, enumerated, log_prob, run

Offsets = dict[str, tuple[Tensor, Tensor]]
"""a (N, 1, K) and b, (N, 1, K) or (N, 1, K, K), of each site."""


class Moved(Messenger):
    """Move the Gaussians that the guide draws from by each row's offsets.

    ``held`` has the same distributions with the offsets' gradients stopped, by site, after a run.
    """

    def __init__(self, offsets: Offsets) -> None:
        super().__init__()
        self.offsets = offsets
        self.held: dict[str, Any] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.offsets and msg["value"] is None:  # the story replays a value
            a, b = self.offsets[msg["name"]]
            self.held[msg["name"]] = _moved(msg["fn"], a.detach(), b.detach())
            msg["fn"] = _moved(msg["fn"], a, b)


def start(pair: Pair, table: Table) -> Offsets:
    """No offsets yet, for each Gaussian that the guide draws from; refuses a guide that draws from anything else."""
    Latents(pair, table)  # refuses what has no density of its own
    offsets: Offsets = {}
    for name, site in run(pair, table).drawn():
        if enumerated(site):
            continue
        a = torch.zeros_like(site["value"])  # (N, 1, K)
        if isinstance(site["fn"], dist.MultivariateNormal):
            offsets[name] = a, torch.zeros_like(a).unsqueeze(-1).repeat(*[1] * a.dim(), a.shape[-1])
        elif _normal(site["fn"]) is not None:
            offsets[name] = a, torch.zeros_like(a)
        else:
            raise Problem(
                f"the guide draws {name!r} from {type(site['fn']).__name__}",
                "only a Normal or a MultivariateNormal has a location and a spread to refine",
                "ppvae.evaluate.ais finds the evidence without the guide's family",
            )
    return offsets


def climb(pair: Pair, table: Table, offsets: Offsets, steps: int, learning_rate: float, particles: int) -> Offsets:
    """Climb each row's ELBO by Adam (Kingma & Ba 2015) on its offsets, the rate falling to 0 along a cosine.

    The gradient is the path derivative: log q with its own parameters held (Roeder, Wu & Duvenaud 2017). Adam's
    second moment forgets the first, steep slopes within a hundred steps.
    """
    names = list(offsets)
    flat = [t for name in names for t in offsets[name]]
    first, second = [torch.zeros_like(t) for t in flat], [torch.zeros_like(t) for t in flat]
    for step in range(1, steps + 1):
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in flat]
            with Moved(dict(zip(names, zip(leaves[::2], leaves[1::2], strict=True), strict=True))) as moved:
                traces = run(pair, table, particles)
            held = [
                by_row(log_prob(traces.guide.nodes[name]) - q.log_prob(traces.guide.nodes[name]["value"]), traces)
                for name, q in moved.held.items()
            ]
            bound = (weights_of(traces) + sum(held)).mean(0).sum()
            gradients = torch.autograd.grad(bound, leaves)
        rate = learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        first = [0.9 * m + 0.1 * g for m, g in zip(first, gradients, strict=True)]
        second = [0.99 * v + 0.01 * g.square() for v, g in zip(second, gradients, strict=True)]
        flat = [
            t + rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
            for t, m, v in zip(flat, first, second, strict=True)
        ]
    return dict(zip(names, zip(flat[::2], flat[1::2], strict=True), strict=True))


def _moved(q: Any, a: Tensor, b: Tensor) -> Any:
    if isinstance(q, dist.MultivariateNormal):
        M = b.tril(-1) + torch.diag_embed(b.diagonal(dim1=-2, dim2=-1).exp())
        return dist.MultivariateNormal(
            q.loc + (q.scale_tril @ a.unsqueeze(-1)).squeeze(-1), scale_tril=q.scale_tril @ M
        )
    normal: Any = _normal(q)
    moved = dist.Normal(normal.loc + normal.scale * a, normal.scale * b.exp())
    return moved.to_event(q.event_dim)


def _normal(q: Any) -> torch.distributions.Normal | None:
    """The Normal inside an Independent, or itself."""
    while isinstance(q, torch.distributions.Independent):
        q = q.base_dist
    return q if isinstance(q, torch.distributions.Normal) else None
