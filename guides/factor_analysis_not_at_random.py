r"""Factor analysis whose entries go missing by their values, with its exact posterior as if a gap had been read.

    z_n | x_n,o, s_n ~ the posterior of factor analysis given x_n,o, and given a_j + noise of scale r_j at each missing x_nj

What an entry's being missing says of it is one learned value a_j and its noise r_j; r -> infinity says nothing, and the guide
is the exact posterior of entries that go missing at random.

Reference: Ipsen, Mattei & Frellsen 2021 (the story); Minka 2001 (likelihoods replaced by Gaussians).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.factor_analysis import Decoder
from ppvae.models.factor_analysis_not_at_random import model
from torch import Tensor, nn

from ppvae import Pair, exact
from ppvae.nn import mechanism as mechanism_of
from ppvae.nn.filled import observed


class Gaps(nn.Module):
    """What a missing entry is read as: a value (D,), and its noise in units of the column's, scale * (1 + ratio), (D,)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.value, self.log_ratio = nn.Parameter(torch.zeros(features)), nn.Parameter(torch.zeros(features))


def guide(decoder: Decoder, gaps: Gaps, x: Tensor, mask: Tensor | bool = True) -> None:
    mask = observed(x, mask)
    W, loc = torch.cat([decoder.W, decoder.W]), torch.cat([decoder.loc, decoder.loc])
    scale = torch.cat([decoder.scale, decoder.scale * (1 + gaps.log_ratio.exp())])
    q = exact.posterior(W, loc, scale, torch.cat([x, gaps.value.expand_as(x)], -1), torch.cat([mask, ~mask], -1))
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.MultivariateNormal(q.loc[:, None], scale_tril=q.scale_tril[:, None]))  # (…, N, 1, K)


def make(
    features: int,
    latents: int,
    mechanism: str = "self_masking",
    signs: float | Sequence[float] | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    tied: bool = False,
) -> Pair:
    """Factor analysis and a mechanism of `ppvae.nn.mechanism`: agnostic, self_masking, sign_known or group; ``tied``: PPCA."""
    return Pair(
        model,
        guide,
        decoder=Decoder(features, latents, tied),
        mechanism=mechanism_of(mechanism, features, signs, groups),
        gaps=Gaps(features),
    )
