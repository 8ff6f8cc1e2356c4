"""Evidence of each row by importance weights, with its error and with a word on whether to trust it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppvae.conditioning import export
from ppvae.conditioning.averages import effective, log_mean_exp
from ppvae.conditioning.posterior import condition
from ppvae.errors import refuse_count
from ppvae.pair import Pair


class Evidence(NamedTuple):
    """Importance-weighted evidence of each row, (N,) each.

    Attributes:
        log_evidence: log of the mean weight, in nats.
        standard_error: of log_evidence, by the delta method; 0 where all weights are equal, NaN with one particle.
        ess: effective number of draws, (sum w)^2 / sum w^2.
        pareto_k: tail index of the weights; -inf where all are equal.
        reliable: pareto_k is at most `pareto_threshold`.
    """

    log_evidence: Tensor
    standard_error: Tensor
    ess: Tensor
    pareto_k: Tensor
    reliable: Tensor


def evidence(pair: Pair, x: Any, mask: Any = None, particles: int = 1000) -> Evidence:
    r"""Estimate log p(x_o) of each row with its standard error, in one pass over blocks of rows and particles.

    .. math:: \log \bar w, \quad \mathrm{se} = \sqrt{\tfrac{P}{P-1} (1/\mathrm{ESS} - 1/P)}, \quad
        E[\log \bar w] \approx \log p(x_o) - \mathrm{se}^2 / 2

    The logarithm bends down, hence the bias of half the squared error, by which a second-order jackknife would correct;
    both hold where the weights have a variance: where ``reliable``.

    Args:
        pair: fitted, or not.
        x: (N, D) array, tensor or DataFrame, NaN = missing; or a mapping by name.
        mask: True = observed.
        particles: P.

    Raises:
        Problem: the pair has a global latent, so that no row has an evidence of its own.
    """
    refuse_count("particles", particles)
    post = condition(pair, x, mask)
    threshold, parts = pareto_threshold(particles), []
    with post.evaluating():
        for rows, blocks in post.blocks(particles):
            weights = torch.cat([post.log_weights(rows, block) for block in blocks])  # (P, n)
            k = export.pareto_k(weights)
            parts.append(
                Evidence(log_mean_exp([weights]), relative_error(weights), effective(weights), k, k <= threshold)
            )
    return Evidence(*(torch.cat(part) for part in zip(*parts, strict=True)))


def pareto_threshold(particles: int) -> float:
    """The tail index above which S weights are not to be trusted: min(1 - 1 / log10 S, 0.7).

    Reference: Vehtari, Simpson, Gelman, Yao & Gabry 2024. With ten draws or fewer none is.
    """
    refuse_count("particles", particles)
    return min(1 - 1 / math.log10(particles), 0.7) if particles > 1 else -math.inf


def relative_error(log_weights: Tensor) -> Tensor:
    """Standard error of the mean weight relative to it, that is of its logarithm: (P, N) to (N,)."""
    w = (log_weights - log_weights.amax(0)).exp()
    return w.std(0) / w.mean(0) / math.sqrt(len(w))
