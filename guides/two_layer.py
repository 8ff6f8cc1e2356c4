r"""The bottom-up guide of two stochastic layers.

    z1_n | x_n,o ~ N(loc(x_n,o), diag(scale(x_n,o)^2))
    z2_n | z1_n ~ N(loc(z1_n), diag(scale(z1_n)^2))

The story draws z2 first and the guide z1 first, so only the KL of z2 has a closed form. q(z1 | x) is one of the kinds of
`ppvae.nn.encoder`.

Reference: Burda, Grosse & Salakhutdinov 2016, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from ppvae.models.two_layer import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn import Gaussian, mlp
from ppvae.nn import encoder as encoder_of


class Encoder(nn.Module):
    """q(z1 | x) and q(z2 | z1), each through tanh layers of its own."""

    def __init__(
        self,
        features: int,
        latents: tuple[int, int],
        hidden: Sequence[int] = (200, 100),
        kind: str = "zero_fill",
    ) -> None:
        super().__init__()
        near, far = [hidden[0]] * 2, [hidden[-1]] * 2
        self.z1 = encoder_of(kind, features, latents[0], near, nn.Tanh)
        self.net2, self.head2 = mlp(latents[0], far, nn.Tanh), Gaussian(far[-1], latents[1])

    def z2(self, z1: Tensor) -> dist.TorchDistribution:
        return self.head2(self.net2(z1))


def guide(encoder: Encoder, x: Tensor, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        z1 = pyro.sample("z1", encoder.z1(x, mask))  # (…, N, 1, K1)
        pyro.sample("z2", encoder.z2(z1.squeeze(-2)))  # (…, N, 1, K2)


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (200, 100),
    likelihood: str = "bernoulli",
    encoder: str = "zero_fill",
) -> Pair:
    """Two stochastic layers: K = ``latents`` on top, 2 K below; two tanh layers of ``hidden[0]`` near the data, two of
    ``hidden[1]`` between the latents; encoder zero_fill, learned_fill, mask, set or experts."""
    sizes = (2 * latents, latents)
    return Pair(
        model,
        guide,
        decoder=Decoder(features, sizes, hidden, likelihood),
        encoder=Encoder(features, sizes, hidden, encoder),
    )
