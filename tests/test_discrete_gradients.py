"""Gradients of guides that cannot be reparametrised, held against sums over every value written out in plain torch."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppvae
from ppvae.objectives import annealed, beta, elbo, iw_elbo, wake_sleep

C, D, N = 3, 2, 2


class Numbers(nn.Module):
    """Parameters by name."""

    def __init__(self, **tensors):
        super().__init__()
        for name, value in tensors.items():
            setattr(self, name, nn.Parameter(value))


def model(theta, x=None, mask=True, *, size=1):
    """y ~ Categorical(logits),  x | y ~ N(loc_y, 1)."""
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        y = pyro.sample("y", dist.Categorical(logits=theta.logits))
        with pyro.plate("features", D, dim=-1):
            return pyro.sample("x", dist.Normal(theta.loc[y.long().squeeze(-1)], 1.0), obs=x)


def guide(phi, x, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("y", dist.Categorical(logits=(x @ phi.A + phi.b).unsqueeze(-2)))


def enumerating(phi, x, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        logits = (x @ phi.A + phi.b).unsqueeze(-2)
        pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


def mixed_model(theta, x=None, mask=True, *, size=1):
    """y as above,  z | y ~ N(m_y, 1),  x | y, z ~ N(loc_y + z, 1)."""
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        y = pyro.sample("y", dist.Categorical(logits=theta.logits)).long()
        z = pyro.sample("z", dist.Normal(theta.m[y].unsqueeze(-1), 1.0).to_event(1))
        with pyro.plate("features", D, dim=-1):
            return pyro.sample("x", dist.Normal(theta.loc[y.squeeze(-1)] + z.squeeze(-2), 1.0), obs=x)


def mixed_guide(phi, x, mask=True):
    """y | z and z: the discrete site's own parameters depend on a path."""
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal((x @ phi.a).unsqueeze(-2) + phi.c, phi.s.exp()).to_event(1))
        pyro.sample("y", dist.Categorical(logits=(x @ phi.A + phi.b).unsqueeze(-2) + z * phi.v))


def setting(mixed=False):
    torch.manual_seed(3)
    theta = {"logits": torch.randn(C), "loc": torch.randn(C, D)} | ({"m": torch.randn(C)} if mixed else {})
    phi = {"A": torch.randn(D, C), "b": torch.randn(C)}
    phi |= {"a": torch.randn(D, 1), "c": torch.zeros(1), "s": torch.tensor(-0.4), "v": torch.randn(C)} if mixed else {}
    theta, phi = Numbers(**theta), Numbers(**phi)
    made = ppvae.Pair(mixed_model if mixed else model, mixed_guide if mixed else guide, theta=theta, phi=phi)
    return made, torch.randn(N, D)


def flat(value, made):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(made.parameters()))])


def exact(made, x, P=1, shape=lambda log_q, log_p, log_x: log_x + log_p - log_q):
    """E_q of the bound of P draws by a sum over all C^P combinations, and its gradient: (N,), (parameters,)."""
    theta, phi = made.theta, made.phi
    log_q = (x @ phi.A + phi.b).log_softmax(-1)  # (N, C)
    log_x = dist.Normal(theta.loc, 1.0).log_prob(x[:, None]).sum(-1)
    weights = shape(log_q, theta.logits.log_softmax(0), log_x)
    total = 0.0
    for values in itertools.product(range(C), repeat=P):
        chance = log_q[:, values].sum(-1).exp()
        total = total + chance * (weights[:, values].logsumexp(-1) - math.log(P))
    return total.detach(), flat(total.mean(), made)


def sampled(made, objective, x, chunks=40, copies=1500, **when):
    values, slopes = [], []
    for _ in range(chunks):
        bound = objective(made, x.repeat(copies, 1), **when)
        values.append(bound.detach().reshape(copies, -1).mean(0))
        slopes.append(flat(bound.mean(), made))
    return [(torch.stack(s).mean(0), torch.stack(s).std(0) / math.sqrt(chunks)) for s in (values, slopes)]


def agree(estimate, truth, other=0.0):
    z = (estimate[0] - truth).abs() / (estimate[1] ** 2 + other**2 + 1e-24).sqrt()
    assert z.max() < 5, z


def test_enumeration_is_the_sum_written_out():
    made, x = setting()
    whole = ppvae.Pair(model, enumerating, theta=made.theta, phi=made.phi)
    bound = elbo()(whole, x)
    value, slope = exact(made, x)
    assert (bound - value).abs().max() < 1e-12 and (flat(bound.mean(), whole) - slope).abs().max() < 1e-12


