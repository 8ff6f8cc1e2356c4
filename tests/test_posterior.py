"""Conditioning: draws, imputations and diagnostics against the dense Gaussian conditional."""

import math

import arviz
import pytest
import torch
from examples import data, linear_gaussian, pair
from oracles import dense_impute_mean, dense_log_evidence, dense_posterior

import ppvae
from ppvae.conditioning import blocks


def dense(made, x, mask):
    d = made.decoder
    return d.W, d.loc, d.scale, x, mask


@pytest.mark.parametrize("name", ["factor_analysis_exact", "factor_analysis_full"])
def test_draws_have_the_posteriors_moments(name):
    """By resampling where the guide is wrong: 5 standard errors of an effective sample size that the weights state."""
    made, x, mask = linear_gaussian(name, N=6, D=5, K=2)
    mean, covariance = dense_posterior(*dense(made, x, mask))
    post = ppvae.condition(made, x, mask)
    draws = 4000
    z = post.sample(draws, particles=40000)["z"]
    assert z.shape == (draws, 6, 2)
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    effective = post.diagnostics(40000)["ess"].clamp(max=draws)[:, None] / 2
    assert ((z.mean(0) - mean).abs() < 5 * sd / effective.sqrt()).all()
    assert ((z.std(0) / sd - 1).abs() < 5 / (2 * effective).sqrt() + 0.05).all()


@pytest.mark.parametrize("name", ["factor_analysis_exact", "factor_analysis_full"])
def test_imputations_are_draws_of_the_missing_given_the_observed(name):
    made, x, mask = linear_gaussian(name, N=6, D=5, K=2)
    W, loc, scale, *_ = dense(made, x, mask)
    post = ppvae.condition(made, torch.where(mask, x, torch.nan))
    draws = post.impute(4000, particles=40000)
    assert draws.shape == (4000, 6, 5)
    assert torch.equal(draws[:, mask], x[mask].expand(4000, -1))  # observed entries: unchanged, bit for bit
    mean = dense_impute_mean(W, loc, scale, x, mask)
    covariance = W @ W.T + torch.diag(scale**2)
    effective = post.diagnostics(40000)["ess"].clamp(max=4000) / 2
    for n, o in enumerate(mask):
        if o.all():
            continue
        gain = (
            covariance[~o][:, o] @ torch.linalg.inv(covariance[o][:, o]) if o.any() else torch.zeros(int((~o).sum()), 0)
        )
        sd = (covariance[~o][:, ~o] - gain @ covariance[o][:, ~o]).diagonal().sqrt()
        assert ((draws[:, n, ~o].mean(0) - mean[n, ~o]).abs() < 5 * sd / effective[n].sqrt()).all()
        assert ((draws[:, n, ~o].std(0) / sd - 1).abs() < 5 / (2 * effective[n]).sqrt() + 0.05).all()


def test_the_imputed_mean_is_the_conditional_mean():
    made, x, mask = linear_gaussian(N=10)
    exact = dense_impute_mean(*dense(made, x, mask))
    means = torch.stack([ppvae.condition(made, x, mask).impute_mean(200) for _ in range(30)])
    error = means.std(0) / math.sqrt(30)
    assert ((means.mean(0) - exact).abs() < 5 * error + 1e-12).all()
    assert torch.equal(means[0][mask], x[mask])


def test_the_blocks_change_nothing_but_memory(monkeypatch):
    """Means in blocks of few rows and particles estimate the same; the exact evidence is the same number."""
    made, x, mask = linear_gaussian("factor_analysis_diagonal")
    exact = dense_log_evidence(*dense(made, x, mask))
    whole = ppvae.condition(made, x, mask)
    a = torch.stack([whole.log_evidence(600) for _ in range(20)])
    mean_a = torch.stack([whole.impute_mean(300) for _ in range(20)])
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 2**18)  # 128 cells: rows of 600 in 5 blocks
    cut = ppvae.condition(made, x, mask)
    assert (
        len(list(cut.blocks(600))) == 40 and next(cut.blocks(600))[1] == [120] * 5
    )  # even parts: most blocks have one shape
    b = torch.stack([cut.log_evidence(600) for _ in range(20)])
    mean_b = torch.stack([cut.impute_mean(300) for _ in range(20)])
    assert ((a.mean(0) - b.mean(0)).abs() < 5 * ((a.var(0) + b.var(0)) / 20).sqrt() + 1e-9).all()
    assert ((mean_a.mean(0) - mean_b.mean(0)).abs() < 5 * ((mean_a.var(0) + mean_b.var(0)) / 20).sqrt() + 1e-9).all()
    assert (b.mean(0) < exact + 5 * b.std(0) / math.sqrt(20) + 1e-9).all()


