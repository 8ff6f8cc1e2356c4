"""The evidence lower bound, with its gradients and what may be done to its KL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.objectives import shaping
from ppvae.objectives.emphasis import Weight, emphasised, refuse_emphasis, said_weights
from ppvae.objectives.holding import held_guide
from ppvae.objectives.options import refuse_gradient, refuse_particles
from ppvae.objectives.scores import refuse_enumerated, run_for_scores, score_estimate
from ppvae.pair import Pair
from ppvae.tracing.terms import ElboTerms, particle_kl, refuse_dead_gradients, terms_of, unit_kl, weights_of
from ppvae.tracing.traces import Traces, enumerated, run


@dataclass(frozen=True)
class elbo:  # noqa: N801  (a verb of the library)
    r"""The evidence lower bound, per row in nats.

    .. math:: E_{q(z|x)}[\log p(x_o, z) - \log q(z | x)] \le \log p(x_o)

    The KL of each site is the closed form where the dependency structure allows it, else a Monte Carlo estimate;
    ``terms`` says which. Latents outside the data plate count once: their KL is divided by the rows of the data.
    Discrete sites marked for enumeration are summed out.

    Reference: Jordan et al. 1999; Kingma & Welling 2014, eq. 2-3.

    Args:
        particles: draws averaged over; the bound's mean does not change, its variance falls.
        gradient: an unbiased estimate, each of them.
            "pathwise": through reparametrised draws.
            "stl": through the draws alone, log q's own parameters held; every KL is then a Monte Carlo estimate. Its
            variance is 0 where q is the posterior. (Roeder, Wu & Duvenaud 2017)
            "score": for draws that cannot be reparametrised, with the other particles' mean as the baseline; two
            particles or more. (Ranganath, Gerrish & Blei 2014; baseline: Kool, van Hoof & Welling 2019)
        kl: one of `beta`, `annealed`, `free_bits`, `capacity`, or a tuple of them. ``terms`` stays the truth.
        likelihood: factors of the observed sites' log-probabilities by name, numbers or functions of (values, mask) to one of
            each entry, such as `balanced`. The number is then no bound; ``terms`` stays the truth.
    """

    particles: int = 1
    gradient: str = "pathwise"
    kl: shaping.Shape | tuple[shaping.Shape, ...] | None = None
    likelihood: Mapping[str, Weight] | None = field(default=None, repr=False)

    def __repr__(
        self,
    ) -> str:  # a checkpoint is known by it: what was not asked for is not in it, nor where a function lies
        said = f"particles={self.particles}, gradient={self.gradient!r}, kl={self.kl!r}"
        return f"elbo({said}{said_weights(self.likelihood)})"

    def __post_init__(self) -> None:
        refuse_gradient(self.gradient, ("pathwise", "stl", "score"), "elbo")
        if self.gradient == "score":
            refuse_particles(self.particles, 2, "each draw's baseline is the mean of the others: a number of draws")
        refuse_particles(self.particles)
        shaping.refuse_beside(shaping.shapes_of(self.kl), self.gradient)
        refuse_emphasis(self.likelihood)

    @property
    def unit(self) -> str | None:
        """None where less than the KL is subtracted at some time, or the data's terms have weights: the number is then no
        bound."""
        return "nats per row" if self.likelihood is None and shaping.bounds(shaping.shapes_of(self.kl)) else None

    @property
    def coupled(self) -> bool:
        """Whether a row's number depends on the batch: the floor of free bits does."""
        return self._floor is not None

    @property
    def scheduled(self) -> bool:
        """Whether it changes while it is trained."""
        return any(isinstance(s, shaping.annealed | shaping.capacity) for s in shaping.shapes_of(self.kl))

    @property
    def _floor(self) -> shaping.free_bits | None:
        return next((s for s in shaping.shapes_of(self.kl) if isinstance(s, shaping.free_bits)), None)

    def __call__(self, pair: Pair, x: Any, mask: Any = None, *, done: shaping.Done = 1.0) -> Tensor:
        """The bound of each row, (N,), with a share ``done`` of the training behind."""
        return self.evaluate(pair, enter(pair, x, mask), done)[0]

    def terms(self, pair: Pair, x: Any, mask: Any = None) -> ElboTerms:
        """Its own terms: the expected log-likelihood and the KL of each latent, (N,) each; no shape touches them."""
        return self.evaluate(pair, enter(pair, x, mask))[1]

    def in_force(self, done: shaping.Done) -> dict[str, float]:
        """The weight of the KL, or its capacity in nats, with a share ``done`` of the training behind."""
        return shaping.in_force(shaping.shapes_of(self.kl), done)

    def evaluate(self, pair: Pair, table: Table, done: shaping.Done = 1.0) -> tuple[Tensor, ElboTerms]:
        """The bound of each row, (N,), and its terms, from one run."""
        return self.traced(pair, table, done)[:2]

    def traced(self, pair: Pair, table: Table, done: shaping.Done = 1.0) -> tuple[Tensor, ElboTerms, Traces]:
        """The same, and the run, in which the guide's parameters are free whatever the gradient."""
        if self.gradient == "score":
            return self._scored(pair, table, done)
        traces = run(pair, table, self.particles)
        refuse_dead_gradients(traces)
        scored = traces
        if self.gradient == "stl":
            refuse_enumerated(traces)
            scored = held_guide(pair, table, traces) if torch.is_grad_enabled() else traces
        closed = self.gradient == "pathwise" and not pair.exact
        terms = terms_of(scored, table, closed)
        if self.kl is None and self.likelihood is None:
            return terms.elbo, terms, traces
        weighted = terms if self.likelihood is None else terms_of(emphasised(scored, self.likelihood), table, closed)
        if self.kl is None:
            return weighted.elbo, terms, traces
        _refuse_no_kl(terms, self.kl)
        kl = unit_kl(scored) if self._floor and self._floor.per == "unit" else weighted.kl
        return weighted.likelihood - shaping.penalty(shaping.shapes_of(self.kl), kl, done), terms, traces

    def _scored(self, pair: Pair, table: Table, done: shaping.Done) -> tuple[Tensor, ElboTerms, Traces]:
        traces, log_q = run_for_scores(pair, table, self.particles)
        refuse_dead_gradients(traces, scores=True)
        terms = terms_of(traces, table, closed=False)
        f = weights_of(traces if self.likelihood is None else emphasised(traces, self.likelihood))
        if self.kl is not None:
            _refuse_no_kl(terms, self.kl)
            _refuse_sums(traces, self.kl)
            kl = particle_kl(traces)
            f = f + sum(kl.values()) - shaping.penalty(shaping.shapes_of(self.kl), kl, done)
        return score_estimate(f, log_q), terms, traces


def _refuse_no_kl(terms: ElboTerms, kl: object) -> None:
    if not terms.kl:
        raise Problem(
            f"kl is {kl!r} and the guide draws nothing",
            "without a latent in the guide there is no KL: the bound is the likelihood",
            "ppvae.elbo()",
        )


def _refuse_sums(traces: Traces, kl: object) -> None:
    """A draw's own KL is not one number where the story sums over what it depends on."""
    if any(enumerated(site) for _, site in traces.scored()):
        raise Problem(
            f"kl is {kl!r} and the story sums a latent out",
            "under gradient='score' each draw needs a KL of its own, and the sum mixes them",
            "ppvae.elbo(gradient='pathwise', kl=…) with every discrete latent enumerated",
        )
