"""The step of pythae: its VAE with the same networks, and what its trainer does with a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from ppvae.bench.by_hand import RATE


class Encoder(BaseEncoder):
    def __init__(self, features: int, hidden: int, latents: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latents))

    def forward(self, x: Tensor) -> ModelOutput:
        loc, log_covariance = self.net(x).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=log_covariance)


class Decoder(BaseDecoder):
    """pythae's Bernoulli likelihood takes probabilities, not logits."""

    def __init__(self, features: int, hidden: int, latents: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, features), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net(z))


def vae(features: int, hidden: int, latents: int) -> VAE:
    """The same networks and likelihood as `by_hand.connected`; the guide's scale is exp(half the log-variance)."""
    config = VAEConfig(input_dim=(features,), latent_dim=latents, reconstruction_loss="bce")
    return VAE(config, Encoder(features, hidden, latents), Decoder(features, hidden, latents))


def step(model: VAE, x: Tensor) -> Callable[[], None]:
    """One step on x (N, D), by the fused Adam that its trainer's ``optimizer_params`` allow."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    batch = {"data": x}

    def run() -> None:
        optimizer.zero_grad()
        model(batch).loss.backward()
        optimizer.step()

    return run
