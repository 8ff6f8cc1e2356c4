"""Score-function gradients, for guides whose draws cannot be reparametrised: grad E_q[f] = E_q[f grad log q].

They hold for any guide. Their noise is what a baseline takes away: a number that does not depend on the draw whose
score it multiplies changes no expectation, since E_q[grad log q] = 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.objectives.holding import Detached, free, refuse_dependent, refuse_points
from ppvae.pair import Pair
from ppvae.tracing.terms import log_guide, reparametrised
from ppvae.tracing.traces import Traces, enumerated, run


def run_for_scores(pair: Pair, table: Table, particles: int) -> tuple[Traces, Tensor]:
    """A run, and log q of the draws that need a score, (P, N).

    These are the sites that cannot be reparametrised; the others keep their path. Where all of them can, the scores of
    all are taken and no gradient passes through a draw.
    """
    traces = run(pair, table, particles)
    names = [name for name, site in traces.drawn() if not reparametrised(site)]
    if not names:
        traces, log_q = run_detached(pair, table, particles)
        refuse_dependent(traces)
        return traces, log_q
    refuse_enumerated(traces)
    return traces, log_guide(traces, names)


def run_detached(pair: Pair, table: Table, particles: int) -> tuple[Traces, Tensor]:
    """A run in which the draws are constants, and log q of them all, (P, N)."""
    with Detached():
        traces = run(pair, table, particles)
    refuse_enumerated(traces)
    refuse_points(traces)
    return traces, log_guide(traces, [name for name, _ in traces.drawn()])


def refuse_enumerated(traces: Traces) -> None:
    """A site of the guide that is summed out has no draw, and no score."""
    names = [name for name, site in traces.drawn() if enumerated(site)]
    if names:
        raise Problem(
            f"the guide enumerates {names[0]!r}, and this gradient needs its draws",
            "a sum over its values and the score of a draw are two ways to the same gradient",
            "ppvae.elbo(gradient='pathwise'), which sums it out; or drop infer={'enumerate': 'parallel'} in the guide",
        )


def score_estimate(f: Tensor, log_q: Tensor) -> Tensor:
    """mean_p f, (N,), whose gradient has the scores of draws: f, log_q (P, N); the other particles' mean is the baseline."""
    learned = f.detach() - leave_one_out_mean(f.detach())
    return (f + free(log_q) * (1 + learned)).mean(0)  # log q's own gradient in f has mean 0


def leave_one_out_mean(f: Tensor) -> Tensor:
    """The mean of the other particles, (P, N)."""
    return (f.sum(0) - f) / (len(f) - 1)


def leave_one_out_bound(log_weights: Tensor) -> Tensor:
    """The bound with each particle's log-weight replaced by the mean of the others', (P, N) (Mnih & Rezende 2016).

    The others' sum is put together from those before and those after: a subtraction would lose it where one weight is
    nearly all.
    """
    P, nothing = len(log_weights), torch.full_like(log_weights[:1], -math.inf)
    before = torch.cat([nothing, log_weights.logcumsumexp(0)[:-1]])
    after = torch.cat([log_weights.flip(0).logcumsumexp(0).flip(0)[1:], nothing])
    others = torch.logaddexp(before, after)
    return torch.logaddexp(others, leave_one_out_mean(log_weights)) - math.log(P)
