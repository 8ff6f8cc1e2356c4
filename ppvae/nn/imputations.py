"""Imputations drawn inside a guide: what stood in the gaps may have been several things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppvae.errors import refuse_count


class Imputations(TorchDistribution):
    r"""Rows completed A times each by pseudo-Gibbs, for a guide q(z | x_o) = (1/A) sum_a q(z | x_o, x_m^(a)).

    .. math:: z \sim p(z),\ x_m \sim p(x_m | z); \quad \text{then, } rounds \text{ times}, \quad
        z \sim q(z | x_o, x_m),\ x_m \sim p(x_m | z)

    Two lines of a guide, for any story whose entries are independent given z and any encoder of complete rows::

        x_a = pyro.sample("x_a", Imputations(encoder, decoder, prior, x, mask), infer={"is_auxiliary": True})
        pyro.sample("z", Mixture(encoder(each(x_a))))

    Given the imputations that mixture is a density, so every bound holds, and it holds on average over them too:

    .. math:: E_{x_m^{(1)}, …, x_m^{(A)}}\, E_{z \sim q} \log \frac{p(x_o, z)}{q(z | x_o, x_m^{(1)}, …)} \le \log p(x_o)

    Their own law stands above and below that fraction and cancels: `log_prob` is 0. As a site they are drawn once, and what
    runs the guide again on the same draws (`ppvae.elbo(gradient="stl")`) has the same mixture; particles share them. No
    gradient passes through them. An encoder that is exact on complete rows makes the mixture exact as A and rounds grow.

    Reference: Simkus & Gutmann 2024, Improving variational autoencoder estimation from incomplete data with mixture
    variational families.

    Args:
        encoder: complete rows (…, N, D) to q(z | x), batch (…, N, 1), event (K,).
        decoder: z (…, N, K) to p(x | z), batch (…, N, D).
        prior: p(z), batch (N, 1) or what expands to it, event (K,).
        x: (N, D); what stands in a gap is not read.
        mask: True = observed, (N, D), or (N, 1) by row.
        components: A.
        rounds: of encoder and decoder after the first draw.
        batch_shape: for `expand`; (N, 1) by default.

    Raises:
        Problem: a count below 1.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True  # no gradient is lost: the bound holds, and is climbed, given the draws

    def __init__(
        self,
        encoder: Callable[[Tensor], TorchDistribution],
        decoder: Callable[[Tensor], TorchDistribution],
        prior: TorchDistribution,
        x: Tensor,
        mask: Tensor,
        components: int = 5,
        rounds: int = 5,
        batch_shape: Sequence[int] | None = None,
    ) -> None:
        refuse_count("components", components)
        refuse_count("rounds", rounds)
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.x, self.seen = x, mask  # `mask` is a method of every distribution
        self.components, self.rounds = components, rounds
        batch_shape = torch.Size([len(x), 1]) if batch_shape is None else torch.Size(batch_shape)
        super().__init__(batch_shape, torch.Size([components, x.shape[-1]]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Imputations:
        parts = self.encoder, self.decoder, self.prior, self.x, self.seen, self.components, self.rounds
        return Imputations(*parts, batch_shape)

    @torch.no_grad()
    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Completed rows (…, N, 1, A, D), the same for all particles; observed entries as they are."""
        z = self.prior.expand((self.components, len(self.x), 1)).sample()  # (A, N, 1, K)
        rows = self._completed(z)
        for _ in range(self.rounds):
            rows = self._completed(self.encoder(rows).sample())
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return rows.movedim(0, -2).unsqueeze(-3).expand(shape)  # (A, N, D) to (…, N, 1, A, D)

    def _completed(self, z: Tensor) -> Tensor:
        return torch.where(self.seen, self.x, self.decoder(z.squeeze(-2)).sample())  # (A, N, D)

    def log_prob(self, value: Tensor) -> Tensor:
        return value.new_zeros(self.batch_shape)


def each(imputations: Tensor) -> Tensor:
    """The completed rows of a draw of `Imputations`, (A, N, D): one table a component, without the particles' copies."""
    rows = imputations.reshape(-1, *imputations.shape[-4:])[0]  # (N, 1, A, D)
    return rows.squeeze(-3).movedim(-2, 0)
