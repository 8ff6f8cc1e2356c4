r"""The semi-supervised story: a class and a style, seen through a network.

    y_n ~ Categorical(1 / C)
    z_n ~ N(0, I_K)
    x_n | y_n, z_n ~ p(x | decoder(z_n, y_n)),  independent over the D features

x (N, D), y (N, 1) of the classes 0 … C-1, z (N, 1, K). A row whose class is known observes y, the others draw it.

Reference: Kingma, Rezende, Mohamed & Welling 2014, eq. 2 (M2).
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
    """p(x | z, y): the network of `ppvae.models.vae` with the class's indicator beside z, and p(y), uniform."""

    def __init__(self, features: int, latents: int, classes: int, hidden: Sequence[int], likelihood_name: str) -> None:
        super().__init__()
        self.features, self.latents, self.classes = features, latents, classes
        self.net = vae.Decoder(features, latents + classes, hidden, likelihood_name)

    def y(self) -> dist.Categorical:
        return dist.Categorical(logits=next(self.parameters()).new_zeros(1, 1, self.classes))

    def x(self, z: Tensor, y: Tensor) -> dist.TorchDistribution:
        return self.net(beside(z.squeeze(-2), y, self.classes))


def model(
    decoder: Decoder, x: Tensor | None = None, y: Tensor | None = None, mask: Tensor | bool = True, *, size: int = 1
) -> Tensor:
    N = next((len(given) for given in (x, y) if given is not None), size)
    zero = next(decoder.parameters()).new_zeros(1, decoder.latents)
    with pyro.plate("data", N, dim=-2):
        y = pyro.sample("y", decoder.y(), obs=y)  # (…, N, 1)
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # (…, N, 1, K)
        with pyro.plate("features", decoder.features, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder.x(z, y), obs=x)  # (…, N, D)
