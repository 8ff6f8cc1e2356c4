r"""A mixture of Gaussians for all columns of a table, any entries missing.

    c_n ~ Categorical(weights),  x_n | c_n ~ N(loc_c, covariance_c)

Given the observed entries o of a row, with the precision P_c = covariance_c^-1,

    p(c | x_o) ∝ weights_c N(x_o; loc_c,o, covariance_c,oo),
    x_m | x_o, c ~ N(loc_c,m - P_c,mm^-1 P_c,mo (x_o - loc_c,o), P_c,mm^-1)

so that what is expected of a missing entry bends with the observed ones. Rows that observe the same entries share one
Cholesky factor of P_c,mm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ppvae.errors import Problem, refuse_count
from ppvae.exact.checks import as_matrix, observed_entries
from ppvae.exact.gaussian import gaussian_posterior
from ppvae.exact.linear_gaussian import CHUNK_BYTES

LOG_2PI = math.log(2 * math.pi)


class GaussianMixture(NamedTuple):
    """A fitted sum_c weights_c N(loc_c, covariance_c)."""

    weights: Tensor
    """(C,)"""
    loc: Tensor
    """(C, D)"""
    covariance: Tensor
    """(C, D, D)"""
    log_posterior: Tensor
    """Mean log-likelihood in nats per row, and 1/N of the log prior up to a constant: of the start, after each iteration; the
    last is of this fit. With ``prior=0`` the mean log-likelihood itself."""


class _Rows(NamedTuple):
    """Rows of a table that stand side by side, those of one pattern of gaps together."""

    at: Tensor  # (n,) of the table's rows
    x: Tensor  # (n, D), 0 where missing
    mask: Tensor  # (n, D)
    patterns: Tensor  # (G, D)
    which: Tensor  # (n,) of the patterns


class _Given(NamedTuple):
    """A block of rows given its observed entries, under every component."""

    mean: Tensor  # E[x | x_o, c], (C, n, D)
    covariance: Tensor  # of a pattern's missing entries, 0 elsewhere, (C, G, D, D)
    root: Tensor  # the Cholesky factor of P_mm, with 1 on the diagonal of o, (C, G, D, D)
    log_joint: Tensor  # log p(x_o, c), (C, n)


def gaussian_mixture(
    x: Tensor,
    components: int,
    mask: Tensor | bool | None = None,
    *,
    prior: float = 0.1,
    iterations: int = 200,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> GaussianMixture:
    r"""Fit a mixture of Gaussians by EM: maximise the likelihood of the observed entries under a weak prior.

    With r_nc = p(c | x_n,o) and expectations under p(x_m | x_o, c),

    .. math::
        n_c = \lambda + \sum_n r_{nc}, \quad loc_c = \frac{1}{n_c} \sum_n r_{nc} E[x_n], \quad
        covariance_c = \frac{1}{n_c} \Big(\lambda I + \sum_n r_{nc} E[x_n x_n^\top]\Big) - loc_c\, loc_c^\top

    on standardised columns: the prior is λ rows in each component, spread as the whole table is. It keeps a component of few
    rows regular. Starts from k-means of rows that one Gaussian completes, whose moments are the units; another seed finds
    another local maximum. The posterior never falls. Entries are assumed missing at random. Computes in float64.

    References: Ghahramani & Jordan 1994, Supervised learning from incomplete data via an EM approach; Fraley & Raftery 2007 for
    the prior.

    Args:
        x: data (N, D), D at least 2.
        components: C, at most N.
        mask: True = observed; (N, D), or (N, 1) by row. None: NaN means missing.
        prior: λ, in rows of each component; 0 is maximum likelihood.
        iterations: at most this many.
        tolerance: stop when an iteration gains less, in nats per row.
        seed: of the start.

    Raises:
        Problem: as `ppvae.exact.gaussian.gaussian_posterior`; counts out of range, a prior below 0, a covariance that became singular.
    """
    refuse_count("components", components)
    if components > len(x) or not prior >= 0 or not tolerance >= 0 or iterations < 1:
        raise Problem(
            f"components={components} for {len(x)} rows, prior={prior}, iterations={iterations}, tolerance={tolerance}",
            "a component has a row at least, and a prior a weight of 0 or more rows",
            "components=5, prior=0.1, iterations=200, tolerance=1e-4",
        )
    full = gaussian_posterior(x, mask, draws=1, burn_in=10, seed=seed).draws[0].double()
    x, dtype = as_matrix(x, 1)
    seen, mean, unit = observed_entries(x, mask), full.mean(0), full.std(0, correction=0)
    z = torch.where(seen, (x - mean) / unit, 0.0)
    rows = list(_blocks(z, seen, components))
    fit, values = _start((full - mean) / unit, components, seed), []
    while True:
        value, following = _ascend(fit, rows, prior)
        values.append(value / len(z))
        if len(values) > iterations or (len(values) > 1 and values[-1] - values[-2] < tolerance):
            break
        fit = following
    weights, loc, covariance = fit
    log_posterior = torch.stack(values) - (seen.sum(0) * unit.log()).sum() / len(z)
    found = weights, mean + unit * loc, covariance * torch.outer(unit, unit), log_posterior
    return GaussianMixture(*(part.to(dtype) for part in found))


def mixture_conditional(fit: GaussianMixture, x: Tensor, mask: Tensor) -> Tensor:
    """E[x | x_o] under the mixture, (N, D), observed entries as they are; arguments as in `mixture_draws`."""
    found = torch.empty_like(x)
    for rows, given in _through(fit, x, mask):
        mean = torch.einsum("cn,cnd->nd", given.log_joint.softmax(0), given.mean)
        found[rows.at] = torch.where(rows.mask, x[rows.at], mean)
    return found


def mixture_draws(fit: GaussianMixture, x: Tensor, mask: Tensor, draws: int) -> Tensor:
    """Draw complete rows from p(x_m | x_o), (S, N, D), observed entries as they are.

    Args:
        fit: as `gaussian_mixture` gives it.
        x: (N, D); what stands where the mask is False is not read.
        mask: (N, D), True = observed.
        draws: S.
    """
    found = x.new_empty(draws, *x.shape)
    for rows, given in _through(fit, x, mask):
        each = torch.arange(len(rows.x), device=x.device)
        chosen = torch.multinomial(given.log_joint.softmax(0).T, draws, replacement=True).T  # (S, n)
        for s, c in enumerate(chosen):
            noise = torch.randn_like(rows.x).unsqueeze(-1)
            step = torch.linalg.solve_triangular(given.root[c, rows.which].mT, noise, upper=True).squeeze(-1)
            found[s, rows.at] = torch.where(rows.mask, x[rows.at], given.mean[c, each] + step)
    return found


def _through(fit: GaussianMixture, x: Tensor, mask: Tensor) -> Iterator[tuple[_Rows, _Given]]:
    weights, loc, covariance = (value.to(x) for value in fit[:3])
    P, log_det = _precision(covariance)
    for rows in _blocks(torch.where(mask, x, 0.0), mask, len(weights)):
        yield rows, _given(weights, loc, P, log_det, rows)


def _ascend(fit: tuple[Tensor, ...], rows: list[_Rows], prior: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The log posterior of a fit, in nats, and the fit of the next iteration."""
    weights, loc, covariance = fit
    P, log_det = _precision(covariance)
    eye = torch.eye(loc.shape[1]).to(loc)
    count, first = torch.full_like(weights, prior), torch.zeros_like(loc)
    second = (prior * eye).expand_as(P).clone()
    spread = (P * eye).sum((-1, -2)) + torch.einsum("cd,cde,ce->c", loc, P, loc)
    value = prior * (weights.log() + 0.5 * (log_det - spread)).sum() if prior else weights.new_zeros(())
    for block in rows:
        given = _given(weights, loc, P, log_det, block)
        evidence = given.log_joint.logsumexp(0)
        r = (given.log_joint - evidence).exp()  # (C, n)
        value, count = value + evidence.sum(), count + r.sum(1)
        weighted = r.unsqueeze(-1) * given.mean
        first = first + weighted.sum(1)
        by_pattern = r.new_zeros(len(r), len(block.patterns)).index_add_(1, block.which, r)
        second = second + weighted.mT @ given.mean + torch.einsum("cg,cgde->cde", by_pattern, given.covariance)
    loc = first / count.unsqueeze(-1)
    covariance = second / count[:, None, None] - loc.unsqueeze(-1) * loc.unsqueeze(-2)
    return value, (count / count.sum(), loc, covariance)


