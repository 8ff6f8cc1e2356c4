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
from ppvae.models.semi_supervised_vae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.errors import Problem
from ppvae.nn import Gaussian, mlp
from ppvae.nn.filled import beside_mask
from ppvae.nn.labels import beside

LABELS = {"enumerated": {"enumerate": "parallel"}, "sampled": {}}


class Encoder(nn.Module):
    """q(y | x_o) and q(z | x_o, y), a network each; both read the row with the mask beside it, 0 in a gap."""

    def __init__(self, features: int, latents: int, classes: int, hidden: Sequence[int], labels: str) -> None:
        super().__init__()
        self.classes, self.infer = classes, how(labels)
        widths = [2 * features, *hidden]
        self.class_net, self.logits = mlp(2 * features, hidden), nn.Linear(widths[-1], classes)
        self.style_net = mlp(2 * features + classes, hidden)
        self.style = Gaussian([2 * features + classes, *hidden][-1], latents)

    def y(self, x: Tensor, mask: Tensor | bool = True) -> dist.Categorical:
        logits = self.logits(self.class_net(beside_mask(x, mask)))
        return dist.Categorical(logits=logits.unsqueeze(-2))  # batch (…, N, 1)

    def z(self, x: Tensor, y: Tensor, mask: Tensor | bool = True) -> dist.TorchDistribution:
        return self.style(self.style_net(beside(beside_mask(x, mask), y, self.classes)))


def how(labels: str) -> dict[str, str]:
    """What Pyro is told about y."""
    if labels not in LABELS:
        raise Problem(f"labels is {labels!r}", "how the guide goes about y", " or ".join(LABELS))
    return LABELS[labels]


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
