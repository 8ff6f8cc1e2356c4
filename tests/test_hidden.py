"""Stories that go on from what is missing, verb by verb: right by large samples, or refused."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from test_mixture import mixed_pair
from test_not_at_random import D, Never, Probit, made_with
from torch import nn

import ppvae
from ppvae.door import enter
from ppvae.objectives.wake_sleep import _dream


def steep(N=400):
    made = made_with(Probit())
    with torch.no_grad():
        made.mechanism.slope.fill_(6.0)
        trace = poutine.trace(made.model).get_trace(size=N)
    return made, trace.nodes["x"]["value"], trace.nodes["seen"]["value"] > 0.5


def told_by_the_mask(decoder, x, mask=True):
    """z lies on one side where the first column was seen, on the other where it was not."""
    seen = torch.ones(len(x), 1) if isinstance(mask, bool) else mask[:, :1].to(x)
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(((2 * seen - 1) * decoder.W[0]).unsqueeze(-2), 1.0).to_event(1))


def test_a_dream_is_seen_where_the_story_says():
    """log q of dreamt latents under the mask that was dreamt with them, beside rows of the story itself."""
    exact, x, mask = steep(4000)
    made = ppvae.Pair(exact._functions["model"], told_by_the_mask, decoder=exact.decoder, mechanism=exact.mechanism)
    torch.manual_seed(0)
    with torch.no_grad():
        dreamt = _dream(made, enter(made, x, mask))
        fresh = poutine.trace(made.model).get_trace(size=4000)
        z, seen = fresh.nodes["z"]["value"].squeeze(1), fresh.nodes["seen"]["value"][:, :1]
        by_hand = dist.Normal((2 * seen - 1) * made.decoder.W[0], 1.0).log_prob(z).sum(-1)
    error = math.hypot(float(dreamt.std()), float(by_hand.std())) / 4000**0.5
    assert abs(float(dreamt.mean() - by_hand.mean())) < 5 * error


def test_replicates_are_seen_where_they_would_be():
    made, x, mask = steep()
    check = ppvae.evaluate.predictive_check(made, x, mask, lambda x: x.nanmean(0), draws=60)
    assert (check.p_value > 0.005).all() and (check.p_value < 0.995).all()


def test_brackets_of_rows_that_the_story_would_hide_are_refused():
    made, x, _ = steep(20)
    with pytest.raises(ppvae.Problem, match="goes on from"):
        ppvae.evaluate.bdmc(made, x, chains=4, temperatures=5)


def test_gibbs_is_refused_however_the_first_draws_fall():
    """By a limit that a redraw seldom passes, two draws tell no difference."""
    made = made_with(Never())
    x, mask = torch.zeros(1, D), torch.tensor([[False, True, True, True]])
    for seed in range(20):
        torch.manual_seed(seed)
        with pytest.raises(ppvae.Problem, match="goes on from"):
            ppvae.condition(made, x, mask).gibbs(2)


class Loc(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))


def shared(theta, x=None, seen=None, *, size=1):
    shift = pyro.sample("shift", dist.Normal(theta.loc, 1.0))
    with pyro.plate("data", size if x is None else len(x), dim=-2), pyro.plate("features", 1, dim=-1):
        x = pyro.sample("x", dist.Normal(shift, 1.0), obs=x)
        pyro.sample("seen", dist.Bernoulli(logits=-3 * x), obs=seen)
    return x


def shared_guide(theta, x, mask=True):
    pyro.sample("shift", dist.Normal(theta.loc, 1.0))


def test_without_weights_nothing_says_why_entries_are_missing():
    made = ppvae.Pair(shared, shared_guide, theta=Loc())
    post = ppvae.condition(made, torch.randn(6, 1), torch.tensor([[True], [False]] * 3))
    for verb in (post.impute, post.impute_mean):
        with pytest.raises(ppvae.Problem, match="is global, and the story goes on"):
            verb(5)


def vectors(theta, x=None, *, size=1):
    """x (N, 3) is one event."""
    covariance = torch.eye(3) + 0.5
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        return pyro.sample(
            "x", dist.MultivariateNormal(theta.loc.expand(1, 3), covariance), obs=None if x is None else x.unsqueeze(-2)
        )


def vectors_guide(x, mask=True):
    """There are no latents."""


def test_rows_of_one_event_are_seen_whole_or_not_at_all():
    made = ppvae.Pair(vectors, vectors_guide, theta=Loc())
    x = torch.randn(4, 3)
    mask = torch.tensor([True, False, True, False])
    found = ppvae.condition(made, x, mask).log_evidence(1)
    truth = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 0.5).log_prob(x)
    assert (found - torch.where(mask, truth, 0.0)).abs().max() < 1e-10
    with pytest.raises(ppvae.Problem, match="one event"):
        ppvae.elbo()(made, x, torch.rand(4, 3) > 0.5)


def test_a_block_of_other_sites_leaves_what_was_seen():
    made, x, mask = steep(10)
    trace = poutine.trace(poutine.block(made.model, hide=["z"])).get_trace(x, mask)
    site = trace.nodes["x"]
    assert site["is_observed"] and torch.equal(site["value"][mask], x[mask]) and torch.equal(site["mask"], mask)


@pytest.mark.parametrize(
    "objective",
    [ppvae.iw_elbo(4, gradient="vimco"), ppvae.iw_elbo(4, gradient="dreg"), ppvae.elbo(4, gradient="score")],
    ids=["vimco", "dreg", "score"],
)
def test_gradients_that_need_independent_draws_are_refused_of_a_mixture(objective):
    made = mixed_pair(3)
    with pytest.raises(ppvae.Problem, match="from its components in turn"):
        objective(made, torch.randn(5, 2))
    with torch.no_grad():
        assert objective(made, torch.randn(5, 2)).isfinite().all()  # the bound itself holds


def test_ranks_among_draws_in_turn_are_refused():
    made = mixed_pair(2)
    with pytest.raises(ppvae.Problem, match="particles=1000"):
        ppvae.evaluate.sbc(made, torch.randn(20, 2), draws=19)
    assert ppvae.evaluate.sbc(made, torch.randn(20, 2), draws=19, particles=100).p_value["z"].shape == (2,)
