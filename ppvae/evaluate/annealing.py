r"""Annealed importance sampling with Hamiltonian moves, and the bracket that it gives on simulated rows.

From a distribution that can be sampled (the guide, or the prior) to the posterior in T steps, row by row:

    log f_t(z) = (1 - beta_t) log q(z | x) + beta_t log p(x_o, z),   0 = beta_0 < … < beta_T = 1

A chain starts at z_0 ~ q and moves by a kernel that leaves f_t invariant; its log-weight is
sum_t (beta_t - beta_{t-1}) [log p(x_o, z_{t-1}) - log q(z_{t-1} | x)], and the mean weight is p(x_o) without bias. Run the
other way from an exact draw of the posterior, which rows simulated from the story have, the mean of 1 / weight is
1 / p(x_o). By Jensen the logarithms bracket log p(x_o) in expectation.

References: Neal 2001; Wu, Burda, Salakhutdinov & Grosse 2017; Grosse, Ghahramani & Adams 2015; Grosse, Ancha & Roy 2016.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppvae.conditioning.averages import effective
from ppvae.conditioning.posterior import condition
from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.evaluate.density import Latents, simulate
from ppvae.evaluate.moves import Target, hamiltonian, staged
from ppvae.evaluate.weights import relative_error
from ppvae.pair import Pair
from ppvae.tracing.hidden import refuse_hidden

ACCEPTANCE = 0.65  # what the steps are tuned to (Neal 2011, section 4.4)
WARM = 20  # moves of the pilot at the first temperature, from a step that may be far off


class Annealed(NamedTuple):
    """What annealed importance sampling found of each row, (N,) each.

    Attributes:
        log_evidence: log of the mean weight of the chains, in nats; below log p(x_o) in expectation, by about half the
            squared standard error.
        standard_error: of log_evidence over the chains, by the delta method; NaN with one chain.
        ess: effective number of chains, (sum w)^2 / sum w^2.
        acceptance: mean acceptance of the moves.
    """

    log_evidence: Tensor
    standard_error: Tensor
    ess: Tensor
    acceptance: Tensor


class Bracket(NamedTuple):
    """Bounds on log p(x_o) of simulated rows, (N,) each in nats, that hold in expectation.

    Attributes:
        lower: from chains towards the posterior.
        upper: from chains that start at the latents which the row was made from.
        gap: upper - lower.
        rows: the simulated entries by name, NaN where hidden.
    """

    lower: Tensor
    upper: Tensor
    gap: Tensor
    rows: dict[str, Tensor]


def ais(
    pair: Pair,
    x: Any,
    mask: Any = None,
    chains: int = 16,
    temperatures: int = 500,
    leapfrog: int = 10,
    start: str = "guide",
) -> Annealed:
    """Estimate log p(x_o) of each row by annealed importance sampling.

    Temperatures and steps are tuned per row in a pilot run of a tenth as many temperatures, and then held: tuned on the
    run itself, they would depend on the chains that they move, and the mean weight would be biased.

    Args:
        pair: its latents are continuous and local; discrete ones are enumerated by the story.
        x: (N, D) array, tensor or DataFrame, NaN = missing; or a mapping by name.
        mask: True = observed.
        chains: independent chains a row.
        temperatures: T.
        leapfrog: leapfrog steps of a move.
        start: f_0: "guide", q(z | x), or "prior", p(z).

    Raises:
        Problem: latents that cannot be moved by gradients, a count that is none.
    """
    _refuse_options(start, chains=chains, temperatures=temperatures, leapfrog=leapfrog)
    post = condition(pair, x, mask)
    with post.evaluating():
        latents = Latents(pair, post.table)
        blocks = []
        for rows in post.row_blocks(chains):
            target = staged(latents, rows, chains, start)
            betas, steps = _tuned(latents, rows, chains, temperatures, leapfrog, start, target)
            weights, accepted = _forward(target, latents.draw(rows, chains, start), betas, steps, leapfrog)
            mean = weights.logsumexp(0) - math.log(chains)
            blocks.append(Annealed(mean, relative_error(weights), effective(weights), accepted))
        return Annealed(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def bdmc(
    pair: Pair,
    x: Any,
    mask: Any = None,
    chains: int = 16,
    temperatures: int = 500,
    leapfrog: int = 10,
    start: str = "guide",
) -> Bracket:
    """Bracket log p(x_o) of rows simulated from the story under the masks of the data: bidirectional Monte Carlo.

    The gap says how well `ais` with the same settings does on rows such as the story makes; on other rows it says
    nothing. As many rows are simulated as x has; covariates are those of the data. Arguments and errors as in `ais`.
    """
    _refuse_options(start, chains=chains, temperatures=temperatures, leapfrog=leapfrog)
    post = condition(pair, x, mask)
    with post.evaluating():
        latents = Latents(pair, post.table)
        lower, upper, made = [], [], []
        for data in post.row_blocks(chains):
            values, rows = simulate(pair, data)
            refuse_hidden(pair, rows)  # a story of the mask hides entries of complete data too
            target = staged(latents, rows, chains, start)
            betas, steps = _tuned(latents, rows, chains, temperatures, leapfrog, start, target)
            forward, _ = _forward(target, latents.draw(rows, chains, start), betas, steps, leapfrog)
            truth = latents.pack({name: values[name] for name in latents.shapes}).repeat(chains, 1, 1)
            backward = _backward(target, truth, betas, steps, leapfrog)
            lower.append(forward.logsumexp(0) - math.log(chains))
            upper.append(math.log(chains) - (-backward).logsumexp(0))
            made.append(rows)
    low, high = torch.cat(lower), torch.cat(upper)
    return Bracket(low, high, high - low, _hidden(made))


def _logistic(temperatures: int, like: Tensor) -> Tensor:
    """0 = beta_0 < … < beta_T = 1, denser at both ends (Grosse, Ghahramani & Adams 2015)."""
    curve = torch.linspace(-4, 4, temperatures + 1, dtype=like.dtype, device=like.device).sigmoid()
    return (curve - curve[0]) / (curve[-1] - curve[0])


def _tuned(
    latents: Latents, rows: Table, chains: int, temperatures: int, leapfrog: int, start: str, target: Target
) -> tuple[Tensor, Tensor]:
    """The temperatures of each row and the step at each, (T + 1, n) both, from a pilot run.

    The variance of a log-weight is least where each temperature adds the same: they go in proportion to the standard
    deviation of log p - log f_0 over the pilot's chains. Half of them stay logistic, whatever a noisy pilot says.
    """
    u = latents.draw(rows, chains, start)
    coarse = _logistic(max(20, temperatures // 10), u)  # (J + 1,)
    step = u.new_full((len(rows),), 0.5 * u.shape[-1] ** -0.25)
    for _ in range(WARM):
        u, _, chance = hamiltonian(target, u, coarse[1].expand(len(rows)), step, leapfrog)
        step = step * (chance.mean(0) - ACCEPTANCE).exp()
    steps, spread = [], []
    for beta in coarse:
        u, ratio, chance = hamiltonian(target, u, beta.expand(len(rows)), step, leapfrog)
        step = step * (0.5 * (chance.mean(0) - ACCEPTANCE)).exp()
        steps.append(step)
        spread.append(ratio.std(0, correction=0))
    steps, spread = torch.stack(steps), torch.stack(spread).nan_to_num(0.0)  # (J + 1, n)
    length = torch.trapezoid(spread, coarse, dim=0)
    even = torch.cumulative_trapezoid(spread, coarse[:, None], dim=0) / length
    even = torch.cat([torch.zeros_like(even[:1]), even])
    place = torch.linspace(0, 1, len(coarse), dtype=u.dtype, device=u.device)[:, None].expand_as(even)
    place = torch.where(length > 0, 0.5 * (even + place), place)  # of the coarse temperatures on the way, from 0 to 1
    wanted = torch.linspace(0, 1, temperatures + 1, dtype=u.dtype, device=u.device).expand(len(rows), -1)
    right = torch.searchsorted(place.T.contiguous(), wanted.contiguous()).clamp(1, len(coarse) - 1).T  # (T + 1, n)
    low, high = place.gather(0, right - 1), place.gather(0, right)
    share = ((wanted.T - low) / (high - low)).clamp(0, 1)
    return coarse[right - 1].lerp(coarse[right], share), steps.gather(0, right - 1).lerp(steps.gather(0, right), share)


def _forward(target: Target, u: Tensor, betas: Tensor, steps: Tensor, leapfrog: int) -> tuple[Tensor, Tensor]:
    """Log-weights of the chains (P, N), and their mean acceptance (N,)."""
    _, ratio, _ = target(u, betas[0])
    weights, accepted = betas[1] * ratio, []
    for t in range(1, len(betas) - 1):
        u, ratio, chance = hamiltonian(target, u, betas[t], steps[t], leapfrog)
        weights = weights + (betas[t + 1] - betas[t]) * ratio
        accepted.append(chance.mean(0))
    return weights, torch.stack(accepted).mean(0) if accepted else torch.ones_like(weights[0])


def _backward(target: Target, u: Tensor, betas: Tensor, steps: Tensor, leapfrog: int) -> Tensor:
    """Log-weights (P, N) of chains that run from the posterior, at u, to f_0."""
    _, ratio, _ = target(u, betas[-1])
    weights = (betas[-1] - betas[-2]) * ratio
    for t in range(len(betas) - 2, 0, -1):
        u, ratio, _ = hamiltonian(target, u, betas[t], steps[t], leapfrog)
        weights = weights + (betas[t] - betas[t - 1]) * ratio
    return weights


def _hidden(blocks: list[Table]) -> dict[str, Tensor]:
    """The entries of blocks of rows by name, NaN where their masks are False."""
    names = blocks[0].values
    return {
        name: torch.cat(
            [
                torch.where(b.masks[name], b.values[name], torch.nan) if name in b.masks else b.values[name]
                for b in blocks
            ]
        )
        for name in names
    }


def _refuse_options(start: str, **counts: Any) -> None:
    if start not in ("guide", "prior"):
        raise Problem(f"start is {start!r}", "a misspelt name", "start='guide' or start='prior'")
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Problem(f"{name} is {value!r}", f"{name} is a whole number of at least 1", f"{name}=16")
