"""Posteriors of single rows: what refining reaches, and what amortization and the family cost."""

import math

import pytest
import torch
from examples import data, linear_gaussian, pair
from oracles import dense_log_evidence, dense_posterior
from pyro import poutine

import ppvae
from ppvae.conditioning.refine import gaps, memoryless, refine
from ppvae.evaluate.offsets import Moved


def dense(made, x, mask):
    d = made.decoder
    return dense_log_evidence(d.W, d.loc, d.scale, x, mask).detach()


def lacking(loc, covariance, mean, exact):
    """KL(N(loc, covariance) || N(mean, exact)) of each row, by torch's dense formula."""
    q, p = (torch.distributions.MultivariateNormal(m, c) for m, c in ((loc, covariance), (mean, exact)))
    return torch.distributions.kl_divergence(q, p)


def refined_guide(made, x, mask, found):
    with torch.no_grad(), Moved(found.offsets):
        return poutine.trace(made.guide).get_trace(x, mask).nodes["z"]["fn"]


def test_an_exact_guide_gains_nothing():
    made, x, mask = linear_gaussian("factor_analysis_exact")
    found = gaps(made, x, mask, steps=50, particles=20)
    assert torch.equal(found.refined, found.guide) and (found.amortization == 0).all()
    assert found.approximation.abs().max() < 1e-10
    assert torch.allclose(found.guide, dense(made, x, mask), atol=1e-10, rtol=0)


def test_a_diagonal_guide_reaches_the_best_factorised_posterior():
    """Its gap to log p(x_o) is KL(mean field || posterior), a closed form; the refined one's is within 0.01 nats of it."""
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=20)
    d = made.decoder
    mean, covariance = dense_posterior(d.W, d.loc, d.scale, x, mask)
    best = torch.diag_embed(1 / torch.linalg.inv(covariance).diagonal(dim1=-2, dim2=-1))
    floor = lacking(mean, best, mean, covariance)
    found = refine(made, x, mask, steps=500)
    q = refined_guide(made, x, mask, found)
    reached = lacking(q.base_dist.loc[:, 0], torch.diag_embed(q.base_dist.scale[:, 0].square()), mean, covariance)
    assert (reached - floor).min() > -1e-10 and (reached - floor).max() < 0.01
    assert (found.before < found.after - 1).double().mean() > 0.9  # the untrained encoder was far off
    bound, error = dense(made, x, mask) - reached, math.sqrt(3 / 400)  # log w varies by about sqrt(K) nats
    assert ((found.after - bound).abs() < 5 * error).all()


def test_a_row_that_gains_nothing_keeps_the_guides_output_and_its_number():
    """The prior's own rows under a guide that is the prior, steps far too long: many lose, and are put back."""
    made, x, mask = linear_gaussian("factor_analysis_full", N=30, K=2)
    made.decoder.W.data.mul_(0.05)
    for parameter in (made.encoder.linear.weight, made.encoder.linear.bias):
        parameter.data.zero_()
    found = refine(made, x, mask, steps=2, learning_rate=1.0)
    a, b = found.offsets["z"]
    still = (a == 0).flatten(1).all(1) & (b == 0).flatten(1).all(1)
    assert still.sum() > 5 and torch.equal(found.before[still], found.after[still])


def test_a_full_covariance_reaches_the_posterior_itself():
    made, x, mask = linear_gaussian("factor_analysis_full", N=20)
    found = refine(made, x, mask, steps=500)
    q, d = refined_guide(made, x, mask, found), made.decoder
    mean, covariance = dense_posterior(d.W, d.loc, d.scale, x, mask)
    assert lacking(q.loc[:, 0], q.covariance_matrix[:, 0], mean, covariance).max() < 1e-3
    assert torch.allclose(found.log_evidence(200), dense(made, x, mask), atol=0.02)
    z = found.sample(4000)["z"]
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert z.shape == (4000, 20, 3) and ((z.mean(0) - mean).abs() < 5 * sd / 4000**0.5 + 0.05 * sd).all()