@pytest.mark.parametrize("P", [2, 5])
def test_the_score_gradient_of_the_elbo_is_that_of_enumeration(P):
    made, x = setting()
    for estimate, truth in zip(sampled(made, elbo(P, "score"), x), exact(made, x), strict=True):
        agree(estimate, truth)


def test_under_the_posterior_the_score_gradient_has_no_variance():
    """Every draw has the same weight: its baseline is the weight itself, and log q's own gradient is left out."""
    made, x = setting()
    theta, phi = made.theta, made.phi
    with torch.no_grad():  # log p(y | x) is linear in x
        phi.A.copy_(theta.loc.T)
        phi.b.copy_(theta.logits - 0.5 * theta.loc.square().sum(-1))
    bound = elbo(3, "score")(made, x)
    assert (bound - exact(made, x)[0]).abs().max() < 1e-12
    assert all(g.abs().max() < 1e-12 for g in torch.autograd.grad(bound.sum(), list(phi.parameters())))


def test_a_weighted_kl_keeps_its_score():
    made, x = setting()
    shaped = exact(made, x, shape=lambda log_q, log_p, log_x: log_x + 1.5 * (log_p - log_q))
    objective = elbo(3, "score", kl=(beta(3.0), annealed(1.0)))
    for estimate, truth in zip(sampled(made, objective, x, done=0.5), shaped, strict=True):
        agree(estimate, truth)


@pytest.mark.parametrize("P", [2, 3, 5])
def test_the_vimco_gradient_is_that_of_the_sum_over_all_draws(P):
    made, x = setting()
    for estimate, truth in zip(sampled(made, iw_elbo(P, "vimco"), x), exact(made, x, P), strict=True):
        agree(estimate, truth)


def test_the_baseline_of_vimco_is_the_one_of_its_definition():
    from ppvae.objectives.scores import leave_one_out_bound

    weights = 30 * torch.randn(6, 4) - 200
    weights[0] += 300  # nearly all of the weight: a subtraction would lose the others
    ours = leave_one_out_bound(weights)
    for p in range(6):
        others = torch.cat([weights[:p], weights[p + 1 :]])
        whole = torch.cat([others, others.mean(0, keepdim=True)])
        assert (ours[p] - whole.logsumexp(0) + math.log(6)).abs().max() < 1e-10


@pytest.mark.parametrize("objective", [elbo(2, "score"), iw_elbo(2, "vimco")], ids=repr)
def test_draws_that_have_a_path_keep_it_beside_those_that_have_a_score(objective):
    """By hand: a sum over y, and z reparametrised inside it."""
    made, x = setting(mixed=True)
    theta, phi = made.theta, made.phi

    def by_hand(R=20000):
        z = (x @ phi.a + phi.c).squeeze(-1) + phi.s.exp() * torch.randn(R, 2, N)  # (R, P, N)
        log_z = dist.Normal((x @ phi.a + phi.c).squeeze(-1), phi.s.exp()).log_prob(z)
        log_q = ((x @ phi.A + phi.b) + z[..., None] * phi.v).log_softmax(-1)  # (R, P, N, C)
        log_x = dist.Normal(theta.loc + z[..., None, None], 1.0).log_prob(x[:, None]).sum(-1)
        log_p = theta.logits.log_softmax(0) + dist.Normal(theta.m, 1.0).log_prob(z[..., None]) + log_x
        w = log_p - log_q - log_z[..., None]  # (R, P, N, C)
        if isinstance(objective, elbo):
            return (log_q.exp() * w).sum(-1).mean()
        joint = log_q[:, 0, :, :, None] + log_q[:, 1, :, None, :]
        both = torch.logaddexp(w[:, 0, :, :, None], w[:, 1, :, None, :]) - math.log(2)
        return (joint.exp() * both).sum((-1, -2)).mean()

    hand = torch.stack([flat(by_hand(), made) for _ in range(20)])
    agree(sampled(made, objective, x)[1], hand.mean(0), hand.std(0) / math.sqrt(20))


