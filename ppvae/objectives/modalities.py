r"""Bounds for data of several modalities, whose guide infers the latents from whichever are there.

An entry of the data is a modality: an image x, its attributes y. The guide takes each as an optional parameter
(``guide(encoder, x=None, y=None, …)``). `ppvae.elbo` alone trains q(z | x, y) and none of the q(z | m) that a question by
one modality needs; the objectives here train them too:

    telbo     each by its own bound, the story held
    jmvae     each by its KL from q(z | x, y)
    bivcca    them alone, each by the bound of all modalities; there is no q(z | x, y)

A row that lacks a modality adds nothing to that modality's term, so that paired rows and others are trained on together.
JVAE (Suzuki et al. 2016) is `ppvae.elbo` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.objectives.emphasis import emphasised, refuse_emphasis
from ppvae.objectives.entries import Weights, entered, rows_with, scored_alone, seen_alone
from ppvae.objectives.holding import free, frozen
from ppvae.pair import Pair
from ppvae.tracing.terms import is_point, refuse_dead_gradients, terms_of
from ppvae.tracing.traces import Traces, by_row, enumerated, is_global, log_prob, run, seen_rows


@dataclass(frozen=True)
class telbo:  # noqa: N801  (a verb of the library, as ppvae.elbo)
    r"""The triple ELBO: the joint bound, and each modality's own with the story held; per row in nats.

    .. math:: \mathrm{elbo}_\lambda(x, y; \theta, \phi) + \sum_m \mathrm{elbo}_\gamma(m; \bar\theta, \phi_m), \quad
        \mathrm{elbo}_w(x, y) = E_{q(z | x, y)} \sum_m w_m \log p(m | z) - KL(q(z | x, y) \| p(z))

    The story's parameters :math:`\theta` are moved by the joint term only; the others move :math:`q(z | m)` towards p(z | m). The
    value is the joint term, a bound on log p(x, y); the others enter through their gradients alone.

    Reference: Vedantam, Fischer, Huang & Murphy 2018.

    Args:
        likelihood: weights of the modalities' log-probabilities in the joint term, as in `ppvae.elbo`; 1 where none is given.
        alone: the same in the terms of each alone.
        entries: the modalities; None: every entry of the data that the story masks.
    """

    likelihood: Weights | None = None
    alone: Weights | None = None
    entries: Sequence[str] | None = None
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_emphasis(self.likelihood)
        refuse_emphasis(self.alone)

    @property
    def unit(self) -> str | None:
        """None where the joint term is weighted: the number is then no bound."""
        return None if self.likelihood else "nats per row"

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The joint bound of each row, (N,).

        Raises:
            Problem: fewer than two modalities, one that is absent in every row, a weight of none of them.
        """
        table, names = entered(pair, x, mask, self.entries, self.likelihood, self.alone)
        joint = _bound(pair, run(pair, table), table, self.likelihood)
        with frozen(*pair.modules_of("model")):
            for name in names:
                only = scored_alone(table, names, name)
                bound = _bound(pair, run(pair, only, sees=seen_alone(table, names, name)), only, self.alone)
                joint = joint + free(torch.where(rows_with(table, name), bound, 0.0))
        return joint


