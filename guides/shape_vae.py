r"""The guide of objects of parts: which parts exist, where that is not known, and one code of the whole.

    e_n | x_n,o ~ p(e | parts of which something was seen exist, those of which only 0 was do not)   where e_n is not observed
    z_n | x_n,o, e_n ~ N(loc(u_n), diag(scale(u_n)^2)),  u_n = [u_n1, …, u_nP]

Each part is read by a network of its own; one that is absent, and one that exists and was not seen, have each a learned bias
in its place. In a gap of a part that was seen stands the feature's own learned value.

References: Nash & Williams 2017, section 4.5 and figure 3b; Nash, thesis, section 3.4.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from ppvae.models.shape_vae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.errors import Problem
from ppvae.nn import Gaussian, mlp
from ppvae.nn.filled import observed
from ppvae.nn.parts import Parts, Patterns


class Encoder(nn.Module):
    """q(z | x_o, e): the decoder's layers in reverse; x, mask (…, N, D), exists (…, N, 1, P) to batch (…, N, 1), event (K,)."""

    def __init__(self, parts: Parts, latents: int, hidden: tuple[int, int], size: int) -> None:
        super().__init__()
        near, far = hidden
        self.parts = parts
        self.fill = nn.Parameter(torch.zeros(sum(parts.sizes)))
        self.own = nn.ModuleList(
            nn.Sequential(mlp(features, [near]), nn.Linear(near, size)) for features in parts.sizes
        )
        self.absent = nn.Parameter(torch.zeros(len(parts), size))
        self.unseen = nn.Parameter(torch.zeros(len(parts), size))
        self.net, self.head = mlp(len(parts) * size, [far]), Gaussian(far, latents)

    def z(self, x: Tensor, exists: Tensor, mask: Tensor | bool = True) -> pyro.distributions.TorchDistribution:
        filled = torch.where(observed(x, mask), x, self.fill).split(self.parts.sizes, -1)
        u = torch.stack([own(x_p) for own, x_p in zip(self.own, filled, strict=True)], -2)  # (…, N, P, size)
        seen, there = self.parts.seen(x, mask).unsqueeze(-1), exists.squeeze(-2).unsqueeze(-1) > 0  # (…, N, P, 1)
        u = torch.where(there, torch.where(seen, u, self.unseen), self.absent)
        return self.head(self.net(u.flatten(-2)))


def guide(encoder: Encoder, x: Tensor, exists: Tensor | None = None, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        e = pyro.sample("exists", encoder.parts.given(x, mask)) if exists is None else exists.unsqueeze(-2)
        pyro.sample("z", encoder.z(x, e, mask))  # (…, N, 1, K)


def make(
    features: int,
    latents: int,
    parts: Sequence[int] | None = None,
    patterns: Patterns | None = None,
    hidden: tuple[int, int] = (512, 512),
    size: int = 256,
    min_variance: float = 1e-3,
) -> Pair:
    """ShapeVAE.

    Args:
        features: D.
        latents: K.
        parts: how many of the features each part has, in their order; None: all are one part.
        patterns: of existence among the rows to train on, ``ppvae.nn.patterns(exists)``; None: all are as probable.
        hidden: widths of each part's own layer and of the layer above all parts.
        size: of the representation of a part.
        min_variance: the least variance of a feature, in the units of x squared.

    It is trained with the KL weighted by alpha, 100 in the thesis: ``ppvae.elbo(kl=ppvae.beta(100))``.
    """
    if min_variance <= 0:
        raise Problem(
            f"min_variance is {min_variance!r}", "without any the density grows without bound", "min_variance=1e-3"
        )
    divided = Parts(features, parts, patterns)
    return Pair(
        model,
        guide,
        decoder=Decoder(divided, latents, hidden, size, min_variance),
        encoder=Encoder(divided, latents, hidden, size),
    )
