"""The encoders of factor analysis with missing entries against dense matrices, row by row."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import linear_gaussian, pair
from oracles import dense_posterior
from pyro import poutine
from torch.distributions import Gamma, Independent, MultivariateNormal, Normal, kl_divergence

import ppvae
from ppvae import exact
from ppvae.exact import approximations, experts

NOT_EXACT = [name for name in ppvae.names() if name.startswith("factor_analysis") and name != "factor_analysis_exact"]


@pytest.fixture
def story():
    """W, loc, scale, x (N, D), mask (N, D), of D = 8, K = 3; row 0 observes nothing, row 1 everything."""
    made, x, mask = linear_gaussian()
    decoder = made.decoder
    return decoder.W.detach(), decoder.loc.detach(), decoder.scale.detach(), x, mask


def complete_precision(W, scale):
    return torch.eye(W.shape[1]) + W.T @ torch.diag(scale**-2) @ W


def elsewhere():
    """A linear-Gaussian story whose prior is not N(0, I)."""

    def model(decoder, x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(decoder.loc.new_ones(1, 3), 1.0).to_event(1))
            with pyro.plate("features", 8, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal((z @ decoder.W.T).squeeze(-2) + decoder.loc, decoder.scale), obs=x)

    made = pair("factor_analysis_mean_imputation", features=8, latents=3)
    return ppvae.Pair(model, made._functions["guide"], decoder=made.decoder)


def close(a, b, tolerance=1e-10):
    return (a - b).abs().max() < tolerance


def test_the_full_covariance_approximation_by_hand(story):
    W, loc, scale, x, mask = story
    q = approximations.full_covariance(W, loc, scale, x, mask)
    S = torch.linalg.inv(complete_precision(W, scale))
    for n in range(len(x)):
        filled = torch.tensor([x[n, j] if mask[n, j] else loc[j] for j in range(8)])
        assert close(q.mean[n], S @ W.T @ torch.diag(scale**-2) @ (filled - loc))
        assert close(q.covariance_matrix[n], S)


@pytest.mark.parametrize("rows", [40, 5])  # more rows than possible counts of observed entries, and fewer
def test_the_scaled_covariance_approximation_by_hand(story, rows):
    W, loc, scale, x, mask = story
    x, mask = x[:rows], mask[:rows]
    q = approximations.scaled_covariance(W, loc, scale, x, mask)
    P = complete_precision(W, scale)
    for n in range(rows):
        share = mask[n].double().mean()
        S = torch.linalg.inv((1 - share) * torch.eye(3) + share * P)
        r = torch.where(mask[n], x[n] - loc, 0.0)
        assert close(q.mean[n], S @ W.T @ torch.diag(scale**-2) @ r)
        assert close(q.covariance_matrix[n], S)


@pytest.mark.parametrize("name", ["full_covariance", "scaled_covariance"])
def test_on_complete_rows_the_approximations_are_exact(story, name):
    W, loc, scale, x, _ = story
    for mask in (True, torch.ones_like(x, dtype=torch.bool), torch.ones(len(x), 1, dtype=torch.bool)):
        assert (
            exact.kl_to_posterior(getattr(approximations, name)(W, loc, scale, x, mask), W, loc, scale, x, mask)
            .abs()
            .max()
            < 1e-10
        )


def test_mean_imputation_is_the_prior_and_imputes_loc(story):
    W, loc, scale, x, mask = story
    q = approximations.mean_imputation(W, loc, scale, x, mask)
    assert torch.equal(q.mean @ W.T + loc, loc.expand_as(x)) and (q.variance == 1).all()


def test_the_denoising_encoder_solves_the_normal_equations(story):
    W, loc, scale, *_ = story
    x = loc + torch.randn(200, 3) @ W.T + scale * torch.randn(200, 8)
    mask = torch.rand(200, 8) > 0.5
    fitted = approximations.denoising(W, loc, scale, x, mask)
    target, complete = dense_posterior(W, loc, scale, x, torch.ones_like(mask))
    r = (x - loc) * mask
    weight = torch.linalg.solve(r.T @ r, r.T @ target).T
    assert close(fitted.weight, weight)
    residual = target - r @ weight.T
    covariance = fitted.scale_tril @ fitted.scale_tril.T
    assert close(covariance, complete[0] + residual.T @ residual / (200 - 8))
    holes = torch.where(mask, x, torch.nan)
    assert close(fitted(holes, mask).mean, r @ weight.T)
    ridged = approximations.denoising(W, loc, scale, x, mask, ridge=3.0).weight
    assert close(ridged, torch.linalg.solve(r.T @ r + 3 * torch.eye(8), r.T @ target).T)


def test_with_fewer_rows_than_features_the_denoising_encoder_has_least_norm(story):
    W, loc, scale, x, mask = story
    x, mask = x[2:7], mask[2:7]
    r = (x - loc) * mask
    target = dense_posterior(W, loc, scale, x, torch.ones_like(mask))[0]
    assert close(approximations.denoising(W, loc, scale, x, mask).weight, (torch.linalg.pinv(r) @ target).T)


def test_a_column_that_is_never_observed_gets_no_weight(story):
    W, loc, scale, x, mask = story
    mask[:, 2] = False
    weight = approximations.denoising(W, loc, scale, x, mask).weight
    assert weight.isfinite().all() and (weight[:, 2].abs() < 1e-12).all() and weight.abs().sum(0)[3] > 0


def test_the_fitted_denoising_guide_gives_what_was_fitted(story):
    W, loc, scale, x, mask = story
    made = pair("factor_analysis_denoising", features=8, latents=3)
    made.decoder.set_(W, loc, scale)
    made.encoder.fit(made.decoder, x, mask)
    q, wanted = made.encoder(x, mask), approximations.denoising(W, loc, scale, x, mask)(x, mask)
    assert close(q.mean.squeeze(1), wanted.mean) and close(q.covariance_matrix.squeeze(1), wanted.covariance_matrix)


def test_rank_one_experts_at_the_true_terms_are_exact_under_every_mask(story):
    W, loc, scale, x, _ = story
    for seed in range(5):
        mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.2 * seed
        q = experts.rank_one(*experts.true_terms(W, loc, scale), x, mask)
        mean, covariance = dense_posterior(W, loc, scale, x, mask)
        assert close(q.mean, mean) and close(q.covariance_matrix, covariance)


def test_products_of_experts_by_hand():
    D, K, N = 6, 3, 7
    v, u, d, c, x, mask = (
        torch.randn(D, K),
        torch.randn(D, K),
        torch.rand(D, K),
        torch.randn(D),
        torch.randn(N, D),
        torch.rand(N, D) > 0.5,
    )
    one, many = experts.diagonal(d, u, c, x, mask), experts.rank_one(v, u, c, x, mask)
    for n in range(N):
        P, Q, b = torch.eye(K), torch.eye(K), torch.zeros(K)
        for j in range(D):
            if mask[n, j]:
                P, Q, b = P + torch.diag(d[j]), Q + torch.outer(v[j], v[j]), b + (x[n, j] - c[j]) * u[j]
        assert close(one.mean[n], torch.linalg.solve(P, b)) and close(one.variance[n], 1 / P.diagonal())
        assert close(many.mean[n], torch.linalg.solve(Q, b)) and close(many.covariance_matrix[n], torch.linalg.inv(Q))


@pytest.mark.parametrize("make_q", [experts.diagonal, experts.rank_one])
def test_all_true_and_by_row_masks_agree_with_full_ones(make_q):
    d, u, c, x = torch.rand(5, 2), torch.randn(5, 2), torch.randn(5), torch.randn(4, 5)
    rows = torch.tensor([[True], [False], [True], [False]])
    for short, long in ((True, torch.ones(4, 5, dtype=torch.bool)), (rows, rows.expand(4, 5).clone())):
        a, b = make_q(d, u, c, x, short), make_q(d, u, c, x, long)
        assert close(a.mean, b.mean) and close(a.variance, b.variance)


def test_conjugate_gradient_at_depth_0_is_the_diagonal_product():
    v, u, c, x, mask = torch.randn(9, 4), torch.randn(9, 4), torch.randn(9), torch.randn(20, 9), torch.rand(20, 9) > 0.5
    q, p = experts.conjugate_gradient(v, u, c, x, mask, depth=0), experts.diagonal(v**2, u, c, x, mask)
    assert close(q.mean, p.mean) and close(q.covariance_matrix, torch.diag_embed(p.variance))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_mean_is_that_of_textbook_conjugate_gradient(depth):
    """Preconditioned by the diagonal, from the diagonal's own answer (Hestenes & Stiefel 1952), one row at a time."""
    D, K = 12, 5
    v, u, c, x, mask = torch.randn(D, K), torch.randn(D, K), torch.randn(D), torch.randn(6, D), torch.rand(6, D) > 0.4
    q = experts.conjugate_gradient(v, u, c, x, mask, depth=depth)
    for n in range(6):
        P = torch.eye(K) + v.T @ torch.diag(mask[n].double()) @ v
        b, precondition = u.T @ ((x[n] - c) * mask[n]), 1 / P.diagonal()
        m = precondition * b
        r = b - P @ m
        p = z = precondition * r
        for _ in range(depth):
            a = (r @ z) / (p @ P @ p)
            m, new = m + a * p, r - a * (P @ p)
            z, old = precondition * new, r @ z
            p, r = z + (new @ z) / old * p, new
        assert close(q.mean[n], m)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_conjugate_gradient_at_depth_k_is_exact(dtype, tolerance):
    """Also in rows whose residual vanishes early: nothing, everything or two entries observed, a block of latents
    that nothing observed speaks of, loadings that are orthogonal."""
    made, x, mask = linear_gaussian(D=30, K=6, N=60)
    mask[2:8] = False
    mask[2:8, 3:5] = True
    W, loc, scale = made.decoder.W.detach().clone(), made.decoder.loc.detach(), made.decoder.scale.detach()
    blocks = W.clone()
    blocks[:15, 3:], blocks[15:, :3] = 0, 0
    mask[8:14, 15:] = False
    x = torch.cat([x[:14], loc.expand(2, -1), x[16:]])  # a shift of exactly 0
    orthogonal = torch.linalg.qr(W)[0] * torch.tensor([30.0, 20, 10, 3, 2, 1])
    for loadings in (W, blocks, orthogonal):
        story = [t.to(dtype) for t in (loadings, loc, scale)]
        data = x.to(dtype)
        for depth in (6, 9):
            q = experts.conjugate_gradient(*experts.true_terms(*story), data, mask, depth=depth)
            assert exact.kl_to_posterior(q, *story, data, mask).abs().max() < tolerance


