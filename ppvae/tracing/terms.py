"""The terms of the bounds, per row, from the traces of a pair.

Two numbers are wanted of a run: the ELBO's terms E_q[log p(x | z)] and KL per site, and the log-weights
log p(x, z) - log q(z). Discrete sites marked for enumeration are summed out in both (`ppvae.tracing.enumeration`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import kl_divergence

from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.pair import Pair
from ppvae.tracing import enumeration
from ppvae.tracing.hidden import goes_on
from ppvae.tracing.traces import Traces, absent, by_row, enumerated, is_global, log_prob, run, seen_rows


class ElboTerms(NamedTuple):
    """The ELBO's own terms, in nats per row: elbo = likelihood - sum of kl.

    Attributes:
        likelihood: E_q[log p(x | latents)], (N,), with the log-marginal of what the story alone enumerates.
        kl: E_q[log q - log p] of each latent that the guide draws, (N,); of a global latent its share
            KL / rows of the whole data.
        analytic: the sites whose KL is the closed form; the others' is a Monte Carlo estimate.
    """

    likelihood: Tensor
    kl: dict[str, Tensor]
    analytic: tuple[str, ...]

    @property
    def elbo(self) -> Tensor:
        return self.likelihood - sum(self.kl.values())


def elbo_terms(pair: Pair, table: Table, particles: int = 1) -> ElboTerms:
    """The ELBO's terms, averaged over ``particles`` draws."""
    traces = run(pair, table, particles)
    refuse_dead_gradients(traces)
    return terms_of(traces, table, closed=not pair.exact)


def terms_of(traces: Traces, table: Table, closed: bool) -> ElboTerms:
    """The ELBO's terms of traces that were run already; ``closed``: with the KL in closed form where there is one."""
    if any(enumerated(site) for _, site in traces.scored()):
        likelihood, kl = enumeration.expected(traces)
        return ElboTerms(likelihood, _share_globals(kl, traces, table), ())
    likelihood, kl = torch.zeros(traces.rows).to(next(iter(table.values.values()))), {}
    analytic = []
    drawn = dict(traces.drawn())  # a site that the guide was given is data too
    for name, site in traces.scored():
        if name not in drawn:
            likelihood = likelihood + _per_row(log_prob(site), site, traces).mean(0)
    for name, site in drawn.items():
        exact = analytic_kl(name, traces) if closed else None
        if exact is not None:
            analytic.append(name)
        kl[name] = _per_row(exact if exact is not None else _sampled_kl(name, site, traces), site, traces).mean(0)
    return ElboTerms(likelihood, _share_globals(kl, traces, table), tuple(analytic))


def unit_kl(traces: Traces) -> dict[str, Tensor]:
    """The closed KL of each latent, coordinate by coordinate: (N, K) nats, averaged over the draws it depends on.

    Raises:
        Problem: a KL without a closed form, or one that is no sum over coordinates.
    """
    return {name: _unit_kl(name, traces) for name, _ in traces.drawn()}


def particle_kl(traces: Traces) -> dict[str, Tensor]:
    """log q - log p of each latent at each draw, (P, N); their sum and the likelihood's make the log-weight."""
    return {name: by_row(_sampled_kl(name, site, traces), traces) for name, site in traces.drawn()}


def log_guide(traces: Traces, names: Iterable[str]) -> Tensor:
    """log q of these sites' draws, (P, N)."""
    total = torch.zeros(())
    for name in names:
        site = traces.guide.nodes[name]
        total = total + by_row(_unseen(log_prob(site), site), traces)
    return total.expand(traces.particles, traces.rows)


def log_weights(pair: Pair, table: Table, particles: int = 1) -> Tensor:
    """log p(x, z) - log q(z) of every particle and row, (P, N). Refuses global latents: a row has no weight of its own."""
    traces = run(pair, table, particles)
    refuse_dead_gradients(traces)
    refuse_certain(traces)
    return weights_of(traces)


def refuse_certain(traces: Traces) -> None:
    """A guide without chance: its draws have no density, and log p(x, z) at one point is no evidence."""
    drawn = list(traces.drawn())
    if drawn and all(is_point(site["fn"]) for _, site in drawn):
        raise Problem(
            f"the guide gives {drawn[0][0]!r} without chance",
            "a Delta has no density, so log p(x, z) - log q(z) is the density of one point, which no average makes an evidence",
            "a guide that draws; ppvae.elbo() trains this one, and impute() and sample() work",
        )


def weights_of(traces: Traces) -> Tensor:
    """The log-weights of traces that were run already, (P, N)."""
    for name, site in [*traces.drawn(), *traces.scored(), *traces.left()]:
        if is_global(site):
            raise Problem(
                f"the latent {name!r} is global: it stands outside the data plate",
                "all rows share it, so no row has an importance weight of its own (a joint weight of all rows "
                "is a far looser bound)",
                "use ppvae.elbo(), which counts it once; or NUTS on the story",
            )
    if any(enumerated(site) for _, site in traces.scored()):
        return enumeration.summed(traces)
    total = torch.zeros(())
    for _, site in traces.scored():
        total = total + by_row(log_prob(site), traces)
    for _, site in traces.drawn():
        total = total - by_row(_unseen(log_prob(site), site), traces)
    return total.expand(traces.particles, traces.rows)


