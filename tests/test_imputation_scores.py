"""CRPS and coverage against closed forms, quadrature, double loops, and draws whose law is known."""

import math

import numpy as np
import pytest
import torch
from examples import linear_gaussian
from scipy.integrate import quad
from scipy.stats import norm

import ppvae
from ppvae.evaluate.imputation import coverage, crps, crps_gaussian, imputation_scores, interval


def within(values, truth, errors=5):
    """The mean of independent values, within so many of its standard errors."""
    return abs(values.mean() - truth) < errors * values.std() / math.sqrt(len(values))


def by_rows(inside, hidden, level):
    """How many standard errors the share of hidden entries inside lies from ``level``; entries of one row hang together."""
    away = torch.where(hidden, inside.double() - level, 0.0).sum(1)
    return float(away.sum() / away.square().sum().sqrt())


@pytest.mark.parametrize(("loc", "scale", "y"), [(0.0, 1.0, 0.3), (-2.0, 0.5, 1.0), (1.0, 3.0, -4.0), (0.0, 1.0, 0.0)])
def test_the_closed_form_is_the_integral(loc, scale, y):
    below = quad(lambda t: norm.cdf(t, loc, scale) ** 2, loc - 12 * scale, y, epsabs=1e-12, epsrel=1e-12)[0]
    above = quad(lambda t: norm.sf(t, loc, scale) ** 2, y, loc + 12 * scale, epsabs=1e-12, epsrel=1e-12)[0]
    assert abs(crps_gaussian(loc, scale, y) - (below + above)) < 1e-8


@pytest.mark.parametrize("S", [2, 3, 4])
def test_few_draws_have_in_expectation_the_score_of_their_law(S):
    """The fair estimator has no bias at any S; the plain one has E|X - X'| / 2 S, here 0.14 and more."""
    draws = 0.4 + 1.3 * torch.randn(S, 40000)
    found = crps(draws, torch.full((40000,), 1.0))
    assert within(found, crps_gaussian(0.4, 1.3, 1.0))


def test_many_draws_have_the_score_of_their_law():
    found = torch.stack([crps(1.3 * torch.randn(5000), 0.7) for _ in range(40)])
    assert within(found, crps_gaussian(0.0, 1.3, 0.7)) and found.std() < 0.02


def test_sorting_gives_the_double_loop():
    draws, truth = torch.randn(7, 3, 2).round(decimals=1), torch.randn(3, 2)  # with ties
    for i in range(3):
        for j in range(2):
            x, y = draws[:, i, j].tolist(), float(truth[i, j])
            spread = sum(abs(a - b) for a in x for b in x) / (2 * 7 * 6)
            assert abs(crps(draws, truth)[i, j] - (sum(abs(a - y) for a in x) / 7 - spread)) < 1e-12


def test_a_score_does_not_suffer_from_where_zero_lies():
    draws, truth = torch.randn(50, 200), torch.randn(200)
    shifted = crps((draws + 4096).float(), (truth + 4096).float())
    exact = crps((draws + 4096).float().double() - 4096, (truth + 4096).float().double() - 4096)
    assert (shifted - exact).abs().max() < 1e-6


@pytest.mark.parametrize(("S", "level"), [(19, 0.9), (99, 0.9), (39, 0.5), (199, 0.95)])
def test_an_exchangeable_truth_is_covered_with_the_level(S, level):
    """Whatever the law: here a skewed one. The interval of S = 19 at 0.9 is the whole range."""
    x = torch.randn(S + 1, 40000).exp()
    lower, upper = interval(x[1:], level)
    share = coverage(lower, upper, x[0], torch.ones(40000, dtype=torch.bool))
    assert abs(share - level) < 5 * math.sqrt(level * (1 - level) / 40000)
    if S == 19:
        assert torch.equal(lower, x[1:].amin(0)) and torch.equal(upper, x[1:].amax(0))


def test_between_two_ranks_the_ends_are_interpolated():
    """S = 24 at 0.9: rank 1.25 from either end."""
    lower, upper = interval(torch.arange(1.0, 25.0).flip(0)[:, None], 0.9)
    assert abs(lower - 1.25) < 1e-12 and abs(upper - 23.75) < 1e-12


