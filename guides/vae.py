r"""The amortized Gaussian guide of the variational autoencoder.

    z_n | x_n,o ~ N(loc(x_n,o), diag(scale(x_n,o)^2))

How it reads a row with missing entries is said by ``encoder``, one of the kinds of `ppvae.nn.encoder`. ``zero_fill``
reads a missing entry as what fills it (0, or another value inside the likelihood's support); ``experts`` has a full
covariance.

Reference: Kingma & Welling 2014, eq. 9.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from ppvae.models.vae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn import encoder as encoder_of


def guide(encoder: nn.Module, x: Tensor, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, mask))  # (…, N, 1, K)


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (400, 200),
    likelihood: str = "bernoulli",
    classes: int = 2,
    encoder: str = "zero_fill",
) -> Pair:
    """The fully connected VAE; likelihood bernoulli, normal, or categorical with ``classes`` values a feature; encoder
    zero_fill, learned_fill, mask, set or experts."""
    return Pair(
        model,
        guide,
        decoder=Decoder(features, latents, hidden, likelihood, classes),
        encoder=encoder_of(encoder, features, latents, hidden),
    )
