"""A mixture of Gaussians by EM with missing entries: against one Gaussian, scikit-learn, and densities written out."""

import math

import pytest
import torch
from sklearn.mixture import GaussianMixture as Peer
from torch.distributions import MultivariateNormal

import ppvae
from ppvae.exact.gaussian import conditional, gaussian
from ppvae.exact.mixture import gaussian_mixture, mixture_conditional, mixture_draws
from ppvae.imputation.mixture import gaussians
from ppvae.imputation.ways import gaussian_em


def table(N=400, rate=0.4, seed=0):
    """Three clusters in four columns, each with a slope of its own, some entries missing: (x, mask)."""
    g = torch.Generator().manual_seed(seed)
    of = torch.randint(3, (N,), generator=g)
    centre = torch.tensor([[0.0, 0.0, 3.0, 1.0], [4.0, 1.0, -2.0, 0.0], [-3.0, 2.0, 0.0, 4.0]])
    roots = 0.5 * torch.randn(3, 4, 4, generator=g) + 0.5 * torch.eye(4)
    x = centre[of] + (roots[of] @ torch.randn(N, 4, 1, generator=g)).squeeze(-1)
    return 10 * x + 5, torch.rand(N, 4, generator=g) > rate


def dense(fit, row, o):
    """p(c | x_o) (C,), log p(x_o), and E[x_m | x_o, c] (C, M), Cov[x_m | x_o, c] (C, M, M) of one row."""
    parts, means, covariances = [], [], []
    for weight, loc, S in zip(*fit[:3], strict=True):
        parts.append(weight.log() + (MultivariateNormal(loc[o], S[o][:, o]).log_prob(row[o]) if o.any() else 0.0))
        gain = S[~o][:, o] @ torch.linalg.inv(S[o][:, o])
        means.append(loc[~o] + gain @ (row[o] - loc[o]))
        covariances.append(S[~o][:, ~o] - gain @ S[o][:, ~o])
    joint = torch.stack(parts)
    return joint.softmax(0), joint.logsumexp(0), torch.stack(means), torch.stack(covariances)


@pytest.mark.parametrize("prior", [0.0, 0.1, 50.0])
def test_the_posterior_never_falls(prior):
    x, mask = table()
    fit = gaussian_mixture(x, 5, mask, prior=prior, iterations=60, tolerance=0.0)
    values = fit.log_posterior
    assert len(values) > 20 and (values.diff() >= -1e-10).all() and values[-1] > values[0] + 0.05


def test_without_a_prior_it_is_the_mean_log_likelihood_of_the_observed_entries():
    x, mask = table(N=60)
    mask[0] = False
    fit = gaussian_mixture(x, 3, mask, prior=0.0, iterations=7)
    truth = torch.stack([dense(fit, row, o)[1] for row, o in zip(x, mask, strict=True)]).mean()
    assert abs(fit.log_posterior[-1] - truth) < 1e-9


def test_one_component_is_the_gaussian_by_em():
    x, mask = table(rate=0.1)  # EM goes fast
    fit = gaussian_mixture(x, 1, mask, prior=0.0, iterations=3000, tolerance=1e-15)
    one = gaussian(x, mask, iterations=3000, tolerance=1e-15)
    assert (fit.loc[0] - one.loc).abs().max() < 1e-8 * one.loc.abs().max()
    assert (fit.covariance[0] - one.covariance).abs().max() < 1e-8 * one.covariance.abs().max()
    assert abs(fit.log_posterior[-1] - one.log_likelihood[-1]) < 1e-10 and fit.weights.tolist() == [1.0]
    mean = mixture_conditional(fit, x, mask)
    assert (mean - conditional(one.loc, one.covariance, x, mask)[0]).abs().max() < 1e-6


def test_on_complete_rows_scikit_learn_stays_where_it_ends():
    x, _ = table()
    fit = gaussian_mixture(x, 3, prior=0.0, iterations=2000, tolerance=1e-14)
    peer = Peer(
        3,
        reg_covar=0.0,
        tol=1e-12,
        max_iter=500,
        weights_init=fit.weights.numpy(),
        means_init=fit.loc.numpy(),
        precisions_init=torch.linalg.inv(fit.covariance).numpy(),
    ).fit(x.numpy())
    assert abs(peer.score(x.numpy()) - float(fit.log_posterior[-1])) < 1e-9
    for theirs, ours in ((peer.weights_, fit.weights), (peer.means_, fit.loc), (peer.covariances_, fit.covariance)):
        assert (torch.from_numpy(theirs) - ours).abs().max() < 1e-5 * ours.abs().max()
    free = Peer(3, reg_covar=0.0, n_init=3, random_state=0).fit(x.numpy())
    assert float(fit.log_posterior[-1]) > free.score(x.numpy()) - 1e-3