@dataclass(frozen=True)
class jmvae:  # noqa: N801
    r"""The joint bound, less what each modality's guide is away from the joint one; per row in nats.

    .. math:: \mathrm{elbo}(x, y) - \alpha \sum_m KL(q(z | x, y) \| q(z | m))

    The KL is the closed form where there is one, else an estimate at the draw. Its second argument is the learner: it covers
    what q(z | x, y) reaches over the rows that look alike in m, their mixture, where `telbo`'s may hide in a part.

    Reference: Suzuki, Nakayama & Matsuo 2016 (JMVAE-kl).

    Args:
        alpha: of the KL, not negative.
        likelihood: weights of the modalities' log-probabilities, 1 where none is given.
        entries: the modalities; None: every entry of the data that the story masks.
    """

    alpha: float = 0.01
    likelihood: Weights | None = None
    entries: Sequence[str] | None = None
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_emphasis(self.likelihood)
        if not isinstance(self.alpha, int | float) or not self.alpha >= 0:
            raise Problem(
                f"alpha is {self.alpha!r}", "a KL is subtracted so many times", "alpha=0.01; weights as likelihood={…}"
            )

    @property
    def unit(self) -> str | None:
        """None where the joint term is weighted: the number is then no bound."""
        return None if self.likelihood else "nats per row"

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The objective of each row, (N,), below its joint bound.

        Raises:
            Problem: fewer than two modalities, one that is absent in every row, a weight of none of them.
        """
        table, names = entered(pair, x, mask, self.entries, self.likelihood)
        traces = run(pair, table)
        bound = _bound(pair, traces, table, self.likelihood)
        for name in names:
            away = _away(traces, _guide(pair, seen_alone(table, names, name), traces.guide))
            bound = bound - self.alpha * torch.where(rows_with(table, name), away, 0.0)
        return bound


@dataclass(frozen=True)
class bivcca:  # noqa: N801
    r"""The bound of both modalities, inferred from either; per row in nats.

    .. math:: \mu\,[E_{q(z|x)} \log p(x, y | z) - KL(q(z|x) \| p(z))] + (1 - \mu)\,[\text{the same with } q(z|y)]

    Each bracket is a bound on log p(x, y), and so is their average. A row that lacks one modality has the bracket of the other
    whole. A network of q(z | x, y) is not trained: freeze it, ``pair.encoder.joint.requires_grad_(False)``.

    Reference: Wang, Yan, Lee & Livescu 2016.

    Args:
        mu: the share of the first modality, between 0 and 1.
        likelihood: weights of the modalities' log-probabilities, 1 where none is given.
        entries: the two modalities; None: the entries of the data that the story masks, in its order.
    """

    mu: float = 0.5
    likelihood: Weights | None = None
    entries: Sequence[str] | None = None
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_emphasis(self.likelihood)
        if not isinstance(self.mu, int | float) or not 0 <= self.mu <= 1:
            raise Problem(
                f"mu is {self.mu!r}", "it is the share of the first modality", "mu=0.5; weights as likelihood={…}"
            )

    @property
    def unit(self) -> str | None:
        """None where the log-probabilities are weighted: the number is then no bound."""
        return None if self.likelihood else "nats per row"

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The bound of each row, (N,); 0 where none of its modalities has a share.

        Raises:
            Problem: other than two modalities, one that is absent in every row, a weight of none of them.
        """
        table, names = entered(pair, x, mask, self.entries, self.likelihood)
        if len(names) != 2:
            raise Problem(f"bivcca was given {len(names)} modalities", "mu has two sides", "entries=('x', 'y')")
        total, whole = torch.zeros(()), torch.zeros(())
        for name, share in zip(names, (self.mu, 1 - self.mu), strict=True):
            if share:
                bound = _bound(pair, run(pair, table, sees=seen_alone(table, names, name)), table, self.likelihood)
                shares = share * rows_with(table, name).to(bound)
                total, whole = total + shares * bound, whole + shares
        return torch.where(whole > 0, total / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0.0)


def _guide(pair: Pair, sees: Table, at: poutine.Trace) -> poutine.Trace:
    """The guide's trace on these rows, at draws that are given."""
    return poutine.trace(poutine.replay(pair.guide, at)).get_trace(size=len(sees), **sees.call(pair))


def _bound(pair: Pair, traces: Traces, table: Table, likelihood: Weights | None) -> Tensor:
    """The ELBO of each row, (N,), its log-probabilities weighted."""
    refuse_dead_gradients(traces)
    return terms_of(emphasised(traces, likelihood or {}), table, closed=not pair.exact).elbo


def _away(traces: Traces, other: poutine.Trace) -> Tensor:
    """KL(q || q_m) of each row, (N,): site by site, given the draws of those before it."""
    drawn = dict(traces.drawn())
    names = [name for name, site in other.nodes.items() if name in drawn and not is_global(site)]
    if names != list(drawn):
        raise Problem(
            f"the guide draws {list(drawn)} of all modalities and {names} of one",
            "a KL between guides is one of the same latents, each with its own draw in a row",
            "a guide that draws the same latents, in the same order, whatever it sees",
        )
    total = torch.zeros(())
    for name in names:
        if enumerated(drawn[name]):
            raise Problem(
                f"the guide enumerates {name!r}",
                "its KL from another guide's is not summed over what hangs on it",
                "ppvae.telbo(), or a guide that draws it",
            )
        away, seen = _site_kl(drawn[name], other.nodes[name]), seen_rows(drawn[name])
        away = away if seen is None else torch.where(seen, 0.0, away)  # nothing was drawn where it was seen
        total = total + by_row(away, traces).mean(0)
    return total.expand(traces.rows)


def _site_kl(site: dict[str, Any], other: dict[str, Any]) -> Tensor:
    q, p = site["fn"], other["fn"]
    if not (is_point(q) or is_point(p)):
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            pass
    return log_prob(site) - p.log_prob(site["value"])