def test_every_step_of_conjugate_gradient_brings_the_posterior_nearer():
    made, x, mask = linear_gaussian(D=30, K=6, N=60)
    story = [t.detach() for t in (made.decoder.W, made.decoder.loc, made.decoder.scale)]
    apart = [
        exact.kl_to_posterior(
            experts.conjugate_gradient(*experts.true_terms(*story), x, mask, depth=depth), *story, x, mask
        ).mean()
        for depth in range(7)
    ]
    assert all(a > b for a, b in zip(apart, apart[1:], strict=False)) and apart[5] > 1e-6


def test_gradients_pass_through_the_steps_as_through_the_solution(story):
    """At depth K the answer is the exact one whatever the directions, so their gradients must agree; in the rows of
    which nothing, or everything, was observed they stay finite."""
    W, loc, scale, x, mask = story
    found = []
    for solve in (experts.rank_one, lambda *terms: experts.conjugate_gradient(*terms, depth=3)):
        terms = [t.clone().requires_grad_() for t in experts.true_terms(W, loc, scale)]
        q = solve(*terms, x, mask)
        found.append(
            torch.autograd.grad((q.mean * torch.arange(3.0)).sum() + q.covariance_matrix.square().sum(), terms)
        )
    assert all(close(a, b, 1e-8) for a, b in zip(*found, strict=True))


