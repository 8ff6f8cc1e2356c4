r"""Factor analysis.

    z_n ~ N(0, I_K)
    x_n | z_n ~ N(W z_n + loc, diag(scale^2))

x (N, D), z (N, 1, K), W (D, K), loc (D,), scale (D,). With one scale for all features it is probabilistic PCA.

References: Rubin & Thayer 1982; Tipping & Bishop 1999, eq. 1-2.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.errors import Problem


class Decoder(nn.Module):
    """The loadings W (D, K), the mean loc (D,) and the noise's standard deviation scale (D,)."""

    def __init__(self, features: int, latents: int, tied: bool = False) -> None:
        super().__init__()
        if tied and latents >= features:
            raise Problem(
                f"PPCA with {latents} latents of {features} features",
                "with K >= D no variance is left for the noise",
                f"latents={max(1, features - 1)} or fewer",
            )
        self.features, self.tied = features, tied
        self.W = nn.Parameter(torch.randn(features, latents) / latents**0.5)
        self.loc = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(1 if tied else features))

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp().expand(self.features)

    @torch.no_grad()
    def set_(self, W: Tensor, loc: Tensor, scale: Tensor) -> None:
        """Take the parameters over from elsewhere: `ppvae.exact.em`, say."""
        self.W.copy_(W)
        self.loc.copy_(loc)
        self.log_scale.copy_(scale[: len(self.log_scale)].log())


def model(decoder: Decoder, x: Tensor | None = None, mask: Tensor | bool = True, *, size: int = 1) -> Tensor:
    (D, K), N = decoder.W.shape, size if x is None else len(x)
    with pyro.plate("data", N, dim=-2):
        z = pyro.sample("z", dist.Normal(decoder.loc.new_zeros(1, K), 1.0).to_event(1))  # (…, N, 1, K)
        loc = (z @ decoder.W.T).squeeze(-2) + decoder.loc  # (…, N, D)
        with pyro.plate("features", D, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(loc, decoder.scale), obs=x)
