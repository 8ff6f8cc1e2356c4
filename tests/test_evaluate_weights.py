"""Evidence with an error bar, and what of the weights can be trusted."""

import math

import pytest
import torch
from examples import linear_gaussian, pair
from oracles import dense_log_evidence

import ppvae
from ppvae.evaluate.weights import evidence, pareto_threshold


def dense(made, x, mask):
    d = made.decoder
    return dense_log_evidence(d.W, d.loc, d.scale, x, mask).detach()


def near(N=12):
    """A guide that is wrong and covers the posterior: the prior itself, of a story with much noise."""
    made, x, mask = linear_gaussian("factor_analysis_mean_imputation", N=N, D=4, K=2)
    made.decoder.log_scale.data.fill_(0.7)
    with torch.no_grad():
        return made, made.model(size=N), mask


def test_the_error_bar_is_the_spread_of_repeated_estimates():
    made, x, mask = near()
    exact = dense(made, x, mask)
    runs = [evidence(made, x, mask, 500) for _ in range(200)]
    estimates, errors = torch.stack([r.log_evidence for r in runs]), torch.stack([r.standard_error for r in runs])
    spread = estimates.std(0)
    assert (errors.mean(0) / spread - 1).abs()[1:].max() < 5 / math.sqrt(2 * 200)
    bias = (estimates + errors.square() / 2).mean(0) - exact  # the stated bias, taken back
    assert (bias.abs() < 5 * spread / math.sqrt(200) + 1e-12).all()


def test_an_exact_guide_has_no_error():
    made, x, mask = linear_gaussian(N=10)
    found = evidence(made, x, mask, 20)
    assert torch.allclose(found.log_evidence, dense(made, x, mask), atol=1e-10, rtol=0)
    assert (found.standard_error < 1e-10).all() and torch.allclose(found.ess, torch.full((10,), 20.0))
    assert (found.pareto_k == -torch.inf).all() and found.reliable.all()


def test_the_effective_size_and_the_error_are_one_number():
    """se^2 = (1 / ESS - 1 / P) P / (P - 1), with the weights of the same draws."""
    made, x, mask = near()
    found, P = evidence(made, x, mask, 300), 300
    assert torch.allclose(found.standard_error.square(), (1 / found.ess - 1 / P) * P / (P - 1), atol=1e-12)


def test_the_threshold_falls_with_fewer_draws():
    assert pareto_threshold(10_000) == 0.7 and pareto_threshold(100) == 0.5 and pareto_threshold(10) == 0.0
    assert pareto_threshold(10**6) == 0.7 and pareto_threshold(1) == -math.inf
    with pytest.raises(ppvae.Problem, match="whole number"):
        pareto_threshold(0)


def test_heavy_weights_are_flagged():
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=20)
    made.encoder.log_scale.data.fill_(-2.0)
    found = evidence(made, x, mask, 1000)
    assert torch.equal(found.reliable, found.pareto_k <= 1 - 1 / 3) and (~found.reliable).double().mean() > 0.8
    few = evidence(*near(200), 100)  # the threshold of so few is 1/2: some rows lie between it and 0.7
    assert torch.equal(few.reliable, few.pareto_k <= 0.5) and ((few.pareto_k > 0.5) & (few.pareto_k < 0.7)).any()
    assert evidence(*near(), 1000).reliable.all()


def test_the_blocks_change_nothing(monkeypatch):
    from ppvae.conditioning import blocks

    made, x, mask = linear_gaussian(N=30)
    whole = evidence(made, x, mask, 50)
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 2**15)
    cut = evidence(made, x, mask, 50)
    assert torch.allclose(cut.log_evidence, whole.log_evidence, atol=1e-12) and len(cut.ess) == 30


def test_a_global_latent_has_no_evidence_by_row():
    made = pair("bayesian_linear")
    with pytest.raises(ppvae.Problem, match="global"):
        evidence(made, {"x": torch.randn(4, 9), "inputs": torch.randn(4, 2)})
