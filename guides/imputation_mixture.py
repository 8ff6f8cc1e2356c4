r"""The guide of complete rows, averaged over what may have stood in the gaps.

    x_n,m^(a) ~ a few rounds of z ~ q(z | x_n,o, x_n,m), x_n,m ~ p(x_m | z),  a = 1 … A
    z_n | x_n,o ~ (1/A) sum_a q(z | x_n,o, x_n,m^(a))

q(z | x) is a Gaussian encoder of complete rows. Where an entry is missing, p(z | x_o) may have several modes: one for each of
the things that stood there. A row without gaps has the one Gaussian.

Train it by `ppvae.completed_rows`: the mixture's own bound teaches an encoder to hide in what few imputations cover.

Reference: Simkus & Gutmann 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from ppvae.models.vae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn import Mixture
from ppvae.nn import encoder as encoder_of
from ppvae.nn.imputations import Imputations, each


class Encoder(nn.Module):
    """q(z | x) of complete rows, and how many times a row with gaps is completed by how many rounds."""

    def __init__(self, net: nn.Module, components: int, rounds: int) -> None:
        super().__init__()
        self.net, self.components, self.rounds = net, components, rounds

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        return self.net(x)


def guide(decoder: Decoder, encoder: Encoder, x: Tensor, mask: Tensor | bool = True) -> None:
    prior = dist.Normal(x.new_zeros(1, decoder.latents), 1.0).to_event(1)
    with pyro.plate("data", len(x), dim=-2):
        q = encoder(x)
        if isinstance(mask, Tensor):
            imputed = Imputations(encoder, decoder, prior, x, mask, encoder.components, encoder.rounds)
            x_a = pyro.sample("x_a", imputed, infer={"is_auxiliary": True})  # (…, N, 1, A, D)
            q = Mixture(encoder(each(x_a)))
        pyro.sample("z", q)  # (…, N, 1, K)


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (400, 200),
    likelihood: str = "bernoulli",
    classes: int = 2,
    components: int = 5,
    rounds: int = 5,
) -> Pair:
    """The fully connected VAE, its guide a mixture over ``components`` imputations of ``rounds`` rounds each; likelihood
    bernoulli, normal, or categorical with ``classes`` values a feature."""
    net = encoder_of("zero_fill", features, latents, hidden)
    return Pair(
        model,
        guide,
        decoder=Decoder(features, latents, hidden, likelihood, classes),
        encoder=Encoder(net, components, rounds),
    )
