"""LatentImputer: scikit-learn's own checks, EM and conditional means done by hand, dense Gaussians."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from ppvae import exact
from ppvae.errors import Caution, Problem
from ppvae.sklearn import LatentImputer

N, D, K = 200, 6, 2


def table(seed: int = 0, missing: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns in unlike units, complete and with holes; one row observes nothing."""
    random = np.random.default_rng(seed)
    units, loc = 10.0 ** np.arange(-2, D - 2), random.normal(0, 5, D)
    complete = (
        random.normal(size=(N, K)) @ random.normal(size=(K, D)) + 0.4 * random.normal(size=(N, D)) + loc
    ) * units
    holes = np.where(random.random((N, D)) < missing, np.nan, complete)
    holes[7] = np.nan
    return complete, holes


def dense(imputer: LatentImputer, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the missing entries of one row, from the joint Gaussian."""
    covariance = imputer.W_ @ imputer.W_.T + np.diag(imputer.scale_**2)
    o, m = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
    gain = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, m)]).T
    mean = imputer.loc_[m] + gain @ (row[o] - imputer.loc_[o])
    return mean, covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]


@parametrize_with_checks([LatentImputer(), LatentImputer(n_latents=1)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_em_and_impute_mean_by_hand():
    _, X = table()
    imputer = LatentImputer(n_latents=K, max_iter=200).fit(X)
    mean, scale = np.nanmean(X, 0), np.nanstd(X, 0)
    z = torch.from_numpy((X - mean) / scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)
        fitted = exact.em(z, K, iterations=200, tolerance=1e-6)
    expected = exact.impute_mean(fitted.W, fitted.loc, fitted.scale, z, ~z.isnan()).numpy() * scale + mean
    np.testing.assert_allclose(imputer.transform(X) / scale, expected / scale, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(imputer.W_, fitted.W.numpy() * scale[:, None], rtol=1e-9)
    assert imputer.n_iter_ == len(fitted.log_likelihood) - 1
    assert imputer.n_latents_ == K


def test_conditional_means_are_those_of_the_dense_gaussian():
    _, X = table()
    imputer = LatentImputer(n_latents=K).fit(X)
    _, new = table(seed=1, missing=0.5)
    completed = imputer.transform(new)
    for row, found in zip(new, completed, strict=True):
        m = np.isnan(row)
        np.testing.assert_allclose(found[m] / imputer.scale_[m], dense(imputer, row)[0] / imputer.scale_[m], rtol=1e-8)
    np.testing.assert_allclose(completed[7], imputer.loc_, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_observed_entries_stay_as_they_were(dtype):
    X = table()[1].astype(dtype)
    before = X.copy()
    imputer = LatentImputer(n_latents=K).fit(X)
    seen = ~np.isnan(X)
    for completed in (imputer.transform(X), *imputer.sample(X, draws=3, random_state=0)):
        assert completed.dtype == dtype
        assert completed[seen].tobytes() == X[seen].tobytes()
        assert not np.isnan(completed).any()
    np.testing.assert_array_equal(X, before)


def test_draws_have_the_moments_of_the_dense_gaussian():
    _, X = table()
    imputer = LatentImputer(n_latents=K).fit(X)
    rows, draws = X[:12], 4000
    found = imputer.sample(rows, draws=draws, random_state=0)
    assert found.shape == (draws, 12, D)
    for n, row in enumerate(rows):
        m = np.isnan(row)
        if not m.any():
            continue
        mean, covariance = dense(imputer, row)
        unit = np.sqrt(np.diag(covariance))
        z = (found[:, n, m] - mean) / unit
        correlation = covariance / np.outer(unit, unit)
        assert (np.abs(z.mean(0)) < 5 / np.sqrt(draws)).all()
        # Var(z_i z_j) = 1 + correlation^2
        error = np.abs(z.T @ z / draws - correlation)
        assert (error < 5 * np.sqrt((1 + correlation**2) / draws)).all()


def test_draws_are_reproducible():
    _, X = table()
    imputer = LatentImputer(n_latents=K, random_state=3).fit(X)
    first = imputer.sample(X, 2, random_state=0)
    np.testing.assert_array_equal(first, imputer.sample(X, 2, random_state=0))
    assert not np.array_equal(first, imputer.sample(X, 2, random_state=1))
    assert not np.array_equal(first[0], first[1], equal_nan=True)
    np.testing.assert_array_equal(imputer.sample(X, 2), imputer.sample(X, 2, random_state=3))
    assert imputer.sample(X).shape == (20, N, D)


def test_a_chosen_number_of_factors_beats_the_mean():
    complete, X = table()
    imputer = LatentImputer(random_state=0).fit(X)
    assert imputer.n_latents_ in (2, 3)  # two made the table; hidden entries tell them from one, hardly from three
    np.testing.assert_array_equal(imputer.transform(X), LatentImputer(random_state=0).fit_transform(X))
    gaps, unit = np.isnan(X), complete.std(0)
    error = (((imputer.transform(X) - complete) / unit)[gaps] ** 2).mean()
    baseline = (((np.nanmean(X, 0) - complete) / unit)[gaps] ** 2).mean()
    assert error < 0.6 * baseline


def test_in_a_pipeline():
    complete, X = table(missing=0.15)
    y = (complete / complete.std(0)).sum(1)
    pipeline = make_pipeline(LatentImputer(n_latents=K, tol=1e-3), Ridge())
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.8
    search = GridSearchCV(pipeline, {"latentimputer__n_latents": np.array([1, 2])}, cv=3).fit(X, y)
    assert search.best_params_ == {"latentimputer__n_latents": 2}


def test_names_of_a_data_frame():
    names = list("abcdef")
    frame = pd.DataFrame(table()[1], columns=names)
    imputer = LatentImputer(n_latents=K).fit(frame)
    assert imputer.feature_names_in_.tolist() == names
    assert imputer.get_feature_names_out().tolist() == names
    completed = imputer.set_output(transform="pandas").transform(frame)
    assert list(completed.columns) == names
    assert not completed.isna().any(axis=None)
    part = make_column_transformer((LatentImputer(), ["a", "b", "c"]), remainder="drop").fit(frame)
    assert part.get_feature_names_out().tolist() == [f"latentimputer__{name}" for name in "abc"]
    with pytest.raises(ValueError, match="feature names"):
        imputer.transform(frame[names[::-1]])
    with pytest.raises(Problem, match="'b'"):
        LatentImputer().fit(frame.assign(b=np.nan))


def test_clone_and_pickle():
    _, X = table()
    imputer = LatentImputer(n_latents=3, max_iter=50, tol=1e-3, random_state=5)
    assert clone(imputer).get_params() == imputer.get_params()
    completed = imputer.fit(X).transform(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(imputer)).transform(X), completed)
    with pytest.raises(NotFittedError):
        clone(imputer).transform(X)


def test_constant_columns_are_left_out():
    _, X = table()
    constant = np.where(np.random.default_rng(0).random(N) < 0.5, np.nan, 0.1)
    wide = np.insert(X, 2, constant, axis=1)
    imputer, narrow = LatentImputer(n_latents=K).fit(wide), LatentImputer(n_latents=K).fit(X)
    completed = imputer.transform(wide)
    assert (completed[:, 2] == 0.1).all()
    assert (imputer.sample(wide, 2, random_state=0)[:, :, 2] == 0.1).all()
    np.testing.assert_allclose(np.delete(completed, 2, axis=1), narrow.transform(X), rtol=1e-9)
    assert imputer.scale_[2] == 0
    assert not imputer.W_[2].any()


@pytest.mark.parametrize(
    "X",
    [
        [[1.0], [2.0], [np.nan], [6.0]],  # one column
        [[1.0, -2.0, 0.1]],  # one row
        [[1.0, 5.0], [2.0, np.nan], [np.nan, 5.0]],  # one column that varies
        [[0.1, 0.1], [np.nan, 0.1]],  # none that varies
    ],
)
@pytest.mark.parametrize("n_latents", [None, 1])
def test_without_factors_the_mean(X, n_latents):
    X = np.array(X)
    imputer = LatentImputer(n_latents).fit(X)
    assert imputer.n_latents_ == 0
    assert imputer.W_.shape == (X.shape[1], 0)
    nothing = np.full((2, X.shape[1]), np.nan)
    np.testing.assert_allclose(imputer.transform(nothing), np.tile(np.nanmean(X, 0), (2, 1)), rtol=1e-15)
    found = imputer.sample(nothing, draws=20_000, random_state=0)
    np.testing.assert_allclose(found.std((0, 1)), np.nanstd(X, 0), rtol=5 / np.sqrt(80_000), atol=1e-12)


def test_tables_too_small_to_hide_from():
    X = np.array([[1.0, 2.0, np.nan, 4.0], [2.0, np.nan, 3.0, 1.0], [np.nan, 1.0, 2.0, 2.0]])
    for seed in range(20):  # whichever entries are hidden, every column still varies
        assert not np.isnan(LatentImputer(max_iter=20, random_state=seed).fit_transform(X)).any()


@pytest.mark.parametrize("unit", [2.0**600, 2.0**-600])
def test_units_whose_squares_leave_float64(unit):
    X = table()[1]
    expected = LatentImputer(n_latents=K, max_iter=20).fit_transform(X)
    np.testing.assert_array_equal(LatentImputer(n_latents=K, max_iter=20).fit_transform(X * unit), expected * unit)


@pytest.mark.parametrize("n_latents", [0, -1, D, 1.5, True, "2"])
def test_wrong_number_of_factors(n_latents):
    with pytest.raises(Problem, match="n_latents"):
        LatentImputer(n_latents).fit(table()[1])


@pytest.mark.parametrize("settings", [{"max_iter": 0}, {"max_iter": 1.5}, {"tol": -1}, {"tol": np.nan}, {"tol": None}])
def test_wrong_settings(settings):
    with pytest.raises(Problem, match=f"{next(iter(settings))}="):
        LatentImputer(**settings).fit(table()[1])


def test_wrong_tables():
    _, X = table()
    imputer = LatentImputer(n_latents=K).fit(X)
    with pytest.raises(ValueError, match="infinity"):
        LatentImputer().fit(np.where(np.isnan(X), np.inf, X))
    with pytest.raises(ValueError, match="expecting 6 features"):
        imputer.transform(X[:, :3])
    with pytest.raises(Problem, match="no observed value in column 1\n"):
        LatentImputer().fit(np.where(np.arange(D) == 1, np.nan, X))
    for draws in (0, 2.5, True):
        with pytest.raises(Problem, match="draws="):
            imputer.sample(X, draws)
