r"""A mixture of Gaussians on the normal scores of a table's columns, its parameters drawn too.

    c_n ~ Categorical(w),   z_n | c_n ~ N(loc_c, covariance_c),   x_nj = the v-th value of column j where cut_j,v-1 < z_nj <= cut_j,v

with cut_jv = Phi^-1(the share of column j's observed entries that are at most its v-th value). A column's own law is thus its
observed one, atoms, whole numbers and heavy tails included, and every completed value is one that was observed; the mixture says how
columns hang together, bent as they may be. Weights break a stick (Ishwaran & James 2001), and covariances are shrunk towards half of the
one that a single Gaussian has. Gibbs sampling in three steps a round:

    w, loc, covariance | z, c       conjugate
    c_n, missing z_n   | rest       together, missing entries integrated out of c_n; of a random block of rows where a table is large
    z_nj               | rest       column by column, observed ones within their cuts

References: Hoff 2007 (scores within cuts); Kim, Reiter, Wang, Cox & Karr 2014 (mixtures of Gaussians for multiple imputation).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.special import ndtri

from ppvae.exact.gaussian import Completions, inverse_wishart_root
from ppvae.machine import own_generators

COMPONENTS = 15
ALONE, BURN_IN = 30, 100  # rounds with one component, and with all before the first draw
KEPT = 200  # rounds for all draws at least
STRENGTH = 1.5  # of the prior of a covariance, in rows a column
WITHIN = 0.5  # share of a single Gaussian's covariance that a component expects
POOLED = 0.9  # share of that Gaussian in it, the rest is the identity
SPREAD = 10.0  # variance of a component's mean over its covariance
BLOCK_BYTES = 2**24  # of the Cholesky factors of a block of rows, one a component


def score_mixture(z: Tensor, draws: int, seed: int) -> Completions:
    """Complete rows (N, D), NaN = missing, by draws of which each has parameters of its own. The mean is the draws'.

    Args:
        z: (N, D); every column varies. Only the order of a column's values enters, and their mean.
        draws: S.
        seed: equal seeds give equal draws.
    """
    with own_generators(seed):
        columns = [_Column(column) for column in z.double().T]
        chain = _Chain(torch.stack([c.low for c in columns]), torch.stack([c.high for c in columns]))
        for _ in range(ALONE):
            chain.round()
        chain.split(min(COMPONENTS, len(z)))
        gap, drawn = math.ceil(KEPT / draws), []
        for turn in range(BURN_IN + gap * draws):
            chain.round()
            if turn >= BURN_IN and (turn - BURN_IN) % gap == gap - 1:
                drawn.append(torch.stack([c.back(z_j) for c, z_j in zip(columns, chain.z, strict=True)], 1).to(z))
    kept = torch.stack(drawn)
    return Completions(kept.mean(0), kept)


class _Column:
    """The values of a column and the cuts between them: low, high (N,) are those of each entry, infinite where it is missing."""

    def __init__(self, x: Tensor) -> None:
        seen = ~x.isnan()
        self.values, place, counts = x[seen].unique(return_inverse=True, return_counts=True)
        self.cuts = ndtri(counts.cumsum(0)[:-1].double() / counts.sum())
        ends = torch.cat([self.cuts.new_tensor([-math.inf]), self.cuts, self.cuts.new_tensor([math.inf])])
        self.low, self.high = torch.full_like(x, -math.inf), torch.full_like(x, math.inf)
        self.low[seen], self.high[seen] = ends[place], ends[place + 1]

    def back(self, z: Tensor) -> Tensor:
        return self.values[torch.searchsorted(self.cuts, z.contiguous())]


class _Chain:
    """Gibbs sampling; z (D, N) lies column by column."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high
        self.missing = (low == -math.inf) & (high == math.inf)
        self.z = truncated(torch.zeros_like(low), torch.ones_like(low), low, high)
        self.of = torch.zeros(low.shape[1], dtype=torch.long, device=low.device)  # c
        self.single = torch.eye(len(low), dtype=low.dtype, device=low.device)
        self.size = 1

    def round(self) -> None:
        self._parameters()
        self._rows()
        self._columns()

    def split(self, components: int) -> None:
        """From one component to many, by k-means of the completed rows; the single covariance becomes their prior."""
        D, N = self.z.shape
        self.single = POOLED * self.covariance[0] + (1 - POOLED) * self.single
        rows, self.size = self.z.T.contiguous(), components
        centres = rows[torch.randperm(N, device=rows.device)[:components]]
        for _ in range(5):
            self.of = torch.cdist(rows, centres).argmin(1)
            sums = torch.zeros_like(centres).index_add_(0, self.of, rows)
            counts = self.of.bincount(minlength=components)[:, None]
            centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)

    def _parameters(self) -> None:
        D, strength = len(self.z), STRENGTH * len(self.z)
        counts = self.of.bincount(minlength=self.size).to(self.z)
        loc, covariance = [], []
        for k, n in enumerate(counts.tolist()):
            mine = self.z[:, self.of == k]
            mean = mine.sum(1) / max(n, 1)
            apart = mine - mean[:, None]
            scatter = strength * WITHIN * self.single + apart @ apart.T + n / (1 + SPREAD * n) * torch.outer(mean, mean)
            root = inverse_wishart_root(scatter, D + strength + n)
            rows = n + 1 / SPREAD
            loc.append(n * mean / rows + root @ torch.randn_like(mean) / math.sqrt(rows))
            covariance.append(root @ root.T)
        self.loc, self.covariance = torch.stack(loc), torch.stack(covariance)  # (K, D), (K, D, D)
        self.precision = torch.cholesky_inverse(torch.linalg.cholesky(self.covariance))
        later = counts.flip(0).cumsum(0).flip(0) - counts
        part = Beta(1 + counts, 1 + later).sample().clamp(1e-12, 1 - 1e-12)
        part[-1] = 1.0  # the last takes what is left of the stick
        before = torch.cat([part.new_zeros(1), (1 - part[:-1]).log().cumsum(0)])
        self.log_weight = part.log() + before

    def _rows(self) -> None:
        """c_n ~ p(c | z_n,o), then z_n,m ~ p(z_m | z_n,o, c_n); one Cholesky factor of P_mm a row and component serves both."""
        D, N = self.z.shape
        size = max(1, BLOCK_BYTES // (8 * self.size * D * D))
        rows = torch.randperm(N, device=self.z.device)[:size]
        z, missing = self.z[:, rows].T, self.missing[:, rows].T
        m, P = missing.to(z), self.precision[:, None]
        L = torch.linalg.cholesky(P * m[:, :, None] * m[:, None, :] + torch.diag_embed(1 - m))  # (K, n, D, D)
        r = (z - self.loc[:, None]) * (1 - m)  # (K, n, D)
        Pr = r @ self.precision
        h = torch.linalg.solve_triangular(L, (Pr * m).unsqueeze(-1), upper=False).squeeze(-1)
        log_det = torch.linalg.cholesky(self.precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)
        score = (self.log_weight + log_det)[:, None] - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        score = score - 0.5 * (
            (Pr * r).sum(-1) - h.square().sum(-1)
        )  # log w_k p(z_o | k) but for a constant of the row
        drawn = (score - torch.empty_like(score).exponential_().log()).argmax(0)  # Gumbel's way to draw a category
        L, h = (value[drawn, torch.arange(len(rows), device=z.device)] for value in (L, h))
        step = torch.linalg.solve_triangular(L.mT, (torch.randn_like(h) - h).unsqueeze(-1), upper=True).squeeze(-1)
        self.of[rows] = drawn
        self.z[:, rows] = torch.where(missing, self.loc[drawn] + step, z).T

    def _columns(self) -> None:
        """z_nj | the row's other entries: N(z_nj - P_j (z_n - loc) / P_jj, 1 / P_jj) of its component, within its cuts."""
        loc = self.loc[self.of].T
        for j in range(len(self.z)):
            P_j = self.precision[self.of, j].T  # (D, N)
            mean = self.z[j] - (P_j * (self.z - loc)).sum(0) / P_j[j]
            self.z[j] = truncated(mean, P_j[j].rsqrt(), self.low[j], self.high[j])


def truncated(mean: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Draw from N(mean, scale^2) within (low, high), by the inverse of its distribution function in the nearer tail."""
    a, b = (low - mean) / scale, (high - mean) / scale
    upper = a > 0  # the lower tail keeps its digits
    a, b = torch.where(upper, -b, a), torch.where(upper, -a, b)
    first, last = (0.5 * torch.erfc(-end / math.sqrt(2)) for end in (a, b))  # torch's ndtr is 0 from 9 scales on
    u = ndtri(torch.lerp(first, last, torch.rand_like(a)))
    u = torch.where(u.isfinite(), u, b)  # 37 scales away all shares are 0: the nearer end stands for the draw
    u = torch.maximum(torch.minimum(u, b), a)
    return mean + scale * torch.where(upper, -u, u)
