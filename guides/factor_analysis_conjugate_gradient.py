r"""Factor analysis with a product of rank-one experts, solved by a fixed number of conjugate-gradient steps.

    P_n m = b_n from diag(P_n)^-1 b_n,  P_n and b_n as in `factor_analysis_rank_one_experts`

depth 0 is a product of diagonal experts, depth K the exact posterior at the true terms: a dial between them, with one
set of weights for all masks. The covariance is the inverse that the steps have found (`ppvae.exact.experts`).
"""

from __future__ import annotations

import pyro.distributions as dist
from ppvae.guides import factor_analysis_rank_one_experts as rank_one
from ppvae.guides.factor_analysis_rank_one_experts import guide
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor

from ppvae import Pair
from ppvae.exact import experts
from ppvae.nn.events import by_row

__all__ = ["Encoder", "guide", "make"]


class Encoder(rank_one.Encoder):
    """q(z | x_o): x, mask (N, D) to batch (N, 1), event (K,)."""

    def __init__(self, features: int, latents: int, depth: int) -> None:
        super().__init__(features, latents)
        self.depth = depth

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.MultivariateNormal:
        return by_row(experts.conjugate_gradient(*self.terms, x, mask, depth=self.depth))


def make(features: int, latents: int, tied: bool = False, depth: int = 4) -> Pair:
    """Factor analysis and ``depth`` steps of conjugate gradient on rank-one experts; ``tied``: one noise scale (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied), encoder=Encoder(features, latents, depth))
