"""With the exact guide every bound *is* log p. Identities at 1e-10, held against dense Gaussians."""

import math

import pyro
import pytest
import torch
from examples import linear_gaussian
from oracles import dense_log_evidence, dense_posterior
from pyro import poutine

import ppvae


def truth(pair, x, mask):
    d = pair.decoder
    return dense_log_evidence(d.W, d.loc, d.scale, x, mask)


@pytest.mark.parametrize("objective", [ppvae.elbo(), ppvae.elbo(3), *(ppvae.iw_elbo(p) for p in (1, 5, 50))], ids=repr)
@pytest.mark.parametrize("tied", [False, True])
def test_every_bound_is_the_log_evidence_under_the_exact_guide(objective, tied):
    pair, x, mask = linear_gaussian(tied=tied)
    exact = truth(pair, x, mask)
    assert (objective(pair, x, mask) - exact).abs().max() < 1e-10
    assert exact[0] == 0 and objective(pair, x, mask)[0].abs() < 1e-10  # nothing observed


@pytest.mark.parametrize("particles", [1, 1000])
def test_condition_gives_the_log_evidence(particles):
    pair, x, mask = linear_gaussian()
    assert (ppvae.condition(pair, x, mask).log_evidence(particles) - truth(pair, x, mask)).abs().max() < 1e-10


def test_the_gradient_of_the_elbo_is_that_of_the_log_evidence():
    pair, x, mask = linear_gaussian()
    parameters = list(pair.parameters())
    ours = torch.autograd.grad(ppvae.elbo()(pair, x, mask).sum(), parameters)
    dense = torch.autograd.grad(truth(pair, x, mask).sum(), parameters)
    for a, b in zip(ours, dense, strict=True):
        assert (a - b).abs().max() < 1e-8


@pytest.mark.parametrize("objective", [ppvae.elbo(), ppvae.iw_elbo(5)], ids=repr)
@pytest.mark.parametrize("name", ["factor_analysis_exact", "factor_analysis_full", "vae"])
def test_what_fills_a_missing_entry_changes_no_bit(objective, name):
    options = {"likelihood": "normal"} if name == "vae" else {}
    _, x, mask = linear_gaussian()
    torch.manual_seed(3)
    pair = ppvae.make(name, features=8, latents=3, **options)
    seen = []
    for fill in (0.0, 1e6, math.nan):
        torch.manual_seed(5)
        bound = objective(pair, torch.where(mask, x, fill), mask)
        seen.append((bound, *torch.autograd.grad(bound.sum(), list(pair.parameters()))))
    torch.manual_seed(5)
    bound = objective(pair, torch.where(mask, x, math.nan))  # NaN alone says what is missing
    seen.append((bound, *torch.autograd.grad(bound.sum(), list(pair.parameters()))))
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))
    assert all(g.isfinite().all() for g in seen[0])


