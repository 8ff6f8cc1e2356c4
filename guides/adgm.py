r"""The guide of the auxiliary deep generative model: an auxiliary variable, then which class, then which style.

    a_n | x_n,o ~ N(loc(x_n,o), diag(scale(x_n,o)^2))
    y_n | x_n,o, a_n ~ Categorical(pi(x_n,o, a_n))                                  where y_n is not observed
    z_n | x_n,o, a_n, y_n ~ N(loc(x_n,o, a_n, y_n), diag(scale(x_n,o, a_n, y_n)^2))

y is summed out exactly under q, at C runs of the networks. `ppvae.semi_supervised` trains it.

Reference: Maaløe, Sønderby, Sønderby & Winther 2016, eq. 5-10.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from ppvae.models.adgm import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn import Gaussian, mlp
from ppvae.nn.filled import beside_mask
from ppvae.nn.labels import beside
from ppvae.nn.layers import together


class Encoder(nn.Module):
    """q(a | x_o), q(y | x_o, a) and q(z | x_o, a, y), a network each; all read the row with the mask beside it, 0 in a gap."""

    def __init__(self, features: int, latents: int, auxiliary: int, classes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.classes = classes
        rows, more = 2 * features, 2 * features + auxiliary
        self.auxiliary_net, self.class_net, self.style_net = (mlp(n, hidden) for n in (rows, more, more + classes))
        self.auxiliary = Gaussian([rows, *hidden][-1], auxiliary)
        self.logits = nn.Linear([more, *hidden][-1], classes)
        self.style = Gaussian([more + classes, *hidden][-1], latents)

    def a(self, x: Tensor, mask: Tensor | bool = True) -> dist.TorchDistribution:
        return self.auxiliary(self.auxiliary_net(beside_mask(x, mask)))

    def y(self, x: Tensor, a: Tensor, mask: Tensor | bool = True) -> dist.Categorical:
        logits = self.logits(self.class_net(together(beside_mask(x, mask), a.squeeze(-2))))
        return dist.Categorical(logits=logits.unsqueeze(-2))  # batch (…, N, 1)

    def z(self, x: Tensor, a: Tensor, y: Tensor, mask: Tensor | bool = True) -> dist.TorchDistribution:
        return self.style(self.style_net(beside(together(beside_mask(x, mask), a.squeeze(-2)), y, self.classes)))


def guide(encoder: Encoder, x: Tensor, y: Tensor | None = None, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        a = pyro.sample("a", encoder.a(x, mask))  # (…, N, 1, A)
        if y is None:
            y = pyro.sample("y", encoder.y(x, a, mask), infer={"enumerate": "parallel"})  # (…, N, 1)
        pyro.sample("z", encoder.z(x, a, y, mask))  # (…, N, 1, K)


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (400, 200),
    likelihood: str = "bernoulli",
    classes: int = 10,
    auxiliary: int | None = None,
) -> Pair:
    """The auxiliary deep generative model with the classes 0 … classes - 1; ``auxiliary`` coordinates of a,
    as many as of z by default."""
    auxiliary = latents if auxiliary is None else auxiliary
    return Pair(
        model,
        guide,
        decoder=Decoder(features, latents, auxiliary, classes, hidden, likelihood),
        encoder=Encoder(features, latents, auxiliary, classes, hidden),
    )
