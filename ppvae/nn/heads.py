"""Last layers: features in, a distribution out."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.errors import Problem

SMALLEST_SCALE = 1e-3  # keeps a density bounded when a network fits a value exactly


class Gaussian(nn.Module):
    """q(z | h) or p(z | h) = N(loc(h), scale(h)), independent in its K coordinates, as one event: h (…, H) to (…, 1) + (K,)."""

    def __init__(self, inputs: int, latents: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * latents)

    def forward(self, h: Tensor) -> dist.Independent:
        loc, spread = self.linear(h).unsqueeze(-2).chunk(2, -1)  # (…, 1, K) each
        return dist.Normal(loc, softplus(spread) + SMALLEST_SCALE).to_event(1)


class Bernoulli(nn.Module):
    """p(x | h): D independent bits, h (…, H) to batch (…, D)."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, features)

    def forward(self, h: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=self.linear(h))


class Normal(nn.Module):
    """p(x | h) = N(loc(h), scale), one learned scale a feature; h (…, H) to batch (…, D)."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, features)
        self.spread = nn.Parameter(torch.zeros(features))

    def forward(self, h: Tensor) -> dist.Normal:
        return dist.Normal(self.linear(h), softplus(self.spread) + SMALLEST_SCALE)


class Categorical(nn.Module):
    """p(x | h): D independent classes 0 … C-1; h (…, H) to batch (…, D)."""

    def __init__(self, inputs: int, features: int, classes: int) -> None:
        super().__init__()
        self.linear, self.classes = nn.Linear(inputs, features * classes), classes

    def forward(self, h: Tensor) -> dist.Categorical:
        logits = self.linear(h)
        return dist.Categorical(logits=logits.unflatten(-1, (-1, self.classes)))  # (…, D, C)


def likelihood(name: str, inputs: int, features: int, classes: int = 2) -> nn.Module:
    """The likelihood of that name: bernoulli, normal or categorical (of ``classes`` values 0, 1, …)."""
    if name == "categorical":
        return Categorical(inputs, features, classes)
    heads = {"bernoulli": Bernoulli, "normal": Normal}
    if name not in heads:
        raise Problem(f"there is no likelihood {name!r}", "a misspelt name", "bernoulli, normal or categorical")
    return heads[name](inputs, features)
