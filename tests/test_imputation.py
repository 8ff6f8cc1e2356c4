"""The ways to complete a table, their columns' scales, and the choice among them."""

import numpy as np
import pytest
import torch
from scipy import stats

from ppvae import imputation
from ppvae.imputation import WAYS, Way, choose, complete, draws_for, ways
from ppvae.imputation.columns import Columns

QUICK = {name: way for name, way in WAYS.items() if "VAE" not in name}


def table(N=300, missing=0.3, seed=0):
    """Two factors seen through five columns: two log-normal, one squared, one shifted by a million, one plain."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(N, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(N, 5))
    x = np.stack([np.exp(z[:, 0]), 50 * np.exp(0.5 * z[:, 1]), (4 + z[:, 2].clip(-3)) ** 2, 1e6 + z[:, 3], z[:, 4]], 1)
    truth = torch.from_numpy(x)
    mask = torch.from_numpy(rng.random(x.shape) > missing)
    return truth, mask, truth.masked_fill(~mask, torch.nan)


def test_standardised_columns_are_standardised_and_come_back():
    truth, mask, x = table()
    columns = Columns(x, warp=False)
    z = columns.forward(x)
    assert torch.allclose(z.nanmean(0), torch.zeros(5), atol=1e-9)
    assert torch.allclose(z.square().nanmean(0), torch.ones(5))
    assert torch.equal(z.isnan(), ~mask)
    assert torch.allclose(columns.back(columns.forward(truth)), truth, rtol=1e-12)


def test_warped_columns_are_box_and_coxs_and_come_back():
    truth, mask, x = table(N=4000)
    columns = Columns(x, warp=True)
    z = columns.forward(x)
    for j, power in ((0, 0.0), (1, 0.0), (2, 0.5)):
        found = columns.columns[j].power.lambdas_[0]
        seen = x[mask[:, j], j].numpy()
        best = np.clip(stats.boxcox(seen / np.median(seen))[1], 0, 2)
        assert abs(found - best) < 1e-4 and abs(found - power) < 0.1
        assert abs(stats.skew(z[mask[:, j], j].numpy())) < 0.2 < stats.skew(seen)
    assert torch.allclose(columns.back(z)[mask], truth[mask], rtol=1e-9)
    assert torch.allclose(z.nanmean(0), torch.zeros(5), atol=1e-8)


def test_what_is_imputed_on_warped_columns_stays_within_what_was_observed():
    _, _, x = table()
    far = torch.full((2, 5), 50.0)
    far[1] = -50.0
    back = Columns(x, warp=True).back(far)
    assert torch.allclose(back[0], x.nan_to_num(-torch.inf).amax(0)) and torch.allclose(
        back[1], x.nan_to_num(torch.inf).amin(0)
    )


@pytest.mark.parametrize("name", QUICK)
def test_a_completed_table_keeps_what_was_observed_and_its_draws_agree_with_its_mean(name):
    truth, mask, x = table()
    found = complete(x, WAYS[name], 99, seed=1)
    assert torch.equal(found.mean[mask], truth[mask])
    assert torch.equal(found.draws[:, mask], truth[mask].expand(99, -1))
    assert found.draws.isfinite().all()
    error = found.draws.std(0) / 99**0.5
    # all draws of a cell may be one value, of a column whose numbers are in the millions
    apart = ((found.draws.mean(0) - found.mean).abs() / (error + 1e-9))[~mask]
    assert (apart < 6).all()  # about 450 cells
    again = complete(x, WAYS[name], 99, seed=1)
    assert torch.equal(found.draws, again.draws) and torch.equal(found.mean, again.mean)


def test_factor_analysis_is_the_exact_conditional_of_its_fit():
    """Against the Gaussian with covariance W W' + diag(scale²), which knows no latents."""
    from ppvae.exact.choice import candidates, em_quietly, hidden_errors
    from ppvae.exact.gaussian import conditional

    _, mask, x = table()
    z = Columns(x, warp=False).forward(x)
    found = ways.factor_analysis(z, 4000, 7)
    errors = hidden_errors(z, ways.tenth(z, 7), candidates(5))
    W, loc, scale, log_likelihood = em_quietly(z, min(errors, key=errors.get), iterations=1000, tolerance=1e-5)
    assert found.found == {
        "latents": W.shape[1],
        "rmse_by_latents": errors,
        "iterations": len(log_likelihood) - 1,
        "log_likelihood": float(log_likelihood[-1]),
    }
    mean, spread = conditional(loc, W @ W.T + scale.square().diag(), z, mask)
    assert torch.allclose(found.mean[~mask], mean[~mask], atol=1e-9)
    share = (found.draws.std(0) / spread)[~mask]
    assert ((share - 1).abs() < 6 / 8000**0.5).all()


