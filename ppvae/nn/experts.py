"""A product of experts, one an observed entry, whose terms come from a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ppvae.exact.linear_gaussian import inverse_root
from ppvae.nn.sets import Entries, blocks
from ppvae.tracing.kl import FullGaussian


class Experts(nn.Module):
    r"""q(z | x_o), a product of the prior and of one rank-one expert an observed entry.

    .. math:: q(z | x_o) \propto N(z; 0, I) \prod_{j\ \mathrm{observed}} N(s_j(x_j);\ v_j(x_j)^\top z,\ 1)

    .. math:: v_j(x_j) = v_j + V h_j(x_j), \quad s_j(x_j) = t_j (x_j - c_j) + S h_j(x_j)

    with h of `Entries`: precision I + Σ v v', shift Σ s v. At V = S = 0, v_j = w_j / scale_j, t_j = 1 / scale_j, c = loc
    it is factor analysis's posterior under every mask. Where nothing is observed it is the prior N(0, I).
    x, mask (…, N, D) to batch (…, N, 1), event (K,), with a full covariance. A row costs D K² + K³.

    References: Williams & Agakov 2002, Products of Gaussians; Williams, Nash & Nazabal 2018, eq. 4-5.
    """

    def __init__(self, features: int, latents: int, width: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(features, latents) / features**0.5)
        self.t, self.c = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.entries = Entries(features, width)
        self.V, self.S = nn.Linear(width, latents, bias=False), nn.Linear(width, 1, bias=False)
        with torch.no_grad():
            self.V.weight.div_(features**0.5)  # like v, so that the precision starts near I whatever D is

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> FullGaussian:
        parts = [self._terms(*block) for block in blocks(x, mask, self.v.shape[-1] + len(self.S.weight[0]))]
        shift, gram = (torch.cat(part) for part in zip(*parts, strict=True))
        root = inverse_root(torch.eye(shift.shape[-1], dtype=x.dtype, device=x.device) + gram)
        loc = (root @ (root.mT @ shift.unsqueeze(-1))).squeeze(-1)
        lead, K = x.shape[:-1], shift.shape[-1]
        return FullGaussian(loc.reshape(*lead, 1, K), scale_tril=root.reshape(*lead, 1, K, K))

    def _terms(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The sums over the observed entries: of s v, (n, K), and of v v', (n, K, K)."""
        h = self.entries(x)  # (n, D, H)
        v = (self.v + self.V(h)) * mask.to(x.dtype).unsqueeze(-1)  # (n, D, K)
        s = self.t * (x - self.c) + self.S(h).squeeze(-1)  # (n, D)
        return (s.unsqueeze(-2) @ v).squeeze(-2), v.mT @ v
