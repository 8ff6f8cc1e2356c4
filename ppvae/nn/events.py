"""Posteriors by row as the latent sites of a pair."""

from __future__ import annotations

import pyro.distributions as dist


def by_row(q: dist.TorchDistribution) -> dist.TorchDistribution:
    """Give a Gaussian of batch (N,) and event (K,) the batch (N, 1) that a latent has in the data plate at dim -2."""
    if isinstance(q, dist.MultivariateNormal):
        return dist.MultivariateNormal(q.loc.unsqueeze(-2), scale_tril=q.scale_tril.unsqueeze(-3))
    return dist.Normal(q.base_dist.loc.unsqueeze(-2), q.base_dist.scale.unsqueeze(-2)).to_event(1)
