r"""A Gaussian guide of the global weight, one covariance for the rows of W.

    W_d ~ N(loc_d, L L'),  d = 1 … D

With complete responses the exact posterior is of this form.

Reference: Bishop 2006, eq. 3.49-3.51.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.bayesian_linear import Noise, model
from torch import Tensor, nn

from ppvae import Pair


class Weight(nn.Module):
    """q(W): event (D, K)."""

    def __init__(self, features: int, latents: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(features, latents))
        self.lower = nn.Parameter(torch.zeros(latents, latents))
        self.log_diagonal = nn.Parameter(torch.zeros(latents))

    def forward(self) -> dist.Independent:
        L = self.lower.tril(-1) + self.log_diagonal.exp().diag()  # (K, K)
        return dist.MultivariateNormal(self.loc, scale_tril=L).to_event(1)


def guide(weight: Weight, x: Tensor, mask: Tensor | bool = True) -> None:
    pyro.sample("W", weight())  # ([P, 1, 1,] D, K)


def make(features: int, latents: int) -> Pair:
    """Bayesian linear regression of ``features`` responses on ``latents`` inputs."""
    return Pair(model, guide, noise=Noise(features, latents), weight=Weight(features, latents))
