"""Training steps as one would write them in PyTorch without a library: the reference of the ratios.

The same networks, likelihood and bound as the pairs of the catalogue, and the same random numbers in the same order: from
the same parameters and seed the losses agree to rounding (a test holds them to it). One fused Adam over all parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

RATE = 1e-3


def step(module: nn.Module, loss: Callable[[Any], Tensor]) -> Callable[[], None]:
    """One step of a module down the gradient of ``loss(module)``, by fused Adam."""
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE, fused=True)

    def run() -> None:
        value = loss(module)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return run


class VAE(nn.Module):
    """z ~ N(0, I), x | z ~ Bernoulli(logits decoder(z)), z | x ~ N(encoder(x))."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder, self.encoder = decoder, encoder

    def loss(self, x: Tensor) -> Tensor:
        """The negative ELBO in nats per row, its KL in closed form; x (N, D)."""
        loc, scale = gaussian(self.encoder(x))
        z = loc + scale * torch.randn_like(scale)
        return (kl_from_standard(loc, scale) - log_bernoulli(self.decoder(z), x)).mean()

    def weighted_loss(self, x: Tensor, particles: int) -> Tensor:
        """The negative importance-weighted bound of P particles (Burda et al. 2016, eq. 8), all at once."""
        loc, scale = gaussian(self.encoder(x))  # once, not once a particle
        noise = torch.randn(particles, *scale.shape, device=x.device)
        z = loc + scale * noise  # (P, N, K)
        log_prior, log_guide = log_normal(z, 0.0, torch.ones_like(scale)), log_normal(z, loc, scale)
        log_weights = log_bernoulli(self.decoder(z), x) + log_prior - log_guide  # (P, N)
        return -(log_weights.logsumexp(0) - math.log(particles)).mean()


def connected(features: int, hidden: int, latents: int) -> VAE:
    """One hidden layer each: the pair ``vae`` with ``hidden=(hidden,)``."""
    encoder = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latents))
    decoder = nn.Sequential(nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, features))
    return VAE(encoder, decoder)


def convolutional(side: int, latents: int, hidden: tuple[int, int] = (32, 64)) -> VAE:
    """Two convolutions each, on square images of one channel: the pair ``conv_vae``; ``side`` is a multiple of 4."""
    near, far = hidden
    quarter = side // 4
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, near, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(near, far, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(far * quarter**2, 2 * latents),
    )
    decoder = nn.Sequential(
        nn.Linear(latents, far * quarter**2),
        nn.Unflatten(1, (far, quarter, quarter)),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(far, near, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(near, 1, 3, padding=1),
        nn.Flatten(),
    )
    return VAE(encoder, decoder)


class TwoLayer(nn.Module):
    """z2 ~ N(0, I), z1 | z2 and x | z1 through two tanh layers each; the guide draws z1 | x, then z2 | z1."""

    def __init__(self, features: int, latents: int, hidden: tuple[int, int] = (200, 100)) -> None:
        super().__init__()
        (near, far), K1, K2 = hidden, 2 * latents, latents
        self.x_of_z1, self.z1_of_z2 = _tanh(K1, near, features), _tanh(K2, far, 2 * K1)
        self.z1_of_x, self.z2_of_z1 = _tanh(features, near, 2 * K1), _tanh(K1, far, 2 * K2)

    def loss(self, x: Tensor) -> Tensor:
        """The negative ELBO in nats per row; the KL of z2 in closed form, that of z1 by its draw."""
        loc1, scale1 = gaussian(self.z1_of_x(x))
        z1 = loc1 + scale1 * torch.randn_like(scale1)
        loc2, scale2 = gaussian(self.z2_of_z1(z1))
        z2 = loc2 + scale2 * torch.randn_like(scale2)
        log_story = log_normal(z1, *gaussian(self.z1_of_z2(z2))) + log_bernoulli(self.x_of_z1(z1), x)
        return (log_normal(z1, loc1, scale1) + kl_from_standard(loc2, scale2) - log_story).mean()


def gaussian(output: Tensor) -> tuple[Tensor, Tensor]:
    """Location and scale from a network's last layer."""
    loc, spread = output.chunk(2, -1)
    return loc, softplus(spread) + 1e-3


def kl_from_standard(loc: Tensor, scale: Tensor) -> Tensor:
    return (0.5 * (loc.square() + scale.square() - 1) - scale.log()).sum(-1)


def log_normal(z: Tensor, loc: Tensor | float, scale: Tensor) -> Tensor:
    return (-0.5 * ((z - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    return -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def _tanh(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
    )
