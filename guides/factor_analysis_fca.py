r"""Factor analysis with the full-covariance approximation: the posterior of the mean-filled row, as if it were complete.

    z_n | x_n,o ~ N(P^-1 W' Psi^-1 r_n, P^-1),  P = I + sum_j w_j w_j' / psi_j,  r_n = x_n - loc, 0 where missing

Exact on complete rows. It shrinks towards the mean and is far too sure of it (thesis eq. 4.7).
"""

from __future__ import annotations

import pyro
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor

from ppvae import Pair
from ppvae.exact import approximations
from ppvae.nn.events import by_row


def guide(decoder: Decoder, x: Tensor, mask: Tensor | bool = True) -> None:
    q = approximations.full_covariance(decoder.W, decoder.loc, decoder.scale, x, mask)
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", by_row(q))  # (…, N, 1, K)


def make(features: int, latents: int, tied: bool = False) -> Pair:
    """Factor analysis and the full-covariance approximation; ``tied``: one noise scale (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied))