def test_the_effective_sample_size_is_that_of_the_weights():
    made, x, mask = linear_gaussian()
    found = ppvae.condition(made, x, mask).diagnostics(100)
    assert torch.allclose(found["ess"], torch.full((40,), 100.0)) and (found["pareto_k"] == -torch.inf).all()
    made, x, mask = linear_gaussian("factor_analysis_diagonal")
    found = ppvae.condition(made, x, mask).diagnostics(500)
    assert ((found["ess"] >= 1) & (found["ess"] < 500)).all() and found["pareto_k"].isfinite().all()


def test_a_bad_proposal_shows_in_pareto_k():
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=20)
    made.encoder.log_scale.data.fill_(-2.0)  # far too narrow: heavy-tailed weights
    assert (ppvae.condition(made, x, mask).diagnostics(1000)["pareto_k"] > 0.7).float().mean() > 0.8


def test_a_global_latent_is_drawn_once_for_all_rows():
    made = pair("bayesian_linear", features=3)
    entries, mask = data(made, rows=5)
    post = ppvae.condition(made, entries, {"x": mask})
    assert post.sample(8)["W"].shape == (8, 3, 2) and post.sample(1)["W"].shape == (1, 3, 2)
    assert post.impute(4).shape == (4, 5, 3) and post.impute(1).shape == (1, 5, 3)
    with pytest.raises(ppvae.Problem, match="global"):
        post.log_evidence()


