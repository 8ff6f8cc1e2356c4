"""Posteriors of single rows, improved from the guide's output: what amortization costs, and inference without it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ppvae.conditioning.blocks import Blocks
from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.evaluate.density import guide_draws
from ppvae.evaluate.offsets import Moved, Offsets, climb, start
from ppvae.pair import Pair
from ppvae.tracing.terms import weights_of
from ppvae.tracing.traces import At, added, by_row, log_prob, run

DRAWS = 400  # of each row, from which bounds are reported


class Gaps(NamedTuple):
    """What inference loses of each row's log-evidence, (N,) each in nats (Cremer, Li & Duvenaud 2018).

    Attributes:
        log_evidence: by importance weights of the refined posterior.
        refined: ELBO of the row's own best posterior of the guide's family.
        guide: ELBO of the guide's output.
        approximation: log_evidence - refined: what the family cannot reach, and what too few steps did not.
        amortization: refined - guide: what one network for all rows costs.
    """

    log_evidence: Tensor
    refined: Tensor
    guide: Tensor
    approximation: Tensor
    amortization: Tensor


@dataclass(frozen=True)
class Refined:
    """The refined posteriors of a batch of rows. Made by `refine`.

    Attributes:
        before: ELBO of the guide's output (N,), in nats.
        after: ELBO of the refined posteriors (N,), with the same random numbers; a row that gained nothing keeps the
            guide's output.
    """

    pair: Pair
    table: Table
    offsets: Offsets
    before: Tensor
    after: Tensor

    def log_evidence(self, particles: int = 1000) -> Tensor:
        """log p(x_o) of each row by importance weights, the refined posterior as proposal, (N,) in nats."""
        with Blocks(self.pair, self.table).evaluating():
            return _weights(self.pair, self.table, self.offsets, particles).logsumexp(0) - math.log(particles)

    def sample(self, draws: int = 100) -> dict[str, Tensor]:
        """Draw each latent from the refined posterior, not reweighted, (S, N, …)."""
        with Blocks(self.pair, self.table).evaluating(), Moved(self.offsets):
            found = guide_draws(self.pair, self.table, draws)
        return {name: value.squeeze(2) for name, value in found.items()}


def refine(
    pair: Pair, x: Any, mask: Any = None, steps: int = 200, learning_rate: float = 0.1, particles: int = 8
) -> Refined:
    """Maximise the ELBO of each row over a posterior of its own, from the guide's output.

    Adam on all rows at once, its rate falling to 0 along a cosine. The gradient is the path derivative (Roeder, Wu &
    Duvenaud 2017), which has no variance at an exact posterior. Story and guide stay as they are.

    References: Cremer, Li & Duvenaud 2018; Kim, Wiseman, Miller, Sontag & Rush 2018.

    Args:
        pair: its guide draws local latents from Normal or MultivariateNormal.
        x: a batch of rows, (N, D), NaN = missing; or a mapping by name.
        mask: True = observed.
        steps: of Adam.
        learning_rate: its rate at first, in units of log-scales and, for locations, of the guide's scale.
        particles: draws a step.

    Raises:
        Problem: a guide whose draws are not Gaussian, or global.
    """
    _refuse_steps(steps, learning_rate)
    table = enter(pair, x, mask)
    with Blocks(pair, table).evaluating():
        none = start(pair, table)
        offsets = climb(pair, table, none, steps, learning_rate, particles)
        before, after = _compared(pair, table, none, offsets)
        rounding = 1e3 * torch.finfo(before.dtype).eps * (1 + before.abs().amax(0))
        wrong = before.amax(0) - before.amin(0) > rounding  # an exact posterior's log-weights do not vary
        better = wrong & (after.mean(0) > before.mean(0))
        kept = {name: (_only(better, a), _only(better, b)) for name, (a, b) in offsets.items()}
        before, after = _compared(pair, table, none, kept)  # the rows were chosen by other draws
    return Refined(pair, table, kept, before.mean(0), after.mean(0))


def gaps(
    pair: Pair, x: Any, mask: Any = None, steps: int = 200, learning_rate: float = 0.1, particles: int = 1000
) -> Gaps:
    """Split what the guide's ELBO lacks of the log-evidence into amortization and approximation.

    The log-evidence is the importance-weighted estimate with ``particles`` draws of the refined posterior, a lower bound
    in expectation; where its Pareto k is high, `ppvae.evaluate.ais` gives a tighter one. Arguments and errors as in
    `refine`.
    """
    found = refine(pair, x, mask, steps, learning_rate)
    evidence = found.log_evidence(particles)
    return Gaps(evidence, found.after, found.before, evidence - found.after, found.after - found.before)


@dataclass(frozen=True)
class memoryless:  # noqa: N801  (a verb of the library)
    r"""The ELBO at posteriors refined from the guide's output in every step: variational EM, without a memory of rows.

    .. math:: E_{q_n^*(z)}[\log p(x_o, z) - \log q_n^*(z)], \quad q_n^* \text{ after } steps \text{ steps from } q(z | x_n)

    The refined posterior is held while the story learns; the guide's own parameters get no gradient, and are trained by
    `ppvae.elbo` before or after. A bound for any number of steps.

    References: Neal & Hinton 1998; Hoffman, Blei, Wang & Paisley 2013.

    Args:
        steps: of Adam on each row's posterior.
        learning_rate: as in `refine`.
        particles: draws a step.
    """

    steps: int = 20
    learning_rate: float = 0.1
    particles: int = 8
    unit: ClassVar[str] = "nats per row"
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _refuse_steps(self.steps, self.learning_rate)

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The bound of each row, (N,), whose gradient reaches the story alone."""
        table = enter(pair, x, mask)
        with torch.no_grad():
            offsets = climb(pair, table, start(pair, table), self.steps, self.learning_rate, self.particles)
            with Moved(offsets):
                drawn = dict(run(pair, table, self.particles).drawn())
        at = {name: site["value"] for name, site in drawn.items() if name in offsets}
        with At(at), Moved(offsets):  # the inner one first: these are the values of the moved distributions
            traces = run(pair, table, self.particles)
        log_q = added(by_row(log_prob(traces.guide.nodes[name]), traces) for name in offsets)
        return (weights_of(traces) + log_q - log_q.detach()).mean(0)


def _weights(pair: Pair, table: Table, offsets: Offsets, particles: int) -> Tensor:
    """log p(x_o, z) - log q*(z) of draws of the refined posteriors, (P, N), in blocks of draws."""
    together = max(1, Blocks(pair, table).rows_at_once(1)[0] // len(table))
    with Moved(offsets):
        return torch.cat(
            [weights_of(run(pair, table, min(together, particles - done))) for done in range(0, particles, together)]
        )


def _compared(pair: Pair, table: Table, first: Offsets, second: Offsets) -> tuple[Tensor, Tensor]:
    """Log-weights (P, N) under either, with the same random numbers."""
    devices = {value.device for value in table.values.values() if value.is_cuda}
    with torch.random.fork_rng(devices):
        before = _weights(pair, table, first, DRAWS)
    return before, _weights(pair, table, second, DRAWS)


def _only(rows: Tensor, offsets: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, *[1] * (offsets.dim() - 1)), offsets, 0.0)


def _refuse_steps(steps: Any, learning_rate: Any) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise Problem(f"steps is {steps!r}", "steps are a whole number of at least 1", "steps=200")
    if not isinstance(learning_rate, (int, float)) or not learning_rate > 0:
        raise Problem(f"learning_rate is {learning_rate!r}", "a rate is a positive number", "learning_rate=0.1")
