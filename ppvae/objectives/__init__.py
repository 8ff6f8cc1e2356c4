"""What `fit` maximises: bounds on the log-evidence, per row, in nats.

An objective is called ``objective(pair, x, mask)`` and gives a differentiable bound for each row, (N,). It may be
any callable; `fit` reads three attributes where they are there: ``unit`` (None: the number is no bound),
``coupled`` (True: a row's number depends on the other rows, so batches are never padded and nothing is reported
by row), and, where it is an `nn.Module`, its parameters, which are trained and saved with the pair's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ppvae.door import enter
from ppvae.errors import Problem
from ppvae.pair import Pair
from ppvae.terms import ElboTerms, elbo_terms, log_weights


@dataclass(frozen=True)
class elbo:  # noqa: N801  (a verb of the library)
    r"""The evidence lower bound, per row in nats.

    .. math:: E_{q(z|x)}[\log p(x_o, z) - \log q(z | x)] \le \log p(x_o)

    The KL of each site is the closed form where the dependency structure allows it, else a Monte Carlo estimate;
    ``terms`` says which. Latents outside the data plate count once: their KL is divided by the rows of the data.
    Discrete sites marked for enumeration are summed out.

    Reference: Jordan et al. 1999; Kingma & Welling 2014, eq. 2-3.

    Args:
        particles: draws averaged over; the bound's value does not change, its variance falls.
    """

    particles: int = 1
    unit: ClassVar[str] = "nats per row"
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _refuse_particles(self.particles)

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The bound of each row, (N,)."""
        return self.terms(pair, x, mask).elbo

    def terms(self, pair: Pair, x: Any, mask: Any = None) -> ElboTerms:
        """Its own terms: the expected log-likelihood and the KL of each latent, (N,) each."""
        return elbo_terms(pair, enter(pair, x, mask), self.particles)


@dataclass(frozen=True)
class iw_elbo:  # noqa: N801  (a verb of the library)
    r"""The importance-weighted bound, per row in nats.

    .. math:: E \log \frac{1}{P} \sum_{p=1}^P \frac{p(x_o, z_p)}{q(z_p | x)} \le \log p(x_o), \quad z_p \sim q

    It rises with P. The log-mean-exp is taken row by row over unscaled weights, so minibatches stay unbiased; a
    latent outside the data plate has no weight of a row and is refused. With a mask it is the missing-data bound of
    Mattei & Frellsen 2019, eq. 4.

    Reference: Burda, Grosse & Salakhutdinov 2016, eq. 8.

    Args:
        particles: P.
    """

    particles: int = 5
    unit: ClassVar[str] = "nats per row"
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _refuse_particles(self.particles)

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The bound of each row, (N,)."""
        weights = log_weights(pair, enter(pair, x, mask), self.particles)  # (P, N)
        return weights.logsumexp(0) - math.log(self.particles)


def _refuse_particles(particles: int) -> None:
    if not isinstance(particles, int) or isinstance(particles, bool) or particles < 1:
        raise Problem(f"particles is {particles!r}", "a number of draws is a whole number of at least 1", "particles=5")
