r"""The amortized Gaussian guide of the conditional variational autoencoder.

    z_n | x_n, label_n ~ N(loc(x_n, label_n), diag(scale(x_n, label_n)^2))

Reference: Sohn, Lee & Yan 2015.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from ppvae.guides import vae
from ppvae.models.conditional_vae import Decoder, beside, model
from torch import Tensor, nn

from ppvae import Pair


class Encoder(nn.Module):
    """q(z | x, label): the network of `ppvae.guides.vae` with the label's indicator beside x."""

    def __init__(self, features: int, latents: int, classes: int = 10, hidden: Sequence[int] = (400, 200)) -> None:
        super().__init__()
        self.classes = classes
        self.net = vae.Encoder(features + classes, latents, hidden)

    def forward(self, x: Tensor, label: Tensor) -> dist.Independent:
        return self.net(beside(x, label, self.classes))


def guide(encoder: Encoder, x: Tensor, mask: Tensor | bool = True, *, label: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, label))  # (…, N, 1, K)


def make(
    features: int, latents: int, hidden: Sequence[int] = (400, 200), likelihood: str = "bernoulli", classes: int = 10
) -> Pair:
    """The conditional VAE with labels 0 … classes - 1."""
    return Pair(
        model,
        guide,
        decoder=Decoder(features, latents, classes, hidden, likelihood),
        encoder=Encoder(features, latents, classes, hidden),
    )
