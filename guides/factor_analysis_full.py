r"""Factor analysis with an amortized linear encoder and a full covariance, the same for all rows.

    z_n | x_n ~ N(A x_n + a, L L')

On complete rows it can be the exact posterior. A missing entry is read as 0.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from ppvae.guides.factor_analysis_diagonal import guide
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor, nn

from ppvae import Pair

__all__ = ["Encoder", "guide", "make"]


class Encoder(nn.Module):
    """q(z | x): x (N, D) to batch (N, 1), event (K,)."""

    def __init__(self, features: int, latents: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latents)
        self.lower = nn.Parameter(torch.zeros(latents, latents))
        self.log_diagonal = nn.Parameter(torch.zeros(latents))

    def forward(self, x: Tensor) -> dist.MultivariateNormal:
        L = self.lower.tril(-1) + self.log_diagonal.exp().diag()  # (K, K)
        return dist.MultivariateNormal(self.linear(x).unsqueeze(-2), scale_tril=L)


def make(features: int, latents: int, tied: bool = False) -> Pair:
    """Factor analysis and a linear encoder with a full covariance; ``tied``: one noise scale (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied), encoder=Encoder(features, latents))
