r"""The guide of the semi-supervised story: which class, then which style.

    y_n | x_n,o ~ Categorical(pi(x_n,o))                                  where y_n is not observed
    z_n | x_n,o, y_n ~ N(loc(x_n,o, y_n), diag(scale(x_n,o, y_n)^2))

What y costs is chosen by ``labels``: "enumerated" sums it out exactly under q, at C runs of the networks; "sampled" draws it,
and is trained by ``ppvae.elbo(5, gradient='score')``. Train by `ppvae.semi_supervised`: the bound of a row whose class is known
does not reach q(y | x).

Reference: Kingma, Rezende, Mohamed & Welling 2014, eq. 4-9.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.semi_supervised_vae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.errors import Problem
from ppvae.nn import encoder as encoder_of
from ppvae.nn import mlp
from ppvae.nn.filled import observed
from ppvae.nn.labels import beside

LABELS = {"enumerated": {"enumerate": "parallel"}, "sampled": {}}


class Encoder(nn.Module):
    """q(y | x_o) and q(z | x_o, y), a network each, both with the mask beside the row, 0 in a gap."""

    def __init__(self, features: int, latents: int, classes: int, hidden: Sequence[int], labels: str) -> None:
        super().__init__()
        if labels not in LABELS:
            raise Problem(f"labels is {labels!r}", "how the guide goes about y", " or ".join(LABELS))
        self.classes, self.infer = classes, LABELS[labels]
        self.net = mlp(2 * features, hidden)
        self.logits = nn.Linear(hidden[-1] if hidden else 2 * features, classes)
        self.style = encoder_of("mask", features + classes, latents, hidden)

    def y(self, x: Tensor, mask: Tensor | bool = True) -> dist.Categorical:
        seen = observed(x, mask)
        h = self.net(torch.cat([torch.where(seen, x, 0.0), seen.to(x.dtype)], -1))
        return dist.Categorical(logits=self.logits(h).unsqueeze(-2))  # batch (…, N, 1)

    def z(self, x: Tensor, y: Tensor, mask: Tensor | bool = True) -> dist.Distribution:
        row = beside(x, y, self.classes)  # (…, N, D + C)
        seen = observed(x, mask).expand(*row.shape[:-1], x.shape[-1])
        return self.style(row, torch.cat([seen, torch.ones_like(row[..., x.shape[-1] :], dtype=torch.bool)], -1))


def guide(encoder: Encoder, x: Tensor, y: Tensor | None = None, mask: Tensor | bool = True) -> None:
    with pyro.plate("data", len(x), dim=-2):
        if y is None:
            y = pyro.sample("y", encoder.y(x, mask), infer=dict(encoder.infer))  # (…, N, 1)
        pyro.sample("z", encoder.z(x, y, mask))  # (…, N, 1, K)


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (400, 200),
    likelihood: str = "bernoulli",
    classes: int = 10,
    labels: str = "enumerated",
) -> Pair:
    """M2 with the classes 0 … classes - 1; ``labels`` "enumerated" or "sampled"."""
    return Pair(
        model,
        guide,
        decoder=Decoder(features, latents, classes, hidden, likelihood),
        encoder=Encoder(features, latents, classes, hidden, labels),
    )
