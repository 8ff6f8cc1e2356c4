"""A closed form of the Kullback-Leibler divergence that torch and Pyro lack."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Independent, Normal, register_kl


class FullGaussian(dist.MultivariateNormal):
    """A learned Gaussian of full covariance, whose KL from a diagonal prior is taken in closed form.

    A plain `MultivariateNormal` keeps the estimate at the draw: where the guide is the posterior itself, that one
    makes the bound log p(x) without variance, and the closed form would not.
    """


@register_kl(FullGaussian, Independent)
def _full_from_diagonal(q: FullGaussian, p: Independent) -> Tensor:
    r"""KL(N(m, L L') || N(loc, diag scale^2)), in nats.

    .. math:: \sum_k \frac{(L L^\top)_{kk} + (m_k - loc_k)^2}{2\,scale_k^2} - \frac{1}{2} + \log scale_k - \log L_{kk}

    Reference: Rasmussen & Williams 2006, eq. A.23.
    """
    base = p.base_dist
    if not isinstance(base, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    variance, L = base.scale.square(), q.scale_tril
    apart = (L.square().sum(-1) + (q.loc - base.loc).square()) / variance - 1
    return 0.5 * apart.sum(-1) + (base.scale.log() - L.diagonal(dim1=-2, dim2=-1).log()).sum(-1)
