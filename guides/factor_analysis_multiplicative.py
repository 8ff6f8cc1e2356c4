r"""Factor analysis with a linear encoder that the mask modulates: low-rank three-way interactions.

    z_n | x_n,o ~ N(A ((B r_n) * (a + C m_n)), exp(s + S m_n)^2),  r_n = x_n - c, 0 where missing

The mean is trilinear, sum_f A_kf (sum_j B_fj r_nj) (a_f + sum_l C_fl m_nl): the cubic tensor of row, mask and latent at
rank F, which closes the thesis's chapter (section 4.4). The spread depends on the mask alone, as it does in the posterior.
Reference: Memisevic & Hinton 2010.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor, nn

from ppvae import Pair


class Encoder(nn.Module):
    """q(z | x_o): x, mask (N, D) to batch (N, 1), event (K,)."""

    def __init__(self, features: int, latents: int, factors: int) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.zeros(features))
        self.row = nn.Linear(features, factors, bias=False)
        self.gate = nn.Linear(features, factors)
        self.out = nn.Linear(factors, latents, bias=False)
        self.log_scale = nn.Linear(features, latents)
        nn.init.ones_(self.gate.bias)  # it starts near a linear encoder

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
        mask = torch.as_tensor(mask, device=x.device).expand(x.shape)
        r, m = torch.where(mask, x - self.c, 0.0), mask.to(x.dtype)
        loc, log_scale = self.out(self.row(r) * self.gate(m)), self.log_scale(m)
        return dist.Normal(loc.unsqueeze(-2), log_scale.exp().unsqueeze(-2)).to_event(1)


def guide(encoder: Encoder, x: Tensor, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, mask))  # (…, N, 1, K)


def make(features: int, latents: int, tied: bool = False, factors: int = 200) -> Pair:
    """Factor analysis and an encoder modulated by the mask, of rank ``factors``; ``tied``: one noise scale (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied), encoder=Encoder(features, latents, factors))
