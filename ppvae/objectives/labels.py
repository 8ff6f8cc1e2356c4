"""The bound of rows of which some show their class: partly specified stories, and a guide that learns to name the class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.objectives.options import refuse_gradient, refuse_particles
from ppvae.objectives.scores import run_for_scores, score_estimate
from ppvae.pair import Pair
from ppvae.tracing.enumeration import expected_each
from ppvae.tracing.terms import ElboTerms, refuse_dead_gradients, terms_of, weights_of
from ppvae.tracing.traces import Traces, by_row, enumerated, log_prob, run


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
        site: the name of y, a site of story and guide that the story does not mask.
        alpha: of log q(y | x).
        gamma: of rows that show y; where they are few, repeating them in the data has the same mean and less noise.
        particles: P.
        gradient: "pathwise", or "score" for a guide that draws y and does not enumerate it, as in `ppvae.elbo`.
    """

    site: str = "y"
    alpha: float = 1.0
    gamma: float = 1.0
    particles: int = 1
    gradient: str = "pathwise"
    unit: ClassVar[None] = None
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("gamma", self.gamma)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not (0 <= value < math.inf):
                raise Problem(
                    f"{name} is {value!r}",
                    "the weight of rows that show their class, or of naming it: a number of at least 0",
                    f"semi_supervised({name}=1.0)",
                )
        refuse_gradient(self.gradient, ("pathwise", "score"), "semi_supervised")
        if self.gradient == "score":
            refuse_particles(self.particles, 2, "each draw's baseline is the mean of the others: a number of draws")
        refuse_particles(self.particles)

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The number of each row, (N,)."""
        return self.evaluate(pair, enter(pair, x, mask), 1.0)[0]

    def evaluate(self, pair: Pair, table: Table, done: object) -> tuple[Tensor, ElboTerms]:
        """The number of each row, (N,), and the ELBO's own terms, from one run."""
        table, seen = self._shown(pair, table)
        score = self.gradient == "score"
        traces, log_q = (
            run_for_scores(pair, table, self.particles) if score else (run(pair, table, self.particles), None)
        )
        refuse_dead_gradients(traces, scores=score)
        log_r, first = self._named(traces)
        terms = terms_of(traces, table, closed=not score and not pair.exact)
        bound = terms.elbo if log_q is None else score_estimate(weights_of(traces), log_q)
        if first or self.particles == 1:
            labelled = bound + self.alpha * log_r.mean(0)
        elif score:
            raise Problem(
                f"the guide draws other latents before {self.site!r}, and gradient is 'score'",
                "rows that show it weigh the draws by one another, and no baseline is independent of its draw",
                f"enumerate {self.site!r} in the guide and take gradient='pathwise'",
            )
        else:
            f = _each(traces) - log_r
            total = log_r.logsumexp(0) - math.log(self.particles)
            labelled = (log_r.softmax(0) * f).sum(0) + (1 + self.alpha) * total
        return torch.where(seen.squeeze(-1), self.gamma * labelled, bound), terms

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