def test_the_least_crps_is_chosen_and_scored_on_entries_that_no_way_saw():
    truth, _, x = table()
    seen = []

    def spy(z, draws, seed):
        seen.append(z)
        return ways.column_means(z, draws, seed)

    good = choose(x, {"means": Way(spy, False), "Gaussian": WAYS["Gaussian, uncertain parameters, warped columns"]}, 3)
    assert good.name == "Gaussian" and good.scores["Gaussian"].crps < good.scores["means"].crps
    hidden = seen[0].isnan() & ~x.isnan()
    assert good.scores["means"].entries == int(hidden.sum())
    share = hidden.sum() / (~x.isnan()).sum()
    assert abs(float(share) - 0.1) < 5 * (0.09 / x.numel()) ** 0.5
    assert choose(x, {"b": Way(spy, False)}, 3).scores["b"] == good.scores["means"]


def test_a_tenth_is_hidden_whatever_the_same_seed_hid_before():
    _, _, x = table()
    first = ways.tenth(x, 3)
    second = ways.tenth(x.masked_fill(first, torch.nan), 3)
    third = ways.tenth(
        x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.1, torch.nan), 3
    )
    count = int((~x.isnan()).sum())
    assert int(first.sum()) == round(0.1 * count) and int(second.sum()) == round(0.1 * (count - int(first.sum())))
    assert not (first & second).any() and not (x.isnan() & (first | second)).any()
    assert abs(int(third.sum()) - 0.09 * count) < 5 * (0.009 * count) ** 0.5
    assert torch.equal(first, ways.tenth(1e-15 * x, 3))
    assert torch.equal(first, ways.tenth(x, 3)) and not torch.equal(first, ways.tenth(x, 4))


def test_factors_are_chosen_on_entries_that_the_choice_of_a_way_left():
    """Six factors of twelve columns: with nothing hidden for the purpose there would be one."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(300, 6)) @ rng.normal(size=(6, 12)) + 0.1 * rng.normal(size=(300, 12)))
    x[torch.from_numpy(rng.random(x.shape) < 0.1)] = torch.nan
    found = []

    def spy(z, draws, seed):
        found.append(ways.factor_analysis(z, draws, seed))
        return found[-1]

    choose(x, {"spy": Way(spy, False)}, 3)
    assert found[0].found["latents"] >= 5


def test_where_nothing_can_be_hidden_the_first_way_is_taken():
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [torch.nan, 3.0]])
    assert choose(x, {"a": WAYS["Column means"], "b": WAYS["PPCA"]}, hidden=torch.zeros(3, 2, dtype=torch.bool)) == (
        "a",
        {},
    )


def test_the_number_of_draws_fits_the_memory(monkeypatch):
    x = torch.zeros(10, 10)
    assert draws_for(x) == 199
    monkeypatch.setattr(imputation.choice, "LARGEST", 100 * 99)
    assert draws_for(x) == 99
    monkeypatch.setattr(imputation.choice, "LARGEST", 1)
    assert draws_for(x) == 19


@pytest.mark.slow
def test_a_vae_beats_one_gaussian_where_the_table_is_bent():
    """A parabola with noise, a third missing: half a minute."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=1500)
    truth = torch.from_numpy(
        np.stack([a, a**2, a + 0.3 * rng.normal(size=1500), a**2 + 0.3 * rng.normal(size=1500)], 1)
    )
    mask = torch.from_numpy(rng.random(truth.shape) > 0.33)
    found = choose(truth.masked_fill(~mask, torch.nan), {n: WAYS[n] for n in ("Gaussian by EM", "VAE, warped columns")})
    assert (
        found.name == "VAE, warped columns"
        and found.scores[found.name].crps < 0.7 * found.scores["Gaussian by EM"].crps
    )