def test_what_stands_in_a_gap_reaches_neither_values_nor_gradients(story):
    W, loc, scale, x, mask = story
    v, u, c = experts.true_terms(W, loc, scale)
    for function, terms in (
        (approximations.full_covariance, (W, loc, scale)),
        (approximations.scaled_covariance, (W, loc, scale)),
        (experts.rank_one, (v, u, c)),
        (experts.diagonal, (v.square(), u, c)),
        (lambda *t: experts.conjugate_gradient(*t, depth=2), (v, u, c)),
    ):
        ends = []
        for fill in (0.0, torch.nan):
            given = [t.clone().requires_grad_() for t in terms]
            q = function(*given, torch.where(mask, x, fill), mask)
            ends.append((q.mean, *torch.autograd.grad((q.mean.square() + q.variance).sum(), given)))
        assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_divergence_is_torchs_on_dense_posteriors(story):
    W, loc, scale, x, mask = story
    p = MultivariateNormal(*dense_posterior(W, loc, scale, x, mask))
    root = torch.randn(len(x), 3, 3).tril(-1) + torch.diag_embed(torch.rand(len(x), 3) + 0.3)
    full = MultivariateNormal(torch.randn(len(x), 3), scale_tril=root)
    diagonal = Independent(Normal(torch.randn(len(x), 3), torch.rand(len(x), 3) + 0.1), 1)
    spelt = MultivariateNormal(diagonal.mean, torch.diag_embed(diagonal.variance))
    assert close(exact.kl_to_posterior(full, W, loc, scale, x, mask), kl_divergence(full, p))
    assert close(exact.kl_to_posterior(diagonal, W, loc, scale, x, mask), kl_divergence(spelt, p))
    rows = mask.all(-1, keepdim=True)
    p = MultivariateNormal(*dense_posterior(W, loc, scale, x, rows.expand_as(mask)))
    assert close(exact.kl_to_posterior(full, W, loc, scale, x, rows), kl_divergence(full, p))


