"""Run a pair on a batch and read off its log-probabilities, row by row.

`run` traces the guide, replays the story on its draws, and refuses what would make a number silently wrong
(sites of one program that the other does not know, masks on latents, scales). Every objective and every
posterior is written over the `Traces` that it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.pair import Pair

DATA_DIM, PARTICLE_DIM = -2, -3  # features stand at -1; enumeration goes to the left of all


@dataclass(frozen=True)
class Traces:
    """The sites of one run. ``model`` and ``guide`` hold Pyro's site messages by name, in the order drawn."""

    model: poutine.Trace
    guide: poutine.Trace
    particles: int
    rows: int

    def drawn(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The sites that the guide drew (not those it was given)."""
        return ((name, site) for name, site in self.guide.nodes.items() if _is_draw(site) and not site["is_observed"])

    def scored(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The sites of the story that count: data, latents that the guide drew, and enumerated ones. A latent
        that the guide leaves out is drawn from the story itself and contributes log p - log p = 0."""
        for name, site in self.model.nodes.items():
            if _is_draw(site) and (site["is_observed"] or name in self.guide.nodes or enumerated(site)):
                yield name, site

    def left(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The latents that the guide leaves to the story, in all rows or in those that no data saw."""
        for name, site in self.model.nodes.items():
            drawn = not site.get("is_observed") or seen_rows(site) is not None
            if _is_draw(site) and drawn and not enumerated(site) and name not in self.guide.nodes:
                yield name, site


def run(
    pair: Pair,
    table: Table,
    particles: int = 1,
    enumerate: bool = True,
    at: dict[str, Tensor] | None = None,
    sees: Table | None = None,
) -> Traces:
    """Trace the guide, and the story replayed on it, under one particle plate.

    Args:
        pair: model and guide.
        table: as `ppvae.door.enter` gives it.
        particles: P; with P > 1 every site has P draws at dim -3.
        enumerate: sites marked ``infer={"enumerate": "parallel"}`` hold every value instead of a draw.
        at: latents by name that take these values, of the shapes that draws would have, instead of draws; give
            ``enumerate=False`` with it.
        sees: what the guide sees of the rows, where it is less than the story scores.

    Raises:
        Problem: a site that only the guide has, a latent drawn where it was observed, a mask around a latent,
            a scale, an entry mask on a site whose features depend on one another.
    """
    given = table.call(pair)
    size = len(table)
    nesting = 2 if particles == 1 else 3
    with ExitStack() as outer:  # outside the traces: what they change is recorded
        if particles > 1:
            outer.enter_context(pyro.plate("particles", particles, dim=PARTICLE_DIM))
        if at:
            outer.enter_context(At(at))
        guide_program, model_program = pair.guide, pair.model
        if enumerate:  # inside the replay, or a replayed site would not know whose values its dims hold
            guide_program, model_program = EnumMessenger(-1 - nesting)(pair.guide), EnumMessenger()(pair.model)
        sees = table if sees is None else sees
        guide = _trace(guide_program, sees.partly_seen(pair), size=size, **sees.call(pair))
        model = _trace(poutine.replay(model_program, guide), table.partly_seen(pair), size=size, **given)
    for name in pair.entries:
        if name in model.nodes and name not in table.values and pair.takes_mask(name):
            model.nodes[name]["infer"]["_absent"] = True
    traces = Traces(model, guide, particles, size)
    _refuse_unobserved(traces, given)
    _refuse(traces)
    _observe_where_seen(traces)
    return traces


class At(Messenger):
    """Give latents values instead of draws, in guide and story alike; they stay latents, and their densities count."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


class Seen(Messenger):
    """Observe a site in the rows where its mask is True, in guide and story alike; elsewhere it stays latent.

    `poutine.mask` around a site with descendants would drop its own density and still let a draw stand where a
    value was observed: that exceeds the evidence.
    """

    def __init__(self, entries: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.entries = entries

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.entries and not msg["is_observed"]:
            value, seen = self.entries[msg["name"]]
            msg["infer"]["_seen"] = seen  # (N, 1)
            if msg["fn"].event_dim:  # an event is one entry
                value, seen = value.unsqueeze(-2), seen.unsqueeze(-1)  # (N, 1, C), (N, 1, 1)
            msg["value"] = torch.where(seen, value.to(msg["value"].dtype), msg["value"])


def is_global(site: dict[str, Any]) -> bool:
    """Whether a site stands outside the data plate: one draw for all rows."""
    return not any(frame.dim == DATA_DIM for frame in site["cond_indep_stack"])


def log_prob(site: dict[str, Any]) -> Tensor:
    """The site's log-probability, (…, N, D) or (…, N, 1), 0 where its mask is False; times its weight, where an objective
    gave it one (`ppvae.objectives.emphasis`; a scale of the pair's own was refused)."""
    value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(value, site["scale"], site["mask"])


def seen_rows(site: dict[str, Any]) -> Tensor | None:
    """Where a latent of the guide was observed instead of drawn, (N, 1); None if nowhere."""
    return site["infer"].get("_seen")


def absent(site: dict[str, Any]) -> bool:
    """Whether a site is data that no row has and the story masks: drawn, and nothing depends on the draw."""
    return bool(site["infer"].get("_absent"))


def enumerated(site: dict[str, Any]) -> bool:
    return site["infer"].get("_enumerate_dim") is not None


def by_row(value: Tensor, traces: Traces) -> Tensor:
    """Sum over the features: (…, N, D) to (P, N)."""
    value = value.sum(-1)  # ([P,] N)
    return value.expand(traces.particles, traces.rows)


def added(terms: Iterable[Tensor]) -> Tensor:
    """The sum of one tensor or more; `sum` begins with a 0, which is none."""
    return reduce(add, terms)


def _observe_where_seen(traces: Traces) -> None:
    """An entry that the guide leaves to the story counts in the rows that saw it, as any data under a mask do, and
    contributes log p - log p = 0 in the others."""
    for name, site in traces.left():
        seen = seen_rows(site)
        if seen is not None:
            site["is_observed"], site["mask"] = True, seen
            _refuse_site(name, site)


def _is_draw(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and not site["infer"].get("_deterministic") and not site_is_subsample(site)


def _trace(program: Callable, partly: dict[str, tuple[Tensor, Tensor]], **given: Any) -> poutine.Trace:
    try:
        with Seen(partly) if partly else nullcontext():
            return poutine.trace(program).get_trace(**given)
    except Problem as error:  # Pyro raises it again with the trace's shapes in the text: give the plain one
        raise (error.__cause__ if isinstance(error.__cause__, Problem) else error) from None


def _refuse_unobserved(traces: Traces, given: dict[str, Any]) -> None:
    for name in given:
        site = traces.model.nodes.get(name)
        if site is not None and _is_draw(site) and not site["is_observed"]:
            raise Problem(
                f"{name!r} was given and the story draws it all the same",
                "its sample statement has no obs=",
                f"pyro.sample({name!r}, …, obs={name})",
            )


def _refuse(traces: Traces) -> None:
    for name, site in traces.drawn():
        twin = traces.model.nodes.get(name)
        if twin is None and not site["infer"].get("is_auxiliary"):
            latents = [n for n, s in traces.model.nodes.items() if _is_draw(s) and not s["is_observed"]]
            raise Problem(
                f"the guide draws {name!r}, which the story does not have",
                "a misspelt site: its density would be subtracted and never added",
                f"the story's latents are {latents}; an auxiliary site says infer={{'is_auxiliary': True}}",
            )
        if twin is not None and twin["is_observed"] and seen_rows(site) is None:
            raise Problem(
                f"the guide draws {name!r}, which the story observes",
                "log q of a value that nobody drew would be subtracted",
                f"give the guide a parameter {name!r} and draw it only where that is None",
            )
    for side in (traces.guide, traces.model):
        for name, site in side.nodes.items():
            if _is_draw(site):
                _refuse_site(name, site)
                if site["is_observed"] and side is traces.model and is_global(site):
                    raise Problem(
                        f"the observed site {name!r} stands outside the data plate",
                        "its rows cannot be told apart, so it has no log-probability per row",
                        "with pyro.plate('data', N, dim=-2): pyro.sample(…)",
                    )


def _refuse_site(name: str, site: dict[str, Any]) -> None:
    if not isinstance(site["scale"], (int, float)) or site["scale"] != 1:
        raise Problem(
            f"the site {name!r} carries a scale",
            "poutine.scale, or a plate with subsample_size; inside a "
            "log-mean-exp a scale gives a number that is no bound",
            "weights and subsampling belong to the "
            "objective and to fit; leave poutine.scale and subsample_size out of the pair",
        )
    masked = isinstance(site["mask"], Tensor) or site["mask"] is False
    if masked and not site["is_observed"]:
        raise Problem(
            f"a mask stands around the latent {name!r}",
            "poutine.mask around more than the sample statement of x: "
            "the prior would be masked too, once for each feature",
            "put poutine.mask around the sample statement of x only",
        )
    if masked and not getattr(site["fn"], "features_independent", True) and site["mask"].shape[-1:] != (1,):
        raise Problem(
            f"entries of {name!r} are missing and its features depend on one another",
            "an autoregressive density of the observed entries is no product over them: masking terms ignores the rest",
            "pass complete rows, or a mask by row (N, 1)",
        )
