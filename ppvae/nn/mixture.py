"""Mixtures for guides: a row with gaps may have been several things."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppvae.errors import Problem


class Mixture(TorchDistribution):
    r"""q(z) = (1/A) sum_a q_a(z), whose draws come from components in turn, so that gradients pass through them.

    Drawn in a particle plate of P, each component is drawn P / A times, at random where that leaves a rest (P < A: P different
    components); each draw alone has the law q. The ELBO with P of these draws,

    .. math:: \frac{1}{P} \sum_p \log \frac{p(x, z_p)}{\frac1A \sum_b q_b(z_p)}, \quad z_p \sim q_{a_p}

    is an unbiased estimate of the mixture's own, with less variance than P independent draws, and pathwise gradients:
    which component a draw comes from depends on no parameter. Importance-weighted bounds hold with them too. The draws of a row
    depend on one another, which the gradients ``score``, ``vimco`` and ``dreg`` and the ranks of `ppvae.evaluate.sbc` do not allow.

    Components that begin alike learn alike: let them begin apart, by a learned shift each, say.

    Reference: Kviman, Lagergren et al. 2024 (the S2A estimator).

    Args:
        components: reparametrised, batch (A, N, 1) and event (K,): ``dist.Normal(loc, scale).to_event(1)``, loc (A, N, 1, K).
        batch_shape: for `expand`; (N, 1) by default.

    Raises:
        Problem: no leading dim of components, or components without reparametrised draws.
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True
    independent_draws = False

    def __init__(self, components: TorchDistribution, batch_shape: torch.Size | None = None) -> None:
        if len(components.batch_shape) < 2 or not components.has_rsample:
            raise Problem(
                f"a mixture of a {type(components).__name__} of batch shape {tuple(components.batch_shape)}",
                "its first dim counts the components, and each of these is drawn by reparametrised noise",
                "dist.Normal(loc, scale).to_event(1) with loc (A, N, 1, K)",
            )
        self.components = components
        batch_shape = components.batch_shape[1:] if batch_shape is None else torch.Size(batch_shape)
        super().__init__(batch_shape, components.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint | None:
        return self.components.support

    @property
    def count(self) -> int:
        """A."""
        return self.components.batch_shape[0]

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Mixture:
        own = len(self.components.batch_shape) - 1
        components = self.components.expand((self.count, *batch_shape[len(batch_shape) - own :]))
        return Mixture(components, torch.Size(batch_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        outer = shape[: len(shape) - len(self.components.batch_shape) + 1]
        draws = self.components.rsample((outer.numel(),))  # (P, A, N, 1, K): a latent's noise is cheap
        rounds = [torch.randperm(self.count, device=draws.device) for _ in range(-(-outer.numel() // self.count))]
        which = torch.cat(rounds)[: outer.numel()]
        chosen = draws[torch.arange(len(which), device=draws.device), which]
        return chosen.reshape(shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        own = len(self.components.batch_shape) - 1
        each = self.components.log_prob(value.unsqueeze(-1 - own - len(self.event_shape)))  # (…, A, N, 1)
        return each.logsumexp(-1 - own) - math.log(self.count)

    @property
    def mean(self) -> Tensor:
        return self.components.mean.mean(0).expand(self.batch_shape + self.event_shape)