def test_what_the_story_sums_out_stays_summed_beside_a_score():
    """y is summed out in the story, w is drawn by the guide; held against w summed out too."""

    def story(theta, x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            w = pyro.sample("w", dist.Bernoulli(logits=theta.lw))
            y = pyro.sample("y", dist.Bernoulli(logits=w * theta.ly), infer={"enumerate": "parallel"})
            with pyro.plate("features", D, dim=-1):
                return pyro.sample("x", dist.Normal(y * theta.a + w * theta.b, 1.0), obs=x)

    def draws(phi, x, mask=True, infer=None):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("w", dist.Bernoulli(logits=x @ phi.A), infer=infer)

    def sums(phi, x, mask=True):
        draws(phi, x, mask, infer={"enumerate": "parallel"})

    torch.manual_seed(0)
    theta = Numbers(lw=torch.randn(1), ly=torch.randn(1), a=torch.randn(D), b=torch.randn(D))
    modules = {"theta": theta, "phi": Numbers(A=torch.randn(D, 1))}
    x = torch.randn(N, D)
    whole = ppvae.Pair(story, sums, **modules)
    made = ppvae.Pair(story, lambda phi, x, mask=True: draws(phi, x, mask), **modules)
    bound = elbo()(whole, x)
    for estimate, truth in zip(
        sampled(made, elbo(3, "score"), x), (bound.detach(), flat(bound.mean(), whole)), strict=True
    ):
        agree(estimate, truth)
    with pytest.raises(ppvae.Problem, match="sums a latent out"):
        elbo(3, "score", beta(2.0))(made, x)


def test_wake_sleep_agrees_with_its_sums():
    """P large: the story's gradient is that of log p(x), the guide's the one of -KL(p(y | x) || q)."""
    made, x = setting()
    theta, phi = made.theta, made.phi
    joint = theta.logits.log_softmax(0) + dist.Normal(theta.loc, 1.0).log_prob(x[:, None]).sum(-1)
    log_q = (x @ phi.A + phi.b).log_softmax(-1)
    posterior = joint.detach().softmax(-1)
    truth = flat(joint.logsumexp(-1).mean() + (posterior * log_q).sum(-1).mean(), made)
    mean, error = sampled(made, wake_sleep(500), x, chunks=20, copies=40)[1]
    assert ((mean - truth).abs() < 5 * error + 0.02 * truth.abs().max()).all()  # the weights' own bias falls as 1 / P


OTHER = [elbo(2), elbo(2, "stl"), iw_elbo(2), iw_elbo(2, "stl"), iw_elbo(2, "dreg"), ppvae.objectives.renyi(0.5, 2)]


@pytest.mark.parametrize("objective", OTHER, ids=repr)
def test_a_path_through_a_discrete_draw_is_refused(objective):
    made, x = setting()
    for call in (
        lambda: objective(made, x),
        lambda: ppvae.check(made, x),
        lambda: ppvae.fit(made, x, objective=objective),
    ):
        with pytest.raises(ppvae.Problem, match="'y' from Categorical, which cannot be reparametrised") as met:
            call()
        assert all(word in met.value.remedy for word in ("enumerate", "'score'", "'vimco'", "wake_sleep"))


@pytest.mark.parametrize("objective", [elbo(2, "score"), iw_elbo(2, "vimco"), wake_sleep(2), elbo(2, "stl")], ids=repr)
def test_a_draw_is_needed_where_the_guide_enumerates(objective):
    made, x = setting()
    whole = ppvae.Pair(model, enumerating, theta=made.theta, phi=made.phi)
    with pytest.raises(ppvae.Problem, match="enumerates 'y'") as met:
        objective(whole, x)
    assert "pathwise" in met.value.remedy


@pytest.mark.parametrize(
    "objective", [elbo(4, "score"), iw_elbo(4, "vimco"), wake_sleep(4), wake_sleep(4, sleep=True)], ids=repr
)
def test_a_pair_with_a_discrete_guide_is_fitted(objective):
    """`fit` checks the gradients of the objective that it is given, and stages it."""
    made, _ = setting()
    with torch.no_grad():
        start = made.theta.loc.clone()
        made.theta.loc.copy_(4 * torch.eye(C)[:, :D])
        x = made.model(size=300)
        made.theta.loc.copy_(start)

    def evidence():
        each = dist.Normal(made.theta.loc, 1.0).log_prob(x[:, None]).sum(-1)
        return (made.theta.logits.log_softmax(0) + each).logsumexp(-1).mean().item()

    truth = ppvae.Pair(model, enumerating, theta=Numbers(logits=made.theta.logits, loc=start), phi=made.phi)
    before = evidence()
    result = ppvae.fit(made, x, objective=objective, epochs=30, batch_size=100, learning_rate=0.1)
    after = evidence()
    ppvae.fit(truth, x, epochs=60, batch_size=100, learning_rate=0.1)
    made = truth
    assert result.step == "staged" and before < after - 0.5 and abs(after - evidence()) < 0.2, (
        before,
        after,
        evidence(),
    )
