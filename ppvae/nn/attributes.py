"""A product of experts over attributes, one a class."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.errors import Problem
from ppvae.nn.heads import SMALLEST_SCALE
from ppvae.nn.kinds import kinds_of
from ppvae.nn.reading import Reading


class AttributeExperts(nn.Module):
    r"""q(z | y_o), a product of the prior and of one diagonal Gaussian an observed attribute.

    .. math:: q(z | y_o) \propto N(z; 0, I) \prod_{a\ \mathrm{observed}} N(z; \mu_a(y_a), \sigma_a(y_a)^2)

    What an attribute says is a table of its classes: of a code, a table is as general as any network. Precisions add up, so
    the more is known, the narrower it is; where nothing is known it is the prior N(0, I), exactly.

    Reference: Vedantam, Fischer, Huang & Murphy 2018.

    Args:
        classes: C_a of each of the A attributes, 2 or more.
        latents: K.

    Attributes:
        reading: y, mask (…, N, A) to indicators of the F = sum C_a classes and their mask, (…, N, F); 0 in a gap.
        loc, spread: (F, K), mu and that whose softplus is sigma.
    """

    def __init__(self, classes: Sequence[int], latents: int) -> None:
        super().__init__()
        self.reading = Reading(kinds_of_attributes(classes))
        self.loc = nn.Parameter(0.1 * torch.randn(self.reading.features, latents))
        self.spread = nn.Parameter(torch.full((self.reading.features, latents), 0.5413))  # softplus of it is 1

    def forward(self, indicators: Tensor) -> dist.Independent:
        """Indicators (…, N, F) to batch (…, N, 1), event (K,)."""
        each = (softplus(self.spread) + SMALLEST_SCALE).pow(-2)
        precision = 1 + indicators @ each  # (…, N, K)
        loc = (indicators @ (each * self.loc)) / precision
        return dist.Normal(loc.unsqueeze(-2), precision.rsqrt().unsqueeze(-2)).to_event(1)


def kinds_of_attributes(classes: Sequence[int]) -> tuple[str, ...]:
    """The kinds of columns that hold the codes of so many classes each.

    Raises:
        Problem: no attribute, or one of fewer than two classes.
    """
    if isinstance(classes, int) or not len(classes):
        raise Problem(
            f"classes is {classes!r}", "each attribute has a number of classes of its own", "classes=(10, 2, 3, 4)"
        )
    return kinds_of([f"categorical:{count}" for count in classes], len(classes))
