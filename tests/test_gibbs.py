"""Markov chains over z and the missing entries, held against dense Gaussians, quadrature and enumeration.

One row is repeated: its copies are independent chains, so what differs between them is the Monte Carlo error.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, linear_gaussian, pair
from pyro import poutine

import ppvae
from ppvae.door import enter
from ppvae.tracing.terms import weights_of
from ppvae.tracing.traces import log_prob, run

CHAINS = 2000
BURN_IN = 500  # a fifth of the proposals is accepted, and the starts are those of 8 effective draws in 1000


def amortized(**shape):
    """Factor analysis whose guide is wrong by a third in the mean's slope, off centre, and a third too wide."""
    made, x, mask = linear_gaussian("factor_analysis_diagonal", **shape)
    d, e = made.decoder, made.encoder
    exact = ppvae.exact.posterior(d.W, d.loc, d.scale, x)
    with torch.no_grad():
        gain = exact.covariance_matrix[0] @ d.W.T / d.scale**2
        e.linear.weight.copy_(gain / 1.5)
        e.linear.bias.copy_(0.2 - gain @ d.loc / 1.5)
        e.log_scale.copy_((exact.variance[0].sqrt() * 4 / 3).log())
    return made, x, mask


def one_row(name):
    """A pair, many copies of a row with two of five entries missing, and the dense law of these two: mean, covariance."""
    shape = {"N": 3, "D": 5, "K": 2}
    made, x, _ = amortized(**shape) if name == "amortized" else linear_gaussian(name, **shape)
    mask = torch.tensor([True, False, True, False, True])
    W, loc, scale = (value.detach() for value in (made.decoder.W, made.decoder.loc, made.decoder.scale))
    covariance = W @ W.T + torch.diag(scale**2)
    gain = covariance[~mask][:, mask] @ torch.linalg.inv(covariance[mask][:, mask])
    mean = loc[~mask] + gain @ (x[2, mask] - loc[mask])
    spread = covariance[~mask][:, ~mask] - gain @ covariance[mask][:, ~mask]
    return made, x[2].expand(CHAINS, -1), mask.expand(CHAINS, -1), mean, spread


def errors(found, mean, spread):
    """How many standard errors the mean and the covariance of independent draws (S, M) lie from the truth, at most."""
    away = found - mean
    products = away[:, :, None] * away[:, None, :]
    first = away.mean(0) / (away.std(0) / math.sqrt(len(found)))
    second = (products.mean(0) - spread) / (products.std(0) / math.sqrt(len(found)))
    return max(first.abs().max(), second.abs().max())


@pytest.mark.parametrize("name", ["amortized", "factor_analysis_mean_imputation"])
def test_a_metropolis_chain_is_exact_under_a_wrong_guide_and_pseudo_gibbs_is_not(name):
    made, x, mask, mean, spread = one_row(name)
    post = ppvae.condition(made, x, mask)
    chain = post.gibbs(draws=1, burn_in=BURN_IN, gap=1)
    assert 0.05 < chain.acceptance.mean() < 0.95
    assert errors(chain.x[0][:, ~mask[0]], mean, spread) < 5
    pseudo = post.gibbs(draws=1, burn_in=BURN_IN, gap=1, metropolis=False)
    assert (pseudo.acceptance == 1).all()
    assert errors(pseudo.x[0][:, ~mask[0]], mean, spread) > 15


def test_the_latents_of_a_metropolis_chain_are_draws_of_the_posterior():
    made, x, mask, *_ = one_row("factor_analysis_mean_imputation")
    d = made.decoder
    exact = ppvae.exact.posterior(d.W, d.loc, d.scale, x[:1], mask[:1])
    z = ppvae.condition(made, x, mask).gibbs(draws=1, burn_in=BURN_IN, gap=1).latents["z"]
    assert z.shape == (1, CHAINS, 2)
    assert errors(z[0], exact.mean[0], exact.covariance_matrix[0]) < 5


