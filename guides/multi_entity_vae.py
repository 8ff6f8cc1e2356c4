r"""Maximal-information attention: a candidate at each place of a grid, of which the K most informative are the entities.

    q_s = N(loc_s(x_n,o), diag(scale_s(x_n,o)^2)),  s a place of the grid, by a convolutional network
    kl_s = KL(q_s || N(0, I_E))
    z_nk | x_n,o ~ q_s(k),  s(1), …, s(K) the places with the largest kl_s, largest first

x is read beside its mask. Each width of ``hidden`` is a convolution and a max-pooling that halves the image; one more
convolution follows, two channels of relative coordinates are set beside its features, and two further convolutions give the
2 E parameters, the last of 1 x 1. Images of 64 x 64 and three widths have a grid of 8 x 8: four convolutions before the
coordinates, as published, the last of them not pooled. (Pooled four times, to 4 x 4, short fits chose the same middle places
in every scene, and no place was of one object.) The choice of places has no gradient.

Reference: Nash et al. 2017, "The multi-entity variational autoencoder".
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.conv_vae import image_shape
from ppvae.models.multi_entity_vae import Decoder, grid_of, model
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppvae import Pair
from ppvae.errors import Problem
from ppvae.nn import rows
from ppvae.nn.filled import beside_mask
from ppvae.nn.heads import SMALLEST_SCALE


class Trunk(nn.Module):
    """An image beside its mask to 2 E feature maps on the grid: x, mask (…, N, C·H·W) to (…, N, 2 E, H', W')."""

    place: Tensor

    def __init__(self, shape: tuple[int, int, int], latents: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.grid = grid_of(shape, hidden)
        widths = [2 * shape[0], *hidden]
        stages = [
            stage
            for n, m in zip(widths, widths[1:], strict=False)
            for stage in (nn.Conv2d(n, m, 3, padding=1), nn.ELU(), nn.MaxPool2d(2))
        ]
        last = hidden[-1]
        image = nn.Unflatten(-1, (2 * shape[0], *shape[1:]))
        self.see = rows(nn.Sequential(image, *stages, nn.Conv2d(last, last, 3, padding=1), nn.ELU()))
        self.tell = rows(
            nn.Sequential(nn.Conv2d(last + 2, 2 * last, 3, padding=1), nn.ELU(), nn.Conv2d(2 * last, 2 * latents, 1)),
            event_dim=3,
        )
        down, right = (torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1) for side in self.grid)
        self.register_buffer("place", torch.stack(torch.meshgrid(down, right, indexing="ij")), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> Tensor:
        seen = self.see(beside_mask(x, mask))
        return self.tell(torch.cat([seen, self.place.expand(*seen.shape[:-3], -1, -1, -1)], -3))


class Encoder(nn.Module):
    """q(z | x_o): x, mask (N, C·H·W) to batch (N, 1), event (K, E)."""

    def __init__(self, shape: tuple[int, int, int], latents: int, entities: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.trunk, self.entities = Trunk(shape, latents, hidden), entities
        places = self.trunk.grid[0] * self.trunk.grid[1]
        if not isinstance(entities, int) or not 0 < entities <= places:
            raise Problem(
                f"entities is {entities!r}, and the grid has {places} places",
                "each entity is read off a place of its own",
                f"a whole number from 1 to {places}; fewer widths in hidden make a finer grid",
            )

    def candidates(self, x: Tensor, mask: Tensor | bool = True) -> dist.Normal:
        """The Gaussian of each place of the grid, batch (N, H', W', E)."""
        loc, spread = self.trunk(x, mask).movedim(-3, -1).chunk(2, -1)
        return dist.Normal(loc, spread.exp() + SMALLEST_SCALE)

    def kl_map(self, x: Tensor, mask: Tensor | bool = True) -> Tensor:
        """KL of each place's Gaussian to the prior in nats, (N, H', W')."""
        return _kl(self.candidates(x, mask))

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
        q = self.candidates(x, mask)
        chosen = _kl(q).detach().flatten(-2).topk(self.entities).indices[..., None]  # (N, K, 1), largest first
        chosen = chosen.expand(*chosen.shape[:-1], q.batch_shape[-1])
        loc, scale = (part.flatten(-3, -2).gather(-2, chosen).unsqueeze(-3) for part in (q.loc, q.scale))
        return dist.Normal(loc, scale).to_event(2)  # (N, 1), (K, E)


def guide(encoder: nn.Module, x: Tensor, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, mask))  # (…, N, 1, K, E)


def make(
    features: int,
    latents: int,
    entities: int = 5,
    hidden: Sequence[int] = (16, 32, 64),
    aggregate: str = "max",
    channels: int = 1,
    height: int | None = None,
) -> Pair:
    """The multi-entity VAE of images, square unless ``height`` says otherwise: K ``entities`` of ``latents`` numbers each,
    pooled by max or sum; the image's sides are halved once for each width of ``hidden``."""
    shape = image_shape(features, channels, height)
    return Pair(
        model,
        guide,
        decoder=Decoder(shape, latents, entities, hidden, aggregate),
        encoder=Encoder(shape, latents, entities, hidden),
    )


def _kl(q: dist.Normal) -> Tensor:
    return kl_divergence(q, dist.Normal(torch.zeros_like(q.loc), 1.0)).sum(-1)
