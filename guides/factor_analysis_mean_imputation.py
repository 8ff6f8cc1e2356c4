r"""Factor analysis with the prior for a posterior: what is missing is imputed by the column mean.

    z_n | x_n ~ N(0, I)

What every encoder has to beat. It uses nothing of the row (thesis section 4.3).
"""

from __future__ import annotations

import pyro
from ppvae.models.factor_analysis import Decoder, model
from torch import Tensor

from ppvae import Pair
from ppvae.exact import approximations
from ppvae.nn.events import by_row


def guide(decoder: Decoder, x: Tensor, mask: Tensor | bool = True) -> None:
    q = approximations.mean_imputation(decoder.W, decoder.loc, decoder.scale, x, mask)
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", by_row(q))  # (…, N, 1, K)


def make(features: int, latents: int, tied: bool = False) -> Pair:
    """Factor analysis and the prior as its guide; ``tied``: one noise scale (PPCA)."""
    return Pair(model, guide, decoder=Decoder(features, latents, tied))
