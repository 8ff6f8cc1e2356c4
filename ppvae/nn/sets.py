"""Encoders of the observed entries as a set: what is missing does not enter, nor does the order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.exact.linear_gaussian import CHUNK_BYTES
from ppvae.nn.filled import observed
from ppvae.nn.heads import Gaussian
from ppvae.nn.layers import mlp


class Entries(nn.Module):
    r"""A network of an entry and its place, the same for all but two vectors a place: x (…, D) to (…, D, width).

    .. math:: h_j = \mathrm{relu}(A\,\mathrm{relu}(x_j a_j + b_j) + a_0)
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(features, width)), nn.Parameter(torch.randn(features, width))
        self.shared = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared((x.unsqueeze(-1) * self.a + self.b).relu()).relu()


def blocks(x: Tensor, mask: Tensor | bool, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk through rows (…, N, D), gaps 0, and their masks, in blocks of bounded (n, D, width)."""
    mask, D = observed(x, mask), x.shape[-1]
    rows = max(1, CHUNK_BYTES // (x.element_size() * D * width))
    x = torch.where(mask, x, 0.0)
    return zip(x.reshape(-1, D).split(rows), mask.reshape(-1, D).split(rows), strict=True)


class EntrySet(nn.Module):
    r"""q(z | x_o) from a sum over the observed entries: x, mask (…, N, D) to batch (…, N, 1), event (K,).

    .. math:: q(z | x_o) = N(\rho(s)), \quad s = D^{-1/2} \sum_{j\ \mathrm{observed}} h_j(x_j)

    with h of `Entries`. Where nothing is observed it is N(ρ(0)).

    References: Zaheer et al. 2017, theorem 2; Ma et al. 2019, eq. 6 (EDDI, the pointnet plus).
    """

    def __init__(
        self, features: int, latents: int, hidden: Sequence[int], activation: Callable[[], nn.Module], width: int
    ) -> None:
        super().__init__()
        self.width = width
        self.entries, self.net = Entries(features, width), mlp(width, hidden, activation)
        self.head = Gaussian(hidden[-1] if hidden else width, latents)

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
        sums = torch.cat([self._sum(*block) for block in blocks(x, mask, self.width)]) / x.shape[-1] ** 0.5
        return self.head(self.net(sums.reshape(*x.shape[:-1], -1)))

    def _sum(self, x: Tensor, mask: Tensor) -> Tensor:
        return (mask.to(x.dtype).unsqueeze(-2) @ self.entries(x)).squeeze(-2)  # (n, 1, D) (n, D, H) to (n, H)
