r"""The amortized Gaussian guide of the conditional variational autoencoder.

    z_n | x_n,o, label_n ~ N(loc(x_n,o, label_n), diag(scale(x_n,o, label_n)^2))

To each kind of `ppvae.nn.encoder` the label's indicator is C further entries of the row, always observed.

Reference: Sohn, Lee & Yan 2015.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.conditional_vae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn import encoder as encoder_of
from ppvae.nn.filled import observed
from ppvae.nn.labels import beside


class Encoder(nn.Module):
    """q(z | x_o, label): an encoder with the label's indicator beside x."""

    def __init__(
        self,
        features: int,
        latents: int,
        classes: int = 10,
        hidden: Sequence[int] = (400, 200),
        kind: str = "zero_fill",
    ) -> None:
        super().__init__()
        self.classes = classes
        self.net = encoder_of(kind, features + classes, latents, hidden)

    def forward(self, x: Tensor, label: Tensor, mask: Tensor | bool = True) -> dist.TorchDistribution:
        row = beside(x, label[:, None], self.classes)
        seen = torch.cat([observed(x, mask), torch.ones_like(row[..., x.shape[-1] :], dtype=torch.bool)], -1)
        return self.net(row, seen)


def guide(encoder: Encoder, x: Tensor, mask: Tensor | bool = True, *, label: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, label, mask))  # (…, N, 1, K)


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (400, 200),
    likelihood: str = "bernoulli",
    classes: int = 10,
    encoder: str = "zero_fill",
) -> Pair:
    """The conditional VAE with labels 0 … classes - 1; encoder zero_fill, learned_fill, mask, set or experts."""
    return Pair(
        model,
        guide,
        decoder=Decoder(features, latents, classes, hidden, likelihood),
        encoder=Encoder(features, latents, classes, hidden, encoder),
    )
