r"""Factor analysis with a network of the filled row and its mask.

    z_n | x_n,o ~ N(loc(r_n, m_n), scale(r_n, m_n)^2),  r_n = x_n, 0 where missing

The encoder that the thesis leaves to future work (section 4.2): one network, told what is missing.
Reference: Collier, Nazabal & Williams 2020, VAEs in the presence of missing data.
"""

from __future__ import annotations

from collections.abc import Sequence

from ppvae.guides.vae import guide
from ppvae.models.factor_analysis import Decoder, model

from ppvae import Pair
from ppvae.nn import encoder

__all__ = ["guide", "make"]


def make(features: int, latents: int, tied: bool = False, hidden: Sequence[int] = (400, 400)) -> Pair:
    """Factor analysis and a network of row and mask, ``hidden`` its layers; ``tied``: one noise scale (PPCA)."""
    return Pair(
        model, guide, decoder=Decoder(features, latents, tied), encoder=encoder("mask", features, latents, hidden)
    )
