r"""Objects of parts without latents: a Normal for each feature, of its own in each pattern of existence.

    x_nd | e_n ~ N(loc_d(e_n), scale_d(e_n)^2)  where the part of feature d exists,  0 where it does not

x (N, D); exists (N, P), 1 = the part is there, is given. A pattern that no training row had has the loc and scale of all rows that
have the part. There is nothing to infer: ``Pair(model, decoder=Decoder(parts, x, exists))``.

Reference: Nash & Williams 2017, eq. 3.6.
"""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ppvae.nn.parts import Parts, PartwiseNormal


class Decoder(nn.Module):
    """p(x | e), by maximum likelihood: mean and variance of the rows of each pattern that was seen.

    Args:
        parts: of x, made with ``ppvae.nn.patterns`` of the training rows.
        x: training rows (N, D), NaN where a part is absent or an entry missing.
        exists: theirs, (N, P).
        min_variance: the least variance of a feature.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, parts: Parts, x: Tensor, exists: Tensor, min_variance: float = 1e-3) -> None:
        super().__init__()
        self.parts = parts
        groups = [(exists == bits).all(-1) for bits in parts.bits.to(exists)] + [exists.any(-1)]
        means = torch.stack([x[rows].nanmean(0) for rows in groups])  # (C + 1, D)
        squares = torch.stack([(x[rows] - mean).square().nanmean(0) for rows, mean in zip(groups, means, strict=True)])
        self.register_buffer("loc", torch.where(means.isnan(), means[-1], means))
        self.register_buffer("scale", torch.where(squares.isnan(), squares[-1], squares).clamp_min(min_variance).sqrt())

    def x(self, exists: Tensor) -> PartwiseNormal:
        same = (exists.unsqueeze(-2) == self.parts.bits).all(-1)  # (N, C)
        which = torch.where(same.any(-1), same.long().argmax(-1), len(self.parts.bits))  # (N,)
        return PartwiseNormal(self.loc[which], self.scale[which], self.parts.spread(exists))


def model(decoder: Decoder, exists: Tensor, x: Tensor | None = None, mask: Tensor | bool = True) -> Tensor:
    N, D = len(exists), decoder.loc.shape[1]
    with (
        pyro.plate("data", N, dim=-2),
        pyro.plate("features", D, dim=-1),
        poutine.mask(mask=mask),
    ):
        return pyro.sample("x", decoder.x(exists), obs=x)  # (N, D)
