r"""The conditional variational autoencoder's story: the label is given.

    z_n ~ N(0, I_K)
    x_n | z_n, label_n ~ p(x | decoder(z_n, label_n)),  independent over the D features

x (N, D), z (N, 1, K), label (N,) of the classes 0 … C-1. The label is a covariate: it is given, never drawn.

Reference: Sohn, Lee & Yan 2015.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from ppvae.models import vae
from pyro import poutine
from torch import Tensor, nn

from ppvae.nn.labels import beside


class Decoder(nn.Module):
    """p(x | z, label): the network of `ppvae.models.vae` with the label's indicator beside z."""

    def __init__(
        self,
        features: int,
        latents: int,
        classes: int = 10,
        hidden: Sequence[int] = (400, 200),
        likelihood_name: str = "bernoulli",
    ) -> None:
        super().__init__()
        self.features, self.latents, self.classes = features, latents, classes
        self.net = vae.Decoder(features, latents + classes, hidden, likelihood_name)

    def forward(self, z: Tensor, label: Tensor) -> dist.TorchDistribution:
        return self.net(beside(z, label[:, None], self.classes))


def model(
    decoder: Decoder, x: Tensor | None = None, mask: Tensor | bool = True, *, label: Tensor, size: int = 1
) -> Tensor:
    N = size if x is None else len(x)
    zero = next(decoder.parameters()).new_zeros(1, decoder.latents)
    with pyro.plate("data", N, dim=-2):
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # (…, N, 1, K)
        with pyro.plate("features", decoder.features, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder(z.squeeze(-2), label), obs=x)  # (…, N, D)
