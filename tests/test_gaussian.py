"""One Gaussian for a table with holes, against dense matrices, one row at a time, and against Student's t."""

import numpy as np
import pytest
import torch
from scipy import stats

import ppvae
from ppvae.exact.gaussian import (
    conditional,
    conditional_draws,
    gaussian,
    gaussian_posterior,
    inverse_wishart_root,
)


def table(N=60, D=5, missing=0.4, seed=0):
    """Correlated rows in odd units, one of them empty: (x, NaN = missing; loc, covariance)."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(D, D)) * rng.uniform(0.5, 20, size=(D, 1))
    loc = 10 * rng.normal(size=D)
    x = loc + rng.normal(size=(N, D)) @ root.T
    x[rng.random(x.shape) < missing] = np.nan
    x[3] = np.nan
    return torch.from_numpy(x), torch.from_numpy(loc), torch.from_numpy(root @ root.T)


def by_hand(loc, covariance, row):
    """p(x_m | x_o) and log p(x_o) of one row in NumPy: (mean (D,), covariance (m, m), log p)."""
    o, m = ~np.isnan(row), np.isnan(row)
    S = np.asarray(covariance)
    gain = S[np.ix_(m, o)] @ np.linalg.inv(S[np.ix_(o, o)]) if o.any() else np.zeros((m.sum(), 0))
    mean = row.copy()
    mean[m] = loc[m] + gain @ (row - loc)[o]
    spread = S[np.ix_(m, m)] - gain @ S[np.ix_(o, m)]
    log_p = stats.multivariate_normal(loc[o], S[np.ix_(o, o)]).logpdf(row[o]) if o.any() else 0.0
    return mean, spread, log_p


def test_the_conditional_is_the_dense_one():
    x, loc, S = table()
    mean, scale = conditional(loc, S, x.nan_to_num(99.0), ~x.isnan())
    for n, row in enumerate(x.numpy()):
        wanted, spread, _ = by_hand(loc.numpy(), S, row)
        assert np.allclose(mean[n], wanted, rtol=1e-9)
        assert np.allclose(scale[n][np.isnan(row)], np.sqrt(np.diag(spread)), rtol=1e-9)
        assert (scale[n][~np.isnan(row)] == 0).all() and (mean[n] == x[n])[~x[n].isnan()].all()


def test_the_draws_have_the_conditionals_moments():
    x, loc, S = table(N=6)
    draws = conditional_draws(loc, S, x, ~x.isnan(), 40_000)
    for n, row in enumerate(x.numpy()):
        mean, spread, _ = by_hand(loc.numpy(), S, row)
        m = np.isnan(row)
        if not m.any():
            continue
        got, sd = draws[:, n, m].numpy(), np.sqrt(np.diag(spread))
        assert (np.abs(got.mean(0) - mean[m]) < 5 * sd / 200).all()
        error = np.outer(sd, sd) * np.sqrt(2 / 40_000)  # at most, of an entry of the covariance
        assert (np.abs(np.cov(got.T) - spread) < 5 * error).all()
        assert (draws.numpy()[:, n, ~m] == row[~m]).all()


def test_em_climbs_to_where_the_dense_likelihood_is_flat():
    x, _, _ = table(N=200)
    fit = gaussian(x, iterations=5000, tolerance=1e-13)
    assert (fit.log_likelihood.diff() > -1e-11).all()

    def log_likelihood(loc, S):
        return np.mean([by_hand(loc, S, row)[2] for row in x.numpy()])

    loc, S = fit.loc.numpy(), fit.covariance.numpy()
    best = log_likelihood(loc, S)
    assert np.isclose(fit.log_likelihood[-1], best, atol=1e-9)
    rng = np.random.default_rng(1)
    for _ in range(5):
        root = np.linalg.cholesky(S)
        d, E = rng.normal(size=5), rng.normal(size=(5, 5))
        step = 1e-3
        for sign in (1, -1):
            moved = root @ (np.eye(5) + sign * step * (E + E.T)) @ root.T
            there = log_likelihood(loc + sign * step * root @ d, moved)
            assert there < best  # it is a maximum: every direction goes down


def test_complete_data_have_the_sample_moments():
    x, _, _ = table(missing=0.0)
    x = x[~x.isnan().any(1)]
    fit = gaussian(x)
    assert torch.allclose(fit.loc, x.mean(0)) and torch.allclose(fit.covariance, x.T.cov(correction=0))


def test_units_do_not_matter():
    x, _, _ = table()
    unit = torch.tensor([1e-6, 1.0, 1e6, 3.0, 7.0])
    one, other = gaussian(x, iterations=50, tolerance=0), gaussian(x * unit + unit, iterations=50, tolerance=0)
    assert torch.allclose(other.covariance, one.covariance * torch.outer(unit, unit), rtol=1e-9)
    assert torch.allclose(other.log_likelihood, one.log_likelihood - ((~x.isnan()).sum(0) * unit.log()).sum() / len(x))


def test_inverse_wishart_draws_have_their_moments():
    """Mean and variances in closed form (Press 1982): 5 standard errors of 20,000 draws, fourth moments from scipy's."""
    torch.manual_seed(0)
    S = torch.tensor([[4.0, 1.0, 0.5], [1.0, 3.0, -0.7], [0.5, -0.7, 2.0]])
    df, n = 40, 20_000
    draws = torch.stack([(root := inverse_wishart_root(S, df)) @ root.T for _ in range(n)])
    p = 3
    mean = S / (df - p - 1)
    d = S.diagonal()
    variance = ((df - p + 1) * S**2 + (df - p - 1) * torch.outer(d, d)) / ((df - p) * (df - p - 1) ** 2 * (df - p - 3))
    assert ((draws.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    centred = (draws - mean).square()
    assert ((centred.mean(0) - variance).abs() < 5 * centred.std(0) / n**0.5).all()


def test_a_regression_with_uncertain_parameters_is_students_t():
    """Two columns, the second missing in some rows only: under IW(D + 1, I) on standardised columns, x2 | x1 is a conjugate
    regression, and what is drawn for a missing x2 follows a t in closed form."""
    rng = np.random.default_rng(0)
    n, gone = 12, 3
    x1 = rng.normal(size=n + gone)
    x2 = np.append(0.7 * x1[:n] + 0.5 * rng.normal(size=n), np.full(gone, np.nan))
    x = torch.from_numpy(np.stack([x1, x2], 1))
    loc, scale = x.nanmean(0), (x - x.nanmean(0)).square().nanmean(0).sqrt()
    z = ((x - loc) / scale).numpy()
    # Regression of z2 on (1, z1): flat on the intercept; slope ~ N(0, s2 / 1), s2 ~ IG((D + 1) / 2, 1 / 2).
    A = np.stack([np.ones(n), z[:n, 0]], 1)
    precision = A.T @ A + np.diag([0.0, 1.0])
    beta = np.linalg.solve(precision, A.T @ z[:n, 1])
    degrees = 3 + n - 1  # IW's D + 1, and one row for the intercept
    rest = 1 + z[:n, 1] @ z[:n, 1] - beta @ precision @ beta
    found = gaussian_posterior(x, draws=20_000, burn_in=100, seed=1).draws
    for row in range(n, n + gone):
        a = np.array([1.0, z[row, 0]])
        width = np.sqrt(rest / degrees * (1 + a @ np.linalg.solve(precision, a)))
        t = stats.t(degrees, a @ beta * scale[1].item() + loc[1].item(), width * scale[1].item())
        drawn = found[::4, row, 1].numpy()  # rounds in turn depend on one another
        uniform = t.cdf(drawn)
        assert stats.kstest(uniform, "uniform").pvalue > 1e-4


def test_the_mean_is_that_of_the_draws_and_what_was_observed_stays():
    x, _, _ = table(N=30)
    found = gaussian_posterior(x, draws=4000, seed=0)
    seen = ~x.isnan()
    assert (found.mean[seen] == x[seen]).all() and (found.draws[:, seen] == x[seen]).all()
    chunks = found.draws.reshape(40, 100, *x.shape).mean(1)  # batch means: draws in turn are not independent
    error = chunks.std(0) / 40**0.5
    assert ((found.mean - chunks.mean(0)).abs()[~seen] < 5 * error[~seen]).all()


def test_uncertain_parameters_cover_more_of_the_truth_than_a_point_estimate():
    """25 rows of 6 columns, 40 tables: 90 % intervals, the standard error of the tables' differences."""
    shares = {"point": [], "uncertain": []}
    for seed in range(40):
        x, _, _ = table(N=25, D=6, missing=0.0, seed=seed)
        x[3] = x[4] + 1e-3
        mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) > 0.3
        holes = x.masked_fill(~mask, torch.nan)
        fit = gaussian(holes, iterations=100, tolerance=1e-4)
        for name, draws in (
            ("point", conditional_draws(fit.loc, fit.covariance, holes, mask, 99)),
            ("uncertain", gaussian_posterior(holes, draws=99, seed=seed).draws),
        ):
            low, high = draws.sort(0).values[[4, 94]]
            shares[name].append(float(((low <= x) & (x <= high))[~mask].double().mean()))
    gain = np.subtract(shares["uncertain"], shares["point"])
    assert gain.mean() > 5 * gain.std() / 40**0.5
    assert np.mean(shares["point"]) < 0.8 < np.mean(shares["uncertain"]) < 0.92


def test_seeds():
    x, _, _ = table()
    one = gaussian_posterior(x, draws=5, seed=3).draws
    assert torch.equal(one, gaussian_posterior(x, draws=5, seed=3).draws)
    assert not torch.equal(one, gaussian_posterior(x, draws=5, seed=4).draws)


def test_chunks_change_nothing(monkeypatch):
    import ppvae.exact.gaussian as module

    x, _, _ = table()
    whole = gaussian(x, iterations=20, tolerance=0)
    monkeypatch.setattr(module, "CHUNK_BYTES", 8 * 4 * 25 * 7)  # seven rows
    cut = gaussian(x, iterations=20, tolerance=0)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(whole, cut, strict=True))


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda x: x[:, 0].fill_(torch.nan), "no observed value in column 0"),
        (lambda x: x[:, 1].fill_(2.0), "the same value"),
        (lambda x: x[0].fill_(torch.inf), "infinite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(spoil, words):
    x, _, _ = table()
    spoil(x)
    for fit in (gaussian, gaussian_posterior):
        with pytest.raises(ppvae.Problem, match=words):
            fit(x)


def test_a_singular_covariance_is_refused_with_the_way_out():
    x, _, _ = table(missing=0.0)
    x = torch.cat([x, x[:, :1]], 1)
    x = x[~x.isnan().any(1)]
    with pytest.raises(ppvae.Problem, match="gaussian_posterior"):
        gaussian(x)
    assert gaussian_posterior(x.index_fill(0, torch.tensor([0]), torch.nan), draws=3).draws.isfinite().all()
    with pytest.raises(ppvae.Problem, match="prior"):
        gaussian_posterior(x, prior=0.0)
