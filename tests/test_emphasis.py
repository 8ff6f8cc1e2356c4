"""Weights of the data's terms, guides without chance, entries that are missing altogether."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, linear_gaussian, pair
from pyro import poutine
from torch import nn

import ppvae
from ppvae.fitting.loop import fit
from ppvae.objectives.emphasis import balanced


def at(objective, made, x, mask=None, seed=0):
    torch.manual_seed(seed)
    return objective(made, x, mask)


@pytest.mark.parametrize("particles", [1, 3])
def test_a_weight_multiplies_the_likelihood_and_leaves_the_kl(particles):
    made = pair("vae")
    entries, mask = data(made)
    terms = at(lambda *a: ppvae.elbo(particles).terms(*a), made, entries["x"], mask)
    heavy = ppvae.elbo(particles, likelihood={"x": 2.5})
    assert torch.allclose(at(heavy, made, entries["x"], mask), 2.5 * terms.likelihood - terms.kl["z"], atol=1e-12)
    told = at(lambda *a: heavy.terms(*a), made, entries["x"], mask)
    assert torch.equal(told.likelihood, terms.likelihood)  # the terms stay the truth
    assert heavy.unit is None and ppvae.elbo(particles).unit == "nats per row"


def test_weights_of_each_entry_are_those_of_the_function():
    made = pair("vae")
    x, mask = data(made)[0]["x"], data(made)[1]
    weights = torch.rand(x.shape)
    terms = at(lambda *a: ppvae.elbo().terms(*a), made, x, mask)
    seen = []

    def weigh(value, shown):
        seen.append((value, shown))
        return weights

    ours = at(ppvae.elbo(likelihood={"x": weigh}), made, x, mask)
    value, shown = seen[0]
    torch.manual_seed(0)
    site = dist.Bernoulli(logits=made.decoder(made.encoder(x * mask, mask).rsample().squeeze(-2)).logits)
    by_hand = (weights * site.log_prob(x) * mask).sum(-1) - terms.kl["z"]
    assert torch.equal(shown, mask) and torch.equal(value[mask], x[mask])
    assert torch.allclose(ours, by_hand, atol=1e-12)


def test_weights_act_inside_a_sum_over_classes():
    made = pair("semi_supervised_vae", classes=3)
    x, mask = data(made)[0]["x"], data(made)[1]
    terms = at(lambda *a: ppvae.elbo(2).terms(*a), made, x, mask)
    ours = at(ppvae.elbo(2, likelihood={"x": 3.0}), made, x, mask)
    assert torch.allclose(ours, 3 * terms.likelihood - sum(terms.kl.values()), atol=1e-12)


def test_under_the_exact_guide_a_weight_of_one_is_the_evidence():
    made, x, mask = linear_gaussian()
    evidence = ppvae.exact.log_evidence(made.decoder.W, made.decoder.loc, made.decoder.scale, x, mask)
    for gradient in ("pathwise", "stl"):
        ours = at(ppvae.elbo(gradient=gradient, likelihood={"x": 1.0}), made, x, mask)
        assert torch.allclose(ours, evidence, atol=1e-10)


def test_the_score_gradient_climbs_the_weighted_bound():
    made = pair("semi_supervised_vae", classes=3, labels="sampled")
    summed = pair("semi_supervised_vae", classes=3)
    summed.load_state_dict(made.state_dict())
    x = data(made)[0]["x"][:3]
    found = []
    for one, gradient in ((made, "score"), (summed, "pathwise")):
        objective = ppvae.elbo(100, gradient=gradient, likelihood={"x": 50.0})
        draws = [
            torch.autograd.grad(at(objective, one, x, seed=s).sum(), one.encoder.logits.bias)[0] for s in range(60)
        ]
        found.append(torch.stack(draws))
    error = sum(g.var(0) / 60 for g in found).sqrt()
    assert ((found[0].mean(0) - found[1].mean(0)).abs() < 5 * error).all()


def test_balanced_gives_ones_and_zeros_the_same_weight_of_a_row():
    x = (torch.rand(5, 40) < 0.2).double()
    mask = torch.rand(5, 40) < 0.7
    weights = balanced(x, mask)
    ones, zeros = (weights * x * mask).sum(1), (weights * (1 - x) * mask).sum(1)
    assert torch.allclose(ones, zeros, atol=1e-10) and (weights[x == 0] == 1).all()
    assert balanced(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)).isfinite().all()
    moved = torch.cat([x[:1], 1 - x[1:]])
    assert torch.equal(balanced(moved, mask)[0], weights[0])  # a row's weights are its own


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, "heavy", None])
def test_what_is_no_weight(weight):
    with pytest.raises(ppvae.Problem, match="the weight of 'x' is"):
        ppvae.elbo(likelihood={"x": weight})


def test_a_weight_of_what_is_not_observed():
    made = pair("semi_supervised_vae", classes=3)
    with pytest.raises(ppvae.Problem, match="the likelihood of 'y' is to be weighted.*\n.*\n.*observed here: x"):
        ppvae.elbo(likelihood={"y": 2.0})(made, data(made)[0]["x"])


def test_a_checkpoint_knows_the_objective_by_its_weights_and_not_by_where_functions_lie():
    named = {repr(ppvae.elbo(likelihood=w)) for w in (None, {"x": 2.0}, {"x": 3.0}, {"x": balanced})}
    assert len(named) == 4 and not any(" at 0x" in name for name in named)
    assert repr(ppvae.elbo(2, likelihood={"x": balanced})).endswith("kl=None, likelihood={'x': balanced})")


# --- guides without chance ------------------------------------------------------------------------------


def test_a_point_has_no_evidence_and_trains_and_completes():
    made = pair("gae")
    entries, mask = data(made)
    post = ppvae.condition(made, entries, mask)
    for asked in (lambda: post.log_evidence(5), lambda: post.diagnostics(5), lambda: ppvae.iw_elbo(5)(made, entries)):
        with pytest.raises(ppvae.Problem, match="gives 'z' without chance"):
            asked()
    assert post.impute(3).shape == (3, *mask.shape) and post.sample(2)["z"].shape == (2, len(mask), 5, 2)
    codes = made.encoder(entries["x"], mask).mean
    assert torch.allclose(post.impute_mean(), torch.where(mask, entries["x"], made.decoder(codes).mean), atol=1e-12)


# --- rows, columns and entries of which nothing was seen ----------------------------------------------------


def test_an_entry_that_is_absent_in_every_row_is_refused():
    made = ppvae.make("multimodal_vae", 4, 2, classes=(3,), hidden=(4,))
    x, y = torch.rand(6, 4).round(), torch.full((6, 1), torch.nan)
    with pytest.raises(ppvae.Problem, match="'y' is absent in every row"):
        fit(made, {"x": x, "y": y}, epochs=1)


def test_a_row_of_which_one_entry_was_seen_teaches_something():
    made = ppvae.make("multimodal_vae", 4, 2, classes=(3,), hidden=(4,))
    x, y = torch.rand(6, 4).round(), torch.tensor([[0.0], [1], [2], [0], [1], [2]])
    x[0] = torch.nan
    fit(made, {"x": x, "y": y}, objective=ppvae.telbo(), epochs=1)  # pytest makes a Caution an error
    y[0] = torch.nan
    with pytest.warns(ppvae.Caution, match="row 0 is not observed at all"):
        fit(made, {"x": x, "y": y}, objective=ppvae.telbo(), epochs=1)


class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))


def test_one_row_may_have_gaps_and_a_column_of_many_may_not():
    def story(n, x=None, mask=True, *, size=1):
        with (
            pyro.plate("data", size if x is None else len(x), dim=-2),
            pyro.plate("features", 3, dim=-1),
            poutine.mask(mask=mask),
        ):
            pyro.sample("x", dist.Normal(n.loc, 1.0), obs=x)

    made = ppvae.Pair(story, None, n=Numbers())
    x = torch.tensor([[1.0, torch.nan, 2.0]])
    fit(made, x, epochs=1)
    with pytest.raises(ppvae.Problem, match="column 1 is never observed"):
        fit(made, torch.cat([x, x + 1]), epochs=1)
