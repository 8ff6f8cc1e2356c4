r"""Objects of parts, linear: factor analysis of each part below factor analysis of their representations.

    e_n ~ p(e),  one of 2^P patterns
    z_n ~ N(0, I_K)
    u_n | z_n ~ N(W_T z_n + loc_T, diag(scale_T^2)),  u_n = [u_n1, …, u_nP]
    x_nd | u_n, e_n ~ N(w_d' u_n,p(d) + loc_d, scale_d^2)  where the part p(d) exists,  0 where it does not

x (N, D); exists (N, P), 1 = the part is there; z (N, 1, K); u (N, 1, P U). A part that is absent has a representation all the same,
of which nothing is seen: what is left of p(u | z) is that of the parts that exist.

References: Nash & Williams 2017, eq. 3.7-3.9; Tang, Salakhutdinov & Hinton 2012.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.factor_analysis import Decoder as Layer
from pyro import poutine
from torch import Tensor, nn

from ppvae.nn.parts import Parts, PartwiseNormal


class Decoder(nn.Module):
    """p(e), p(u | z) and p(x | u, e). Parameters: ``top`` W (P U, K), loc, scale; ``bottom`` W (D, U), loc, scale, the loadings of
    a feature on its own part's representation.

    Args:
        parts: of x.
        latents: K.
        size: U, of the representation of a part.
    """

    def __init__(self, parts: Parts, latents: int, size: int) -> None:
        super().__init__()
        self.parts, self.size = parts, size
        self.top, self.bottom = Layer(len(parts) * size, latents), Layer(sum(parts.sizes), size)

    @property
    def loadings(self) -> Tensor:
        """Of all features on all representations, (D, P U): a block a part."""
        return torch.block_diag(*self.bottom.W.split(self.parts.sizes))

    def u(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(z @ self.top.W.T + self.top.loc, self.top.scale).to_event(1)  # (…, N, 1) + (P U,)

    def x(self, u: Tensor, exists: Tensor) -> PartwiseNormal:
        loc = u @ self.loadings.T + self.bottom.loc  # (…, N, D)
        return PartwiseNormal(loc, self.bottom.scale, self.parts.spread(exists))


def model(
    decoder: Decoder,
    x: Tensor | None = None,
    exists: Tensor | None = None,
    mask: Tensor | bool = True,
    *,
    size: int = 1,
) -> Tensor:
    (D, _), K = decoder.bottom.W.shape, decoder.top.W.shape[1]
    N = next((len(given) for given in (x, exists) if given is not None), size)
    exists = None if exists is None else exists.unsqueeze(-2)
    with pyro.plate("data", N, dim=-2):
        e = pyro.sample("exists", decoder.parts.law(), obs=exists)  # (…, N, 1, P)
        z = pyro.sample("z", dist.Normal(decoder.top.loc.new_zeros(1, K), 1.0).to_event(1))  # (…, N, 1, K)
        u = pyro.sample("u", decoder.u(z))  # (…, N, 1, P U)
        with pyro.plate("features", D, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder.x(u.squeeze(-2), e.squeeze(-2)), obs=x)  # (…, N, D)