@pytest.mark.parametrize("metropolis", [True, False])
def test_the_exact_guide_is_always_accepted(metropolis):
    made, x, mask, mean, spread = one_row("factor_analysis_exact")
    chain = ppvae.condition(made, x, mask).gibbs(draws=2, burn_in=0, gap=20, metropolis=metropolis)
    assert (chain.acceptance - 1).abs().max() < 1e-10
    assert errors(chain.x[1][:, ~mask[0]], mean, spread) < 5


def test_every_draw_of_the_chain_keeps_the_observed_entries():
    made, x, mask = amortized(N=6, D=5, K=2)  # row 0 empty, row 1 complete
    chain = ppvae.condition(made, torch.where(mask, x, torch.nan)).gibbs(draws=7, burn_in=3, gap=5)
    assert chain.x.shape == (7, 6, 5) and chain.latents["z"].shape == (7, 6, 2) and chain.acceptance.shape == (6,)
    assert torch.equal(chain.x[:, mask], x[mask].expand(7, -1)) and chain.x.isfinite().all()
    assert (chain.x[:, 0].std(0) > 0).all() and (chain.latents["z"].std(0) > 0).all()


def test_an_empty_row_is_drawn_from_the_story_and_a_complete_one_has_its_posterior():
    made, x, _ = amortized(N=3, D=4, K=2)
    d = made.decoder
    nothing = torch.full((CHAINS, 4), torch.nan)
    drawn = ppvae.condition(made, nothing).gibbs(draws=1, burn_in=BURN_IN, gap=1).x[0]
    W, loc, scale = d.W.detach(), d.loc.detach(), d.scale.detach()
    assert errors(drawn, loc, W @ W.T + torch.diag(scale**2)) < 5
    exact = ppvae.exact.posterior(W, loc, scale, x[:1])
    z = ppvae.condition(made, x[:1].expand(CHAINS, -1)).gibbs(draws=1, burn_in=BURN_IN, gap=1).latents["z"][0]
    assert errors(z, exact.mean[0], exact.covariance_matrix[0]) < 5


def test_bits_have_the_law_that_enumeration_and_quadrature_give():
    """Two missing bits of four, a scalar z on a grid, a guide that is too wide and off centre."""
    w, b = torch.tensor([2.5, -2.0, 1.5, 3.0]), torch.tensor([0.3, -0.2, 0.5, 0.0])

    def model(x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 1), 1.0).to_event(1))
            with pyro.plate("features", 4, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Bernoulli(logits=z.squeeze(-2) * w + b), obs=x)

    def guide(x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal((x @ w - 3.0)[:, None, None] / 3, 1.5).to_event(1))

    made = ppvae.Pair(model, guide)
    row = torch.tensor([1.0, 0.0, torch.nan, torch.nan]).expand(CHAINS, -1)
    z = torch.linspace(-8, 8, 4001)
    rate = torch.sigmoid(z[:, None] * w + b)  # (grid, 4)
    weight = torch.exp(-(z**2) / 2) * rate[:, 0] * (1 - rate[:, 1])
    a, c = rate[:, 2], rate[:, 3]
    law = torch.stack([(weight * p).sum() for p in ((1 - a) * (1 - c), (1 - a) * c, a * (1 - c), a * c)])
    law = law / law.sum()

    def furthest(**settings):
        bits = ppvae.condition(made, row).gibbs(draws=1, burn_in=100, gap=1, **settings).x[0, :, 2:]
        share = torch.bincount((2 * bits[:, 0] + bits[:, 1]).long(), minlength=4) / CHAINS
        return ((share - law) / (law * (1 - law) / CHAINS).sqrt()).abs().max()

    assert furthest() < 5
    assert furthest(metropolis=False) > 8