def _given(weights: Tensor, loc: Tensor, P: Tensor, log_det: Tensor, rows: _Rows) -> _Given:
    missing = (~rows.patterns).to(P)  # (G, D)
    block = missing.unsqueeze(-1) * missing.unsqueeze(-2)
    root = torch.linalg.cholesky(P.unsqueeze(1) * block + torch.diag_embed(1 - missing))
    covariance = torch.cholesky_inverse(root) * block
    r = (rows.x - loc.unsqueeze(1)) * rows.mask  # (C, n, D)
    Pr = r @ P
    e = r - torch.einsum("cnde,cne->cnd", covariance[:, rows.which], Pr)  # E[x | x_o, c] - loc
    half = 0.5 * log_det.unsqueeze(1) - root.diagonal(dim1=-2, dim2=-1).log().sum(
        -1
    )  # of log det covariance_oo^-1, (C, G)
    log_p = half[:, rows.which] - 0.5 * (Pr * e).sum(-1) - 0.5 * LOG_2PI * rows.mask.sum(-1)
    return _Given(loc.unsqueeze(1) + e, covariance, root, weights.log().unsqueeze(1) + log_p)


def _start(full: Tensor, components: int, seed: int) -> tuple[Tensor, ...]:
    """Weights, means and covariances of the clusters of completed rows, a row of unit variance added to each."""
    cluster = KMeans(components, n_init=1, random_state=seed).fit_predict(full.cpu().numpy())
    r = torch.nn.functional.one_hot(torch.as_tensor(cluster, device=full.device).long(), components).to(full)
    count, eye = r.sum(0) + 1, torch.eye(full.shape[1]).to(full)
    loc = r.T @ full / count.unsqueeze(-1)
    second = torch.stack([(full * r[:, c : c + 1]).T @ full + eye for c in range(components)])
    return count / count.sum(), loc, second / count[:, None, None] - loc.unsqueeze(-1) * loc.unsqueeze(-2)


def _blocks(x: Tensor, mask: Tensor, components: int) -> Iterator[_Rows]:
    """The rows, sorted by their patterns of gaps, in blocks that fit `CHUNK_BYTES`."""
    patterns, which = torch.unique(mask, dim=0, return_inverse=True)
    size = max(1, CHUNK_BYTES // (x.element_size() * 4 * components * x.shape[1] ** 2))
    for index in which.argsort(stable=True).split(size):
        here, place = torch.unique(which[index], return_inverse=True)
        yield _Rows(index, x[index], mask[index], patterns[here], place)


def _precision(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """P = covariance^-1 and log det P of every component."""
    try:
        L = torch.linalg.cholesky(covariance)
    except torch.linalg.LinAlgError as error:
        raise Problem(
            f"a covariance of {covariance.shape[-1]} columns, one of {len(covariance)}, became singular",
            "a component of fewer rows than columns, or columns that repeat one another",
            "fewer components, or a larger prior",
        ) from error
    return torch.cholesky_inverse(L), -2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