def test_classes_are_drawn_and_have_no_mean():
    made = pair("vae", likelihood="categorical", classes=4, features=5)
    x = torch.randint(4, (8, 5))
    mask = torch.rand(8, 5) > 0.4
    draws = ppvae.condition(made, x, mask).impute(6)
    assert set(draws.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    with pytest.raises(ppvae.Problem, match="no mean"):
        ppvae.condition(made, x, mask).impute_mean()


def test_a_pair_without_latents_is_conditioned_too():
    import pyro
    import pyro.distributions as dist
    from pyro import poutine

    class Rates(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.randn(4))

    def model(rates, x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            with pyro.plate("features", 4, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Bernoulli(logits=rates.logits), obs=x)

    made = ppvae.Pair(model, rates=Rates())
    x, mask = torch.randint(2, (6, 4)).double(), torch.rand(6, 4) > 0.5
    by_hand = (torch.distributions.Bernoulli(logits=made.rates.logits).log_prob(x) * mask).sum(-1)
    ppvae.check(made, x, mask)
    assert torch.allclose(ppvae.condition(made, x, mask).log_evidence(3), by_hand)
    assert torch.allclose(ppvae.elbo()(made, x, mask), by_hand) and torch.allclose(
        ppvae.iw_elbo(4)(made, x, mask), by_hand
    )
    assert ppvae.condition(made, x, mask).impute(3).shape == (3, 6, 4)
    with pytest.raises(ppvae.Problem, match="no latents"):
        ppvae.condition(made, x, mask).sample()


def test_the_tree_is_read_by_the_installed_arviz(tmp_path):
    made, x, mask = linear_gaussian(N=7, D=4, K=2)
    tree = ppvae.condition(made, x, mask).to_datatree(50)
    tree.to_netcdf(tmp_path / "run.nc")
    read = arviz.from_netcdf(tmp_path / "run.nc")
    groups = set(tree.children)
    assert groups == {
        "posterior",
        "posterior_predictive",
        "prior",
        "prior_predictive",
        "log_likelihood",
        "sample_stats",
        "observed_data",
        "constant_data",
    }
    assert read["posterior"]["z"].dims == ("chain", "draw", "row", "z_dim_1") and read["posterior"]["z"].shape == (
        1,
        50,
        7,
        2,
    )
    assert len(arviz.summary(read)) == 14
    observed = torch.as_tensor(read["observed_data"]["x"].values)
    assert torch.equal(observed.isnan(), ~mask) and torch.equal(observed[mask], x[mask])
    z = torch.as_tensor(read["posterior"]["z"].values[0])
    d = made.decoder
    by_hand = torch.distributions.Normal(z @ d.W.T + d.loc, d.scale).log_prob(x) * mask
    assert torch.allclose(torch.as_tensor(read["log_likelihood"]["x"].values[0]), by_hand)


def test_conditioning_leaves_mode_and_validation_alone():
    made, x, mask = linear_gaussian()
    made.train()
    before = torch.distributions.Distribution._validate_args
    ppvae.condition(made, x, mask).impute_mean(5)
    assert made.training and torch.distributions.Distribution._validate_args == before


@pytest.mark.parametrize(
    "call", [lambda p: p.log_evidence(0), lambda p: p.sample(0), lambda p: p.impute(1.5), lambda p: p.impute_mean(-1)]
)
def test_counts_of_draws_are_whole_numbers(call):
    made, x, mask = linear_gaussian()
    with pytest.raises(ppvae.Problem, match="whole number"):
        call(ppvae.condition(made, x, mask))


def test_an_entry_that_is_absent_or_partly_seen_is_drawn_from_its_posterior():
    """Two far-apart components: with y absent the row itself says which; a prior draw of y would be wrong half of the time."""
    import pyro
    import pyro.distributions as dist
    from pyro import poutine

    def model(x=None, y=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            y = pyro.sample("y", dist.Bernoulli(0.5), obs=y, infer={"enumerate": "parallel"})
            with pyro.plate("features", 2, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal(10 * y - 5.0, 1.0).expand([*y.shape[:-1], 2]), obs=x)

    made = ppvae.Pair(model)
    x = torch.tensor([[5.0, torch.nan], [-5.0, torch.nan]])
    assert torch.allclose(
        ppvae.condition(made, x).impute(500)[:, :, 1].mean(0), torch.tensor([5.0, -5.0]), atol=5 / 500**0.5
    )
    seen = ppvae.condition(made, {"x": torch.full((2, 2), torch.nan), "y": torch.tensor([1.0, torch.nan])})
    draws = seen.impute(2000)
    assert abs(draws[:, 0].mean() - 5) < 5 / 2000**0.5 and abs(draws[:, 1].mean()) < 5 * 5.1 / 2000**0.5
    assert (seen.sample(200)["y"][:, 0] == 1).all()


def test_a_mean_in_blocks_is_the_mean_under_all_weights():
    """Log-weights of a thousand nats, the largest in any block."""
    from ppvae.conditioning.averages import log_mean_exp, weighted_mean

    values, weights = torch.randn(90, 4, 3), 300 * torch.randn(90, 4)
    blocks = list(zip(values.split(20), weights.split(20), strict=True))
    whole = torch.einsum("pn,pnd->nd", weights.softmax(0), values)
    assert (weighted_mean(blocks) - whole).abs().max() < 1e-12
    assert (log_mean_exp([w for _, w in blocks]) - (weights.logsumexp(0) - math.log(90))).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["factor_analysis_exact", "factor_analysis_diagonal", "conditional_vae", "two_layer"])
def test_the_file_written_by_blocks_holds_all_rows_in_their_order(name, tmp_path, monkeypatch):
    import xarray

    made = pair(name)
    entries, mask = data(made, rows=30)
    post = ppvae.condition(made, entries, {"x": mask})
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 2**18)
    torch.manual_seed(0)
    post.to_netcdf(tmp_path / "whole.nc", draws=20)
    with xarray.open_datatree(tmp_path / "whole.nc", engine="h5netcdf") as read:
        x, seen = read["observed_data"]["x"].values, read["constant_data"]["mask"].values
        assert (seen == mask.numpy()).all() and (x[seen] == entries["x"][mask].numpy()).all()
        predicted = read["posterior_predictive"]["x"].values[0]
        assert (predicted[:, mask.numpy()] == x[mask.numpy()]).all()
        assert read["prior_predictive"]["x"].shape == (1, 20, *mask.shape)
        assert read["sample_stats"]["ess"].shape == (30,)


def test_the_prior_is_the_storys():
    made, x, mask = linear_gaussian(N=20)
    tree = ppvae.condition(made, x, mask).to_datatree(4000)
    z = torch.as_tensor(tree["prior"]["z"].values[0]).flatten(0, 1)  # (80000, K)
    assert (z.mean(0).abs() < 5 / 80_000**0.5).all()
    assert ((z.T.cov() - torch.eye(3)).abs() < 5 * 2**0.5 / 80_000**0.5).all()
    generated = torch.as_tensor(tree["prior_predictive"]["x"].values[0]).flatten(0, 1)
    d = made.decoder
    covariance = (d.W @ d.W.T + d.scale.square().diag()).detach()
    sd = covariance.diagonal().sqrt()
    assert ((generated.mean(0) - d.loc).abs() < 5 * sd / 80_000**0.5).all()
    assert ((generated.T.cov() - covariance).abs() < 5 * 2**0.5 * sd.outer(sd) / 80_000**0.5).all()
