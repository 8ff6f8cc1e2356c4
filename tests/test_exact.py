"""Exact factor analysis against dense Gaussians row by row, scikit-learn, and its own identities."""

from __future__ import annotations

import math
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import dense_impute_mean, dense_log_evidence, dense_posterior
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae import exact
from ppvae.errors import Caution, Problem
from ppvae.exact import expectation, linear_gaussian
from ppvae.exact.em import ascend

N, D, K = 40, 8, 3
PATTERNS = ["everything", "all true", "entries", "few patterns", "rows"]


def story(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    W, loc = torch.randn(D, K, generator=g, dtype=dtype), torch.randn(D, generator=g, dtype=dtype)
    scale = 0.1 + torch.rand(D, generator=g, dtype=dtype)
    z, noise = torch.randn(N, K, generator=g, dtype=dtype), torch.randn(N, D, generator=g, dtype=dtype)
    return W, loc, scale, z @ W.T + loc + scale * noise


def masks(pattern: str, seed: int = 1) -> tuple[bool | torch.Tensor, torch.Tensor]:
    """The mask as it is passed, and written out (N, D)."""
    g = torch.Generator().manual_seed(seed)
    everything = torch.ones(N, D, dtype=torch.bool)
    if pattern == "everything":
        return True, everything
    if pattern == "all true":
        return everything, everything
    if pattern == "rows":
        rows = torch.rand(N, 1, generator=g) > 0.4
        return rows, rows.expand(N, D)
    mask = torch.rand(N, D, generator=g) > 0.4
    mask[3], mask[4] = False, True
    if pattern == "few patterns":
        mask = mask[torch.randint(2, 6, (N,), generator=g)]
    return mask, mask


def simulate(
    rows: int, features: int, latents: int, seed: int = 0, missing: float = 0.0, noise: float = 1.0
) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(features, latents, generator=g, dtype=torch.float64)
    scale = noise * (0.3 + torch.rand(features, generator=g, dtype=torch.float64))
    x = torch.randn(rows, latents, generator=g, dtype=torch.float64) @ W.T + 3 * torch.arange(features)
    x = x + scale * torch.randn(rows, features, generator=g, dtype=torch.float64)
    return torch.where(torch.rand(rows, features, generator=g) < missing, math.nan, x)


# --- inference ---


@pytest.mark.parametrize("pattern", PATTERNS)
def test_posterior_is_the_conditional_of_the_joint_gaussian(pattern):
    W, loc, scale, x = story()
    mask, entries = masks(pattern)
    p = exact.posterior(W, loc, scale, x, mask)
    mean, covariance = dense_posterior(W, loc, scale, x, entries)
    assert p.batch_shape == (N,) and p.event_shape == (K,)
    torch.testing.assert_close(p.mean, mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(p.covariance_matrix, covariance, rtol=0, atol=1e-10)
    assert (p.scale_tril.triu(1) == 0).all() and (p.scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_log_evidence_is_the_dense_density_of_what_is_observed(pattern, monkeypatch):
    W, loc, scale, x = story()
    mask, entries = masks(pattern)
    dense = dense_log_evidence(W, loc, scale, x, entries)
    torch.testing.assert_close(exact.log_evidence(W, loc, scale, x, mask), dense, rtol=0, atol=1e-10)
    monkeypatch.setattr(linear_gaussian, "CHUNK_BYTES", 3000)  # a few rows at a time
    assert linear_gaussian.chunk_rows(D, K, 8) < 10
    torch.testing.assert_close(exact.log_evidence(W, loc, scale, x, mask), dense, rtol=0, atol=1e-10)


def test_a_row_of_which_nothing_is_observed_has_evidence_exactly_zero_and_the_prior_as_posterior():
    W, loc, scale, x = story()
    for mask in (masks("entries")[0], masks("rows")[0]):
        empty = ~mask.any(-1)
        assert empty.any()
        assert (exact.log_evidence(W, loc, scale, x, mask)[empty] == 0).all()
        p = exact.posterior(W, loc, scale, x, mask)
        assert (p.mean[empty] == 0).all() and (p.scale_tril[empty] == torch.eye(K)).all()
    assert (exact.log_evidence(W, loc, scale, x, False) == 0).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_evidence_is_joint_over_posterior_at_any_z(pattern):
    # log p(x_o | z) + log p(z) - log p(z | x_o) does not depend on z.
    W, loc, scale, x = story()
    mask, entries = masks(pattern)
    z = torch.randn(N, K, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    terms = torch.distributions.Normal(z @ W.T + loc, scale).log_prob(x)
    joint = torch.where(entries, terms, 0.0).sum(-1) + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    ratio = joint - exact.posterior(W, loc, scale, x, mask).log_prob(z)
    torch.testing.assert_close(ratio, exact.log_evidence(W, loc, scale, x, mask), rtol=0, atol=1e-10)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_of_log_evidence_are_those_of_the_dense_density(pattern):
    mask, entries = masks(pattern)
    weights = torch.linspace(0.5, 2, N, dtype=torch.float64)  # rows told apart
    gradients = []
    for f, m in ((exact.log_evidence, mask), (dense_log_evidence, entries)):
        inputs = [v.clone().requires_grad_() for v in story()]
        gradients.append(torch.autograd.grad((weights * f(*inputs, m)).sum(), inputs))
    for ours, dense in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pattern", ["everything", "entries", "rows"])
def test_gradients_of_the_posterior_are_those_of_conditioning(pattern):
    mask, entries = masks(pattern)
    gradients = []
    for dense in (False, True):
        inputs = [v.clone().requires_grad_() for v in story()]
        if dense:
            mean, covariance = dense_posterior(*inputs, entries)
        else:
            p = exact.posterior(*inputs, mask)
            mean, covariance = p.mean, p.covariance_matrix
        gradients.append(torch.autograd.grad(mean.sin().sum() + covariance.cos().sum(), inputs))
    for ours, other in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pattern", ["entries", "few patterns", "rows"])
@pytest.mark.parametrize("fill", [1e6, math.nan, math.inf])
def test_what_fills_a_missing_entry_changes_no_bit(pattern, fill):
    mask, entries = masks(pattern)

    def everything(value: float) -> list[torch.Tensor]:
        W, loc, scale, x = (v.clone().requires_grad_() for v in story())
        filled = torch.where(entries, x, value)
        p = exact.posterior(W, loc, scale, filled, mask)
        q = exact.mean_field(W, loc, scale, filled, mask)
        outputs = [
            p.mean,
            p.scale_tril,
            q.mean,
            q.stddev,
            exact.log_evidence(W, loc, scale, filled, mask),
            exact.impute_mean(W, loc, scale, filled, mask),
        ]
        total = sum((o * torch.arange(1.0, o.numel() + 1).reshape(o.shape)).sum() for o in outputs)
        return [*outputs, *torch.autograd.grad(total, (W, loc, scale, x))]

    for zero, other in zip(everything(0.0), everything(fill), strict=True):
        assert other.isfinite().all() and torch.equal(zero, other)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_mean_field_minimises_the_divergence_from_the_exact_posterior(pattern):
    W, loc, scale, x = story()
    mask, entries = masks(pattern)
    mean, covariance = dense_posterior(W, loc, scale, x, entries)
    P = torch.linalg.inv(covariance)

    def divergence(m, variance):  # KL(N(m, diag variance) || N(mean, P^-1)) of each row
        trace = (P.diagonal(dim1=-2, dim2=-1) * variance).sum(-1)
        distance = torch.einsum("ni,nij,nj->n", m - mean, P, m - mean)
        return 0.5 * (trace + distance - K - P.logdet() - variance.log().sum(-1))

    q = exact.mean_field(W, loc, scale, x, mask)
    assert q.batch_shape == (N,) and q.event_shape == (K,)
    m, s = q.mean.clone().requires_grad_(), q.variance.log().requires_grad_()
    best = divergence(m, s.exp())
    for gradient in torch.autograd.grad(best.sum(), (m, s)):  # the divergence is convex in m and in 1 / variance
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)
    g = torch.Generator().manual_seed(2)
    for size in (0.01, 0.3):
        dm, ds = (size * torch.randn(N, K, generator=g, dtype=x.dtype) for _ in range(2))
        assert (divergence(m + dm, s.exp()) > best).all() and (divergence(m, (s + ds).exp()) > best).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_impute_mean_is_the_conditional_mean_and_keeps_what_is_observed(pattern, monkeypatch):
    W, loc, scale, x = story()
    mask, entries = masks(pattern)
    monkeypatch.setattr(linear_gaussian, "CHUNK_BYTES", 3000)
    filled = exact.impute_mean(W, loc, scale, x, mask)
    torch.testing.assert_close(filled, dense_impute_mean(W, loc, scale, x, entries), rtol=0, atol=1e-10)
    assert torch.equal(filled[entries], x[entries])


@pytest.mark.parametrize("pattern", ["everything", "entries", "rows"])
def test_posterior_and_evidence_can_be_staged_with_their_gradients(pattern):
    W, loc, _, x = story()
    scale = torch.tensor(0.3, dtype=x.dtype).expand(D)  # as a tied scale arrives
    mask = masks(pattern)[1] if pattern != "rows" else masks(pattern)[0]

    def program(W, scale, x, mask):
        with torch.enable_grad():
            W = W.detach().requires_grad_()
            p = exact.posterior(W, loc, scale, x, True if pattern == "everything" else mask)
            total = p.log_prob(p.rsample()).sum() + exact.log_evidence(W, loc, scale, x, mask).sum()
            return total, torch.autograd.grad(total, W)[0]

    validate = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        staged = make_fx(program)(W, scale, x, mask)
        W2, x2, mask2 = W.flip(0), x.flip(0), mask.flip(0)  # other values than those it was staged with
        torch.manual_seed(0)
        eager = program(W2, scale, x2, mask2)
        torch.manual_seed(0)
        assert all(map(torch.equal, staged(W2, scale, x2, mask2), eager))
    finally:
        torch.distributions.Distribution.set_default_validate_args(validate)


def test_log_evidence_keeps_single_precision_when_the_noise_is_small():
    W, loc, scale, x = story()
    scale = scale * 0.01
    x = x.float().double()
    exactly = exact.log_evidence(W.float().double(), loc.float().double(), scale.float().double(), x)
    single = exact.log_evidence(W.float(), loc.float(), scale.float(), x.float())
    assert ((single - exactly).abs() / exactly.abs()).max() < 2e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": torch.zeros(D + 1, K)}, "features"),
        ({"loc": torch.zeros(D + 1)}, "loc has shape"),
        ({"scale": torch.ones(D, 1)}, "scale has shape"),
        ({"x": torch.zeros(D)}, "x has shape"),
        ({"mask": torch.ones(N, D)}, "torch.float32"),
        ({"mask": torch.ones(D, dtype=torch.bool)}, "the mask has shape"),
        ({"mask": torch.ones(N, D + 1, dtype=torch.bool)}, "the mask has shape"),
        ({"x": torch.zeros(N, D, dtype=torch.float32)}, "W holds torch.float64 and x torch.float32"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    arguments = dict(zip(("W", "loc", "scale", "x"), story(), strict=True)) | {"mask": masks("entries")[0]} | change
    for verb in (exact.posterior, exact.mean_field, exact.log_evidence, exact.impute_mean):
        with pytest.raises(Problem, match=message):
            verb(**arguments)


# --- fitting ---


def test_ppca_is_where_the_likelihood_is_flat_and_scores_itself():
    x = simulate(200, 7, 2)
    fit = exact.ppca(x, 2)
    W, loc, scale = (v.clone().requires_grad_() for v in (fit.W, fit.loc, fit.scale[0]))
    value = exact.log_evidence(W, loc, scale.expand(7), x).mean()
    torch.testing.assert_close(fit.log_likelihood, value.detach().reshape(1), rtol=0, atol=1e-10)
    for gradient in torch.autograd.grad(value, (W, loc, scale)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)
    g = torch.Generator().manual_seed(3)
    for size in (1e-3, 0.1, 1.0):  # and no saddle, nor a lower peak, nearby
        other = fit.W + size * torch.randn(7, 2, generator=g, dtype=x.dtype)
        assert exact.log_evidence(other, fit.loc, fit.scale, x).mean() < value


def test_ppca_with_fewer_rows_than_features_is_the_same_as_of_the_covariance():
    x = simulate(12, 30, 3)
    fit = exact.ppca(x, 3)
    values, V = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    noise = values[:-3].mean()
    np.testing.assert_allclose(fit.scale.numpy() ** 2, noise, rtol=1e-10)
    np.testing.assert_allclose((fit.W @ fit.W.T).numpy(), (V[:, -3:] * (values[-3:] - noise)) @ V[:, -3:].T, atol=1e-10)


def test_an_em_step_does_not_move_the_closed_form():
    x = simulate(300, 8, 2)
    fit = exact.ppca(x, 2)
    start = expectation.State(fit.W, torch.zeros(8, dtype=x.dtype), fit.scale**2)
    seen = torch.ones_like(x, dtype=torch.bool)
    for expect in (expectation.complete(x - fit.loc), expectation.incomplete(x - fit.loc, seen)):
        after, _ = ascend(expect, start, tied=True, iterations=1, tolerance=0.0)
        torch.testing.assert_close(after.W @ after.W.T, fit.W @ fit.W.T, rtol=0, atol=1e-6)
        torch.testing.assert_close(after.psi.sqrt(), fit.scale, rtol=0, atol=1e-6)
        torch.testing.assert_close(after.loc, start.loc, rtol=0, atol=1e-6)


def test_em_reaches_the_closed_form_from_its_own_and_from_a_perturbed_start():
    x = simulate(300, 8, 2)
    closed = exact.ppca(x, 2)
    own = exact.em(x, 2, tied=True)
    torch.testing.assert_close(own.log_likelihood[-1:], closed.log_likelihood, rtol=0, atol=1e-6)
    g = torch.Generator().manual_seed(4)
    start = expectation.State(
        torch.randn(8, 2, generator=g, dtype=x.dtype),
        torch.zeros(8, dtype=x.dtype),
        torch.ones(8, dtype=x.dtype),
    )
    state, values = ascend(expectation.complete(x - x.mean(0)), start, tied=True, iterations=2000, tolerance=1e-9)
    assert values[0] / 300 < closed.log_likelihood - 1  # it had some way to go
    torch.testing.assert_close(values[-1:] / 300, closed.log_likelihood, rtol=0, atol=1e-6)
    torch.testing.assert_close(state.W @ state.W.T, closed.W @ closed.W.T, rtol=0, atol=1e-3)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("missing", ["nothing", "entries", "few patterns", "mixed"])
def test_em_never_falls_and_its_last_value_is_that_of_its_fit(tied, missing):
    x = simulate(200, 8, 2, noise=0.5)
    g = torch.Generator().manual_seed(6)
    mask = torch.rand(x.shape, generator=g) > 0.4
    if missing == "nothing":
        mask = torch.ones_like(mask)
    elif missing == "few patterns":
        mask[0] = True
        mask = mask[torch.arange(200) % 5]
    elif missing == "mixed":
        mask[:100], mask[100] = True, False
    x = torch.where(mask, x, math.nan)
    fit = exact.em(x, 2, tied=tied, tolerance=1e-8, iterations=5000)
    gains = fit.log_likelihood.diff()
    assert (gains >= -1e-9).all()
    if not (tied and missing == "nothing"):  # there the start is the answer
        assert fit.log_likelihood[-1] - fit.log_likelihood[0] > 0.05
    value = exact.log_evidence(fit.W, fit.loc, fit.scale, x, mask).mean()
    torch.testing.assert_close(fit.log_likelihood[-1], value, rtol=0, atol=1e-10)
    assert not tied or (fit.scale == fit.scale[0]).all()


def far_start(seed: int) -> tuple[torch.Tensor, torch.Tensor, expectation.State]:
    """Data that are not centred, and a start far from them."""
    x = simulate(100, 8, 2, seed=seed, missing=0.3)
    mask, g = ~x.isnan(), torch.Generator().manual_seed(seed)
    W, loc = (3 * torch.randn(*shape, generator=g, dtype=x.dtype) for shape in ((8, 2), (8,)))
    return torch.where(mask, x, 0.0), mask, expectation.State(W, loc, torch.ones_like(loc))


@pytest.mark.parametrize("tied", [False, True])
def test_an_em_step_regresses_each_feature_on_expected_latents_and_fits_their_prior(tied):
    x, mask, start = far_start(0)
    step, _ = ascend(expectation.incomplete(x, mask), start, tied=tied, iterations=1, tolerance=0.0)
    m, V = dense_posterior(start.W, start.loc, start.psi.sqrt(), x, mask)
    y = torch.cat([m, torch.ones_like(m[:, :1])], -1)
    yy = y.unsqueeze(-1) * y.unsqueeze(-2)
    yy[:, :2, :2] += V
    mu = m.mean(0)
    R = V.mean(0) + (m - mu).T @ (m - mu) / len(x)  # the prior N(mu, R) that fits best
    W, loc, squares = [], [], []
    for j in range(8):
        o = mask[:, j]
        w = torch.linalg.solve(yy[o].sum(0), (x[o, j, None] * y[o]).sum(0))
        expected = x[o, j] ** 2 - 2 * x[o, j] * (y[o] @ w) + torch.einsum("i,nij,j->n", w, yy[o], w)
        squares.append(expected)
        W.append(w[:2])
        loc.append(w[2] + w[:2] @ mu)
    psi = torch.cat(squares).mean().expand(8) if tied else torch.stack([s.mean() for s in squares])
    W = torch.stack(W)
    torch.testing.assert_close(step.W @ step.W.T, W @ R @ W.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(step.loc, torch.stack(loc), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(step.psi, psi, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_em_climbs_from_any_start(tied, seed):
    x, mask, start = far_start(seed)
    expect = expectation.incomplete(x, mask)
    state, values = ascend(expect, start, tied=tied, iterations=300, tolerance=1e-7)
    assert (values.diff() >= -1e-9 * values[-1].abs()).all() and values[-1] > values[0] + 100
    value = exact.log_evidence(state.W, state.loc, state.psi.sqrt(), x, mask).sum()
    torch.testing.assert_close(value, values[-1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_em_ends_where_the_likelihood_of_the_observed_entries_is_flat(tied):
    x = simulate(150, 8, 2, missing=0.2)
    mask = ~x.isnan()
    fit = exact.em(x, 2, tied=tied, tolerance=1e-12, iterations=20000)
    W, loc, scale = (v.clone().requires_grad_() for v in (fit.W, fit.loc, fit.scale[:1] if tied else fit.scale))
    value = exact.log_evidence(W, loc, scale.expand(8), x, mask).mean()
    for gradient in torch.autograd.grad(value, (W, loc, scale)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


@pytest.mark.parametrize("missing", ["nothing", "few patterns"])
def test_all_ways_through_the_e_step_agree(missing, monkeypatch):
    x = simulate(60, 8, 3)
    mask = torch.ones_like(x, dtype=torch.bool)
    if missing == "few patterns":
        mask = (torch.rand(4, 8, generator=torch.Generator().manual_seed(1)) > 0.4)[torch.arange(60) % 4]
    x = torch.where(mask, x - x.mean(0), 0.0)
    start = expectation.State(
        torch.randn(8, 3, dtype=x.dtype), torch.zeros(8, dtype=x.dtype), 0.5 + torch.rand(8, dtype=x.dtype)
    )

    def step(expect):
        state, values = ascend(expect, start, tied=False, iterations=2, tolerance=-math.inf)
        return [*state, values]

    ways = [step(expectation.incomplete(x, mask))]
    monkeypatch.setattr(expectation, "_blocks", lambda x, mask: [(x, mask)])
    ways.append(step(expectation.incomplete(x, mask)))
    monkeypatch.setattr(linear_gaussian, "CHUNK_BYTES", 3000)
    ways.append(step(expectation.incomplete(x, mask)))
    if missing == "nothing":
        ways.append(step(expectation.complete(x)))
    for way in ways[1:]:
        for ours, other in zip(ways[0], way, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)


def test_complete_data_with_more_features_than_rows_take_the_same_step():
    x = simulate(12, 30, 3)
    x = x - x.mean(0)
    start = expectation.State(
        torch.randn(30, 3, dtype=x.dtype), torch.zeros(30, dtype=x.dtype), 0.5 + torch.rand(30, dtype=x.dtype)
    )
    thin = expectation.complete(x)(start)
    wide = expectation.complete(torch.cat([x, x, x]))(start)  # every row three times: the x^T x path
    for one, three in zip(thin, wide, strict=True):
        torch.testing.assert_close(3 * one, three, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:EM still gained")
def test_em_does_not_depend_on_units_or_on_what_fills_a_missing_entry():
    x = simulate(100, 8, 2, missing=0.2)
    mask, unit, shift = ~x.isnan(), 10.0 ** torch.arange(-4, 4).double(), 100.0
    fit = exact.em(x, 2, tolerance=0.0, iterations=20)
    for value in (0.0, 1e6, math.inf):
        assert all(map(torch.equal, fit, exact.em(torch.where(mask, x, value), 2, mask, tolerance=0.0, iterations=20)))
    other = exact.em(x * unit + shift, 2, tolerance=0.0, iterations=20)
    torch.testing.assert_close(other.scale, fit.scale * unit, rtol=1e-6, atol=0)
    torch.testing.assert_close(other.loc, fit.loc * unit + shift, rtol=1e-6, atol=1e-6)
    moved = fit.log_likelihood - (mask * unit.log()).sum() / 100
    torch.testing.assert_close(other.log_likelihood, moved, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:EM still gained")
def test_rows_of_which_nothing_is_observed_teach_nothing():
    def fit(x, mask=None):
        return exact.em(x, 2, mask, tolerance=0.0, iterations=20)

    x = simulate(100, 8, 2, missing=0.2)
    alone, padded = fit(x), fit(torch.cat([x, torch.full((50, 8), math.nan, dtype=x.dtype)]))
    for ours, other in zip(alone[:3], padded[:3], strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(padded.log_likelihood, alone.log_likelihood * 100 / 150, rtol=1e-10, atol=0)
    complete = simulate(100, 8, 2)
    by_row = fit(complete, torch.arange(100).unsqueeze(-1) < 80)
    for ours, other in zip(by_row[:3], fit(complete[:80])[:3], strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)


def test_em_recovers_what_the_data_were_drawn_from():
    x = simulate(4000, 8, 2, missing=0.4)
    fit = exact.em(x, 2)
    g = torch.Generator().manual_seed(0)  # as in simulate
    W = torch.randn(8, 2, generator=g, dtype=torch.float64)
    covariance = W @ W.T + torch.diag((0.3 + torch.rand(8, generator=g, dtype=torch.float64)) ** 2)
    variance = covariance.diagonal()
    pairs = 4000 * 0.6**2  # rows that observe both of two features
    error = ((torch.outer(variance, variance) + covariance**2) / pairs).sqrt()
    assert ((fit.W @ fit.W.T + torch.diag(fit.scale**2) - covariance).abs() < 4 * error).all()
    assert ((fit.loc - 3 * torch.arange(8)).abs() < 4 * (variance / (4000 * 0.6)).sqrt()).all()


def test_single_precision_comes_back_in_single_precision():
    x = simulate(100, 8, 2, missing=0.2)
    double, single = exact.em(x, 2), exact.em(x.float(), 2)
    assert {v.dtype for v in single} == {torch.float32} and {v.dtype for v in double} == {torch.float64}
    torch.testing.assert_close(single.log_likelihood[-1].double(), double.log_likelihood[-1], rtol=0, atol=1e-4)
    assert exact.ppca(simulate(100, 6, 2).float(), 2).W.dtype == torch.float32
    assert exact.em(torch.randint(0, 9, (50, 4)), 1, tied=True).W.dtype == torch.get_default_dtype()


def test_em_agrees_with_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = simulate(300, 10, 3)
    reference = decomposition.FactorAnalysis(3, tol=1e-10, max_iter=5000, svd_method="lapack").fit(x.numpy())
    fit = exact.em(x, 3, tolerance=1e-9, iterations=5000)
    assert abs(fit.log_likelihood[-1].item() - reference.score(x.numpy())) < 1e-6
    covariance = (fit.W @ fit.W.T + torch.diag(fit.scale**2)).numpy()
    np.testing.assert_allclose(covariance, reference.get_covariance(), atol=2e-3)
    closed = exact.ppca(x, 3)  # sklearn's PCA divides by N - 1
    pca = decomposition.PCA(3).fit(x.numpy())
    np.testing.assert_allclose((closed.scale[0] ** 2).item() * 300 / 299, pca.noise_variance_, rtol=1e-10)


def test_a_noise_scale_that_would_vanish_stays_at_its_floor_and_is_named():
    x = simulate(30, 6, 1)
    x[:, 4] = 2 * x[:, 1] + 1  # one latent reproduces both columns exactly
    for missing in (0.0, 0.2):
        seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) >= missing
        with pytest.warns(Caution, match="columns 1, 4 stands at its least value"):
            fit = exact.em(torch.where(seen, x, math.nan), 2, iterations=3000)
        assert (fit.log_likelihood.diff() >= -1e-9 * fit.log_likelihood.abs().max()).all()
        assert all(v.isfinite().all() for v in fit) and (fit.scale > 0).all()


def test_em_says_when_it_was_stopped_early():
    with pytest.warns(Caution, match="still gained .* in iteration 2"):
        fit = exact.em(simulate(100, 8, 2, missing=0.3), 2, iterations=2)
    assert len(fit.log_likelihood) == 3


def poisoned(value: float, *cells: tuple[int | slice, int]) -> torch.Tensor:
    x = simulate(30, 6, 2)
    for cell in cells:
        x[cell] = value
    return x


EVERY = slice(None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": poisoned(math.nan, (EVERY, 2))}, "no observed value in column 2\n"),
        (
            {"x": poisoned(5.1, (EVERY, 1), (EVERY, 4))},
            "the same value in all observed rows in columns 1, 4\n",
        ),
        ({"x": poisoned(math.nan, (slice(1, None), 3))}, "the same value in all observed rows in column 3\n"),
        ({"x": torch.full((9, 3), 0.1), "tied": True}, "the same value in all observed rows"),
        ({"x": poisoned(math.inf, (3, 0), (4, 5))}, "infinite values in columns 0, 5\n"),
        ({"x": poisoned(math.nan, (3, 2)), "mask": True}, "NaN where the mask says observed in column 2\n"),
        ({"x": torch.randn(30)}, r"x has shape \(30,\)"),
        ({"x": torch.randn(1, 4)}, "x has 1 rows"),
        ({"latents": 6}, "latents=6 for 6 features"),
        ({"latents": 0}, "latents=0 for 6 features"),
        ({"latents": 1.5}, "latents=1.5 for 6 features"),
        ({"mask": torch.ones(30, 5, dtype=torch.bool)}, r"shape \(30, 5\) for x of shape \(30, 6\)"),
        ({"mask": torch.ones(30, 6)}, "the mask is torch.float32"),
        ({"iterations": 0}, "iterations=0"),
        ({"tolerance": math.nan}, "tolerance=nan"),
    ],
)
def test_em_refuses_what_it_cannot_fit_and_names_it(arguments, message):
    with pytest.raises(Problem, match=message) as caught:
        exact.em(**({"x": simulate(30, 6, 2), "latents": 2} | arguments))
    assert caught.value.cause and caught.value.remedy


@pytest.mark.parametrize(
    ("x", "latents", "message"),
    [
        (poisoned(math.nan, (3, 2)), 2, r"NaN in column 2\n(.|\n)*em\(x, latents, tied=True\)"),
        (poisoned(math.inf, (3, 2)), 2, "infinite values in column 2\n"),
        (simulate(30, 6, 2), 6, "latents=6"),
        (simulate(30, 6, 2), 0, "latents=0"),
        (simulate(30, 6, 2)[:1], 2, "x has 1 rows"),
        (simulate(30, 6, 2)[:, 0], 2, "x has shape"),
        (simulate(3, 6, 2), 4, "leave no variance outside 4 latents"),
        (torch.full((9, 3), 0.1), 1, "leave no variance"),
    ],
)
def test_ppca_refuses_what_it_cannot_fit_and_names_it(x, latents, message):
    with pytest.raises(Problem, match=message):
        exact.ppca(x, latents)


# --- Frey faces ---


@pytest.fixture(scope="module")
def frey() -> torch.Tensor:
    """80 % of the Frey faces, (1572, 560), from -1 to 1."""
    folder = os.environ.get("PPVAE_DATA")
    if not folder or not (Path(folder) / "frey.npz").exists():
        pytest.skip("set PPVAE_DATA to a folder that holds frey.npz")
    x = np.load(Path(folder) / "frey.npz")["x"].reshape(1965, -1) / 127.5 - 1
    return torch.as_tensor(x[: int(0.8 * len(x))])


@pytest.mark.slow
def test_em_agrees_with_scikit_learn_on_frey_faces(frey):
    decomposition = pytest.importorskip("sklearn.decomposition")
    start = time.perf_counter()
    fit = exact.em(frey, 43)
    seconds = time.perf_counter() - start
    reference = decomposition.FactorAnalysis(43, tol=1e-4, svd_method="lapack").fit(frey.numpy())
    gap = reference.score(frey.numpy()) - fit.log_likelihood[-1].item()
    print(f"\n{len(fit.log_likelihood) - 1} iterations, {seconds:.2f} s, {gap:.1e} nats per row under scikit-learn")
    assert abs(gap) < 1e-4
    assert (fit.log_likelihood.diff() >= -1e-9).all()


def test_em_with_half_of_the_entries_missing_on_frey_faces(frey):
    mask = torch.rand(frey.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)  # a few iterations show what is to be shown
        fit = exact.em(frey, 43, mask, iterations=15)
    assert (fit.log_likelihood.diff() >= -1e-9).all()
    value = exact.log_evidence(fit.W, fit.loc, fit.scale, frey, mask).mean()
    torch.testing.assert_close(fit.log_likelihood[-1], value, rtol=0, atol=1e-8)
    filled = exact.impute_mean(fit.W, fit.loc, fit.scale, frey, mask)
    error, spread = (filled - frey)[~mask].square().mean(), (frey - frey.mean(0))[~mask].square().mean()
    assert error < 0.2 * spread
