"""x from the story, given draws of its latents: values to complete rows with, and scores of what was observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppvae.door import Table
from ppvae.pair import Pair
from ppvae.tracing.traces import PARTICLE_DIM


def story(pair: Pair, rows: Table, latents: dict[str, Tensor], draws: int, entry: str = "x") -> dict[str, Any]:
    """The site of an entry of the story given ``draws`` of its latents, (S, n, 1) + event each: value (S, n, D) and
    distribution."""
    partly = rows.partly_seen(pair)
    given = {name: value for name, value in rows.values.items() if name != entry and name not in partly}
    return _run(poutine.condition(pair.model, data=latents), rows, given, draws).nodes[entry]


def lifted(site: dict[str, Any]) -> Tensor:
    """A latent's value with its three batch dims: (P, n, 1) + event, (P, 1, 1) + event outside the data plate; without
    particles P = 1."""
    value = site["value"]
    return value[(None,) * (-PARTICLE_DIM + site["fn"].event_dim - value.dim())]


def prior(pair: Pair, rows: Table, draws: int) -> dict[str, Tensor]:
    """The story's own draws, of its latents (S, n, 1) + event and of x (S, n, D), at the rows' covariates."""
    sites = pair.sites(rows.values)
    given = {name: value for name, value in rows.values.items() if name not in sites}
    nodes = _run(pair.model, rows, given, draws).nodes
    return {name: nodes[name]["value"] for name in sites}


def _run(program: Callable, rows: Table, given: dict[str, Tensor], draws: int) -> poutine.Trace:
    with pyro.plate("particles", draws, dim=PARTICLE_DIM):
        return poutine.trace(program).get_trace(size=len(rows), **given)


def completed(pair: Pair, rows: Table, latents: dict[str, Tensor], draws: int, entry: str = "x") -> Tensor:
    """An entry from the story given its latents, with what was observed of it put back, (S, n, D)."""
    return put_back(rows, story(pair, rows, latents, draws, entry)["value"].expand(draws, len(rows), -1), entry)


def put_back(rows: Table, x: Tensor, entry: str = "x") -> Tensor:
    """x (…, n, D), values of an entry, with those that were observed in their places."""
    observed, mask = rows.values.get(entry), rows.masks.get(entry)
    if observed is None:
        return x
    return observed.expand(x.shape).clone() if mask is None else torch.where(mask, observed, x)


def score(rows: Table, likelihood: Any, draws: int) -> Tensor:
    """log p(x_nd | z) of the observed entries, 0 of the others, (S, n, D)."""
    x, mask = rows.values["x"], rows.masks.get("x")
    value = likelihood.log_prob(x if mask is None else torch.where(mask, x, likelihood.sample()))
    value = value if mask is None else torch.where(mask, value, 0.0)
    return value.expand(draws, len(rows), -1)
