"""The ways to complete a table of numbers: each takes rows on the columns' scales and gives means and draws of what is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppvae import exact, objectives
from ppvae.catalogue import make
from ppvae.conditioning.posterior import Posterior, condition
from ppvae.exact.choice import candidates, em_quietly, hidden_errors
from ppvae.exact.gaussian import conditional, conditional_draws, gaussian, gaussian_posterior
from ppvae.fitting.loop import fit
from ppvae.imputation.columns import Columns
from ppvae.imputation.completed import Completed
from ppvae.imputation.hidden import tenth
from ppvae.imputation.mixture import gaussians
from ppvae.imputation.normal_scores import score_mixture
from ppvae.machine import own_generators

VAE_STEPS = 3000
VAE_BATCH = 64


class Way(NamedTuple):
    """One way to complete a table.

    Attributes:
        complete: (rows (N, D) on their columns' scales, NaN = missing; draws; seed) to `Completed` on those scales.
        warp: on warped columns, else on standardised ones.
        says: what it supposes of a table, in a sentence.
    """

    complete: Callable[[Tensor, int, int], Completed]
    warp: bool
    says: str = ""


def complete(x: Tensor, way: Way, draws: int, seed: int = 0) -> Completed:
    """Complete a table in its own units; observed entries come back bit for bit.

    Args:
        x: (N, D), NaN = missing; every column varies.
        way: how.
        draws: S.
        seed: equal seeds give equal numbers.
    """
    columns = Columns(x, way.warp)
    found = way.complete(columns.forward(x), draws, seed)
    drawn = columns.back(found.draws)
    # The mean of a bent scale is not the bent mean: on warped columns it is the draws' own.
    mean = drawn.mean(0) if way.warp else columns.back(found.mean)
    mean, drawn = (torch.where(x.isnan(), value.to(x), x) for value in (mean, drawn))
    return Completed(mean, drawn, found.found)


def column_means(z: Tensor, draws: int, seed: int) -> Completed:
    """0 everywhere, draws from N(0, 1): what a column says of itself."""
    noise = torch.randn(draws, *z.shape, generator=torch.Generator().manual_seed(seed), dtype=z.dtype)
    return Completed(torch.zeros_like(z), noise.to(z.device))


def factor_analysis(z: Tensor, draws: int, seed: int, *, latents: int | None = None, tied: bool = False) -> Completed:
    """Factor analysis by EM, with as many factors as predict a hidden tenth of the observed entries best, or ``latents``."""
    sizes = [latents] if latents else candidates(z.shape[1])
    hidden = tenth(z, seed)
    errors = hidden_errors(z, hidden, sizes) if len(sizes) > 1 and hidden.any() else {}
    K = min(errors, key=errors.__getitem__) if errors else sizes[0]
    fitted = em_quietly(z, K, iterations=1000, tolerance=1e-5, tied=tied)
    pair = make("factor_analysis_exact", z.shape[1], K).to(z)
    pair.decoder.set_(*fitted[:3])
    mean = exact.impute_mean(*fitted[:3], z.nan_to_num(), ~z.isnan())
    found = {
        "latents": K,
        "rmse_by_latents": errors,
        "iterations": len(fitted.log_likelihood) - 1,
        "log_likelihood": float(fitted.log_likelihood[-1]),
    }
    return Completed(mean, _draws(condition(pair, z), draws, seed), found)


def ppca(z: Tensor, draws: int, seed: int) -> Completed:
    """`factor_analysis` with one noise scale for all columns."""
    return factor_analysis(z, draws, seed, tied=True)


def gaussian_em(z: Tensor, draws: int, seed: int) -> Completed:
    """One Gaussian with a full covariance by EM, its parameters held at their estimates."""
    fitted, seen = gaussian(z, iterations=500, tolerance=1e-5), ~z.isnan()
    mean, _ = conditional(fitted.loc, fitted.covariance, z, seen)
    with own_generators(seed):
        return Completed(mean, conditional_draws(fitted.loc, fitted.covariance, z, seen, draws))


def gaussian_uncertain(z: Tensor, draws: int, seed: int) -> Completed:
    """One Gaussian whose mean and covariance are drawn too."""
    return Completed(*gaussian_posterior(z, draws=draws, seed=seed))


def mixture_of_scores(z: Tensor, draws: int, seed: int) -> Completed:
    """A mixture of Gaussians on the columns' normal scores, its parameters drawn too."""
    return Completed(*score_mixture(z, draws, seed))


def vae(z: Tensor, draws: int, seed: int, *, steps: int | None = None) -> Completed:
    """A VAE trained by the missing-data importance-weighted bound (Mattei & Frellsen 2019), 20 particles.

    As many steps whatever the number of rows, `VAE_STEPS` by default; one learned noise scale a column; a product of rank-one experts reads the entries.
    """
    D = z.shape[1]
    with own_generators(seed):
        pair = make("vae", D, min(10, D), hidden=(128, 128), likelihood="normal", encoder="experts")
    batch = min(VAE_BATCH, len(z))
    epochs = max(1, round((steps or VAE_STEPS) * batch / len(z)))
    rows = z.to(torch.get_default_dtype())
    options: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch,
        "learning_rate": 3e-3,
        "seed": seed,
        "progress": False,
        "device": z.device,
    }
    fit(pair, rows[~rows.isnan().all(1)], objective=objectives.iw_elbo(20), **options)
    drawn = _draws(condition(pair, rows), draws, seed).to(z)
    return Completed(drawn.mean(0), drawn)


WARPED = " Columns are made symmetric first, and every value stays within the range that was observed."
WAYS = {
    "Column means": Way(column_means, False, "A column says nothing of another."),
    "PPCA": Way(ppca, False, "All columns follow a few factors, with equal noise."),
    "Factor analysis": Way(
        factor_analysis, False, "All columns follow a few factors that each row has, with a noise of their own."
    ),
    "Factor analysis, warped columns": Way(
        factor_analysis, True, "All columns follow a few factors that each row has, with a noise of their own." + WARPED
    ),
    "Gaussian by EM": Way(gaussian_em, False, "Any two columns may be correlated, and how is taken to be known."),
    "Gaussian, uncertain parameters": Way(
        gaussian_uncertain, False, "Any two columns may be correlated, and draws allow for not knowing quite how."
    ),
    "Gaussian, uncertain parameters, warped columns": Way(
        gaussian_uncertain,
        True,
        "Any two columns may be correlated, and draws allow for not knowing quite how." + WARPED,
    ),
    "Gaussian mixture": Way(gaussians, False, "Rows come in kinds, and in each any two columns may be correlated."),
    "Gaussian mixture, warped columns": Way(
        gaussians, True, "Rows come in kinds, and in each any two columns may be correlated." + WARPED
    ),
    "Gaussian mixture, normal scores": Way(
        mixture_of_scores, False, "Columns keep their observed laws; how they hang together may bend."
    ),
    "VAE, warped columns": Way(
        vae, True, "All columns follow a few latent variables along curves that a network learns." + WARPED
    ),
}


def _draws(post: Posterior, draws: int, seed: int) -> Tensor:
    with own_generators(seed):
        return post.impute(draws)
