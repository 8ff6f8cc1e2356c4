r"""The amortized Gaussian guide for images: the program of `ppvae.guides.vae`, a convolutional network.

    z_n | x_n,o ~ N(loc(x_n,o), diag(scale(x_n,o)^2))

Of the kinds of `ppvae.nn.encoder`, ``zero_fill``, ``learned_fill`` and ``mask`` convolve the filled image, the last with
the mask of each channel as a further channel. ``set`` and ``experts`` take each pixel as an entry with a place, and
convolve nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ppvae.guides.vae import guide
from ppvae.models.conv_vae import Decoder, image_shape, model
from torch import nn

from ppvae import Pair
from ppvae.nn import encoder as encoder_of
from ppvae.nn import rows

__all__ = ["guide", "make"]


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (32, 64),
    likelihood: str = "bernoulli",
    channels: int = 1,
    height: int | None = None,
    encoder: str = "zero_fill",
) -> Pair:
    """The convolutional VAE; images are square unless ``height`` says otherwise; encoder zero_fill, learned_fill, mask,
    set or experts."""
    shape = image_shape(features, channels, height)

    def network(inputs: int) -> tuple[nn.Module, int]:
        return _convolutions((inputs // (shape[1] * shape[2]), *shape[1:]), hidden)

    return Pair(
        model,
        guide,
        decoder=Decoder(shape, latents, hidden, likelihood),
        encoder=encoder_of(encoder, features, latents, hidden, network=network),
    )


def _convolutions(shape: tuple[int, int, int], hidden: Sequence[int]) -> tuple[nn.Module, int]:
    """Each stage halves the image (…, C·H·W); and how many features are left."""
    stages = [
        stage
        for n, m in zip([shape[0], *hidden], hidden, strict=False)
        for stage in (nn.Conv2d(n, m, 3, stride=2, padding=1), nn.ReLU())
    ]
    height, width = (-(-side // 2 ** len(hidden)) for side in shape[1:])
    return rows(nn.Sequential(nn.Unflatten(-1, shape), *stages, nn.Flatten())), hidden[-1] * height * width
