"""Hamiltonian moves on tempered densities, all chains of all rows at once, without Pyro in the inner loop."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.evaluate.density import Latents

log = logging.getLogger("ppvae")

Target = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(u (P, N, U), beta (N,)) to log f_0 (P, N), log p - log f_0 (P, N), and the gradient of log f_beta (P, N, U)."""


def hamiltonian(target: Target, u: Tensor, beta: Tensor, step: Tensor, leapfrog: int) -> tuple[Tensor, Tensor, Tensor]:
    """Move every chain once, leaving f_beta invariant (Neal 2011, section 3.2).

    Args:
        target: see `Target`.
        u: (P, N, U).
        beta: (N,).
        step: (N,); each chain varies it by up to a fifth, so that no path closes on itself.
        leapfrog: steps of the path.

    Returns:
        The points (P, N, U), log p - log f_0 there (P, N), and the probability with which each proposal was accepted (P, N).
    """
    step = (step * (0.8 + 0.4 * torch.rand_like(u[..., 0]))).unsqueeze(-1)  # (P, N, 1)
    momentum = torch.randn_like(u)
    base, ratio, gradient = target(u, beta)
    energy = base + beta * ratio - 0.5 * momentum.square().sum(-1)
    there, moved = u, momentum
    for _ in range(leapfrog):
        moved = moved + 0.5 * step * gradient
        there = there + step * moved
        new_base, new_ratio, gradient = target(there, beta)
        moved = moved + 0.5 * step * gradient
    chance = (new_base + beta * new_ratio - 0.5 * moved.square().sum(-1) - energy).exp().clamp(max=1).nan_to_num(0.0)
    accepted = torch.rand_like(chance) < chance
    return torch.where(accepted[..., None], there, u), torch.where(accepted, new_ratio, ratio), chance


def staged(latents: Latents, table: Table, chains: int, start: str) -> Target:
    """The target of a block of rows as one flat graph of densities and gradient, without Pyro; eager where it cannot be."""

    def target(u: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            base, ratio = latents.densities(table, u, start)
            (gradient,) = torch.autograd.grad((base + beta * ratio).sum(), u)
        return base.detach(), ratio.detach(), gradient

    u = latents.draw(table, chains, start)
    half = torch.full_like(u[0, :, 0], 0.5)
    try:
        graph = make_fx(target)(u, half)
        if all(torch.equal(a, b) for a, b in zip(graph(u, half / 2), target(u, half / 2), strict=True)):
            return graph
        log.info("the annealed density is not staged: the graph differs from the eager run")
    except Problem:
        raise
    except Exception as error:  # whatever cannot be traced says so in its own way
        log.info("the annealed density is not staged: %s", error)
    return target
