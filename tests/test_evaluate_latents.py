"""Rate, distortion, active units and information of a guide, against dense numpy."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, linear_gaussian, pair
from pyro import poutine

import ppvae
from ppvae.evaluate import latents
from ppvae.evaluate.latents import information, rate_distortion, units


def encoded(made, x, mask):
    q = made.encoder(torch.where(mask, x, 0.0))
    return q.base_dist.loc[:, 0].detach().numpy(), q.base_dist.scale[:, 0].detach().numpy()


def log_normal(z, loc, scale):
    return -0.5 * ((z - loc) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)


def test_the_units_of_a_diagonal_guide_are_those_of_the_formula():
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=50)
    made.encoder.linear.weight.data[1] = 0  # a unit that no data move
    loc, scale = encoded(made, x, mask)
    found = units(made, x, mask)["z"]
    by_hand = 0.5 * (loc**2 + scale**2 - 1) - np.log(scale)
    assert np.allclose(found.kl.numpy(), by_hand.mean(0)) and np.isclose(found.rate, by_hand.mean(0).sum())
    assert np.allclose(found.variance.numpy(), loc.var(0, ddof=1)) and found.active.tolist() == [True, False, True]


def test_a_correlated_guide_has_a_rate_and_no_units_of_it():
    made, x, mask = linear_gaussian("factor_analysis_exact", N=40)
    found = units(made, x, mask, draws=2000)["z"]
    q = ppvae.exact.posterior(made.decoder.W, made.decoder.loc, made.decoder.scale, x, mask)
    prior = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
    exact = torch.distributions.kl_divergence(q, prior).mean().item()
    assert found.kl is None and abs(found.rate.item() - exact) < 0.05 * exact
    assert np.allclose(found.variance.detach().numpy(), q.mean.detach().numpy().var(0, ddof=1))


def test_the_noise_of_a_latent_below_another_is_no_activity():
    """q(z2 | z1) with z1 pure noise: E_q[z2 | x] is the same for every row, though ten draws of z1 scatter it."""

    def model(x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(1, 1), 1.0).to_event(1))
            pyro.sample("z2", dist.Normal(z1, 1.0).to_event(1))
            with pyro.plate("features", 1, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal(z1.squeeze(-2), 1.0), obs=x)

    def guide(x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(len(x), 1, 1), 1.0).to_event(1))
            pyro.sample("z2", dist.Normal(z1, 1.0).to_event(1))

    found = units(ppvae.Pair(model, guide), torch.randn(4000, 1), draws=10)["z2"]
    assert abs(found.variance.item()) < 5 * 0.1 * math.sqrt(2 / 4000) and not found.active  # scatter 1 / 10


def test_rate_and_distortion_are_the_two_halves_of_the_bound():
    for name in ("vae", "two_layer", "factor_analysis_diagonal"):
        made = pair(name)
        made.eval()
        entries, mask = data(made, rows=6)
        torch.manual_seed(3)
        halves = rate_distortion(made, entries, {"x": mask}, 20)
        torch.manual_seed(3)
        with torch.no_grad():
            bound = ppvae.elbo(20)(made, entries, {"x": mask})
        assert torch.allclose(-(halves.rate + halves.distortion), bound, atol=1e-12) and halves.rate.shape == (6,)


def test_the_information_is_that_of_the_dense_mixture():
    """Brute force: the aggregate posterior over N rows is a mixture of N Gaussians, here with 20,000 draws of numpy's own."""
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=12, K=2)
    made.encoder.log_scale.data.fill_(-1.0)
    loc, scale = encoded(made, x, mask)
    rng = np.random.default_rng(0)
    n = rng.integers(12, size=20_000)
    z = loc[n] + scale[n] * rng.standard_normal((20_000, 2))
    own = log_normal(z, loc[n], scale[n]).sum(-1)
    each = log_normal(z[:, None], loc, scale).sum(-1)  # (20,000, N)
    aggregate = np.log(np.exp(each).mean(1))
    carried = own - aggregate
    shifted = aggregate - log_normal(z, 0.0, 1.0).sum(-1)
    found = information(made, x, mask, draws=1000)
    assert 0.2 < found.mutual_information < math.log(12)
    error = math.hypot(found.standard_error, carried.std() / math.sqrt(20_000))
    assert abs(found.mutual_information - carried.mean()) < 5 * error
    assert abs(found.marginal_kl - shifted.mean()) < 5 * (shifted.std() * math.sqrt(1 / 20_000 + 1 / 12_000))
    assert math.isclose(found.rate, found.mutual_information + found.marginal_kl, rel_tol=1e-12)
    analytic = units(made, x, mask)["z"].rate.item()
    assert abs(found.rate - analytic) < 5 * math.sqrt(2 / 12_000)


def test_a_guide_that_ignores_the_rows_carries_nothing_and_one_that_tells_them_apart_log_n():
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=20)
    made.encoder.linear.weight.data.zero_()
    assert abs(information(made, x, mask).mutual_information) < 1e-12
    made.encoder.linear.weight.data.normal_().mul_(100)
    made.encoder.log_scale.data.fill_(-8.0)
    mask[0], mask[1:] = False, True
    assert math.isclose(information(made, x, mask).mutual_information, math.log(20), abs_tol=1e-9)


def test_the_blocks_change_nothing(monkeypatch):
    from ppvae.conditioning import blocks

    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=30)
    made.encoder.log_scale.data.fill_(-20.0)  # no noise to speak of: one draw is as good as another
    whole = units(made, x, mask, draws=3)["z"]
    info = information(made, x, mask)
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 2**16)
    monkeypatch.setattr(latents, "POINTS", 7)
    cut = units(made, x, mask, draws=3)["z"]
    assert torch.allclose(cut.kl, whole.kl) and torch.allclose(cut.variance, whole.variance)
    assert math.isclose(information(made, x, mask).mutual_information, info.mutual_information, abs_tol=1e-6)


def test_two_layers_are_measured_and_global_latents_refused():
    made = pair("two_layer")
    entries, mask = data(made, rows=8)
    found = units(made, entries, {"x": mask})
    assert found["z1"].kl is None and found["z2"].kl is not None  # z1 is drawn first by the guide, last by the story
    assert found["z1"].variance.shape == (4,) and found["z2"].kl.shape == (2,)
    split = information(made, entries, {"x": mask}, draws=3)
    assert math.isclose(split.rate, split.mutual_information + split.marginal_kl, rel_tol=1e-10)
    made = pair("bayesian_linear")
    entries, _ = data(made, rows=4)
    with pytest.raises(ppvae.Problem, match="global"):
        units(made, entries)
