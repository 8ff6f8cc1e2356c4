r"""The amortized Gaussian guide of the variational autoencoder.

    z_n | x_n ~ N(loc(x_n), diag(scale(x_n)^2))

A missing entry is read as what fills it (0, or another value inside the likelihood's support).

Reference: Kingma & Welling 2014, eq. 9.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from ppvae.models.vae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn import Gaussian, mlp


class Encoder(nn.Module):
    """q(z | x): fully connected, x (N, D) to batch (N, 1), event (K,)."""

    def __init__(self, features: int, latents: int, hidden: Sequence[int] = (400, 200)) -> None:
        super().__init__()
        self.net = mlp(features, hidden)
        self.head = Gaussian(hidden[-1] if hidden else features, latents)

    def forward(self, x: Tensor) -> dist.Independent:
        return self.head(self.net(x))


def guide(encoder: nn.Module, x: Tensor, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x))  # (…, N, 1, K)


def make(
    features: int, latents: int, hidden: Sequence[int] = (400, 200), likelihood: str = "bernoulli", classes: int = 2
) -> Pair:
    """The fully connected VAE; likelihood bernoulli, normal, or categorical with ``classes`` values a feature."""
    return Pair(
        model,
        guide,
        decoder=Decoder(features, latents, hidden, likelihood, classes),
        encoder=Encoder(features, latents, hidden),
    )
