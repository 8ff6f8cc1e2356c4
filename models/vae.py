r"""The variational autoencoder's story: a latent Gaussian, seen through a network.

    z_n ~ N(0, I_K)
    x_n | z_n ~ p(x | decoder(z_n)),  independent over the D features

x (N, D), z (N, 1, K). The likelihood is Bernoulli, Normal with one learned scale a feature, or categorical.

References: Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor, nn

from ppvae.nn import likelihood, mlp


class Decoder(nn.Module):
    """p(x | z): fully connected, z (…, K) to a distribution with batch (…, D). The widths stand in the encoder's order."""

    def __init__(
        self,
        features: int,
        latents: int,
        hidden: Sequence[int] = (400, 200),
        likelihood_name: str = "bernoulli",
        classes: int = 2,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        widths = tuple(reversed(hidden))
        self.features, self.latents = features, latents
        self.net = mlp(latents, widths, activation)
        self.head = likelihood(likelihood_name, widths[-1] if widths else latents, features, classes)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        return self.head(self.net(z))


def model(decoder: Decoder, x: Tensor | None = None, mask: Tensor | bool = True, *, size: int = 1) -> Tensor:
    N = size if x is None else len(x)
    zero = next(decoder.parameters()).new_zeros(1, decoder.latents)
    with pyro.plate("data", N, dim=-2):
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # (…, N, 1, K)
        with pyro.plate("features", decoder.features, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder(z.squeeze(-2)), obs=x)  # (…, N, D)
