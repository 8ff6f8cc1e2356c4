r"""Bayesian linear regression: one weight matrix for all rows, drawn once.

    W ~ N(0, I),  W (D, K)
    x_n | W ~ N(W inputs_n, scale^2 I_D)

x (N, D) are the responses, inputs (N, K) a covariate. W is a global latent: it stands outside the data plate, and a
bound per row holds its 1/N share.

Reference: Bishop 2006, section 3.3.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn


class Noise(nn.Module):
    """The noise's standard deviation, one for all responses, and the sizes of W."""

    def __init__(self, features: int, latents: int) -> None:
        super().__init__()
        self.features, self.latents = features, latents
        self.log_scale = nn.Parameter(torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()


def model(
    noise: Noise, x: Tensor | None = None, mask: Tensor | bool = True, *, inputs: Tensor, size: int = 1
) -> Tensor:
    N, zero = size if x is None else len(x), noise.log_scale.new_zeros(noise.features, noise.latents)
    W = pyro.sample("W", dist.Normal(zero, 1.0).to_event(2))  # ([P, 1, 1,] D, K)
    with pyro.plate("data", N, dim=-2):
        loc = torch.einsum("...k,...dk->...d", inputs.unsqueeze(-2), W).squeeze(-2)  # (…, N, D)
        with pyro.plate("features", noise.features, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(loc, noise.scale), obs=x)
