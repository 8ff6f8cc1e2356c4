r"""Objects of parts: which parts exist, and the oriented points of their surfaces.

    e_n ~ p(e),  one of 2^P patterns
    z_n ~ N(0, I_K)
    x_nd | z_n, e_n ~ N(loc_d(z_n, e_n), scale_d(z_n, e_n)^2)  where the part of feature d exists,  0 where it does not

x (N, D): the points and normals of one part after the other; exists (N, P), 1 = the part is there; z (N, 1, K). The decoder
goes from z and e to a representation u_p of each part, and from each to its own features alone.

References: Nash & Williams 2017, The shape variational autoencoder, eq. 3.1-3.4; Nash, thesis, section 3.4.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.nn.layers import mlp, together
from ppvae.nn.parts import Parts, PartwiseNormal


class Decoder(nn.Module):
    """p(e) and p(x | z, e): z (…, K) and e (…, P) to a representation of ``size`` numbers a part, to its features.

    Args:
        parts: of x.
        latents: K.
        hidden: widths of a part's own layer and of the layer above all parts.
        size: of the representation of a part.
        min_variance: added to every variance, so that no training row is fitted too closely.
    """

    def __init__(self, parts: Parts, latents: int, hidden: tuple[int, int], size: int, min_variance: float) -> None:
        super().__init__()
        near, far = hidden
        self.parts, self.latents, self.features = parts, latents, sum(parts.sizes)
        self.min_variance = min_variance
        self.from_z, self.from_e = mlp(latents, [far // 2]), mlp(len(parts), [far - far // 2])
        self.split = mlp(far, [len(parts) * size])
        self.own = nn.ModuleList(mlp(size, [near]) for _ in parts.sizes)
        self.heads = nn.ModuleList(nn.Linear(near, 2 * features) for features in parts.sizes)

    def x(self, z: Tensor, exists: Tensor) -> PartwiseNormal:
        u = self.split(together(self.from_z(z), self.from_e(exists))).chunk(len(self.parts), -1)  # P of (…, size)
        found = [head(own(u_p)).chunk(2, -1) for own, head, u_p in zip(self.own, self.heads, u, strict=True)]
        loc, spread = (torch.cat(pieces, -1) for pieces in zip(*found, strict=True))  # (…, D) each
        return PartwiseNormal(loc, (softplus(spread) + self.min_variance).sqrt(), self.parts.spread(exists))


def model(
    decoder: Decoder,
    x: Tensor | None = None,
    exists: Tensor | None = None,
    mask: Tensor | bool = True,
    *,
    size: int = 1,
) -> Tensor:
    N = next((len(given) for given in (x, exists) if given is not None), size)
    zero = next(decoder.parameters()).new_zeros(1, decoder.latents)
    exists = None if exists is None else exists.unsqueeze(-2)
    with pyro.plate("data", N, dim=-2):
        e = pyro.sample("exists", decoder.parts.law(), obs=exists)  # (…, N, 1, P)
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # (…, N, 1, K)
        with pyro.plate("features", decoder.features, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder.x(z.squeeze(-2), e.squeeze(-2)), obs=x)  # (…, N, D)
