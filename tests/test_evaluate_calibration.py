"""Calibration by simulated rows: it must pass the exact posterior, and must not pass a wrong one."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, linear_gaussian, pair
from oracles import dense_posterior
from pyro import poutine
from scipy import stats

import ppvae
from ppvae.evaluate.calibration import _uniformity, sbc, tarp
from ppvae.evaluate.density import simulate


def correlated(name, N=400):
    """Two latents that the data hold together: the exact posterior's correlation is about -0.95."""
    made = pair(name, features=3, latents=2)
    made.decoder.set_(torch.ones(3, 2) + 0.2 * torch.randn(3, 2), torch.zeros(3), torch.full((3,), 0.5))
    return made, torch.zeros(N, 3)


def mean_field(N=400):
    """The best factorised guide of that story on complete rows: exact mean, variances 1 / P_kk."""
    made, x = correlated("factor_analysis_diagonal", N)
    d = made.decoder
    P = torch.eye(2) + (d.W.T / d.scale**2) @ d.W
    with torch.no_grad():
        made.encoder.linear.weight.copy_(torch.linalg.solve(P, d.W.T / d.scale**2))
        made.encoder.linear.bias.zero_()
        made.encoder.log_scale.copy_(-0.5 * P.diagonal().log())
    return made, x


def test_ranks_of_the_exact_posterior_are_uniform_and_those_of_a_factorised_one_are_not():
    exact, x = correlated("factor_analysis_exact")
    mask = torch.rand(x.shape) > 0.3
    wrong, _ = mean_field()
    for seed in range(20):
        torch.manual_seed(seed)
        assert (sbc(exact, x, mask).p_value["z"] > 0.001).all()
        assert (sbc(wrong, x).p_value["z"] < 1e-6).all()


def test_coverage_of_the_exact_posterior_is_nominal_and_that_of_a_factorised_one_is_not():
    exact, x = correlated("factor_analysis_exact")
    mask = torch.rand(x.shape) > 0.3
    wrong, _ = mean_field()
    for seed in range(20):
        torch.manual_seed(seed)
        right = tarp(exact, x, mask)
        assert right.p_value > 0.001 and (right.coverage - right.level).abs().max() <= right.deviation + 1e-12
        assert tarp(wrong, x).p_value < 1e-6


def test_a_guide_that_always_answers_with_the_prior_is_found_out():
    """Its ranks are uniform, for the simulated latents are draws of the prior: only the balls depend on the row."""
    made = pair("factor_analysis_mean_imputation", features=3, latents=2)
    made.decoder.set_(torch.ones(3, 2), torch.zeros(3), torch.full((3,), 0.5))
    x = torch.zeros(3000, 3)
    assert (sbc(made, x).p_value["z"] > 0.001).all()
    assert tarp(made, x).p_value < 1e-6


def test_the_p_values_of_the_tests_are_themselves_uniform():
    """Over 60 seeds under the exact posterior (Kolmogorov-Smirnov above 0.001)."""
    exact, x = correlated("factor_analysis_exact", N=100)
    ps, pt = [], []
    for seed in range(60):
        torch.manual_seed(seed)
        ps.append(float(sbc(exact, x, draws=19).p_value["z"][0]))
        pt.append(tarp(exact, x, draws=19).p_value)
    assert stats.kstest(ps, "uniform").pvalue > 0.001 and stats.kstest(pt, "uniform").pvalue > 0.001


def test_importance_weights_mend_the_calibration_of_a_guide():
    wrong, x = mean_field(300)
    wrong.encoder.log_scale.data += 1.2  # wide enough to be resampled from
    assert (sbc(wrong, x).p_value["z"] < 1e-6).all() and tarp(wrong, x).p_value < 1e-6
    assert (sbc(wrong, x, draws=19, particles=2000).p_value["z"] > 0.001).all()
    assert tarp(wrong, x, draws=19, particles=2000).p_value > 0.001


def test_the_p_value_is_that_of_scipys_test():
    ranks = torch.randint(100, (300, 2))
    counts = torch.stack([(column // 5).bincount(minlength=20) for column in ranks.T])
    by_scipy = [stats.chisquare(c.numpy()).pvalue for c in counts]
    assert torch.allclose(_uniformity(ranks, 99), torch.tensor(by_scipy))
    uneven = _uniformity(torch.arange(20).repeat(10)[:, None], 19)  # as even as can be
    assert uneven > 0.999


def test_simulated_rows_have_the_posterior_that_they_should():
    """The true latents are draws of p(z | x_o): standardised by the dense posterior they are standard normal."""
    made, x, mask = linear_gaussian(N=3000, D=5, K=2)
    with torch.no_grad():
        truth, rows = simulate(made, ppvae.door.enter(made, x, mask))
        d = made.decoder
        mean, covariance = dense_posterior(d.W, d.loc, d.scale, rows.values["x"], mask)
        root = torch.linalg.cholesky(covariance)
        z = torch.linalg.solve_triangular(root, (truth["z"][0, :, 0] - mean)[..., None], upper=False)[..., 0]
    assert torch.equal(rows.masks["x"], mask)
    assert min(stats.kstest(column, "norm").pvalue for column in z.T.numpy()) > 0.001


def test_every_kind_of_pair_is_ranked():
    for name in ("two_layer", "conditional_vae", "vae"):
        made = pair(name)
        entries, mask = data(made, rows=20)
        found = sbc(made, entries, {"x": mask}, draws=9)
        assert all(((r >= 0) & (r <= 9)).all() and len(r) == 20 for r in found.ranks.values())
        assert 0 <= tarp(made, entries, {"x": mask}, draws=9).p_value <= 1


def test_ties_of_a_discrete_latent_are_broken_at_random():
    """y ~ Bernoulli, x | y Gaussian: the posterior is a logistic function of x, and most draws equal the truth."""

    def model(x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            y = pyro.sample("y", dist.Bernoulli(torch.full((1,), 0.4)))
            with pyro.plate("features", 1, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal(2 * y, 1.0), obs=x)

    def guide(x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("y", dist.Bernoulli(logits=2 * x - 2 + math.log(0.4 / 0.6)))

    found = sbc(ppvae.Pair(model, guide), torch.zeros(2000, 1))
    assert found.p_value["y"] > 0.001 and found.ranks["y"].max() == 99


def test_a_global_latent_has_one_replicate_and_is_refused():
    made = pair("bayesian_linear")
    entries, _ = data(made, rows=4)
    for verb in (sbc, tarp):
        with pytest.raises(ppvae.Problem, match="one replicate"):
            verb(made, entries)
