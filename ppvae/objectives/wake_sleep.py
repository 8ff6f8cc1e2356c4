"""Reweighted wake-sleep: story and guide each learn from an objective of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.objectives.holding import free
from ppvae.objectives.options import refuse_particles
from ppvae.objectives.scores import run_detached
from ppvae.objectives.weighted import log_mean
from ppvae.pair import SEEN, Pair
from ppvae.tracing.terms import log_guide, refuse_dead_gradients, weights_of
from ppvae.tracing.traces import Seen, Traces


@dataclass(frozen=True)
class wake_sleep:  # noqa: N801  (a verb of the library)
    r"""Reweighted wake-sleep; the value is the importance-weighted bound, per row in nats.

    .. math:: \nabla_\theta: \sum_p \tilde w_p \nabla \log p_\theta(x_o, z_p), \qquad
              \nabla_\phi: \sum_p \tilde w_p \nabla \log q_\phi(z_p | x)

    with w̃ the normalised weights of P draws from q. The guide falls towards KL(p(z | x) || q), not KL(q || p), and no
    gradient passes through a draw: any latent will do, discrete ones too. The story's gradient is that of the
    bound; as gradients of log p(x_o) and of that KL both are biased, and right as P grows.

    Reference: Bornschein & Bengio 2015; Le et al. 2019; sleep: Hinton et al. 1995.

    Args:
        particles: P, two or more unless it sleeps: one draw's weight is 1 whatever it is, and teaches the guide nothing.
        sleep: also let the guide learn from rows that the story dreams: E_p(x,z)[∇ log q(z | x)], one dream for each row
            of the batch, with the row's own mask and covariates.
    """

    particles: int = 5
    sleep: bool = False
    unit: ClassVar[str] = "nats per row"
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.sleep:
            refuse_particles(
                self.particles, 2, "one draw's weight is 1 and teaches the guide nothing: a number of draws"
            )
        refuse_particles(self.particles)

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The bound of each row, (N,)."""
        table = enter(pair, x, mask)
        _refuse_shared(pair)
        traces, log_q = run_detached(pair, table, self.particles)
        refuse_dead_gradients(traces, scores=True)
        weights = weights_of(traces)
        bound = log_mean(weights, 0.0)
        if not torch.is_grad_enabled():
            return bound
        # the bound's own gradient holds -w̃ grad log q: once to take it away, once to have it with the other sign
        bound = bound + (2 * weights.detach().softmax(0) * free(log_q)).sum(0)
        return bound + free(_dream(pair, table)) if self.sleep else bound


def _dream(pair: Pair, table: Table) -> Tensor:
    """log q(z | x) of latents and data that the story generates, (N,), under the batch's masks and covariates."""
    sites, N = pair.sites(table.values), len(table)
    covariates = {name: value for name, value in table.values.items() if name not in sites}
    with torch.no_grad():
        story = poutine.trace(pair.model).get_trace(size=N, **covariates)
    dreamt = {name: story.nodes[name]["value"].reshape(v.shape) for name, v in table.values.items() if name in sites}
    seen = story.nodes.get(SEEN)  # a story of the mask dreams that too
    masks = {**table.masks, "x": seen["value"] > 0.5} if seen is not None and pair.hides("x") else table.masks
    rows = replace(table, values={**table.values, **dreamt}, masks=masks)
    with Seen(rows.partly_seen(pair)):
        guide = poutine.trace(poutine.replay(pair.guide, story)).get_trace(size=N, **rows.call(pair))
    traces = Traces(story, guide, 1, N)
    names = [name for name, _ in traces.drawn()]
    alone = [name for name in names if name not in story.nodes]
    if alone:
        raise Problem(
            f"the guide draws {alone[0]!r}, of which the story does not dream",
            "an auxiliary site has no value under the story, so log q(z | x) is not known",
            "ppvae.wake_sleep(sleep=False)",
        )
    return log_guide(traces, names)[0]


def _refuse_shared(pair: Pair) -> None:
    """Parameters that story and guide both use would be moved by two objectives at once."""
    modules = {side: [m for name, m in pair.named_children() if name in pair._takes[side]] for side in pair._takes}
    story, guide = ({id(p) for module in modules[side] for p in module.parameters()} for side in ("model", "guide"))
    shared = [name for name, p in pair.named_parameters() if id(p) in story & guide and p.requires_grad]
    if shared and torch.is_grad_enabled():
        raise Problem(
            f"story and guide share the parameter {shared[0]!r}",
            "wake-sleep teaches the story one thing and the guide another: on one parameter they would pull at once",
            "ppvae.elbo() or ppvae.iw_elbo(), one bound for both; or modules of their own",
        )
