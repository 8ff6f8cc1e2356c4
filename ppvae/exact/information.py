"""What observing an entry would tell, in factor analysis."""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.errors import Problem
from ppvae.exact.posterior import posterior


def gain(W: Tensor, loc: Tensor, scale: Tensor, mask: Tensor, target: int | None = None) -> Tensor:
    r"""Give the expected information gain of every missing entry, in nats; the values that are observed do not matter.

    .. math:: I(z; x_j \mid x_o) = \tfrac12 \log (1 + w_j^\top P^{-1} w_j / \psi_j), \qquad
        I(x_t; x_j \mid x_o) = -\tfrac12 \log (1 - \rho_{jt}^2)

    with P the posterior precision of z given x_o and :math:`\rho_{jt}` the correlation of x_j and x_t given x_o. References:
    Lindley 1956; Cover & Thomas 2006, section 8.5.

    Args:
        W, loc, scale: as in `ppvae.exact.posterior`.
        mask: True = observed (N, D).
        target: the column t that it should tell of; None: the latents.

    Returns:
        (N, D), NaN where an entry is observed, and at the target.

    Raises:
        Problem: shapes that do not fit, a target that is observed.
    """
    q = posterior(W, loc, scale, loc.new_zeros(mask.shape), mask)
    spread = W @ q.scale_tril  # (N, D, K): its rows' products are the covariances of W z given x_o
    explained, noise = spread.square().sum(-1), scale.square().expand(len(W))
    hidden = ~mask.expand(-1, len(W))
    if target is None:
        return (0.5 * torch.log1p(explained / noise)).where(hidden, torch.nan)
    if not hidden[:, target].all():
        raise Problem(
            f"the target is column {target}, observed in some rows", "it is known there", "a column that is hidden"
        )
    together = (spread @ spread[:, target, :, None]).squeeze(-1)  # (N, D)
    total = explained + noise
    correlation = together.square() / (total * total[:, target, None])  # squared
    hidden = hidden & (torch.arange(len(W), device=W.device) != target)
    return (-0.5 * torch.log1p(-correlation)).where(hidden, torch.nan)
