r"""The amortized Gaussian guide for images: the program of `ppvae.guides.vae`, a convolutional network.

z_n | x_n ~ N(loc(x_n), diag(scale(x_n)^2))
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from ppvae.guides.vae import guide
from ppvae.models.conv_vae import Decoder, image_shape, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn import Gaussian, rows

__all__ = ["Encoder", "guide", "make"]


class Encoder(nn.Module):
    """q(z | x): each stage halves the image; x (N, C·H·W) to batch (N, 1), event (K,)."""

    def __init__(self, shape: tuple[int, int, int], latents: int, hidden: Sequence[int] = (32, 64)) -> None:
        super().__init__()
        stages = [
            stage
            for n, m in zip([shape[0], *hidden], hidden, strict=False)
            for stage in (nn.Conv2d(n, m, 3, stride=2, padding=1), nn.ReLU())
        ]
        self.net = rows(nn.Sequential(nn.Unflatten(-1, shape), *stages, nn.Flatten()))
        height, width = (-(-side // 2 ** len(hidden)) for side in shape[1:])
        self.head = Gaussian(hidden[-1] * height * width, latents)

    def forward(self, x: Tensor) -> dist.Independent:
        return self.head(self.net(x))


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (32, 64),
    likelihood: str = "bernoulli",
    channels: int = 1,
    height: int | None = None,
) -> Pair:
    """The convolutional VAE; images are square unless ``height`` says otherwise."""
    shape = image_shape(features, channels, height)
    return Pair(
        model, guide, decoder=Decoder(shape, latents, hidden, likelihood), encoder=Encoder(shape, latents, hidden)
    )
