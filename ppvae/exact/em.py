"""Factor analysis by expectation maximisation, any entries missing."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ppvae.errors import Caution, Problem
from ppvae.exact.checks import as_matrix, columns, observed_entries, refuse
from ppvae.exact.expectation import Expectation, Moments, State, complete, incomplete
from ppvae.exact.linear_gaussian import block_rows, unpack
from ppvae.exact.ppca import FactorAnalysis, principal

# Least noise scale, as a share of a column's standard deviation. Below it (a Heywood case: the latents
# reproduce a column exactly) the likelihood can grow without bound, and the posterior precisions lose their
# last digits.
FLOOR = 1e-3


def em(
    x: Tensor,
    latents: int,
    mask: Tensor | bool | None = None,
    *,
    tied: bool = False,
    iterations: int = 1000,
    tolerance: float = 1e-6,
) -> FactorAnalysis:
    r"""Fit factor analysis by EM: maximise the likelihood of the observed entries over W, loc and scale.

    E-step: the exact p(z | x_o) of every row. M-step, with y = (z, 1), for each feature j over the N_j rows n
    that observe it:

    .. math::
        (w_j, loc_j) = \Big(\sum_n E[y_n y_n^\top]\Big)^{-1} \sum_n x_{nj} E[y_n], \quad
        \psi_j = \frac{1}{N_j} \sum_n x_{nj} \big(x_{nj} - (w_j, loc_j)^\top E[y_n]\big)

    After it the latents are rescaled to mean 0 and covariance I (PX-EM), faster and as monotone.

    The start is the closed form of `ppca` on standardised columns, missing entries filled by their means;
    nothing is random. The likelihood never falls. Entries are assumed missing at random; rows of which
    nothing is observed are allowed and teach nothing. Computes in float64. A noise scale is at least 1e-3 of
    its column's standard deviation (tied: of the columns' root mean square standard deviation).

    References: Rubin & Thayer 1982, EM algorithms for ML factor analysis; Tipping & Bishop 1999 for `tied`;
    Liu, Rubin & Wu 1998 for parameter expansion.

    Args:
        x: data (N, D).
        latents: K, from 1 to D - 1.
        mask: True = observed; (N, D), or (N, 1) by row. None: NaN means missing.
        tied: one noise scale for all features, which is probabilistic PCA.
        iterations: at most this many.
        tolerance: stop when an iteration gains less, in nats per row.

    Returns:
        W, loc, scale and the mean log-likelihood over all N rows: of the start, then after each iteration.

    Raises:
        Problem: a wrong shape; columns that are constant, wholly missing or infinite; latents out of range.

    Warns:
        Caution: still gaining after the last iteration; a noise scale at its least value.
    """
    x, dtype = as_matrix(x, latents)
    if iterations < 1 or not tolerance >= 0:
        raise Problem(
            f"iterations={iterations}, tolerance={tolerance}",
            "EM needs at least one iteration and a gain, in nats per row, to stop at",
            "iterations=1000, tolerance=1e-6",
        )
    N, mask = len(x), observed_entries(x, mask)
    x, mean, unit = _standardised(x, mask, tied)
    some = mask.any(-1)
    x, mask = x[some], mask[some]
    W, noise, _ = principal(x, latents)
    start = State(W, torch.zeros_like(mean), noise.expand(len(mean)).clamp_min(FLOOR**2))
    state, values = ascend(
        complete(x) if mask.all() else incomplete(x, mask),
        start,
        tied=tied,
        iterations=iterations,
        tolerance=tolerance * N,
    )
    caution_unfinished(values / N, iterations, tolerance)
    if (state.psi <= FLOOR**2).any():
        warnings.warn(
            f"the noise scale of {columns(state.psi <= FLOOR**2)} stands at its least value, {FLOOR:g} "
            "of the standard deviation: the latents reproduce these columns exactly (a Heywood case); "
            "try fewer latents or more rows",
            Caution,
            stacklevel=2,
        )
    # Densities of x are those of the standardised entries divided by the units.
    log_likelihood = (values - (mask.sum(0) * unit.log()).sum()) / N
    fit = state.W * unit.unsqueeze(-1), mean + unit * state.loc, state.psi.sqrt() * unit, log_likelihood
    return FactorAnalysis(*(value.to(dtype) for value in fit))


def caution_unfinished(values: Tensor, iterations: int, tolerance: float) -> None:
    """Say so where EM, whose likelihoods in nats per row these are, was stopped by its last iteration."""
    if len(values) > iterations and values[-1] - values[-2] >= tolerance:
        warnings.warn(
            f"EM still gained {(values[-1] - values[-2]).item():.2g} nats per row in iteration {iterations}, its last: "
            "pass more iterations or a larger tolerance",
            Caution,
            stacklevel=3,
        )


def ascend(expect: Expectation, state: State, *, tied: bool, iterations: int, tolerance: float) -> tuple[State, Tensor]:
    """Climb until an iteration gains less than `tolerance` nats; give the last state, all log-likelihoods.

    The E-step that would start the next iteration also scores the last M-step: values cost no factorisation.
    """
    moments = expect(state)
    values = [moments.log_likelihood]
    for _ in range(iterations):
        state = maximise(moments, tied)
        moments = expect(state)
        values.append(moments.log_likelihood)
        if values[-1] - values[-2] < tolerance:
            break
    return state, torch.stack(values)


def maximise(moments: Moments, tied: bool) -> State:
    """Give the parameters that maximise the expected complete-data log-likelihood, psi from FLOOR^2 up.

    For given W and loc that likelihood has one peak in each variance, so the floor yields the maximum under
    the constraint, and EM stays monotone.

    The prior of z is fitted too, as N(mean, covariance); W and loc then take it back to N(0, I). That is the
    same story, reached in fewer iterations (parameter-expanded EM): with half of the entries missing, far
    fewer. Reference: Liu, Rubin & Wu 1998, Parameter expansion to accelerate EM.
    """
    D, size = moments.xy.shape  # size = K + 1
    if len(moments.yy) == 1:
        L = torch.linalg.cholesky(unpack(moments.yy, size)[0])
        w = torch.cholesky_solve(moments.xy.mT, L).mT  # (D, K + 1)
    else:
        features = block_rows(size, moments.yy.element_size())  # each brings matrices, as a row does
        w = torch.cat(
            [
                torch.cholesky_solve(xy.unsqueeze(-1), torch.linalg.cholesky(unpack(yy, size))).squeeze(-1)
                for yy, xy in zip(moments.yy.split(features), moments.xy.split(features), strict=True)
            ]
        )  # (D, K + 1)
    squares = moments.xx - (w * moments.xy).sum(-1)  # (D,)
    psi = (squares.sum() / moments.rows.sum()).expand(D) if tied else squares / moments.rows
    W, loc = w[:, :-1], w[:, -1]
    total = unpack(moments.total, size)[0]  # (K + 1, K + 1)
    mean = total[-1, :-1] / total[-1, -1]  # (K,)
    covariance = total[:-1, :-1] / total[-1, -1] - torch.outer(mean, mean)
    return State(W @ torch.linalg.cholesky(covariance), loc + W @ mean, psi.clamp_min(FLOOR**2))


def _standardised(x: Tensor, mask: Tensor, tied: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Give x (N, D) centred, in units of its standard deviations, 0 where missing; means and units (D,).

    Tied noise has one unit for all columns. The fit does not depend on units; rounding and the floor do.
    """
    count = mask.sum(0)  # (D,)
    refuse(count == 0, "no observed value", "nothing can be learnt about them", "leaving these columns out")
    x = torch.where(mask, x, 0.0)
    largest = x.abs().amax(0)
    mean = x.sum(0) / count
    x = torch.where(mask, x - mean, 0.0)
    variance = x.square().sum(0) / count
    # The mean of equal numbers may differ from them in the last digit.
    constant = variance.sqrt() <= 1e-14 * largest
    if tied:
        variance = (x.square().sum() / count.sum()).expand_as(variance)
        constant = constant.all().expand_as(constant)
    refuse(
        constant,
        "the same value in all observed rows",
        "without any spread the noise scale is zero and the likelihood infinite",
        "leaving these columns out, or tied=True, where one noise scale serves all columns",
    )
    unit = variance.sqrt()
    return x / unit, mean, unit
