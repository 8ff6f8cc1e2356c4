r"""The auxiliary deep generative model's story: a class, a style, a row, and then an auxiliary variable of all three.

    y_n ~ Categorical(1 / C)
    z_n ~ N(0, I_K)
    x_n | y_n, z_n ~ p(x | decoder(z_n, y_n)),  independent over the D features
    a_n | x_n,o, y_n, z_n ~ N(loc(x_n,o, y_n, z_n), diag(scale(x_n,o, y_n, z_n)^2))

x (N, D), y (N, 1) of the classes 0 … C-1, z (N, 1, K), a (N, 1, A). Nothing depends on a, and summed out of the story it
leaves p(x, y, z) as it was; in the guide it comes first, and q(y, z | x), an average over a, may then have any form. p(a | …)
reads only the entries that were observed.

Reference: Maaløe, Sønderby, Sønderby & Winther 2016, eq. 2-4, 9.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from ppvae.models import semi_supervised_vae
from pyro import poutine
from torch import Tensor

from ppvae.nn import Gaussian, mlp
from ppvae.nn.filled import beside_mask
from ppvae.nn.labels import beside
from ppvae.nn.layers import together


class Decoder(semi_supervised_vae.Decoder):
    """p(y), p(x | z, y), and p(a | x_o, y, z)."""

    def __init__(
        self, features: int, latents: int, auxiliary: int, classes: int, hidden: Sequence[int], likelihood_name: str
    ) -> None:
        super().__init__(features, latents, classes, hidden, likelihood_name)
        inputs = 2 * features + classes + latents
        self.back, self.head = mlp(inputs, hidden), Gaussian([inputs, *hidden][-1], auxiliary)

    def a(self, x: Tensor, y: Tensor, z: Tensor, mask: Tensor | bool) -> dist.TorchDistribution:
        return self.head(self.back(beside(together(beside_mask(x, mask), z.squeeze(-2)), y, self.classes)))


def model(
    decoder: Decoder, x: Tensor | None = None, y: Tensor | None = None, mask: Tensor | bool = True, *, size: int = 1
) -> Tensor:
    N = next((len(given) for given in (x, y) if given is not None), size)
    zero = next(decoder.parameters()).new_zeros(1, decoder.latents)
    with pyro.plate("data", N, dim=-2):
        y = pyro.sample("y", decoder.y(), obs=y)  # (…, N, 1)
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # (…, N, 1, K)
        with pyro.plate("features", decoder.features, dim=-1), poutine.mask(mask=mask):
            x = pyro.sample("x", decoder.x(z, y), obs=x)  # (…, N, D)
        pyro.sample("a", decoder.a(x, y, z, mask))  # (…, N, 1, A)
        return x
