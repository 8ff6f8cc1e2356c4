"""Bounds made of importance weights: the IWAE bound, and Rényi's, of which it is one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.objectives.holding import Renamed, free, held_guide, refuse_dependent
from ppvae.objectives.options import refuse_gradient, refuse_kl, refuse_particles
from ppvae.objectives.scores import leave_one_out_bound, run_for_scores
from ppvae.pair import Pair
from ppvae.tracing.terms import log_weights, refuse_dead_gradients, weights_of
from ppvae.tracing.traces import Traces, run


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
        gradient: the story's is the same in all but its noise; the guide's is
            "pathwise": through reparametrised draws; its signal falls below its noise as P grows (Rainforth et al. 2018).
            "stl": through the draws alone, log q's own parameters held. Biased for P > 1: the scores that it leaves
            out have mean 0 only under equal weights. (Roeder, Wu & Duvenaud 2017)
            "dreg": the unbiased form, in which each draw's path counts by its squared weight; its signal-to-noise rises
            with P. (Tucker et al. 2019)
            "vimco": for draws that cannot be reparametrised; two particles or more. (Mnih & Rezende 2016)
        kl: refused; see `elbo`.
    """

    particles: int = 5
    gradient: str = "pathwise"
    kl: None = field(default=None, repr=False)
    unit: ClassVar[str] = "nats per row"
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_kl(self.kl, "iw_elbo")
        refuse_gradient(self.gradient, ("pathwise", "stl", "dreg", "vimco"), "iw_elbo")
        if self.gradient == "vimco":
            refuse_particles(self.particles, 2, "each draw's baseline is made of the others: a number of draws")
        refuse_particles(self.particles)

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The bound of each row, (N,)."""
        table = enter(pair, x, mask)
        if self.gradient == "vimco" and torch.is_grad_enabled():
            return _vimco(pair, table, self.particles)
        return _weighted(pair, table, self.particles, 0.0, self.gradient)


@dataclass(frozen=True)
class renyi:
    r"""The variational Rényi bound, per row in nats.

    .. math:: \frac{1}{1-\alpha} E \log \frac{1}{P} \sum_{p=1}^P w_p^{1-\alpha}, \quad w_p = \frac{p(x_o, z_p)}{q(z_p|x)}

    It falls as α rises: α = 0 is `iw_elbo`, α = 1 the ELBO (by draws: no KL in closed form). For α >= 0 it is a lower
    bound at every P. For α < 0 it is one at P = 1, where it is the ELBO, and rises to an upper bound as P grows: at a
    given P it is neither, and ``unit`` is None.

    Reference: Li & Turner 2016, eq. 4, theorems 1-2.

    Args:
        alpha: any finite number.
        particles: P.
        gradient: "pathwise", "stl" or "dreg", as in `iw_elbo`. "dreg" weighs each draw's path by α v + (1 - α) v², v the
            normalised w^(1-α) (Tucker et al. 2019).
        kl: refused; see `elbo`.
    """

    alpha: float
    particles: int = 5
    gradient: str = "pathwise"
    kl: None = field(default=None, repr=False)
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, (int, float)) or isinstance(self.alpha, bool) or not math.isfinite(self.alpha):
            raise Problem(
                f"alpha is {self.alpha!r}", "the order of a divergence is a finite number", "renyi(0.5, particles=5)"
            )
        refuse_kl(self.kl, "renyi")
        refuse_gradient(self.gradient, ("pathwise", "stl", "dreg"), "renyi")
        refuse_particles(self.particles)

    @property
    def unit(self) -> str | None:
        """None where alpha is negative: the number is then neither a lower nor an upper bound."""
        return "nats per row" if self.alpha >= 0 else None

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The bound of each row, (N,)."""
        return _weighted(pair, enter(pair, x, mask), self.particles, float(self.alpha), self.gradient)


def _weighted(pair: Pair, table: Table, particles: int, alpha: float, gradient: str) -> Tensor:
    """log mean w^(1-α) / (1-α) of each row, (N,)."""
    if gradient == "pathwise" or not torch.is_grad_enabled():
        return log_mean(log_weights(pair, table, particles), alpha)
    renamed = Renamed()
    with renamed:
        traces = run(pair, table, particles)
    refuse_dead_gradients(traces)
    held = held_guide(pair, table, traces)
    weights = weights_of(held)
    if gradient == "dreg":
        refuse_dependent(traces)
        v = ((1 - alpha) * weights.detach()).softmax(0)
        _scale_paths(held, alpha + (1 - alpha) * v)
    return log_mean(weights, alpha)


def log_mean(log_weights: Tensor, alpha: float) -> Tensor:
    if alpha == 1:
        return log_weights.mean(0)
    if alpha == 0:
        return log_weights.logsumexp(0) - math.log(len(log_weights))
    return (((1 - alpha) * log_weights).logsumexp(0) - math.log(len(log_weights))) / (1 - alpha)


def _scale_paths(held: Traces, factor: Tensor) -> None:
    """Multiply the gradient that enters the guide's draws by a factor of each particle and row, (P, N).

    It comes back along log p and along log q, held, and meets here before it goes on through the guide: once, however
    the guide's sites depend on one another. d/dφ E_q[v] is written E[(1 - α) v (1 - v) · path], whence the factor.
    """
    for name, site in held.drawn():
        value = held.model.nodes.get(name, site)["value"]  # what story and held guide were both given
        if value.requires_grad:
            lead = factor if held.particles > 1 else factor[0]  # (P, N), or (N,) without a plate of particles
            shaped = lead.reshape(*lead.shape, *[1] * (value.dim() - lead.dim()))
            value.register_hook(lambda gradient, shaped=shaped: gradient * shaped)


def _vimco(pair: Pair, table: Table, particles: int) -> Tensor:
    traces, log_q = run_for_scores(pair, table, particles)
    refuse_dead_gradients(traces, scores=True)
    weights = weights_of(traces)
    bound = log_mean(weights, 0.0)
    learned = bound.detach() - leave_one_out_bound(weights.detach())  # (P, N)
    return bound + (free(log_q) * learned).sum(0)
