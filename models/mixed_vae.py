r"""A story of tables whose columns are numbers, counts and classes, each with a likelihood of its kind.

    z_n ~ N(0, I_K)
    x_nd | z_n ~ p_d(x_nd | decoder(z_n)),  independent over the D columns

with p_d Normal (real), LogNormal (positive), negative binomial (count), cumulative logit (ordinal), categorical or
Bernoulli (binary), in the column's own units. x (N, D), classes as codes 0 … C-1; z (N, 1, K).

References: Nazabal, Olmos, Ghahramani & Valera 2020, Handling incomplete heterogeneous data using VAEs; Ma et al. 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor, nn

from ppvae.nn import mlp
from ppvae.nn.columns import Columns, ColumnsHead
from ppvae.nn.kinds import Scales


class Decoder(nn.Module):
    """p(x | z): fully connected, z (…, K) to a distribution with batch (…, D). The widths stand in the encoder's order."""

    def __init__(self, latents: int, hidden: Sequence[int], kinds: Sequence[str], scales: Scales | None = None) -> None:
        super().__init__()
        widths = tuple(reversed(hidden))
        self.features, self.latents = len(kinds), latents
        self.net = mlp(latents, widths)
        self.head = ColumnsHead(widths[-1] if widths else latents, kinds, scales)

    def forward(self, z: Tensor) -> Columns:
        return self.head(self.net(z))


def model(decoder: Decoder, x: Tensor | None = None, mask: Tensor | bool = True, *, size: int = 1) -> Tensor:
    N = size if x is None else len(x)
    zero = next(decoder.parameters()).new_zeros(1, decoder.latents)
    with pyro.plate("data", N, dim=-2):
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # (…, N, 1, K)
        with pyro.plate("features", decoder.features, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder(z.squeeze(-2)), obs=x)  # (…, N, D)
