r"""Factor analysis with a network of the filled row and its mask.

    z_n | x_n,o ~ N(loc(r_n, m_n), scale(r_n, m_n)^2),  r_n = x_n, 0 where missing

The encoder that the thesis leaves to future work (section 4.2): one network, told what is missing.
Reference: Collier, Nazabal & Williams 2020, VAEs in the presence of missing data.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn import Gaussian, mlp


class Encoder(nn.Module):
    """q(z | x_o): x, mask (N, D) to batch (N, 1), event (K,)."""

    def __init__(self, features: int, latents: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = mlp(2 * features, hidden)
        self.head = Gaussian(hidden[-1] if hidden else 2 * features, latents)

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
        mask = torch.as_tensor(mask, device=x.device).expand(x.shape)
        r = torch.where(mask, x, 0.0)
        return self.head(self.body(torch.cat([r, mask.to(x.dtype)], -1)))


def guide(encoder: Encoder, x: Tensor, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, mask))  # (…, N, 1, K)


def make(features: int, latents: int, tied: bool = False, hidden: Sequence[int] = (400, 400)) -> Pair:
    """Factor analysis and a network of row and mask, ``hidden`` its layers; ``tied``: one noise scale (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied), encoder=Encoder(features, latents, hidden))
