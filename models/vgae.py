r"""A graph's story: a latent point for each node, and a link where two points agree.

    z_n ~ N(0, I),  z_n = (z_n1, …, z_nV), one vector of K numbers a node
    x_n,ij | z_n ~ Bernoulli(sigmoid(z_ni · z_nj)),  independent over the pairs i < j

A graph of V nodes is one row: x (N, D) with D = V (V - 1) / 2 bits in the order of ``torch.triu_indices(V, V, 1)``, 1 = linked;
z (N, 1, V, K) is one event. A pair that is held out is missing. The decoder has no parameters.

Reference: Kipf & Welling 2016, eq. 2.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.nn.graphs import nodes_of, places


class Decoder(nn.Module):
    """p(x | z): z (…, 1, V, K) to a Bernoulli of batch (…, D)."""

    place: Tensor
    zero: Tensor

    def __init__(self, features: int, latents: int) -> None:
        super().__init__()
        self.features, self.latents, self.nodes = features, latents, nodes_of(features)
        self.register_buffer("place", places(self.nodes), persistent=False)
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # of the pair's dtype, on its device

    def forward(self, z: Tensor) -> dist.Bernoulli:
        z = z.squeeze(-3)
        products = (z @ z.mT).flatten(-2)  # (…, V²)
        # not index_select, whose gradient is far slower on the CPU where there are leading dims
        return dist.Bernoulli(logits=products.gather(-1, self.place.expand(*products.shape[:-1], -1)))


def model(decoder: Decoder, x: Tensor | None = None, mask: Tensor | bool = True, *, size: int = 1) -> Tensor:
    N = size if x is None else len(x)
    zero = decoder.zero.expand(1, decoder.nodes, decoder.latents)
    with pyro.plate("data", N, dim=-2):
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(2))  # (…, N, 1, V, K)
        with pyro.plate("features", decoder.features, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder(z), obs=x)  # (…, N, D)