def _per_row(value: Tensor, site: dict[str, Any], traces: Traces) -> Tensor:
    """(P, N); a global site's whole log-probability in every row, until `_share_globals` divides it."""
    if not is_global(site):
        return by_row(value, traces)
    particle_dim = value.dim() > 2 and traces.particles > 1  # ([P, 1, 1] or ()), else plates of its own
    value = value.reshape(traces.particles if particle_dim else 1, -1).sum(-1)
    return value[:, None].expand(traces.particles, traces.rows)


def _share_globals(kl: dict[str, Tensor], traces: Traces, table: Table) -> dict[str, Tensor]:
    return {name: value / table.total if is_global(traces.guide.nodes[name]) else value for name, value in kl.items()}


def _sampled_kl(name: str, site: dict[str, Any], traces: Traces) -> Tensor:
    """log q(z) - log p(z) at the draw; where the value was observed nothing was drawn and only -log p(z) counts."""
    log_q = _unseen(log_prob(site), site)
    twin = traces.model.nodes.get(name)  # an auxiliary site has none
    return log_q if twin is None else log_q - log_prob(twin)


def _unseen(log_q: Tensor, site: dict[str, Any]) -> Tensor:
    seen = seen_rows(site)
    return log_q if seen is None else torch.where(seen, 0.0, log_q)


def analytic_kl(name: str, traces: Traces) -> Tensor | None:
    """KL(q || p) in closed form, where it is one and where it stands for the expectation.

    p may depend on latents that the story draws before this one. Their values must not depend on this draw, so
    each must be drawn before it in the guide too; a bottom-up guide of a top-down story gets Monte Carlo.
    """
    order = [n for n, _ in traces.drawn()]
    site, twin = traces.guide.nodes[name], traces.model.nodes.get(name)
    if twin is None or seen_rows(site) is not None or is_point(site["fn"]):
        return None
    for before in traces.model.nodes:
        if before == name:
            break
        if before in order and order.index(before) > order.index(name):
            return None
    try:
        return kl_divergence(site["fn"], twin["fn"])
    except NotImplementedError:
        return None


def is_point(fn: Any) -> bool:
    """Whether a site is a Delta: Pyro's KL of it leaves out its log_density, the Jacobian of a flow."""
    return isinstance(fn, Delta) or (hasattr(fn, "base_dist") and is_point(fn.base_dist))


def _unit_kl(name: str, traces: Traces) -> Tensor:
    site, twin = traces.guide.nodes[name], traces.model.nodes.get(name)
    closed = None if enumerated(site) or is_global(site) else analytic_kl(name, traces)
    q, p = (getattr(s and s["fn"], "base_dist", None) for s in (site, twin))
    if closed is None or q is None or p is None or q.event_shape:
        raise Problem(
            f"the KL of {name!r} is not known coordinate by coordinate",
            "it is no sum over independent coordinates, or a Monte Carlo estimate, or shared by all rows",
            "ppvae.free_bits(nats, per='site')",
        )
    each = kl_divergence(q, p)  # ([P,] N, 1, K)
    return each.reshape(-1, traces.rows, site["fn"].event_shape.numel()).mean(0)


def reparametrised(site: dict[str, Any]) -> bool:
    """Whether a gradient passes through the site's draw; a site that is summed out has none to pass."""
    return enumerated(site) or getattr(site["fn"], "has_rsample", False)


def _fixed(site: dict[str, Any]) -> bool:
    """Whether nothing that is learnt decides what is drawn: then a draw has no gradient to pass."""
    return not log_prob(site).requires_grad


def refuse_dead_gradients(traces: Traces, scores: bool = False) -> None:
    """A discrete draw stops the gradient: refuse it where one is asked for and no score stands in for it (``scores``:
    the guide's have one)."""
    if not torch.is_grad_enabled():
        return
    gone_on = ((name, site) for name, site in traces.scored() if goes_on(site))
    for side, sites in (("guide", () if scores else traces.drawn()), ("story", [*traces.left(), *gone_on])):
        for name, site in sites:
            if not (reparametrised(site) or absent(site) or _fixed(site)):
                raise Problem(
                    f"the {side} draws {name!r} from {type(site['fn']).__name__}, which cannot be reparametrised",
                    "a pathwise gradient through a discrete draw is noise, and under importance weights points the wrong way",
                    f"pyro.sample({name!r}, …, infer={{'enumerate': 'parallel'}}) sums it out; a guide's draw is also "
                    "trained by ppvae.elbo(particles=5, gradient='score'), ppvae.iw_elbo(gradient='vimco') and "
                    "ppvae.wake_sleep(); a story's own discrete latent is left out of the guide and marked so in the "
                    "story; data that nothing depends on are masked by the story (mask=True, mask_y=True among its "
                    "parameters)",
                )
