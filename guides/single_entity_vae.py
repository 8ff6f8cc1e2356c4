r"""The story of `ppvae.models.multi_entity_vae` with one entity, whose code is read off the whole image.

    z_n1 | x_n,o ~ N(loc(x_n,o), diag(scale(x_n,o)^2))

The plain VAE that matches a multi-entity one: the same convolutions on the same grid, all of whose features a linear layer
turns into one Gaussian. As wide as K entities of E numbers it has K E latents.

Reference: Nash et al. 2017, "The multi-entity variational autoencoder".
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from ppvae.guides.multi_entity_vae import Trunk, guide
from ppvae.models.conv_vae import image_shape
from ppvae.models.multi_entity_vae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn.heads import SMALLEST_SCALE

MAPS = 12  # latents of a place before the linear layer, 2 MAPS feature maps


class Encoder(nn.Module):
    """q(z | x_o): x, mask (N, C·H·W) to batch (N, 1), event (1, E)."""

    def __init__(self, shape: tuple[int, int, int], latents: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.trunk = Trunk(shape, MAPS, hidden)
        self.head = nn.Linear(2 * MAPS * self.trunk.grid[0] * self.trunk.grid[1], 2 * latents)

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
        loc, spread = self.head(self.trunk(x, mask).flatten(-3))[..., None, None, :].chunk(2, -1)  # (N, 1, 1, E) each
        return dist.Normal(loc, spread.exp() + SMALLEST_SCALE).to_event(2)


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (16, 32, 64),
    channels: int = 1,
    height: int | None = None,
) -> Pair:
    """The plain VAE beside `multi_entity_vae`: one entity of ``latents`` numbers; the other options as there."""
    shape = image_shape(features, channels, height)
    return Pair(model, guide, decoder=Decoder(shape, latents, 1, hidden), encoder=Encoder(shape, latents, hidden))
