r"""The guide of an image and its attributes: whichever of them a row has.

    z_n | x_n, y_n ~ N(loc(x_n, y_n), diag(scale(x_n, y_n)^2))            where both are seen
    z_n | x_n      ~ N(loc(x_n), diag(scale(x_n)^2))                      where no attribute is
    z_n | y_n,o    ~ prod_{a in o} N(mu_a(y_na), sigma_a(y_na)^2) N(0, I) / c      where no entry of x is
    z_n            ~ N(0, I)                                              where nothing is

Rows of one batch may differ. Some of the attributes are enough to say that a row has them; the networks read x and attributes
with a mask beside them, 0 in a gap.

``ppvae.elbo()`` trains only what the rows call for: of rows that have both, the first network. Objectives that train
them all are `ppvae.telbo`, `ppvae.jmvae` and `ppvae.bivcca`.

References: Suzuki, Nakayama & Matsuo 2016; Vedantam, Fischer, Huang & Murphy 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from ppvae.models.multimodal_vae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn import encoder as encoder_of
from ppvae.nn.attributes import AttributeExperts
from ppvae.nn.filled import observed


class Encoder(nn.Module):
    """q(z | x, y), q(z | x) and q(z | y_o): batch (…, N, 1), event (K,)."""

    def __init__(self, features: int, latents: int, hidden: Sequence[int], classes: Sequence[int]) -> None:
        super().__init__()
        self.attributes = AttributeExperts(classes, latents)
        self.image = encoder_of("mask", features, latents, hidden)
        self.joint = encoder_of("mask", features + self.attributes.reading.features, latents, hidden)

    def forward(
        self,
        x: Tensor | None,
        y: Tensor | None,
        mask: Tensor | bool = True,
        mask_y: Tensor | bool = True,
        size: int = 1,
    ) -> dist.Independent:
        words, seen_y = self._read(x, y, mask_y, size)
        q_y = self.attributes(words)
        if x is None:
            return q_y
        seen = observed(x, mask)
        q_x = self.image(x, mask)
        if y is not None:
            q_xy = self.joint(torch.cat([x, words], -1), torch.cat([seen, seen_y], -1))
            q_x = chosen(seen_y.any(-1), q_xy, q_x)
        return chosen(seen.any(-1), q_x, q_y)

    def _read(self, x: Tensor | None, y: Tensor | None, mask: Tensor | bool, size: int) -> tuple[Tensor, Tensor]:
        """The attributes' indicators and their mask, (…, N, F); zeros where there is no y."""
        if y is not None:
            return self.attributes.reading(y, mask)
        words = self.attributes.loc.new_zeros(size if x is None else len(x), len(self.attributes.loc))
        return words, words.bool()


def chosen(rows: Tensor, this: dist.Independent, other: dist.Independent) -> dist.Independent:
    """This Gaussian in the rows (…, N) that are True, the other elsewhere; batch (…, N, 1), event (K,)."""
    rows, (a, b) = rows[..., None, None], (this.base_dist, other.base_dist)
    return dist.Normal(torch.where(rows, a.loc, b.loc), torch.where(rows, a.scale, b.scale)).to_event(1)


def guide(
    encoder: Encoder,
    x: Tensor | None = None,
    y: Tensor | None = None,
    mask: Tensor | bool = True,
    mask_y: Tensor | bool = True,
    *,
    size: int = 1,
) -> None:
    N = next((len(given) for given in (x, y) if given is not None), size)
    with pyro.plate("data", N, dim=-2):
        pyro.sample("z", encoder(x, y, mask, mask_y, N))  # (…, N, 1, K)


def make(
    features: int,
    latents: int,
    hidden: Sequence[int] = (400, 200),
    likelihood: str = "bernoulli",
    classes: Sequence[int] = (10, 2, 3, 4),
) -> Pair:
    """An image and its attributes; likelihood of the image: bernoulli or normal.

    Args:
        features: D, of the image.
        latents: K.
        hidden: widths, in the encoder's order.
        likelihood: "bernoulli" or "normal".
        classes: C_a of each attribute; digit, size, orientation and location of `ppvae.data.mnist_attributes` by default.
    """
    return Pair(
        model,
        guide,
        decoder=Decoder(features, latents, hidden, likelihood, classes),
        encoder=Encoder(features, latents, hidden, classes),
    )
