r"""A scene of entities: K independent codes, each drawn as feature maps by one network, pooled, and rendered.

    z_nk ~ N(0, I_E),  k = 1 … K,  independent
    x_n | z_n ~ Bernoulli(sigmoid(h(max_k g(z_nk)))),  independent over the pixels

x (N, C·H·W), flattened bits; z (N, 1, K, E) is one event. g and h are shared by all entities and pooling (``aggregate``
max, or sum) is symmetric, so p(x | z) does not change when the entities change places.

The sigmoid cross entropy of colours between 0 and 1, on which this story was first trained, is the log density of nothing.
It is E[log p(b | z)] of bits b that have the colours as probabilities, so a redraw of bits has it as its mean
(``ppvae.fit(…, redraw=torch.bernoulli)``); where the colours are bits themselves, as `ppvae.data.sprites` has them, it is the
log-likelihood.

Reference: Nash et al. 2017, "The multi-entity variational autoencoder".
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.errors import Problem
from ppvae.nn import rows

UNITS = 256  # between the two fully connected layers of g


class Decoder(nn.Module):
    """p(x | z): z (…, 1, K, E) to a Bernoulli of batch (…, C·H·W). All feature maps have hidden[0] channels."""

    zero: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        latents: int,
        entities: int,
        hidden: Sequence[int] = (16, 32, 64),
        aggregate: str = "max",
    ) -> None:
        super().__init__()
        if aggregate not in ("max", "sum"):
            raise Problem(f"there is no aggregate {aggregate!r}", "a symmetric function of the entities", "max or sum")
        self.features, self.latents, self.entities = shape[0] * shape[1] * shape[2], latents, entities
        self.aggregate = aggregate
        self.object = rows(_object(grid_of(shape, hidden), latents, hidden[0], len(hidden) - 1))
        self.render = rows(_render(hidden[0], shape[0]), event_dim=3)
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # of the pair's dtype, on its device

    def forward(self, z: Tensor) -> dist.Bernoulli:
        maps = self.object(z.squeeze(-3))  # (…, K, M, H / 2, W / 2)
        pooled = maps.amax(-4) if self.aggregate == "max" else maps.sum(-4)
        return dist.Bernoulli(logits=self.render(pooled).flatten(-3))


def model(decoder: Decoder, x: Tensor | None = None, mask: Tensor | bool = True, *, size: int = 1) -> Tensor:
    N = size if x is None else len(x)
    zero = decoder.zero.expand(1, decoder.entities, decoder.latents)
    with pyro.plate("data", N, dim=-2):
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(2))  # (…, N, 1, K, E)
        with pyro.plate("features", decoder.features, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder(z), obs=x)  # (…, N, D)


def grid_of(shape: tuple[int, int, int], hidden: Sequence[int]) -> tuple[int, int]:
    """Height and width of the grid: each width of ``hidden`` halves the image (C, H, W) once."""
    if isinstance(hidden, int) or not hidden or not all(isinstance(width, int) and width > 0 for width in hidden):
        raise Problem(f"hidden is {hidden!r}", "the widths of one stage or more, in a tuple", "hidden=(16, 32, 64)")
    fold = 2 ** len(hidden)
    if shape[1] % fold or shape[2] % fold:
        raise Problem(
            f"an image of {shape[1]} x {shape[2]} cannot be halved {len(hidden)} times",
            "each width of hidden halves it once",
            f"sides that are multiples of {fold}, or fewer widths",
        )
    return shape[1] // fold, shape[2] // fold


def _object(grid: tuple[int, int], latents: int, width: int, doublings: int) -> nn.Module:
    """g: a code to feature maps, so many doublings from the grid."""
    net = [nn.Linear(latents, UNITS), nn.ELU(), nn.Linear(UNITS, width * grid[0] * grid[1]), nn.ELU()]
    stages = [
        stage
        for _ in range(doublings)
        for stage in (nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(width, width, 3, padding=1), nn.ELU())
    ]
    return nn.Sequential(*net, nn.Unflatten(-1, (width, *grid)), *stages)


def _render(width: int, channels: int) -> nn.Module:
    """h: pooled feature maps to the logits of an image of twice their sides."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1),
        nn.ELU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ELU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(width, channels, 3, padding=1),
    )
