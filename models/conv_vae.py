r"""The story of `ppvae.models.vae` for images: the same program, a convolutional network.

    z_n ~ N(0, I_K)
    x_n | z_n ~ p(x | decoder(z_n)),  independent over the pixels

x (N, C·H·W), flattened; z (N, 1, K). Images are reshaped inside the network only.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from ppvae.models.vae import model
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.errors import Problem
from ppvae.nn import rows
from ppvae.nn.heads import SMALLEST_SCALE

__all__ = ["Decoder", "image_shape", "model"]


class Decoder(nn.Module):
    """p(x | z): each stage doubles the image up to (C, H, W); z (…, K) to a distribution with batch (…, C·H·W)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        latents: int,
        hidden: Sequence[int] = (32, 64),
        likelihood_name: str = "bernoulli",
    ) -> None:
        super().__init__()
        if likelihood_name not in ("bernoulli", "normal"):
            raise Problem(
                f"conv_vae has no likelihood {likelihood_name!r}",
                "one output channel a colour: a bit or a value",
                "bernoulli or normal",
            )
        self.features, self.latents, self.likelihood_name = shape[0] * shape[1] * shape[2], latents, likelihood_name
        sizes = [(-(-shape[1] // 2**i), -(-shape[2] // 2**i)) for i in range(len(hidden) + 1)]  # (H, W), halved, …
        widths = [*reversed(hidden)]
        stages = [
            stage
            for width, narrower, size in zip(widths, [*widths[1:], shape[0]], sizes[-2::-1], strict=True)
            for stage in (nn.ReLU(), nn.Upsample(size=size), nn.Conv2d(width, narrower, 3, padding=1))
        ]
        image = nn.Sequential(
            nn.Linear(latents, widths[0] * sizes[-1][0] * sizes[-1][1]),
            nn.Unflatten(-1, (widths[0], *sizes[-1])),
            *stages,
            nn.Flatten(),
        )
        self.net = rows(image)
        if likelihood_name == "normal":
            self.spread = nn.Parameter(torch.zeros(self.features))

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        value = self.net(z)  # (…, C·H·W)
        if self.likelihood_name == "bernoulli":
            return dist.Bernoulli(logits=value)
        return dist.Normal(value, softplus(self.spread) + SMALLEST_SCALE)


def image_shape(features: int, channels: int, height: int | None) -> tuple[int, int, int]:
    """(C, H, W) of a flattened image; without a height it is square."""
    side = height or round((features / channels) ** 0.5)
    if features % (channels * side) or (height is None and channels * side * side != features):
        raise Problem(
            f"{features} features are no image of {channels} channel(s)" + (f" and height {height}" if height else ""),
            "a table, or an image that is not square",
            "height=28 for images of 28 rows; channels=3 for colour",
        )
    return channels, side, features // (channels * side)
