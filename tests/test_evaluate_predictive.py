"""Posterior predictive checks: the story's own data pass, and what it cannot make is found."""

import pytest
import torch
from examples import data, linear_gaussian, pair
from oracles import dense_impute_mean

import ppvae
from ppvae.evaluate.predictive import predictive_check


def test_replicates_have_the_law_of_the_posterior_predictive():
    """Their mean over draws is E[x | x_o] at every entry, and they are hidden where the data are (5 standard errors)."""
    made, x, mask = linear_gaussian(N=6, D=5, K=2)
    d, draws = made.decoder, 4000
    found = predictive_check(made, x, mask, lambda t: t.nan_to_num(0.0), draws)
    W, full = d.W, torch.zeros_like(mask)
    exact = []
    for n in range(6):  # a new entry beside the observed one: condition twice as many features, the copies hidden
        both = torch.cat([x[n], x[n]])[None]
        seen = torch.cat([mask[n], full[n]])[None]
        exact.append(dense_impute_mean(torch.cat([W, W]), d.loc.repeat(2), d.scale.repeat(2), both, seen)[0, 5:])
    exact = torch.stack(exact)
    error = found.replicated.std(0) / draws**0.5
    assert ((found.replicated.mean(0) - exact).abs() < 5 * error)[mask].all()
    assert (found.replicated[:, ~mask] == 0).all() and torch.equal(found.observed[mask], x[mask])


def test_the_p_value_counts_the_replicates_above_and_half_of_the_ties():
    made = pair("vae", features=4)
    entries, mask = data(made, rows=8)
    found = predictive_check(made, entries["x"], mask, lambda t: t.nansum(0), 200)
    above = (found.replicated > found.observed).double().mean(0)
    ties = (found.replicated == found.observed).double().mean(0)
    assert torch.equal(found.p_value, above + ties / 2) and (ties > 0).any()


def test_data_of_the_story_pass_and_heavy_tails_do_not():
    made, x, mask = linear_gaussian(N=300)

    def largest(t):
        return ((t - made.decoder.loc) / made.decoder.scale).nan_to_num(0.0).abs().amax()

    assert 0.01 < predictive_check(made, x, mask, largest, 200).p_value < 0.99
    heavy = x + made.decoder.scale * torch.distributions.StudentT(1.0).sample(x.shape)
    assert predictive_check(made, heavy, mask, largest, 200).p_value < 0.01


@pytest.mark.parametrize("name", ["two_layer", "conditional_vae", "bayesian_linear", "conv_vae"])
def test_every_kind_of_pair_is_checked(name):
    made = pair(name)
    entries, mask = data(made, rows=5)
    found = predictive_check(made, entries, {"x": mask}, lambda t: t.nanmean(), 7)
    assert found.replicated.shape == (7,) and 0 <= found.p_value <= 1


def test_a_statistic_that_reads_what_is_missing_is_refused():
    made, x, mask = linear_gaussian(N=5)
    with pytest.raises(ppvae.Problem, match="missing entries"):
        predictive_check(made, x, mask, lambda t: t.mean())
    with pytest.raises(ppvae.Problem, match="fails: RuntimeError"):
        predictive_check(made, x, mask, lambda t: t @ t)
