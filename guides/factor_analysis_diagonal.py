r"""Factor analysis with an amortized linear encoder and a diagonal covariance, the same for all rows.

    z_n | x_n ~ N(A x_n + a, diag(scale^2))

The best that it can do on complete rows is the exact mean and the variances 1 / P_kk (thesis eq. 2.45-2.46:
`ppvae.exact.mean_field`). A missing entry is read as 0.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor, nn

from ppvae import Pair


class Encoder(nn.Module):
    """q(z | x): x (N, D) to batch (N, 1), event (K,)."""

    def __init__(self, features: int, latents: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latents)
        self.log_scale = nn.Parameter(torch.zeros(latents))

    def forward(self, x: Tensor) -> dist.Independent:
        return dist.Normal(self.linear(x).unsqueeze(-2), self.log_scale.exp()).to_event(1)


def guide(encoder: Encoder, x: Tensor, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x))  # (…, N, 1, K)


def make(features: int, latents: int, tied: bool = False) -> Pair:
    """Factor analysis and a linear encoder with a diagonal covariance; ``tied``: one noise scale (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied), encoder=Encoder(features, latents))