def test_the_divergence_is_the_gap_of_the_bound():
    """log p(x_o) - ELBO, here for a guide with a diagonal covariance, within 5 standard errors."""
    made, x, mask = linear_gaussian("factor_analysis_diagonal_experts", N=5)
    decoder = made.decoder
    with torch.no_grad():
        gap = exact.log_evidence(decoder.W, decoder.loc, decoder.scale, x, mask) - torch.stack(
            [ppvae.elbo(100)(made, x, mask) for _ in range(100)]
        )
    assert ((gap.mean(0) - exact.kl(made, x, mask)).abs() < 5 * gap.std(0) / 10 + 1e-10).all()


@pytest.mark.parametrize("name", NOT_EXACT)
def test_every_other_encoder_is_apart_from_the_posterior(name):
    made, x, mask = linear_gaussian(name)
    apart = exact.kl(made, x, mask)
    assert apart.shape == (len(x),) and (apart[2:] > 1e-6).any() and apart.min() > -1e-10


def test_exact_and_the_true_terms_are_not_apart():
    made, x, mask = linear_gaussian()
    assert exact.kl(made, x, mask).abs().max() < 1e-10
    for name, options in (
        ("factor_analysis_rank_one_experts", {}),
        ("factor_analysis_conjugate_gradient", {"depth": 3}),
    ):
        made, x, mask = linear_gaussian(name, **options)
        made.encoder.set_(made.decoder.W, made.decoder.loc, made.decoder.scale)
        assert exact.kl(made, x, mask).abs().max() < 1e-10
        assert exact.kl(made, torch.where(mask, x, torch.nan)).abs().max() < 1e-10


def test_in_single_precision_the_divergence_of_near_equals_stays_near_0():
    made, x, mask = linear_gaussian()
    made.float()
    assert exact.kl(made, x.float(), mask).abs().max() < 1e-5


@pytest.mark.parametrize("what", ["kind", "rows", "pair", "prior", "depth", "terms", "ridge", "holes"])
def test_wrong_input_is_refused(story, what):
    W, loc, scale, x, mask = story
    v, u, c = experts.true_terms(W, loc, scale)
    q = exact.posterior(W, loc, scale, x, mask)
    wrong = {
        "kind": (
            lambda: exact.kl_to_posterior(Independent(Gamma(torch.ones(40, 3), 1.0), 1), W, loc, scale, x, mask),
            "q is",
        ),
        "rows": (lambda: exact.kl_to_posterior(q, W, loc, scale, x[:5], mask[:5]), "for 5 rows"),
        "pair": (lambda: exact.kl(pair("vae"), torch.rand(3, 9).round()), "no decoder with W"),
        "prior": (lambda: exact.kl(elsewhere(), x, mask), "is not N"),
        "depth": (lambda: experts.conjugate_gradient(v, u, c, x, mask, depth=-1), "depth is -1"),
        "terms": (lambda: experts.rank_one(v, u[:, :2], c, x, mask), "of the shift"),
        "ridge": (lambda: approximations.denoising(W, loc, scale, x, mask, ridge=-1.0), "ridge is -1"),
        "holes": (
            lambda: approximations.denoising(W, loc, scale, torch.where(mask, x, torch.nan), mask),
            "complete rows",
        ),
    }
    call, says = wrong[what]
    with pytest.raises(ppvae.Problem, match=says):
        call()
