r"""The variational graph autoencoder: a Gaussian for each node, by graph convolutions over the observed links.

    z_i | x_o ~ N(loc_i, diag(scale_i^2)),  (loc, log scale) = Ã h W,  h = relu(Ã … W)

loc and scale share the hidden layers. A missing pair carries no message. Attributes of the nodes, where there are some,
are the entry ``nodes`` (N, n, F) of the data; without them each node has weights of its own in the first layer.

Trained by ``ppvae.elbo(likelihood={"x": ppvae.balanced})`` it is nearly that of the paper, whose loss over the n² entries
of A is

    norm mean(w BCE) + KL / n²,  w = (n² - L) / L at links and 1 elsewhere,  norm = n² / (2 (n² - L)),  L = 2 links

Over the entries off the diagonal, times their number, that is the negative of our bound, its likelihood times n² / (n² - L),
which is nearly 1. The diagonal is scored there as n links of nodes to themselves, half a pair each: it pushes every code away
from 0. Here no pair is a node with itself; `ppvae.reproduce.graphs` adds that term. What is held out is scored as not linked
there, and is missing here.

Reference: Kipf & Welling 2016, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from ppvae.models.vgae import Decoder, model
from torch import Tensor, nn

from ppvae import Pair
from ppvae.nn.graphs import Convolution, Network
from ppvae.nn.heads import SMALLEST_SCALE


class Encoder(nn.Module):
    """q(z | x_o, nodes): x, mask (N, D) and nodes (N, n, F) to batch (N, 1), event (n, K)."""

    def __init__(
        self, features: int, latents: int, hidden: Sequence[int] = (32,), attributes: int | None = None
    ) -> None:
        super().__init__()
        self.net = Network(features, hidden, attributes)
        self.heads = Convolution(self.net.width, latents, heads=2)

    def forward(self, x: Tensor, mask: Tensor | bool = True, nodes: Tensor | None = None) -> dist.Independent:
        loc, spread = self.heads(*self.net(x, mask, nodes)).unsqueeze(1).chunk(2, -1)  # (N, 1, n, K) each
        return dist.Normal(loc, spread.exp() + SMALLEST_SCALE).to_event(2)


def guide(encoder: Encoder, x: Tensor, mask: Tensor | bool = True, nodes: Tensor | None = None) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, mask, nodes))  # (…, N, 1, n, K)


def make(features: int, latents: int, hidden: Sequence[int] = (32,), attributes: int | None = None) -> Pair:
    """The variational graph autoencoder of graphs of D = n (n - 1) / 2 pairs; ``attributes`` F of a node, or None."""
    return Pair(
        model, guide, decoder=Decoder(features, latents), encoder=Encoder(features, latents, hidden, attributes)
    )
