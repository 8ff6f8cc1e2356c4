"""Encoders that read a whole row, its gaps filled."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.nn.heads import Gaussian

Network = Callable[[int], tuple[nn.Module, int]]  # inputs to a network of them and the features that it gives


def observed(x: Tensor, mask: Tensor | bool) -> Tensor:
    """The mask of each entry, (…, N, D), from one of each row or one for all."""
    if isinstance(mask, bool):
        return torch.full_like(x, mask, dtype=torch.bool)  # made on x's device: nothing is copied there
    return mask.expand(x.shape)


def beside_mask(x: Tensor, mask: Tensor | bool) -> Tensor:
    """A row as a network reads it: 0 in a gap, and the mask beside the row, (…, N, 2 D)."""
    mask = observed(x, mask)
    return torch.cat([torch.where(mask, x, 0.0), mask.to(x.dtype)], -1)


class ZeroFill(nn.Module):
    """q(z | x): x (…, N, D) to batch (…, N, 1), event (K,). What fills a gap is `Pair.fill`, read as if observed."""

    def __init__(self, features: int, latents: int, network: Network) -> None:
        super().__init__()
        self.net, width = network(features)
        self.head = Gaussian(width, latents)

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
        return self.head(self.net(x))


class LearnedFill(ZeroFill):
    """q(z | x_o): in a gap stands the feature's own learned value, 0 at the start."""

    def __init__(self, features: int, latents: int, network: Network) -> None:
        super().__init__(features, latents, network)
        self.fill = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
        return self.head(self.net(torch.where(observed(x, mask), x, self.fill)))


class MaskBeside(ZeroFill):
    """q(z | x_o): 0 in a gap, and the mask beside the row; the network has 2 D inputs."""

    def __init__(self, features: int, latents: int, network: Network) -> None:
        super().__init__(2 * features, latents, network)

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
        return self.head(self.net(beside_mask(x, mask)))
