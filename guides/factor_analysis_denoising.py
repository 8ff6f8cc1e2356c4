r"""Factor analysis with a linear encoder of the filled row: the denoising encoder, fitted in closed form or by SVI.

    z_n | x_n,o ~ N(A r_n + a, L L'),  r_n = x_n - c, 0 where missing

`Encoder.fit` takes A from least squares over complete rows and one example of the holes in each, as in the thesis
(section 4.2, approximation 3); `ppvae.fit` learns it from incomplete rows. It knows the missingness that it has seen.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.exact import approximations


class Encoder(nn.Module):
    """q(z | x_o): x, mask (N, D) to batch (N, 1), event (K,)."""

    def __init__(self, features: int, latents: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latents)
        self.loc = nn.Parameter(torch.zeros(features))
        self.lower = nn.Parameter(torch.zeros(latents, latents))
        self.log_diagonal = nn.Parameter(torch.zeros(latents))

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.MultivariateNormal:
        r = torch.where(torch.as_tensor(mask, device=x.device), x - self.loc, 0.0)
        L = self.lower.tril(-1) + self.log_diagonal.exp().diag()  # (K, K)
        return dist.MultivariateNormal(self.linear(r).unsqueeze(-2), scale_tril=L)

    @torch.no_grad()
    def set_(self, fitted: approximations.Denoising) -> None:
        """Take over what `ppvae.exact.approximations.denoising` fitted."""
        self.linear.weight.copy_(fitted.weight)
        self.linear.bias.zero_()
        self.loc.copy_(fitted.loc)
        self.lower.copy_(fitted.scale_tril.tril(-1))
        self.log_diagonal.copy_(fitted.scale_tril.diagonal().log())

    def fit(self, decoder: Decoder, x: Tensor, mask: Tensor) -> None:
        """Fit it to complete rows x (N, D) and the holes that it is to expect, mask (N, D), by least squares."""
        self.set_(approximations.denoising(decoder.W, decoder.loc, decoder.scale, x, mask))


def guide(encoder: Encoder, x: Tensor, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, mask))  # (…, N, 1, K)


def make(features: int, latents: int, tied: bool = False) -> Pair:
    """Factor analysis and a linear encoder of the filled row; ``tied``: one noise scale (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied), encoder=Encoder(features, latents))