def test_means_and_draws_are_those_of_the_mixture_given_what_was_observed():
    x, mask = table()
    fit, S = gaussian_mixture(x, 4, mask), 4000
    mask = torch.tensor([[True, False, False, True], [False, False, True, True], [True] * 4, [False] * 4])
    x = x[:4]
    torch.manual_seed(0)
    mean = mixture_conditional(fit, x, mask)
    drawn = mixture_draws(fit, x.masked_fill(~mask, math.nan), mask, S)
    assert torch.equal(drawn[:, mask], x[mask].expand(S, -1)) and torch.equal(mean[mask], x[mask])
    for n, o in enumerate(mask):
        if o.all():
            continue
        r, _, means, covariances = dense(fit, x[n], o)
        truth = r @ means
        assert (mean[n, ~o] - truth).abs().max() < 1e-9 * (1 + truth.abs().max())
        apart = drawn[:, n, ~o] - truth
        assert (apart.mean(0).abs() < 5 * apart.std(0) / math.sqrt(S)).all()
        squares = apart.unsqueeze(-1) * apart.unsqueeze(-2)
        between = means - truth
        second = torch.einsum("c,cij->ij", r, covariances + between.unsqueeze(-1) * between.unsqueeze(-2))
        assert ((squares.mean(0) - second).abs() < 5 * squares.std(0) / math.sqrt(S)).all()


def test_blocks_of_rows_and_what_stands_in_a_gap_change_nothing(monkeypatch):
    x, mask = table(N=90)
    whole = gaussian_mixture(x, 3, mask)
    monkeypatch.setattr("ppvae.exact.mixture.CHUNK_BYTES", 4 * 4 * 8 * 3 * 16)
    for other in (x, x.masked_fill(~mask, 1e9), x.masked_fill(~mask, math.nan)):
        assert (gaussian_mixture(other, 3, mask).loc - whole.loc).abs().max() < 1e-8
    assert gaussian_mixture(x.float(), 3, mask).loc.dtype == torch.float32


@pytest.mark.parametrize("options", [{"components": 0}, {"components": 500}, {"prior": -1.0}, {"iterations": 0}])
def test_what_cannot_be_fitted_is_refused(options):
    x, mask = table()
    with pytest.raises(ppvae.Problem, match=next(iter(options))):
        gaussian_mixture(x, **({"components": 3} | options), mask=mask)


def test_rows_that_repeat_one_another_need_a_prior():
    x = torch.cat([torch.randn(100, 3), torch.full((40, 3), 9.0)])
    with pytest.raises(ppvae.Problem, match="one of 2, became singular"):
        gaussian_mixture(x, 2, prior=0.0, iterations=500, tolerance=0.0)
    assert gaussian_mixture(x, 2).loc.isfinite().all()


# --- as a way to complete a table ---------------------------------------------------------------------------------


def test_it_foretells_hidden_entries_of_clusters_far_better_than_one_gaussian_and_its_intervals_hold():
    x, mask = table(N=600)
    z = ((x - x.mean(0)) / x.std(0)).masked_fill(~mask, math.nan)
    truth = (x - x.mean(0)) / x.std(0)
    found, one = gaussians(z, 199, 0), gaussian_em(z, 199, 0)
    scores = ppvae.evaluate.imputation_scores(found.draws, truth, ~mask, mean=found.mean)
    plain = ppvae.evaluate.imputation_scores(one.draws, truth, ~mask, mean=one.mean)
    assert scores.crps < 0.8 * plain.crps and scores.rmse < 0.85 * plain.rmse
    assert abs(scores.coverage - 0.9) < 5 * math.sqrt(0.9 * 0.1 / int((~mask).sum()))
    tried = found.found["crps_by_size_and_prior"]
    assert f"{found.found['components']}, {found.found['prior']:g}" == min(tried, key=tried.get)
    assert found.found["components"] > 1 and tried["1, 1"] > 1.1 * min(tried.values())


def test_equal_seeds_give_equal_numbers_and_the_generators_stay_where_they_were():
    x, mask = table(N=80)
    z = x.masked_fill(~mask, math.nan)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = (gaussians(z, 19, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a.draws, b.draws) and torch.equal(a.mean, b.mean) and not torch.equal(a.draws, c.draws)
    assert a.draws.shape == (19, 80, 4) and a.draws.isfinite().all() and torch.equal(a.mean[mask], z[mask])


def test_tables_too_small_for_a_covariance_or_a_hidden_tenth_are_completed_all_the_same():
    few = torch.tensor([[0.0, 1.0], [1.0, math.nan], [math.nan, -1.0]])
    found = gaussians(few, 5, 0)
    assert found.found["crps_by_size_and_prior"] == {} and found.draws.isfinite().all()
    wide = torch.randn(12, 20).masked_fill(torch.rand(12, 20) > 0.6, math.nan)
    assert gaussians(wide, 5, 0).draws.isfinite().all()