def test_the_scores_are_the_means_of_their_parts_over_the_hidden_entries():
    torch.manual_seed(4)
    draws, truth, hidden = torch.randn(40, 9, 3), torch.randn(9, 3), torch.rand(9, 3) > 0.5
    draws[:, ~hidden] = torch.nan  # what is not hidden is not read
    scale = torch.tensor([1.0, 2.0, 0.5])
    found = imputation_scores(draws, torch.where(hidden, truth, torch.nan), hidden, level=0.8, scale=scale)
    lower, upper = interval(draws, 0.8)
    assert found.entries == int(hidden.sum())
    assert abs(found.rmse - ((draws.mean(0) - truth) / scale)[hidden].square().mean().sqrt()) < 1e-12
    assert abs(found.crps - (crps(draws, truth) / scale)[hidden].mean()) < 1e-12
    assert abs(found.coverage - coverage(lower, upper, truth, hidden)) < 1e-12
    assert abs(found.width - ((upper - lower) / scale)[hidden].mean()) < 1e-12
    centred = imputation_scores(draws, truth, hidden, mean=truth, level=0.8)
    assert centred.rmse == 0 and centred.coverage == found.coverage and centred.width != found.width
    assert imputation_scores(draws.numpy(), truth.numpy(), hidden.numpy(), level=0.8, scale=scale.numpy()) == found


def test_blocks_of_rows_change_nothing(monkeypatch):
    import ppvae.evaluate.imputation as scores

    draws, truth, hidden = torch.randn(30, 50, 4), torch.randn(50, 4), torch.rand(50, 4) > 0.4
    hidden[3:7] = False  # one block has nothing hidden
    mean, scale = torch.randn(50, 4), torch.rand(4) + 0.5
    whole = imputation_scores(draws, truth, hidden, mean, scale=scale)
    monkeypatch.setattr(scores, "BLOCK_BYTES", 2 * 30 * 4 * 8)  # two rows
    assert np.allclose(whole, imputation_scores(draws, truth, hidden, mean, scale=scale), atol=1e-12)


def test_exact_draws_cover_the_truth_and_an_overconfident_guides_do_not():
    """Factor analysis generates the truth. The exact conditional covers 90 %, draws with z where a narrow guide has it fewer."""
    made, x, mask = linear_gaussian(N=600, D=6, K=2)
    draws = ppvae.condition(made, x, mask).impute(99)
    lower, upper = interval(draws, 0.9)
    assert abs(by_rows((lower <= x) & (x <= upper), ~mask, 0.9)) < 5
    exact = imputation_scores(draws, x, ~mask)
    other = ppvae.make("factor_analysis_diagonal", features=6, latents=2)
    other.decoder.load_state_dict(made.decoder.state_dict())
    other.encoder.linear.weight.data.zero_()  # z near 0 whatever the row says
    other.encoder.linear.bias.data.zero_()
    other.encoder.log_scale.data.fill_(-3.0)
    sure = ppvae.condition(other, x, mask).gibbs(draws=99, burn_in=10, gap=1, metropolis=False).x
    lower, upper = interval(sure, 0.9)
    assert by_rows((lower <= x) & (x <= upper), ~mask, 0.9) < -10
    found = imputation_scores(sure, x, ~mask)
    assert abs(exact.coverage - 0.9) < 0.03 and found.coverage < 0.8
    assert found.crps > exact.crps and found.rmse > exact.rmse


def test_the_crps_of_exact_draws_is_that_of_the_conditional_gaussian():
    made, x, mask = linear_gaussian(N=300, D=5, K=2)
    W, loc, scale = (value.detach() for value in (made.decoder.W, made.decoder.loc, made.decoder.scale))
    mean = ppvae.exact.impute_mean(W, loc, scale, x, mask)
    z = ppvae.exact.posterior(W, loc, scale, x, mask)
    sd = (torch.einsum("dk,nkl,dl->nd", W, z.covariance_matrix, W) + scale**2).sqrt()
    away = (crps(ppvae.condition(made, x, mask).impute(50), x) - crps_gaussian(mean, sd, x))[~mask]
    assert within(away, 0.0)  # draws are independent by row; the score's noise is the draws'


def test_what_cannot_be_scored_is_refused():
    draws, truth, hidden = torch.randn(30, 5, 2), torch.randn(5, 2), torch.ones(5, 2, dtype=torch.bool)
    with pytest.raises(ppvae.Problem, match="one draw"):
        crps(draws[:1], truth)
    with pytest.raises(ppvae.Problem, match="18 draws .*\n.*\n.*19 draws"):
        interval(draws[:18], 0.9)
    with pytest.raises(ppvae.Problem, match="39 draws or more"):
        imputation_scores(draws, truth, hidden, level=0.95)
    with pytest.raises(ppvae.Problem, match="level is 90"):
        interval(draws, 90)
    with pytest.raises(ppvae.Problem, match="truth has shape"):
        crps(draws, truth[:4])
    for nothing in (~hidden, hidden.double(), hidden[:4]):
        with pytest.raises(ppvae.Problem, match="hidden is"):
            imputation_scores(draws, truth, nothing)
    with pytest.raises(ppvae.Problem, match="not finite"):
        imputation_scores(draws, torch.where(hidden, torch.nan, truth), hidden)
