"""Which class the guide gives a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppvae.conditioning.posterior import condition
from ppvae.door import Table
from ppvae.errors import Problem, refuse_count
from ppvae.pair import Pair
from ppvae.tracing.traces import added, run


def class_probabilities(pair: Pair, x: Any, mask: Any = None, site: str = "y", particles: int = 1) -> Tensor:
    r"""q(y | x_o) of each row, (N, C): the guide's own answer, without importance weights.

    .. math:: E_{q(z \mid x)}\, q(y = c \mid x, z),\quad z \text{ what the guide draws before y}

    ``condition(pair, x).sample(draws)[site]`` draws from the posterior p(y | x_o) under the story instead.

    Args:
        pair: whose guide draws ``site`` from a Categorical.
        x: rows that do not show it, as in `ppvae.fit`.
        mask: True = observed.
        site: the name of y.
        particles: P, draws of z; one is enough where y comes first.

    Raises:
        Problem: the guide does not draw the site, or its law has no probabilities of classes.
    """
    refuse_count("particles", particles)
    post = condition(pair, x, mask)

    def probabilities(rows: Table, particles: int) -> list[Tensor]:
        site_of = dict(run(pair, rows, particles, enumerate=False).drawn()).get(site)
        fn: Any = None if site_of is None else site_of["fn"]
        if not hasattr(fn, "probs") or not getattr(fn, "has_enumerate_support", False) or fn.event_dim:
            raise Problem(
                f"the guide draws no class {site!r} of these rows",
                "another name, rows that all show it, or a law without classes",
                f"rows without {site!r}: class_probabilities(pair, x); the guide's sites are those of pair.guide",
            )
        probs = fn.probs.reshape(-1, len(rows), fn.probs.shape[-1])
        return [probs.expand(particles, len(rows), -1)]

    with post.evaluating(), torch.no_grad():
        parts = []
        for rows, blocks in post.blocks(particles):
            parts.append(added(post.block(probabilities, rows, block)[0].sum(0) for block in blocks) / particles)
        return torch.cat(parts)
