"""The latents of a batch as points: one real vector a row, and the log-densities there.

What anneals, ranks or refines latents needs log q(z | x) and log p(x_o, z) at values of its own choosing. `Latents` writes
all sites of a row as one vector u of U real numbers, constrained ones by their bijection, whose Jacobian belongs to the
density of u.
"""

from __future__ import annotations

import warnings
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from ppvae.door import Table
from ppvae.errors import Caution, Problem
from ppvae.pair import SEEN, Pair
from ppvae.tracing.hidden import refuse_hidden
from ppvae.tracing.terms import weights_of
from ppvae.tracing.traces import PARTICLE_DIM, At, Traces, added, by_row, enumerated, is_global, log_prob, run


class Latents:
    """The latents that the guide draws, all sites of a row as one real vector u (P, N, U).

    Args:
        pair: in eval mode.
        table: rows, as `ppvae.door.enter` gives them; the layout is the same for all blocks of them.

    Raises:
        Problem: a latent that is global, discrete, a point mass, or left to the story; a row observed by parts.
    """

    def __init__(self, pair: Pair, table: Table) -> None:
        self.pair = pair
        _refuse_partly_seen(pair, table)
        refuse_hidden(pair, table)
        first = table.rows(slice(0, 1))
        traces = run(pair, first)
        _refuse(traces)
        self.shapes: dict[str, torch.Size] = {}  # of u, after the row
        self.transforms: dict[str, Transform] = {}
        for name, site in traces.drawn():
            if not enumerated(site):
                transform = biject_to(traces.model.nodes[name]["fn"].support)
                self.transforms[name] = transform
                self.shapes[name] = transform.inv(site["value"]).shape[1:]
        if not self.shapes:
            raise Problem("the pair has no continuous latents", "there is nothing to move", "log_evidence() is exact")

    def pack(self, values: dict[str, Tensor]) -> Tensor:
        """u (P, N, U) of the latents by name, each (P, N, …)."""
        parts = [t.inv(values[name]).flatten(2) for name, t in self.transforms.items()]
        return torch.cat(parts, -1)

    def unpack(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The latents by name, (P, N, …), and the log-volume log |dz / du| (P, N)."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        values, volume = {}, u.new_zeros(u.shape[:2])
        for (name, transform), part in zip(self.transforms.items(), u.split(sizes, -1), strict=True):
            part = part.reshape(*u.shape[:2], *self.shapes[name])
            values[name] = transform(part)
            volume = volume + transform.log_abs_det_jacobian(part, values[name]).reshape(*u.shape[:2], -1).sum(-1)
        return values, volume

    def draw(self, table: Table, particles: int, start: str) -> Tensor:
        """u of ``particles`` draws of each row, (P, N, U), from the guide or from the prior."""
        if start == "guide":
            values = guide_draws(self.pair, table, particles)
        else:
            values, _ = simulate(self.pair, table, particles)
        return self.pack({name: values[name] for name in self.shapes})

    def densities(self, table: Table, u: Tensor, start: str) -> tuple[Tensor, Tensor]:
        """(log f_0(u), log p(x_o, u) - log f_0(u)), (P, N) each; f_0 is the guide's density, or the prior's."""
        values, volume = self.unpack(u)
        with (
            At(values if len(u) > 1 else {name: value[0] for name, value in values.items()}),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", Caution)  # a guide that enumerates gets no gradient here: it wants none
            traces = run(self.pair, table, len(u))
            ratio = weights_of(traces)  # log p(x, z) - log q(z | x)
        base = sum(by_row(log_prob(traces.guide.nodes[name]), traces) for name in self.shapes)
        if start == "prior":
            prior = sum(_prior(traces, name) for name in self.shapes)
            base, ratio = prior, ratio + base - prior
        return base + volume, ratio


def guide_draws(pair: Pair, table: Table, draws: int) -> dict[str, Tensor]:
    """Each latent that the guide draws, (S, N, …); the story is not run."""
    with pyro.plate("particles", draws, dim=PARTICLE_DIM):
        trace = poutine.trace(pair.guide).get_trace(size=len(table), **table.call(pair))
    return {name: site["value"] for name, site in _samples(trace).items() if not site["is_observed"]}


def guide_log_prob(pair: Pair, table: Table, values: dict[str, Tensor]) -> Tensor:
    """log q(z_s | x_n) at the same S points for every row, (S, N). Each point is (S, 1, …) by name."""
    draws, rows = len(next(iter(values.values()))), len(table)
    at = {name: value.expand(draws, rows, *value.shape[2:]) for name, value in values.items()}
    with At(at), pyro.plate("particles", draws, dim=PARTICLE_DIM):
        trace = poutine.trace(pair.guide).get_trace(size=rows, **table.call(pair))
    return added(log_prob(trace.nodes[name]).sum(-1).expand(draws, rows) for name in values)


def simulate(pair: Pair, table: Table, draws: int = 1) -> tuple[dict[str, Tensor], Table]:
    """Draw rows from the story, observed where the data are: (its latents (S, N, …) by name, the rows of the first draw).

    Covariates are those of the data.
    """
    _refuse_partly_seen(pair, table)
    sites = pair.sites(table.values)
    given = {name: value for name, value in table.values.items() if name not in sites}
    with pyro.plate("particles", draws, dim=PARTICLE_DIM):
        trace = poutine.trace(pair.model).get_trace(size=len(table), **given)
    drawn = {name: site["value"] for name, site in _samples(trace).items()}
    seen = {name: drawn.pop(name)[0].reshape(v.shape) for name, v in table.values.items() if name in drawn}
    masks = {**table.masks, "x": seen[SEEN] > 0.5} if SEEN in seen else table.masks  # the story says what is seen
    return drawn, Table({**given, **seen}, masks, table.total)


def _samples(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    nodes = trace.nodes.items()
    return {name: site for name, site in nodes if site["type"] == "sample" and not site_is_subsample(site)}


def _prior(traces: Traces, name: str) -> Tensor:
    value = log_prob(traces.model.nodes[name])
    if value.dim() > 3:
        raise Problem(
            f"the prior of {name!r} depends on an enumerated latent",
            "a mixture has no density of its own here, only together with the data",
            "start='guide'",
        )
    return by_row(value, traces)


def _refuse_partly_seen(pair: Pair, table: Table) -> None:
    for name in table.partly_seen(pair):
        raise Problem(
            f"{name!r} is observed in some rows and latent in others",
            "the rows have different latents, and one vector a row cannot hold them",
            "pass the rows that saw it and those that did not by themselves",
        )


def _refuse(traces: Traces) -> None:
    for name, site in [*traces.drawn(), *traces.left()]:
        if is_global(site):
            raise Problem(
                f"the latent {name!r} is global: it stands outside the data plate",
                "all rows share it, so no row has a density of its own",
                "NUTS on the story: pyro.infer.mcmc.NUTS(pair.model)",
            )
    for name, _ in traces.left():
        raise Problem(
            f"the guide leaves the latent {name!r} to the story",
            "its draws would be fresh at every evaluation, and no density of the others alone is known",
            f"draw {name!r} in the guide; if it is discrete: infer={{'enumerate': 'parallel'}} in the story",
        )
    for name, site in traces.drawn():
        if enumerated(site):
            continue
        fn, twin = site["fn"], traces.model.nodes.get(name)
        if twin is None or fn.support.is_discrete or twin["fn"].support.is_discrete or not fn.has_rsample:
            raise Problem(
                f"the latent {name!r} is drawn from {type(fn).__name__}",
                "its density cannot be followed by its gradient: it is discrete, auxiliary, or a point",
                "infer={'enumerate': 'parallel'} sums a discrete one out",
            )
        if site["value"].dim() != 2 + fn.event_dim:
            raise Problem(
                f"the latent {name!r} depends on a latent that the guide enumerates",
                "it has one draw for each value, not one of its own",
                "condition(pair, x).log_evidence()",
            )