def test_the_elbo_of_a_wrong_guide_is_log_p_minus_its_kl():
    """elbo = log p - KL(q || p(z | x)), both in closed form; the estimate agrees within 5 standard errors."""
    pair, x, mask = linear_gaussian("factor_analysis_full")
    torch.manual_seed(1)
    d = pair.decoder
    d.set_(torch.randn(8, 3), torch.randn(8), torch.rand(8) + 0.5)
    q = pair.encoder(torch.where(mask, x, 0.0))
    mean, covariance = dense_posterior(d.W, d.loc, d.scale, x, mask)
    p = torch.distributions.MultivariateNormal(mean, covariance)
    kl = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(q.loc.squeeze(1), q.covariance_matrix.squeeze()), p
    )
    exact = truth(pair, x, mask) - kl
    with torch.no_grad():
        draws = torch.stack([ppvae.elbo(500)(pair, x, mask) for _ in range(40)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() < 5 * error).all()


def test_the_importance_weighted_bound_is_a_bound_per_row_in_minibatches():
    """N = 1000 rows in batches of 10 (Pyro's RenyiELBO gives -1009 where the truth is -1794.5): the estimate of each row
    stays below the truth, and the sum over batches is that of the full batch."""
    torch.manual_seed(0)
    pair = ppvae.make("factor_analysis_diagonal", features=3, latents=2)
    with torch.no_grad():
        pair.encoder.linear.weight.mul_(0.3)
        x = pair.model(size=1000)
        exact = truth(pair, x, torch.ones(1000, 3, dtype=torch.bool))

        def estimate(size):
            return torch.cat([ppvae.iw_elbo(50)(pair, rows) for rows in x.split(size)])

        batches = torch.stack([estimate(10) for _ in range(20)])  # (R, N)
        whole = torch.stack([estimate(1000) for _ in range(20)])
        weights = torch.stack([ppvae.iw_elbo(50)(pair, x).exp() / exact.exp() for _ in range(200)])
    # below the truth: never by more than the Monte Carlo error above it
    error = batches.std(0) / math.sqrt(20)
    assert (batches.mean(0) <= exact + 5 * error).all()
    assert batches.sum(1).mean() < exact.sum()
    # the same number whatever the batch size
    spread = math.hypot(batches.sum(1).std(), whole.sum(1).std()) / math.sqrt(20)
    assert abs(batches.sum(1).mean() - whole.sum(1).mean()) < 5 * spread
    # unbiased for p(x) itself, row by row: E[exp(bound)] = p(x)
    error = weights.std(0) / math.sqrt(200)
    assert ((weights.mean(0) - 1).abs() < 5 * error).float().mean() > 0.999
    assert (weights.mean() - 1).abs() < 5 * weights.mean(1).std() / math.sqrt(200)


def test_the_bound_rises_with_particles_towards_the_truth():
    pair, x, mask = linear_gaussian("factor_analysis_diagonal")
    with torch.no_grad():
        exact = truth(pair, x, mask)
        draws = {p: torch.stack([ppvae.iw_elbo(p)(pair, x, mask).mean() for _ in range(100)]) for p in (1, 5, 50)}
    means = [draws[p].mean() for p in (1, 5, 50)]
    errors = [draws[p].std() / 10 for p in (1, 5, 50)]
    assert means[0] + 5 * errors[0] < means[1] - 5 * errors[1] < means[2] < exact.mean() + 5 * errors[2]


def test_two_layer_kl_is_analytic_only_where_it_stands_for_the_expectation():
    """z2's KL is closed, z1's is Monte Carlo: the trap is Pyro's TraceMeanField (z = 3.8). Held against the plain
    log-weight estimate."""
    torch.manual_seed(0)
    pair = ppvae.make("two_layer", features=6, latents=2)
    for p in pair.parameters():  # far from the prior, so that a wrong KL shows
        p.data.mul_(3.0)
    x = torch.bernoulli(torch.full((4, 6), 0.5))
    with torch.no_grad():
        terms = ppvae.elbo().terms(pair, x)
        ours = torch.stack([ppvae.elbo(2000)(pair, x) for _ in range(30)])
        plain = torch.stack([ppvae.iw_elbo(1)(pair, x.repeat(2000, 1)).reshape(2000, 4).mean(0) for _ in range(30)])
    assert terms.analytic == ("z2",)
    error = (ours.var(0) / 30 + plain.var(0) / 30).sqrt()
    assert ((ours.mean(0) - plain.mean(0)).abs() < 5 * error).all()


def test_a_global_latent_counts_once():
    """Bayesian linear regression: with the exact posterior of W in the guide, the sum over rows of the bound is the
    log-evidence of all data, and minibatches are unbiased for it."""
    N, D, K = 30, 3, 2
    torch.manual_seed(0)
    pair = ppvae.make("bayesian_linear", features=D, latents=K)
    inputs = torch.randn(N, K)
    with torch.no_grad():
        x = pair.model(size=N, inputs=inputs)
        scale = pair.noise.scale
        precision = torch.eye(K) + inputs.T @ inputs / scale**2  # Bishop 2006, eq. 3.51
        covariance = torch.linalg.inv(precision)
        L = torch.linalg.cholesky(covariance)
        pair.weight.loc.copy_((covariance @ inputs.T @ x / scale**2).T)
        pair.weight.lower.copy_(L.tril(-1))
        pair.weight.log_diagonal.copy_(L.diagonal().log())
        dense = torch.distributions.MultivariateNormal(torch.zeros(N), inputs @ inputs.T + scale**2 * torch.eye(N))
        truth = dense.log_prob(x.T).sum()
        assert abs(ppvae.elbo(4)(pair, {"x": x, "inputs": inputs}).sum() - truth) < 1e-10
        from ppvae.door import enter

        table = enter(pair, {"x": x, "inputs": inputs})
        parts = torch.stack(
            [sum(ppvae.elbo()(pair, table.rows(slice(i, i + 10))).sum() for i in (0, 10, 20)) for _ in range(1000)]
        )
    assert abs(parts.mean() - truth) < 5 * parts.std() / math.sqrt(1000)
    with pytest.raises(ppvae.Problem, match="global"):
        ppvae.iw_elbo(5)(pair, {"x": x, "inputs": inputs})


def test_stock_pyro_agrees():
    """Pyro's Trace_ELBO of the same pair and batch, where Pyro is right: the same expectation, the sum over rows."""
    from pyro.infer import Trace_ELBO

    pair, x, mask = linear_gaussian("factor_analysis_diagonal")
    with torch.no_grad():
        ours = torch.stack([ppvae.elbo(200)(pair, x, mask).sum() for _ in range(30)])
        theirs = torch.tensor(
            [
                -Trace_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=2).loss(
                    pair.model, pair.guide, torch.where(mask, x, 0.0), mask
                )
                for _ in range(30)
            ]
        )
    assert abs(ours.mean() - theirs.mean()) < 5 * math.sqrt((ours.var() + theirs.var()) / 30)


