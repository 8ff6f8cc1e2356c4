r"""The graph autoencoder: a point for each node, by graph convolutions over the observed links.

    z | x_o = Ã h W,  h = relu(Ã … W)

The story and the network are those of `ppvae.guides.vgae`; nothing is drawn. That of the paper is trained by
``ppvae.elbo(kl=ppvae.beta(0.0), likelihood={"x": ppvae.balanced})``, the reconstruction alone. The bound itself, whose
"KL" is -log p(z), makes it the posterior's mode as the network sees it; without chance it has no importance weights.

Reference: Kipf & Welling 2016, section 2 (non-probabilistic).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from ppvae.guides.vgae import guide
from ppvae.models.vgae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn.graphs import Convolution, Network

__all__ = ["guide", "make"]


class Encoder(nn.Module):
    """z of x_o and nodes: x, mask (N, D) and nodes (N, n, F) to batch (N, 1), event (n, K), without chance."""

    def __init__(
        self, features: int, latents: int, hidden: Sequence[int] = (32,), attributes: int | None = None
    ) -> None:
        super().__init__()
        self.net = Network(features, hidden, attributes)
        self.head = Convolution(self.net.width, latents)

    def forward(self, x: Tensor, mask: Tensor | bool = True, nodes: Tensor | None = None) -> dist.Delta:
        return dist.Delta(self.head(*self.net(x, mask, nodes)).unsqueeze(1), event_dim=2)


def make(features: int, latents: int, hidden: Sequence[int] = (32,), attributes: int | None = None) -> Pair:
    """The graph autoencoder of graphs of D = n (n - 1) / 2 pairs; ``attributes`` F of a node, or None."""
    return Pair(
        model, guide, decoder=Decoder(features, latents), encoder=Encoder(features, latents, hidden, attributes)
    )
