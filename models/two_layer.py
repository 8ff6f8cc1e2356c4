r"""Two stochastic layers.

    z2_n ~ N(0, I_K2)
    z1_n | z2_n ~ N(loc(z2_n), diag(scale(z2_n)^2))
    x_n | z1_n ~ p(x | decoder(z1_n)),  independent over the D features

x (N, D), z1 (N, 1, K1) nearest the data, z2 (N, 1, K2) on top.

Reference: Burda, Grosse & Salakhutdinov 2016, section 5 (K1 = 100, K2 = 50).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor, nn

from ppvae.nn import Gaussian, likelihood, mlp


class Decoder(nn.Module):
    """p(z1 | z2) and p(x | z1), each through tanh layers of its own. The widths stand in the encoder's order."""

    def __init__(
        self,
        features: int,
        latents: tuple[int, int],
        hidden: Sequence[int] = (200, 100),
        likelihood_name: str = "bernoulli",
    ) -> None:
        super().__init__()
        self.features, self.latents = features, latents
        near, far = [hidden[0]] * 2, [hidden[-1]] * 2
        self.net1, self.net2 = mlp(latents[0], near, nn.Tanh), mlp(latents[1], far, nn.Tanh)
        self.head1, self.head2 = likelihood(likelihood_name, near[-1], features), Gaussian(far[-1], latents[0])

    def z1(self, z2: Tensor) -> dist.TorchDistribution:
        return self.head2(self.net2(z2))

    def x(self, z1: Tensor) -> dist.TorchDistribution:
        return self.head1(self.net1(z1))


def model(decoder: Decoder, x: Tensor | None = None, mask: Tensor | bool = True, *, size: int = 1) -> Tensor:
    N = size if x is None else len(x)
    zero = next(decoder.parameters()).new_zeros(1, decoder.latents[1])
    with pyro.plate("data", N, dim=-2):
        z2 = pyro.sample("z2", dist.Normal(zero, 1.0).to_event(1))  # (…, N, 1, K2)
        z1 = pyro.sample("z1", decoder.z1(z2.squeeze(-2)))  # (…, N, 1, K1)
        with pyro.plate("features", decoder.features, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder.x(z1.squeeze(-2)), obs=x)  # (…, N, D)
