"""Annealed importance sampling and its bracket, against the dense log-evidence of factor analysis."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, linear_gaussian, pair
from oracles import dense_log_evidence
from pyro import poutine

import ppvae
from ppvae.evaluate.annealing import ais, bdmc
from ppvae.evaluate.density import Latents
from ppvae.evaluate.moves import hamiltonian, staged
from ppvae.evaluate.weights import relative_error


def dense(made, x, mask):
    d = made.decoder
    return dense_log_evidence(d.W, d.loc, d.scale, x, mask).detach()


def gaussian(precision):
    """log f_0 = -|u|^2 / 2 and log f_1 = -u' P u / 2, as a target for the moves."""

    def target(u, beta):
        base, top = -0.5 * u.square().sum(-1), -0.5 * torch.einsum("pni,ij,pnj->pn", u, precision, u)
        gradient = -(1 - beta[:, None]) * u - beta[:, None] * (u @ precision)
        return base, top - base, gradient

    return target


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_a_move_leaves_a_gaussian_invariant(beta):
    """Chains that start in f_beta stay in it: means and second moments of 40,000 chains, at 5 standard errors."""
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.5]])
    precision = torch.linalg.inv(covariance)
    law = torch.linalg.inv((1 - beta) * torch.eye(2) + beta * precision)
    P, N = 20_000, 2
    u = torch.distributions.MultivariateNormal(torch.zeros(2), law).sample((P, N))
    step = torch.tensor([0.9, 0.3])  # one that is far too long, and is rejected often
    for _ in range(3):
        u, _, chance = hamiltonian(gaussian(precision), u, torch.full((N,), beta), step, 4)
    assert chance.mean(0)[0] < 0.97  # the invariance below is the work of the accept step
    for n in range(N):
        z = u[:, n]
        assert (z.mean(0).abs() < 5 * (law.diagonal() / P).sqrt()).all()
        second = torch.einsum("pi,pj->pij", z, z)
        assert ((second.mean(0) - law).abs() < 5 * second.std(0) / math.sqrt(P)).all()


def test_the_ratio_that_a_move_returns_is_that_of_its_points():
    precision = torch.tensor([[2.0, 0.3], [0.3, 0.7]])
    target, u = gaussian(precision), torch.randn(50, 3, 2)
    beta = torch.full((3,), 0.4)
    moved, ratio, _ = hamiltonian(target, u, beta, torch.full((3,), 1.4), 3)
    assert torch.allclose(ratio, target(moved, beta)[1], atol=1e-12)
    assert (moved == u).all(-1).any() and (moved != u).any()


def test_with_the_exact_posterior_every_weight_is_the_evidence():
    made, x, mask = linear_gaussian("factor_analysis_exact", N=8)
    found = ais(made, x, mask, chains=4, temperatures=5, leapfrog=2)
    assert torch.allclose(found.log_evidence, dense(made, x, mask), atol=1e-10, rtol=0)
    assert (found.standard_error < 1e-10).all() and torch.allclose(found.ess, torch.full((8,), 4.0))
    bracket = bdmc(made, x, mask, chains=4, temperatures=5, leapfrog=2)
    assert bracket.gap.abs().max() < 1e-10


@pytest.mark.parametrize(("name", "start"), [("factor_analysis_diagonal", "guide"), ("factor_analysis_exact", "prior")])
def test_the_bracket_holds_the_exact_evidence_and_is_narrow(name, start):
    made, x, mask = linear_gaussian(name, N=10)
    found = bdmc(made, x, mask, chains=128, temperatures=150, leapfrog=5, start=start)
    rows = found.rows["x"]
    assert torch.equal(rows.isnan(), ~mask)
    exact = dense(made, rows.nan_to_num(), mask)
    below, above = found.lower - exact, found.upper - exact
    assert found.gap.mean() < 0.1
    for side in (below, above):  # each is off by its noise alone
        assert side.mean().abs() < 5 * side.std() / math.sqrt(len(side)) + 0.02
    estimate = ais(made, x, mask, chains=128, temperatures=100, leapfrog=5, start=start)
    assert ((estimate.log_evidence - dense(made, x, mask)).abs() < 5 * estimate.standard_error + 1e-6).all()
    assert (estimate.standard_error < 0.3).all() and ((estimate.acceptance > 0.4) & (estimate.acceptance < 0.9)).all()


def test_a_short_run_errs_on_the_promised_sides():
    """Two temperatures from the prior: far from the evidence, the lower bound below and the upper bound above."""
    made, x, mask = linear_gaussian("factor_analysis_exact", N=150)
    found = bdmc(made, x, mask, chains=2, temperatures=3, leapfrog=2, start="prior")
    exact = dense(made, found.rows["x"].nan_to_num(), mask)
    below, above = exact - found.lower, found.upper - exact
    for side in (below, above):
        assert side.mean() > 5 * side.std() / math.sqrt(len(side)) > 0


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_weights_are_unbiased_both_ways_however_few_the_temperatures(start):
    """E[w] = p(x_o) forwards and E[1 / w] = 1 / p(x_o) backwards: 4,000 rows with one chain each, at 5 standard errors."""
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=4000, D=4, K=2)
    made.decoder.log_scale.data.fill_(0.7)
    for parameter in (made.encoder.linear.weight, made.encoder.linear.bias):
        parameter.data *= 0.3
    found = bdmc(made, x, mask, chains=1, temperatures=4, leapfrog=2, start=start)
    exact = dense(made, found.rows["x"].nan_to_num(), mask)
    for ratio in ((found.lower - exact).exp(), (exact - found.upper).exp()):
        assert ratio.std() > 0.1
        assert (ratio.mean() - 1).abs() < 5 * ratio.std() / math.sqrt(4000)


