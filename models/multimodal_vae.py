r"""A story of two modalities, an image and its attributes, that share one latent.

    z_n ~ N(0, I_K)
    y_na | z_n ~ Categorical(pi_a(z_n)),  independent over the A attributes
    x_n | z_n ~ p(x | decoder(z_n)),  independent over the D features

x (N, D), y (N, A) of the codes 0 … C_a - 1, z (N, 1, K). Either may be missing, entry by entry or whole: mask and mask_y.

References: Suzuki, Nakayama & Matsuo 2016; Vedantam, Fischer, Huang & Murphy 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from ppvae.models import mixed_vae, vae
from pyro import poutine
from torch import Tensor, nn

from ppvae.nn.attributes import kinds_of_attributes
from ppvae.nn.columns import Columns


class Decoder(nn.Module):
    """p(x | z) and p(y | z), a network each: z (…, 1, K) to batch (…, D) and (…, A). The widths stand in the encoder's order;
    that of the attributes has the last of them."""

    def __init__(
        self, features: int, latents: int, hidden: Sequence[int], likelihood_name: str, classes: Sequence[int]
    ) -> None:
        super().__init__()
        kinds = kinds_of_attributes(classes)
        self.features, self.latents, self.attributes = features, latents, len(kinds)
        self.image = vae.Decoder(features, latents, hidden, likelihood_name)
        self.words = mixed_vae.Decoder(latents, tuple(hidden)[-1:], kinds)

    def x(self, z: Tensor) -> dist.TorchDistribution:
        return self.image(z.squeeze(-2))

    def y(self, z: Tensor) -> Columns:
        return self.words(z.squeeze(-2))


def model(
    decoder: Decoder,
    x: Tensor | None = None,
    y: Tensor | None = None,
    mask: Tensor | bool = True,
    mask_y: Tensor | bool = True,
    *,
    size: int = 1,
) -> Tensor:
    N = next((len(given) for given in (x, y) if given is not None), size)
    zero = next(decoder.parameters()).new_zeros(1, decoder.latents)
    with pyro.plate("data", N, dim=-2):
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # (…, N, 1, K)
        with pyro.plate("attributes", decoder.attributes, dim=-1), poutine.mask(mask=mask_y):
            pyro.sample("y", decoder.y(z), obs=y)  # (…, N, A)
        with pyro.plate("features", decoder.features, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder.x(z), obs=x)  # (…, N, D)