def test_the_gaps_add_up_and_close_where_they_should():
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=12)
    found = gaps(made, x, mask, steps=300, particles=4000)
    assert torch.allclose(found.guide + found.amortization + found.approximation, found.log_evidence)
    assert (found.amortization >= 0).all() and found.approximation.mean() < 0.1 * found.amortization.mean()


@pytest.mark.parametrize("name", ["vae", "two_layer", "conditional_vae", "conv_vae"])
def test_an_untrained_encoder_of_any_pair_is_improved(name):
    made = pair(name)
    entries, mask = data(made, rows=10)
    found = refine(made, entries, {"x": mask}, steps=100)
    assert found.after.mean() > found.before.mean() + 0.05 and (found.after > found.before - 0.05).all()
    assert {k: v.shape[:2] for k, v in found.sample(3).items()} == {k: (3, 10) for k in found.offsets}


def test_refining_leaves_the_pair_and_the_callers_modes_alone():
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=5)
    kept = {name: value.clone() for name, value in made.state_dict().items()}
    made.train()
    refine(made, x, mask, steps=3)
    assert made.training and all(torch.equal(kept[name], value) for name, value in made.state_dict().items())
    assert all(p.grad is None for p in made.parameters())


def test_memoryless_inference_gives_the_storys_own_gradient():
    """At exact posteriors it is the gradient of log p(x_o) (Fisher's identity), at 5 standard errors."""
    made, x, mask = linear_gaussian("factor_analysis_exact", N=6)
    d = made.decoder
    evidence = dense_log_evidence(d.W, d.loc, d.scale, x, mask).sum()
    (exact,) = torch.autograd.grad(evidence, d.loc)
    objective = memoryless(steps=1, particles=500)
    bounds = [objective(made, x, mask) for _ in range(12)]
    drawn = torch.stack([torch.autograd.grad(bound.sum(), d.loc)[0] for bound in bounds])
    assert ((drawn.mean(0) - exact).abs() < 5 * drawn.std(0) / math.sqrt(12)).all()
    assert torch.allclose(bounds[0], dense(made, x, mask), atol=1e-6)


def test_memoryless_inference_gives_the_guide_no_gradient():
    made, x, mask = linear_gaussian("factor_analysis_full", N=6)
    bound = memoryless(steps=300)(made, x, mask)
    assert (bound - dense(made, x, mask)).abs().max() < 0.3  # the steps got there
    found = torch.autograd.grad(bound.sum(), list(made.encoder.parameters()), allow_unused=True)
    assert all(g is None or g.abs().max() < 1e-9 for g in found)


def test_memoryless_inference_trains_the_story_without_its_guide():
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=60)
    mask[0] = True
    made.decoder.loc.data.add_(2.0)
    before = dense(made, x, mask).mean()
    kept = made.encoder.linear.weight.clone()
    ppvae.fit(made, x, mask, objective=memoryless(10), epochs=6, batch_size=20, learning_rate=0.1, compile="off")
    assert dense(made, x, mask).mean() > before + 1 and torch.equal(made.encoder.linear.weight, kept)


def test_what_cannot_be_refined_is_refused_in_words():
    import pyro
    import pyro.distributions as dist

    made = pair("bayesian_linear")
    entries, _ = data(made, rows=4)
    with pytest.raises(ppvae.Problem, match="global"):
        refine(made, entries)

    def model(x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Gamma(torch.ones(1, 1), 1.0).to_event(1))
            with pyro.plate("features", 1, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal(z.squeeze(-2), 1.0), obs=x)

    def guide(x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Gamma(torch.ones(len(x), 1, 1), 1.0).to_event(1))

    with pytest.raises(ppvae.Problem, match="only a Normal"):
        refine(ppvae.Pair(model, guide), torch.ones(3, 1))
    with pytest.raises(ppvae.Problem, match="steps is 0"):
        memoryless(0)
    with pytest.raises(ppvae.Problem, match="positive"):
        refine(*linear_gaussian(N=3), learning_rate=-1.0)
