r"""Factor analysis with a product of diagonal experts, one an observed entry.

    z_n | x_n,o ~ N(b_n / P_n, 1 / P_n),  P_n = 1 + sum_j m_nj d_j,  b_n = sum_j m_nj (x_nj - c_j) u_j

d_j, u_j of K numbers, d_j > 0. Any mask is served by one set of weights, none exactly: an entry's true term has rank one
and is diagonal in no basis of all entries (thesis section 4.2). Reference: Vedantam et al. 2018, section 2.
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.exact import experts
from ppvae.nn.events import by_row


class Encoder(nn.Module):
    """q(z | x_o): x, mask (N, D) to batch (N, 1), event (K,)."""

    def __init__(self, features: int, latents: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.randn(features, latents) / features**0.5)
        self.log_d = nn.Parameter(torch.full((features, latents), -math.log(features)))
        self.c = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
        return by_row(experts.diagonal(self.log_d.exp(), self.u, self.c, x, mask))


def guide(encoder: Encoder, x: Tensor, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, mask))  # (…, N, 1, K)


def make(features: int, latents: int, tied: bool = False) -> Pair:
    """Factor analysis and a product of diagonal experts; ``tied``: one noise scale (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied), encoder=Encoder(features, latents))