def test_a_latent_that_the_guide_leaves_to_the_story_stays_with_its_draw():
    """Two components of x with y absent, of unequal weight: y's law and that of the missing entry, by enumeration."""

    def model(x=None, y=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            y = pyro.sample("y", dist.Bernoulli(0.3), obs=y, infer={"enumerate": "parallel"})
            with pyro.plate("features", 2, dim=-1), poutine.mask(mask=mask):
                return pyro.sample(
                    "x", dist.Normal(2 * y.expand(*y.shape[:-1], 1), 1.0).expand([*y.shape[:-1], 2]), obs=x
                )

    x = torch.tensor([0.8, torch.nan]).expand(CHAINS, -1)
    odds = 0.3 / 0.7 * math.exp(-0.5 * (0.8 - 2) ** 2 + 0.5 * 0.8**2)
    p = odds / (1 + odds)
    chain = ppvae.condition(ppvae.Pair(model), x).gibbs(draws=1, burn_in=100, gap=1)
    assert abs(chain.latents["y"].mean() - p) < 5 * math.sqrt(p * (1 - p) / CHAINS)
    assert abs(chain.x[0, :, 1].mean() - 2 * p) < 5 * math.sqrt((1 + 4 * p * (1 - p)) / CHAINS)
    y = torch.where(torch.arange(CHAINS) % 2 == 0, 1.0, torch.nan)  # seen in every other row
    seen = ppvae.condition(ppvae.Pair(model), {"x": x, "y": y}).gibbs(draws=1, burn_in=100, gap=1)
    assert (seen.latents["y"][0, ::2] == 1).all()
    assert abs(seen.x[0, ::2, 1].mean() - 2) < 5 / math.sqrt(CHAINS / 2)
    assert abs(seen.latents["y"][0, 1::2].mean() - p) < 5 * math.sqrt(p * (1 - p) / (CHAINS / 2))


def test_a_label_that_the_guide_draws_where_it_is_absent_is_chained_with_it():
    """As above with a guide that tosses a coin for y; 500 rows see it."""

    def model(x=None, y=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            y = pyro.sample("y", dist.Bernoulli(0.3), obs=y)
            with pyro.plate("features", 2, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal(2 * y.expand(*y.shape[:-1], 2), 1.0), obs=x)

    def guide(x, y=None, mask=True):
        if y is None:
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("y", dist.Bernoulli(torch.full((len(x), 1), 0.5)))

    x = torch.tensor([0.8, torch.nan]).expand(CHAINS, -1)
    seen = torch.arange(CHAINS) % 4 == 0
    odds = 0.3 / 0.7 * math.exp(-0.5 * (0.8 - 2) ** 2 + 0.5 * 0.8**2)
    p = odds / (1 + odds)
    post = ppvae.condition(ppvae.Pair(model, guide), {"x": x, "y": torch.where(seen, 1.0, torch.nan)})
    chain = post.gibbs(draws=1, burn_in=100, gap=1)
    y, missing = chain.latents["y"][0], chain.x[0, :, 1]
    assert (y[seen] == 1).all() and (chain.acceptance[seen] == 1).all()
    assert abs(missing[seen].mean() - 2) < 5 / math.sqrt(seen.sum())
    assert abs(y[~seen].mean() - p) < 5 * math.sqrt(p * (1 - p) / (~seen).sum())


def test_given_values_are_scored_as_the_formula_says():
    made, x, mask = linear_gaussian("factor_analysis_diagonal")
    z = torch.randn(40, 1, 3)
    with torch.no_grad():
        traces = run(made, enter(made, x), enumerate=False, at={"z": z})
        d, e = made.decoder, made.encoder
        given = torch.distributions.Normal(z[:, 0] @ d.W.T + d.loc, d.scale).log_prob(x).sum(-1)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0]).sum(-1)
        q = torch.distributions.Normal(e.linear(x), e.log_scale.exp()).log_prob(z[:, 0]).sum(-1)
        assert torch.equal(traces.guide.nodes["z"]["value"], z)
        assert (log_prob(traces.guide.nodes["z"]).squeeze(-1) - q).abs().max() < 1e-10
        assert (weights_of(traces)[0] - (given + prior - q)).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["conditional_vae", "conv_vae", "two_layer", "vae"])