def test_two_latents_are_moved_together():
    """Two Gaussian layers are one factor analysis: x ~ N(0, V V' + s1^2 A A' + s^2)."""
    A, V = torch.randn(5, 3), torch.randn(3, 2)

    def model(weight, x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1, 2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 @ V.T, 0.5).to_event(1))
            with pyro.plate("features", 5, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal((z1 @ A.T).squeeze(-2), weight.scale), obs=x)

    def guide(weight, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            z1 = pyro.sample("z1", dist.Normal(0.1 * x[:, None, :3], 1.0).to_event(1))
            pyro.sample("z2", dist.Normal(0.2 * z1[..., :2], 1.0).to_event(1))

    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.full((), 0.6))

    made = ppvae.Pair(model, guide, weight=Scale())
    with torch.no_grad():
        x = made.model(size=6)
    mask = torch.rand(6, 5) > 0.3
    W = torch.cat([A @ V, 0.5 * A], 1)
    exact = dense_log_evidence(W, torch.zeros(5), torch.full((5,), 0.6), x, mask)
    found = ais(made, x, mask, chains=32, temperatures=200, leapfrog=5)
    assert ((found.log_evidence - exact).abs() < 5 * found.standard_error).all()
    assert (found.standard_error < 0.3).all()


def test_a_positive_latent_brings_its_jacobian():
    """z ~ LogNormal, x = log z + noise: a Gaussian in log z, whatever law with that support the guide has."""

    def model(x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(1, 1), 1.0).to_event(1))
            with pyro.plate("features", 1, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal(z.log().squeeze(-2), 0.5), obs=x)

    def guide(x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Gamma(torch.full((len(x), 1, 1), 2.0), 1.0).to_event(1))

    made, x = ppvae.Pair(model, guide), torch.tensor([[-1.0], [0.2], [1.5]])
    exact = torch.distributions.Normal(0.0, 1.25**0.5).log_prob(x).squeeze(1)
    for start in ("guide", "prior"):
        found = ais(made, x, chains=64, temperatures=100, leapfrog=5, start=start)
        assert ((found.log_evidence - exact).abs() < 5 * found.standard_error).all()
        assert (found.standard_error < 0.1).all()


def test_the_staged_density_and_its_gradient_are_those_written_by_hand():
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=5)
    post = ppvae.condition(made, x, mask)
    with post.evaluating():
        latents = Latents(made, post.table)
        graph = staged(latents, post.table, 3, "guide")
        assert isinstance(graph, torch.fx.GraphModule)
        u, beta = torch.randn(3, 5, latents.draw(post.table, 3, "guide").shape[-1]), torch.rand(5)
        base, ratio, gradient = graph(u, beta)
        d = made.decoder
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum(-1) + (
            torch.distributions.Normal(u @ d.W.T + d.loc, d.scale).log_prob(x) * mask
        ).sum(-1)
        filled = torch.where(mask, x, 0.0)
        log_q = made.encoder(filled).log_prob(u.unsqueeze(2)).squeeze(-1)
    assert torch.allclose(base, log_q) and torch.allclose(ratio, log_p - log_q)
    h = torch.randn_like(u) * 1e-5
    (up, up_ratio, _), (down, down_ratio, _) = graph(u + h, beta), graph(u - h, beta)
    slope = (up + beta * up_ratio) - (down + beta * down_ratio)
    assert torch.allclose(slope, 2 * (gradient * h).sum(-1), rtol=1e-5, atol=1e-8)


def test_the_relative_error_is_the_spread_of_repeated_estimates():
    """The delta method against 4,000 repetitions, for weights of a known law."""
    weights = 0.5 * torch.randn(200, 4000)
    spread = (weights.logsumexp(0) - math.log(200)).std()
    assert abs(relative_error(weights).mean() / spread - 1) < 5 / math.sqrt(2 * 4000) + 0.02


@pytest.mark.parametrize(
    ("name", "word"), [("bayesian_linear", "global"), ("factor_analysis_exact", "chains"), ("vae", "misspelt")]
)
def test_what_cannot_be_annealed_is_refused_in_words(name, word):
    made = pair(name)
    entries, mask = data(made, rows=3)
    options = {"chains": {"chains": 0}, "misspelt": {"start": "posterior"}}.get(word, {})
    with pytest.raises(ppvae.Problem, match=word):
        ais(made, entries, {"x": mask}, **options)


def test_discrete_latents_are_refused_unless_the_story_sums_them_out():
    def model(x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            y = pyro.sample("y", dist.Bernoulli(torch.full((1,), 0.3)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 1), 1.0).to_event(1))
            with pyro.plate("features", 1, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal(z.squeeze(-2) + 4 * y, 0.5), obs=x)

    def guide(x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1, 1), 1.0).to_event(1))

    def drawn(x, mask=True):
        guide(x)
        with pyro.plate("rows", len(x), dim=-2):
            pyro.sample("y", dist.Bernoulli(torch.full((len(x), 1), 0.5)))

    x = torch.tensor([[-1.0], [1.9], [4.5]])
    parts = torch.stack([torch.distributions.Normal(m, 1.25**0.5).log_prob(x)[:, 0] for m in (0.0, 4.0)])
    exact = (parts + torch.tensor([[0.7], [0.3]]).log()).logsumexp(0)
    found = ais(ppvae.Pair(model, guide), x, chains=128, temperatures=100, leapfrog=5)
    assert ((found.log_evidence - exact).abs() < 5 * found.standard_error).all() and (found.standard_error < 0.1).all()
    with pytest.raises(ppvae.Problem, match="drawn from Bernoulli"):
        ais(ppvae.Pair(model, drawn), x)