def test_plain_pyro_masks_entry_by_entry():
    pair, x, mask = linear_gaussian()
    trace = poutine.trace(pair.model).get_trace(torch.where(mask, x, math.nan), mask)
    trace.compute_log_prob()
    assert (trace.nodes["x"]["log_prob"] == 0).equal(~mask)
    assert trace.nodes["z"]["log_prob"].shape == (40, 1)
    assert pyro.poutine.runtime._PYRO_STACK == []


def test_with_a_mask_the_importance_weighted_bound_is_that_of_miwae():
    """Mattei & Frellsen 2019, eq. 4, typed out without Pyro, on the same noise."""
    from torch.nn.functional import softplus

    torch.manual_seed(0)
    pair = ppvae.make("vae", features=5, latents=2, hidden=(7,), likelihood="normal")
    x, mask = torch.randn(6, 5), torch.rand(6, 5) > 0.4
    torch.manual_seed(3)
    ours = ppvae.iw_elbo(20)(pair, x, mask)
    encoder, decoder = pair.encoder, pair.decoder
    loc, spread = encoder.head.linear(encoder.net(x * mask)).chunk(2, -1)
    scale = softplus(spread) + 1e-3
    torch.manual_seed(3)
    z = loc + scale * torch.randn(20, 6, 1, 2).squeeze(2)
    mean, sd = decoder.head.linear(decoder.net(z)), softplus(decoder.head.spread) + 1e-3

    def log_normal(value, loc, scale):
        return -0.5 * ((value - loc) / scale) ** 2 - torch.log(scale) - 0.5 * math.log(2 * math.pi)

    weights = (log_normal(x, mean, sd) * mask).sum(-1)
    weights = weights + log_normal(z, torch.zeros(2), torch.ones(2)).sum(-1) - log_normal(z, loc, scale).sum(-1)
    assert torch.allclose(ours, weights.exp().mean(0).log(), atol=1e-12)


def test_nan_is_missing_even_where_the_mask_says_observed():
    pair, x, mask = linear_gaussian()
    holes = x.clone()
    holes[1, 3] = holes[5, 2] = math.nan  # row 1 is observed throughout
    exact = truth(pair, x, mask & ~holes.isnan())
    assert (ppvae.elbo()(pair, holes, mask) - exact).abs().max() < 1e-10


def test_an_infinity_in_a_missing_slot_is_nothing():
    pair, x, mask = linear_gaussian()
    assert torch.equal(ppvae.iw_elbo(1)(pair, torch.where(mask, x, math.inf), mask).isfinite(), torch.ones(40).bool())
