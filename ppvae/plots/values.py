"""The numbers behind the pictures: codes of rows, and means of rows at codes."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.conditioning.averages import expectation
from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.pair import Pair
from ppvae.tracing.traces import run


def latent_of(pair: Pair, size: int | None = None) -> str:
    """The one latent of the story, a vector of ``size`` coordinates if that is said.

    Raises:
        Problem: several latents or none, or another size.
    """
    if not isinstance(pair, Pair):
        raise Problem(f"a {type(pair).__name__} stands where a pair belongs", "another order of arguments", "(pair, x)")
    sites = {name: site["fn"] for name, site in pair.sites().items() if name not in pair.entries}
    if len(sites) != 1:
        raise Problem(
            f"the pair has the latents {', '.join(sites) or 'none'}",
            "the picture shows one vector of latents",
            "a pair with one, such as vae",
        )
    ((name, law),) = sites.items()
    shape = tuple(law.event_shape)
    if len(shape) != 1 or (size is not None and shape != (size,)):
        raise Problem(
            f"the latent {name!r} has the shape {shape}",
            f"the picture shows {size or 'a vector of'} coordinates",
            f"ppvae.make(…, latents={size or 2})",
        )
    return name


def codes_of(pair: Pair, x: Any, mask: Any = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z | x_o) of each row, (N, K) each.

    Raises:
        Problem: as `latent_of`; a guide whose distribution has neither.
    """
    name, table = latent_of(pair), enter(pair, x, mask)
    q = _site(pair, table, name)
    try:
        return q.mean.squeeze(1).cpu(), q.stddev.squeeze(1).cpu()
    except NotImplementedError:
        raise Problem(
            f"q({name} | x) is a {type(q).__name__}", "it has no mean and spread to be drawn", "a Gaussian guide"
        ) from None


def means_at(pair: Pair, z: Tensor) -> Tensor:
    """E[x | z] of codes (M, K), (M, D)."""
    home = next(pair.parameters())
    story = poutine.condition(pair.model, data={latent_of(pair): z.to(home).unsqueeze(1)})
    with torch.no_grad(), _evaluating(pair):
        site = poutine.trace(story).get_trace(size=len(z)).nodes["x"]
        return expectation(site["fn"]).expand(len(z), -1).cpu()


def _site(pair: Pair, table: Table, name: str) -> Any:
    with torch.no_grad(), _evaluating(pair):
        guide = run(pair, table, enumerate=False).guide
    if name not in guide.nodes:
        raise Problem(f"the guide does not draw {name!r}", "it leaves it to the story", "a pair with an encoder")
    return guide.nodes[name]["fn"]


class _evaluating:  # noqa: N801
    """The pair as it is after training, for a while."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.was = pair, pair.training

    def __enter__(self) -> None:
        self.pair.eval()

    def __exit__(self, *_: object) -> None:
        self.pair.train(self.was)
