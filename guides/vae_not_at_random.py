r"""A variational autoencoder whose entries go missing by their values: not-MIWAE.

    z_n | x_n,o, s_n ~ N(loc(r_n, s_n), scale(r_n, s_n)^2),  r_n = x_n, 0 where missing

Trained by ``ppvae.iw_elbo(20)``, whose particles hold a draw of the missing entries each.

Reference: Ipsen, Mattei & Frellsen 2021, eq. 8.
"""

from __future__ import annotations

from collections.abc import Sequence

from ppvae.guides.vae import guide
from ppvae.models.vae import Decoder
from ppvae.models.vae_not_at_random import model
from torch import nn

from ppvae import Pair
from ppvae.nn import encoder as encoder_of
from ppvae.nn import mechanism as mechanism_of

__all__ = ["guide", "make"]


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (128, 128),
    mechanism: str = "self_masking",
    signs: float | Sequence[float] | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    encoder: str = "mask",
) -> Pair:
    """A VAE with a learned noise scale a column, and a mechanism of `ppvae.nn.mechanism`: agnostic, self_masking, sign_known
    or group."""
    return Pair(
        model,
        guide,
        decoder=Decoder(features, latents, hidden, "normal", activation=nn.Tanh),  # bounded beyond what was seen
        mechanism=mechanism_of(mechanism, features, signs, groups),
        encoder=encoder_of(encoder, features, latents, hidden),
    )
