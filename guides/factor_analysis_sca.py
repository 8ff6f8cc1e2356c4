r"""Factor analysis with the scaled-covariance approximation: a precision in proportion to the share observed.

    z_n | x_n,o ~ N(S_n W' Psi^-1 r_n, S_n),  S_n^-1 = I + (D_n / D) (P - I),  r_n = x_n - loc, 0 where missing

Exact on complete and on empty rows; near where entries are missing evenly, poor where a region is (thesis eq. 4.9).
"""

from __future__ import annotations

import pyro
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor

from ppvae import Pair
from ppvae.exact import approximations
from ppvae.nn.events import by_row


def guide(decoder: Decoder, x: Tensor, mask: Tensor | bool = True) -> None:
    q = approximations.scaled_covariance(decoder.W, decoder.loc, decoder.scale, x, mask)
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", by_row(q))  # (…, N, 1, K)


def make(features: int, latents: int, tied: bool = False) -> Pair:
    """Factor analysis and the scaled-covariance approximation; ``tied``: one noise scale (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied))