def test_bits_labels_pictures_and_layers_are_chained_too(name):
    made = pair(name)
    entries, mask = data(made, rows=5)
    chain = ppvae.condition(made, entries, {"x": mask}).gibbs(draws=3, burn_in=2, gap=1)
    assert torch.equal(chain.x[:, mask], entries["x"][mask].expand(3, -1))
    assert set(chain.x.unique().tolist()) <= {0.0, 1.0} and (chain.acceptance > 0).all()


def test_equal_seeds_give_equal_chains_and_blocks_of_rows_the_same_law(monkeypatch):
    from ppvae.conditioning import blocks

    made, x, mask, mean, spread = one_row("amortized")
    post = ppvae.condition(made, x, mask)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(post.gibbs(draws=2, burn_in=3, gap=2).x)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 2**21)  # 1024 rows at once
    cut = post.gibbs(draws=1, burn_in=BURN_IN, gap=1)
    assert len(list(post.row_blocks(1))) == 2 and cut.x.shape == (1, CHAINS, 5)
    assert errors(cut.x[0][:, ~mask[0]], mean, spread) < 5


@pytest.mark.parametrize("settings", [{"draws": 0}, {"gap": 0}, {"burn_in": -1}, {"draws": 2.0}, {"gap": True}])
def test_counts_of_steps_are_whole_numbers(settings):
    made, x, mask = linear_gaussian()
    with pytest.raises(ppvae.Problem, match=f"{next(iter(settings))} is .*\n.*whole number"):
        ppvae.condition(made, x, mask).gibbs(**settings)


def test_a_global_latent_is_refused():
    made = pair("bayesian_linear", features=3)
    entries, mask = data(made, rows=5)
    with pytest.raises(ppvae.Problem, match="'W' is global.*\n.*a chain of one row cannot move it"):
        ppvae.condition(made, entries, {"x": mask}).gibbs()


def test_a_story_that_goes_on_from_x_is_refused():
    """y hangs on x: the missing entry has the law p(x_m | z, y), which a draw of p(x_m | z) is not."""

    def model(x=None, y=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 1), 1.0).to_event(1))
            with pyro.plate("features", 2, dim=-1), poutine.mask(mask=mask):
                x = pyro.sample("x", dist.Normal(z.squeeze(-2).expand(*z.shape[:-2], 2), 1.0), obs=x)
            pyro.sample("y", dist.Normal(x.sum(-1, keepdim=True), 1.0), obs=y)
            return x

    def guide(x, y=None, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1, 1), 1.0).to_event(1))

    x, y = torch.randn(6, 2), torch.randn(6)
    x[:, 1] = torch.nan
    with pytest.raises(ppvae.Problem, match="'y' depends on what stands at missing entries"):
        ppvae.condition(ppvae.Pair(model, guide), {"x": x, "y": y}).gibbs(draws=1, burn_in=0, gap=1)


def test_dependent_features_are_refused():
    from test_traps import Autoregressive

    def model(x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            with pyro.plate("features", 2, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", Autoregressive(torch.zeros(2), 1.0), obs=x)

    x = torch.tensor([[0.0, torch.nan]])
    with pytest.raises(ppvae.Problem, match="depend on one another"):
        ppvae.condition(ppvae.Pair(model), x).gibbs()


def test_a_guide_without_a_density_is_refused_where_one_is_needed():
    made, x, mask = linear_gaussian("factor_analysis_diagonal")

    def guide(encoder, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Delta(encoder.linear(x).unsqueeze(-2), event_dim=1))

    point = ppvae.Pair(ppvae.models.factor_analysis.model, guide, decoder=made.decoder, encoder=made.encoder)
    post = ppvae.condition(point, x, mask)
    with pytest.raises(ppvae.Problem, match="without chance"):
        post.gibbs(draws=1, burn_in=0, gap=1)
    assert post.gibbs(draws=1, burn_in=0, gap=1, metropolis=False).x.isfinite().all()
