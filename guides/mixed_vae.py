r"""The amortized Gaussian guide of tables of several kinds of columns.

    z_n | x_n,o ~ N(loc(r_n), diag(scale(r_n)^2)),  r_n the row as a network reads it

Numbers are standardised, counts and positive numbers by their logarithm, classes are indicators, and the mask stands beside
them: what fills a gap is not read.

Reference: Nazabal, Olmos, Ghahramani & Valera 2020, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from ppvae.models.mixed_vae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn import encoder as encoder_of
from ppvae.nn.kinds import Scales, kinds_of
from ppvae.nn.reading import Reading


class Encoder(nn.Module):
    """q(z | x_o): x, mask (…, N, D) to batch (…, N, 1), event (K,)."""

    def __init__(
        self, latents: int, hidden: Sequence[int], kinds: Sequence[str], scales: Scales | None, kind: str
    ) -> None:
        super().__init__()
        self.reading = Reading(kinds, scales)
        self.net = encoder_of(kind, self.reading.features, latents, hidden)

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> pyro.distributions.TorchDistribution:
        return self.net(*self.reading(x, mask))


def guide(encoder: Encoder, x: Tensor, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, mask))  # (…, N, 1, K)


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (128, 128),
    kinds: Sequence[str] | None = None,
    scales: Scales | None = None,
    encoder: str = "mask",
) -> Pair:
    """The pair of a table of several kinds of columns.

    Args:
        features: D.
        latents: K.
        hidden: widths, in the encoder's order.
        kinds: of the columns: "real", "positive", "count", "ordinal:C", "categorical:C", "binary"; all real by default.
            Classes are codes 0 … C-1; `ppvae.data.Schema` makes them from words.
        scales: location and unit of each column, ``ppvae.nn.kinds.scales(x, kinds)``, or ``Schema.scales``; by default
            columns of numbers are taken to be standardised.
        encoder: zero_fill (gaps 0), learned_fill, mask, set or experts, see `ppvae.nn.encoder`; it reads indicators and
            standardised numbers.
    """
    kinds = kinds_of(kinds, features)
    return Pair(
        model,
        guide,
        decoder=Decoder(latents, hidden, kinds, scales),
        encoder=Encoder(latents, hidden, kinds, scales, encoder),
    )
