"""The bound of rows of which some show their class: partly specified stories, and a guide that learns to name the class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.objectives.elbo import elbo
from ppvae.objectives.shaping import Done
from ppvae.pair import Pair
from ppvae.tracing.enumeration import expected_each
from ppvae.tracing.terms import ElboTerms, weights_of
from ppvae.tracing.traces import Traces, by_row, enumerated, is_global, log_prob


@dataclass(frozen=True)
class semi_supervised:  # noqa: N801  (a verb of the library)
    r"""The ELBO of rows, of which those that show ``y`` also teach the guide to name it; per row in nats, no bound.

    .. math::
        E_{q(y, z \mid x)} \log \frac{p(x, y, z)}{q(y, z \mid x)} \text{ where y is not observed, else } \gamma \Big(
        E_{q(z \mid x, y)} \log \frac{p(x, y, z)}{q(z \mid x, y)} + \alpha \log q(y \mid x) \Big)

    What a row shows enters the ELBO as data, so that nothing there moves q(y | x): the last term does. Where the guide draws
    other latents before y, q(z | x, y) is estimated by importance weights w = q(y | x, z) of its draws,

    .. math:: \sum_p \bar w_p \log \frac{p(x, y, z_p)}{q(y, z_p \mid x)} + (1 + \alpha) \log \frac1P \sum_p w_p

    and the last term by their mean; with one particle it is E log q(y | x, z), as Maaløe et al. 2016 have it.

    References: Kingma, Rezende, Mohamed & Welling 2014, eq. 6-9; Narayanaswamy et al. 2017, eq. 2-9.

    Args:
        bound: the ELBO of a row, with its particles, its gradient and what is done to its KL.
        site: the name of y, a site of story and guide that the story does not mask.
        alpha: of log q(y | x).
        gamma: of rows that show y; where they are few, repeating them in the data has the same mean and less noise.
    """

    bound: elbo = elbo()
    site: str = "y"
    alpha: float = 1.0
    gamma: float = 1.0
    unit: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.bound, elbo):
            raise Problem(
                f"bound is {self.bound!r}",
                "log q(y | x) is added to the ELBO; under importance weights it would be part of them",
                "semi_supervised(ppvae.elbo(5), alpha=10.0)",
            )
        for name, value in (("alpha", self.alpha), ("gamma", self.gamma)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not (0 <= value < math.inf):
                raise Problem(
                    f"{name} is {value!r}",
                    "the weight of rows that show their class, or of naming it: a number of at least 0",
                    f"semi_supervised({name}=1.0)",
                )

    @property
    def coupled(self) -> bool:
        """Whether a row's number depends on the batch: as the ELBO's own."""
        return self.bound.coupled

    @property
    def scheduled(self) -> bool:
        """Whether it changes while it is trained: as the ELBO's own."""
        return self.bound.scheduled

    def in_force(self, done: Done) -> dict[str, float]:
        """The ELBO's schedule with a share ``done`` of the training behind."""
        return self.bound.in_force(done)

    def __call__(self, pair: Pair, x: Any, mask: Any = None, *, done: Done = 1.0) -> Tensor:
        """The number of each row, (N,)."""
        return self.evaluate(pair, enter(pair, x, mask), done)[0]

    def evaluate(self, pair: Pair, table: Table, done: Done = 1.0) -> tuple[Tensor, ElboTerms]:
        """The number of each row, (N,), and the ELBO's own terms, from one run."""
        table, seen = self._shown(pair, table)
        bound, terms, traces = self.bound.traced(pair, table, done)
        log_r, first = self._named(traces)
        if first or traces.particles == 1:
            labelled = bound + self.alpha * log_r.mean(0)
        else:
            self._refuse_weighted(traces)
            f = _each(traces) - log_r
            total = log_r.logsumexp(0) - math.log(traces.particles)
            labelled = (log_r.softmax(0) * f).sum(0) + (1 + self.alpha) * total
        return torch.where(seen.squeeze(-1), self.gamma * labelled, bound), terms

    def _refuse_weighted(self, traces: Traces) -> None:
        bound = self.bound
        for name in (name for name, site in traces.drawn() if is_global(site)):
            raise Problem(
                f"the guide draws other latents before {self.site!r}, and {name!r} is global",
                f"rows that show {self.site!r} weigh their draws by one another, and {name!r} is no row's own",
                "one particle",
            )
        if bound.gradient != "pathwise" or bound.kl is not None or bound.likelihood is not None:
            raise Problem(
                f"the guide draws other latents before {self.site!r}, and the bound is {bound!r}",
                f"rows that show {self.site!r} then weigh the draws by one another: no draw's baseline is independent of it, "
                "and no term of the ELBO stands by itself",
                f"elbo({bound.particles}) as it is, {self.site!r} enumerated in the guide; or one particle",
            )

    def _shown(self, pair: Pair, table: Table) -> tuple[Table, Tensor]:
        """The table, its class observed row by row even where every row shows it, and in which rows, (N, 1)."""
        if self.site not in table.values:
            raise Problem(
                f"no row shows {self.site!r}",
                "the data have no such entry, or it has another name",
                f"fit(pair, {{'x': x, {self.site!r}: classes}}), NaN where the class is not known",
            )
        seen = table.masks.get(self.site, torch.ones_like(table.values[self.site][:, :1], dtype=torch.bool))
        table = replace(table, masks={**table.masks, self.site: seen})
        if self.site not in table.partly_seen(pair) or seen.shape[-1] != 1:
            raise Problem(
                f"{self.site!r} is not one class of a row that the guide draws where it is not seen",
                "the story masks it, or the guide is told where it is missing",
                f"leave the mask of {self.site!r} out of story and guide, and sample it in both",
            )
        return table, seen

    def _named(self, traces: Traces) -> tuple[Tensor, bool]:
        """log q(y | x, …) of the class that a row shows, (P, N), and whether the guide draws y before all else."""
        names = [name for name, _ in traces.drawn()]
        if self.site not in names:
            raise Problem(
                f"the guide does not draw {self.site!r}",
                "then nothing names the class of a row",
                f"pyro.sample({self.site!r}, …, infer={{'enumerate': 'parallel'}}) in the guide, where it is None",
            )
        site = traces.guide.nodes[self.site]
        value = log_prob(site)
        lead = 2 if traces.particles == 1 else 3
        if enumerated(site):  # where the class is shown its copies are one value
            value = value.select(site["infer"]["_enumerate_dim"], 0).unsqueeze(site["infer"]["_enumerate_dim"])
        if value.shape[:-lead].numel() > 1:
            raise Problem(
                f"{self.site!r} depends on another latent that the guide enumerates",
                "naming the class would need a sum over it",
                f"draw {self.site!r} first, or do not enumerate the other",
            )
        return by_row(value.reshape(value.shape[value.dim() - lead :]), traces), names[0] == self.site


def _each(traces: Traces) -> Tensor:
    """log p - log q of each particle's draws, sums taken under q, (P, N)."""
    if not any(enumerated(site) for _, site in traces.scored()):
        return weights_of(traces)
    likelihood, kl = expected_each(traces)
    return likelihood - sum(kl.values())
