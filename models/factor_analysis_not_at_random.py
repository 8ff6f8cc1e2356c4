r"""Factor analysis whose entries go missing by their values.

    z_n ~ N(0, I_K)
    x_n | z_n ~ N(W z_n + loc, diag(scale^2))
    seen_nj | x_n ~ Bernoulli(mechanism(x_n)_j)

x (N, D), seen (N, D), z (N, 1, K). A missing entry of x is the story's own draw, and seen depends on it.

References: Rubin 1976; Ipsen, Mattei & Frellsen 2021, eq. 3.
"""

from __future__ import annotations

import pyro
from ppvae.models import factor_analysis
from torch import Tensor, nn


def model(
    decoder: factor_analysis.Decoder,
    mechanism: nn.Module,
    x: Tensor | None = None,
    seen: Tensor | None = None,
    *,
    size: int = 1,
) -> Tensor:
    x = factor_analysis.model(decoder, x, size=size)  # (…, N, D)
    with (
        pyro.plate("rows", x.shape[-2], dim=-2),
        pyro.plate("columns", x.shape[-1], dim=-1),
    ):  # the two of x, a second time
        pyro.sample("seen", mechanism(x), obs=seen)
    return x
