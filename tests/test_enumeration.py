"""Discrete latents, summed out: held against sums written out in plain torch, and dense Gaussians."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import dense_log_evidence, dense_posterior
from pyro import poutine
from torch import nn

import ppvae
from ppvae.door import enter
from ppvae.tracing.traces import run

PARALLEL = {"enumerate": "parallel"}
OBJECTIVES = [ppvae.elbo(), ppvae.elbo(3), ppvae.iw_elbo(1), ppvae.iw_elbo(4)]
bounds = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
elbos = pytest.mark.parametrize("particles", [1, 3])
quiet = pytest.mark.filterwarnings("ignore::ppvae.Caution")  # an importance-weighted bound over the guide's y


class Numbers(nn.Module):
    """Parameters by name."""

    def __init__(self, **tensors):
        super().__init__()
        for name, value in tensors.items():
            setattr(self, name, nn.Parameter(value))


def pick(table, y):
    """table[y] for y (…, N, 1): (…, N) and the table's other dims."""
    return table[y.long().squeeze(-1)]


def close(a, b, tolerance=1e-10):
    assert a.shape == b.shape and (a - b).abs().max() < tolerance, (a - b).abs().max()


def gradients(value, pair):
    found = torch.autograd.grad(value.sum(), list(pair.parameters()), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(pair.parameters(), found, strict=True)]


# --- what the story alone enumerates ----------------------------------------------------------------------


def mixture(numbers, x=None, y=None, mask=True, *, size=1):
    """y ~ Categorical(logits),  x | y ~ N(loc_y, 1).   loc (C, D)"""
    N, D = size if x is None else len(x), numbers.loc.shape[1]
    with pyro.plate("data", N, dim=-2):
        y = pyro.sample("y", dist.Categorical(logits=numbers.logits), obs=y, infer=PARALLEL)
        with pyro.plate("features", D, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(pick(numbers.loc, y), 1.0), obs=x)


def mixture_joint(numbers, x, mask):
    """log p(x_o, y) of every row and class, (N, C)."""
    each = dist.Normal(numbers.loc, 1.0).log_prob(x[:, None]) * mask[:, None]
    return numbers.logits.log_softmax(0) + each.sum(-1)


def gaussian_mixture(C=3, D=4, N=5, story=mixture):
    torch.manual_seed(4)
    pair = ppvae.Pair(story, numbers=Numbers(logits=torch.randn(C), loc=2 * torch.randn(C, D)))
    return pair, torch.randn(N, D), torch.rand(N, D) > 0.3


@bounds
@pytest.mark.parametrize("sizes", [(3, 4, 5), (3, 1, 5), (1, 4, 5), (3, 4, 1), (2, 1, 1)], ids=str)
def test_a_mixture_is_summed_out_by_every_bound(objective, sizes):
    pair, x, mask = gaussian_mixture(*sizes)
    truth = mixture_joint(pair.numbers, x, mask).logsumexp(1)
    close(objective(pair, x, mask), truth)
    for ours, brute in zip(gradients(objective(pair, x, mask), pair), gradients(truth, pair), strict=True):
        close(ours, brute, 1e-8)


@bounds
@pytest.mark.parametrize("sizes", [(3, 4, 5), (3, 1, 5), (1, 4, 5), (3, 4, 1)], ids=str)
def test_a_label_that_some_rows_show(objective, sizes):
    """Rows that saw y: log p(x, y), the copies of its one value weighing 1 / C; the others: log p(x)."""
    pair, x, mask = gaussian_mixture(*sizes)
    joint = mixture_joint(pair.numbers, x, mask)
    y = torch.randint(sizes[0], (sizes[2],))
    seen = torch.arange(sizes[2]) % 2 == 0
    truth = torch.where(seen, joint.gather(1, y[:, None]).squeeze(1), joint.logsumexp(1))
    close(objective(pair, {"x": x, "y": y}, {"x": mask, "y": seen}), truth)
    close(
        objective(pair, {"x": x, "y": torch.where(seen, y.double(), math.nan)}, {"x": mask}), truth
    )  # NaN says it too
    close(objective(pair, {"x": x, "y": y}, {"x": mask}), joint.gather(1, y[:, None]).squeeze(1))


def test_what_the_plates_are_called_does_not_matter():
    def story(numbers, x=None, *, size=1):  # and a story without a mask scores the entries that were seen
        N = size if x is None else len(x)
        with pyro.plate("people", N, dim=-2):
            y = pyro.sample("y", dist.Categorical(logits=numbers.logits), infer=PARALLEL)
            with pyro.plate("questions", numbers.loc.shape[1], dim=-1):
                return pyro.sample("x", dist.Normal(pick(numbers.loc, y), 1.0), obs=x)

    pair, x, mask = gaussian_mixture(story=story)
    for objective in OBJECTIVES:
        close(objective(pair, x, mask), mixture_joint(pair.numbers, x, mask).logsumexp(1))


@bounds
def test_a_one_hot_label(objective):
    def story(numbers, x=None, y=None, mask=True, *, size=1):
        N = size if x is None else len(x)
        with pyro.plate("data", N, dim=-2):
            seen = None if y is None else y.unsqueeze(-2)  # (N, 1, C)
            y = pyro.sample("y", dist.OneHotCategorical(logits=numbers.logits.expand(1, -1)), obs=seen, infer=PARALLEL)
            with pyro.plate("features", numbers.loc.shape[1], dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal((y @ numbers.loc).squeeze(-2), 1.0), obs=x)

    pair, x, mask = gaussian_mixture(story=story)
    joint, y = mixture_joint(pair.numbers, x, mask), torch.eye(3)[[0, 2, 1, 1, 0]]
    close(objective(pair, x, mask), joint.logsumexp(1))
    y[2:] = math.nan
    truth = torch.where(torch.arange(5) < 2, (joint * y.nan_to_num()).sum(1), joint.logsumexp(1))
    close(objective(pair, {"x": x, "y": y}, {"x": mask}), truth)
    y[2, 0] = 1.0
    with pytest.raises(ppvae.Problem, match="row 2 of y is observed in part"):
        objective(pair, {"x": x, "y": y})


def analysers(numbers, x=None, mask=True, *, size=1):
    """y ~ Categorical(logits),  z | y ~ N(center_y, I),  x | y, z ~ N(W_y z + loc_y, scale^2).   W (C, D, K)"""
    N, D = size if x is None else len(x), numbers.W.shape[1]
    with pyro.plate("data", N, dim=-2):
        y = pyro.sample("y", dist.Categorical(logits=numbers.logits), infer=PARALLEL)
        z = pyro.sample("z", dist.Normal(pick(numbers.center, y).unsqueeze(-2), 1.0).to_event(1))
        loc = torch.einsum("...k,...dk->...d", z.squeeze(-2), pick(numbers.W, y)) + pick(numbers.loc, y)
        with pyro.plate("features", D, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(loc, numbers.log_scale.exp()), obs=x)


def analysers_joint(n, x, mask, y, z):
    """log p(x_o, y, z) for one class y and draws z (P, N, K): (P, N)."""
    likelihood = (dist.Normal(z @ n.W[y].T + n.loc[y], n.log_scale.exp()).log_prob(x) * mask).sum(-1)
    return n.logits.log_softmax(0)[y] + dist.Normal(n.center[y], 1.0).log_prob(z).sum(-1) + likelihood


def numbers_of_analysers(C=3, D=4, K=2, seed=5, **more):
    torch.manual_seed(seed)
    return Numbers(
        logits=torch.randn(C),
        W=torch.randn(C, D, K),
        loc=torch.randn(C, D),
        center=torch.randn(C, K),
        log_scale=0.3 * torch.randn(D) - 0.3,
        **more,
    )


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("N", [5, 1])
def test_y_summed_in_the_story_under_a_z_drawn_by_the_guide(objective, N):
    """Mixture of factor analysers; q(z | x) knows no y: log sum_y p(x, y, z) - log q(z), at the same draws."""

    def guide(q, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal((x @ q.A).unsqueeze(-2), q.log_scale.exp()).to_event(1))

    n = numbers_of_analysers()
    pair = ppvae.Pair(analysers, guide, numbers=n, q=Numbers(A=torch.randn(4, 2), log_scale=torch.zeros(2)))
    x, mask = torch.randn(N, 4), torch.rand(N, 4) > 0.3
    torch.manual_seed(1)
    bound = objective(pair, x, mask)
    torch.manual_seed(1)
    z = run(pair, enter(pair, x, mask), objective.particles).guide.nodes["z"]["value"].reshape(-1, N, 2)
    loc = torch.where(mask, x, 0.0) @ pair.q.A
    z = loc + pair.q.log_scale.exp() * ((z - loc) / pair.q.log_scale.exp()).detach()  # the same draws, reparametrised
    weights = torch.stack([analysers_joint(n, x, mask, y, z) for y in range(3)]).logsumexp(0)
    weights = weights - dist.Normal(loc, pair.q.log_scale.exp()).log_prob(z).sum(-1)
    P = objective.particles
    truth = weights.mean(0) if isinstance(objective, ppvae.elbo) else weights.logsumexp(0) - math.log(P)
    close(bound, truth)
    for ours, brute in zip(gradients(bound, pair), gradients(truth, pair), strict=True):
        close(ours, brute, 1e-8)


# --- what the guide enumerates ----------------------------------------------------------------------------


def class_evidence(n, x, mask):
    """log p(x_o, y), (N, C), through the dense covariance of each class."""
    columns = [
        dense_log_evidence(W, loc + W @ center, n.log_scale.exp(), x, mask)
        for W, loc, center in zip(n.W, n.loc, n.center, strict=True)
    ]
    return n.logits.log_softmax(0) + torch.stack(columns, 1)


def exact_guide(numbers, x, mask=True):
    """q(y | x) and q(z | x, y), both exact: y enumerated, z drawn for each y."""
    seen = torch.ones_like(x, dtype=torch.bool) if mask is True else mask
    posteriors = [
        dense_posterior(W, loc + W @ center, numbers.log_scale.exp(), x, seen)
        for W, loc, center in zip(numbers.W, numbers.loc, numbers.center, strict=True)
    ]
    mean = torch.stack([m for m, _ in posteriors]) + numbers.center[:, None]  # (C, N, K)
    covariance = torch.stack([c for _, c in posteriors])  # (C, N, K, K)
    row = torch.arange(len(x))
    with pyro.plate("data", len(x), dim=-2):
        y = pyro.sample("y", dist.Categorical(logits=class_evidence(numbers, x, seen)[:, None]), infer=PARALLEL)
        y = y.long().squeeze(-1)
        pyro.sample("z", dist.MultivariateNormal(mean[y, row].unsqueeze(-2), covariance[y, row].unsqueeze(-3)))


@quiet
@bounds
@pytest.mark.parametrize("N", [4, 1])
def test_under_the_exact_guide_every_bound_is_the_log_evidence(objective, N):
    n = numbers_of_analysers()
    pair = ppvae.Pair(analysers, exact_guide, numbers=n)
    x, mask = torch.randn(N, 4), torch.rand(N, 4) > 0.3
    truth = class_evidence(n, x, mask).logsumexp(1)
    bound = objective(pair, x, mask)
    close(bound, truth)
    if isinstance(objective, ppvae.elbo):
        for ours, dense in zip(gradients(bound, pair), gradients(truth, pair), strict=True):
            close(ours, dense, 1e-8)


def labelled_analysers(numbers, x=None, y=None, mask=True, *, size=1):
    with poutine.condition(data={} if y is None else {"y": y}):
        return analysers(numbers, x, mask, size=size)


def class_guide(q, x, y=None, mask=True):
    """q(y | x) and q(z | x, y), not exact."""
    with pyro.plate("data", len(x), dim=-2):
        if y is None:
            y = pyro.sample("y", dist.Categorical(logits=(x @ q.B).unsqueeze(-2)), infer=PARALLEL)
        loc = torch.einsum("nd,...ndk->...nk", x, pick(q.A, y).expand(*y.shape[:-2], len(x), *q.A.shape[1:]))
        pyro.sample("z", dist.Normal(loc.unsqueeze(-2), q.log_scale.exp()).to_event(1))


def class_pair(story=analysers, guide=class_guide):
    n = numbers_of_analysers()
    return ppvae.Pair(
        story, guide, numbers=n, q=Numbers(B=torch.randn(4, 3), A=0.5 * torch.randn(3, 4, 2), log_scale=torch.zeros(2))
    )


def draws_of(pair, x, mask, particles, N):
    """The guide's z for each y, (C, P, N, K), and its locations, reparametrised in plain torch."""
    z = run(pair, enter(pair, x, mask), particles).guide.nodes["z"]["value"].reshape(3, particles, N, 2)
    loc = torch.einsum("nd,cdk->cnk", torch.where(mask, x, 0.0), pair.q.A)[:, None]
    scale = pair.q.log_scale.exp()
    return loc, loc + scale * ((z - loc) / scale).detach()


@elbos
@pytest.mark.parametrize("N", [5, 1])
def test_elbo_of_an_enumerated_y_is_the_sum_under_q_written_out(particles, N):
    pair = class_pair()
    x, mask = torch.randn(N, 4), torch.rand(N, 4) > 0.3
    torch.manual_seed(1)
    bound = ppvae.elbo(particles)(pair, x, mask)
    torch.manual_seed(1)
    loc, z = draws_of(pair, x, mask, particles, N)
    log_q = (torch.where(mask, x, 0.0) @ pair.q.B).log_softmax(1)
    truth = 0.0
    for y in range(3):
        inner = analysers_joint(pair.numbers, x, mask, y, z[y]) - dist.Normal(loc[y], pair.q.log_scale.exp()).log_prob(
            z[y]
        ).sum(-1)
        truth = truth + log_q[:, y].exp() * (inner.mean(0) - log_q[:, y])
    close(bound, truth)
    for ours, brute in zip(gradients(bound, pair), gradients(truth, pair), strict=True):
        close(ours, brute, 1e-8)


def test_a_class_that_q_excludes_counts_nothing():
    """q(y = 2 | x) = 0 exactly: 0 log 0 is 0, in the bound and in its gradient."""

    def guide(q, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            logits = torch.cat([x @ q.B, torch.full((len(x), 1), -math.inf)], 1).unsqueeze(-2)
            pyro.sample("y", dist.Categorical(logits=logits), infer=PARALLEL)

    pair, x, mask = gaussian_mixture(story=unlabelled)
    pair = ppvae.Pair(unlabelled, guide, numbers=pair.numbers, q=Numbers(B=torch.randn(4, 2)))
    log_q = (torch.where(mask, x, 0.0) @ pair.q.B).log_softmax(1)
    truth = (log_q.exp() * (mixture_joint(pair.numbers, x, mask)[:, :2] - log_q)).sum(1)
    bound = ppvae.elbo()(pair, x, mask)
    close(bound, truth)
    for ours, brute in zip(gradients(bound, pair), gradients(truth, pair), strict=True):
        close(ours, brute, 1e-8)


@pytest.mark.parametrize("particles", [1, 3])
def test_an_importance_weight_sums_y_under_the_story(particles):
    """log mean_p sum_y p(x, y, z_y) / q(z_y | y): unbiased whatever q(y) is, which gets no gradient, and it says so."""
    pair = class_pair()
    x, mask = torch.randn(5, 4), torch.rand(5, 4) > 0.3
    torch.manual_seed(1)
    with pytest.warns(ppvae.Caution, match="'y' enumerated in the guide"):
        bound = ppvae.iw_elbo(particles)(pair, x, mask)
    torch.manual_seed(1)
    loc, z = draws_of(pair, x, mask, particles, 5)
    weights = torch.stack(
        [
            analysers_joint(pair.numbers, x, mask, y, z[y])
            - dist.Normal(loc[y], pair.q.log_scale.exp()).log_prob(z[y]).sum(-1)
            for y in range(3)
        ]
    ).logsumexp(0)
    truth = weights.logsumexp(0) - math.log(particles)
    close(bound, truth)
    for ours, brute in zip(gradients(bound, pair), gradients(truth, pair), strict=True):
        close(ours, brute, 1e-8)
    assert gradients(bound, pair)[list(dict(pair.named_parameters())).index("q.B")].abs().max() == 0


def test_the_importance_weight_is_unbiased():
    pair = class_pair()
    x, mask = torch.randn(4, 4), torch.rand(4, 4) > 0.3
    with torch.no_grad():  # nobody asks for a gradient: no warning
        truth = class_evidence(pair.numbers, x, mask).logsumexp(1)
        weights = (ppvae.iw_elbo(1)(pair, x.repeat(20000, 1), mask.repeat(20000, 1)).reshape(-1, 4) - truth).exp()
    assert ((weights.mean(0) - 1).abs() < 5 * weights.std(0) / math.sqrt(len(weights))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_factors_that_pull_apart_do_not_vanish(dtype):
    """log p(x | y) and log p(z | y) each differ by 225 nats between the classes, in opposite directions: the products
    of their exponentials are all 0 in float32, and Pyro's contraction gives -inf."""
    pair = class_pair()
    with torch.no_grad():
        pair.numbers.loc.copy_(torch.tensor([0.0, 7.5, 7.5])[:, None].expand(3, 4))
        pair.numbers.center.copy_(torch.tensor([15.0, 0.0, 0.0])[:, None].expand(3, 2))
        for p in (pair.numbers.W, pair.q.A, pair.numbers.logits, pair.numbers.log_scale):
            p.zero_()
        pair.q.log_scale.fill_(-5.0)
        pair.to(dtype)
        x = torch.full((2, 4), 0.0, dtype=dtype)
        bound = ppvae.iw_elbo(1)(pair, x).double()
    # z is about 0 under q, whatever y: log p(x, y, z) - log q(z | y) up to the noise of z, which scale e^-5 makes small
    each = torch.tensor([-225.0, -112.5, -112.5]).double().logsumexp(0)
    constant = -math.log(3) - 2 * math.log(2 * math.pi) - 2 * 0.5 * math.log(2 * math.pi)
    low = each + constant - 2 * (5 - 0.5 * math.log(2 * math.pi)) - 1  # E of -log q(z)
    assert bound.isfinite().all() and ((bound - low).abs() < 20).all()


# --- inside the feature plate -----------------------------------------------------------------------------


def features_mixture(numbers, x=None, mask=True, *, size=1):
    """w_nd ~ Categorical(logits_d),  x_nd | w_nd ~ N(loc_{w, d}, 1).   logits (D, C), loc (D, C)"""
    N, D = size if x is None else len(x), len(numbers.loc)
    with pyro.plate("data", N, dim=-2), pyro.plate("features", D, dim=-1):
        w = pyro.sample("w", dist.Categorical(logits=numbers.logits), infer=PARALLEL)
        with poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(numbers.loc[torch.arange(D), w.long()], 1.0), obs=x)


def features_guide(numbers, x, mask=True):
    """q(w_nd | x_nd), exact."""
    with pyro.plate("data", len(x), dim=-2), pyro.plate("features", x.shape[1], dim=-1):
        logits = (
            numbers.logits.log_softmax(1)
            + dist.Normal(numbers.loc, 1.0).log_prob(x[..., None]) * torch.as_tensor(mask)[..., None]
        )
        pyro.sample("w", dist.Categorical(logits=logits), infer=PARALLEL)


@quiet
@bounds
@pytest.mark.parametrize("guide", [None, features_guide], ids=["story", "guide"])
@pytest.mark.parametrize("sizes", [(4, 5), (1, 5), (4, 1)], ids=str)
def test_a_latent_of_each_feature_is_summed_before_the_features_multiply(objective, guide, sizes):
    """sum_d log sum_w, not log sum_w of the product: 5.6 nats apart in the prototype."""
    N, D = sizes
    torch.manual_seed(2)
    n = Numbers(logits=torch.randn(D, 3), loc=3 * torch.randn(D, 3))
    pair = ppvae.Pair(features_mixture, guide, numbers=n)
    x, mask = 2 * torch.randn(N, D), torch.rand(N, D) > 0.3
    mask[0, 0] = False
    each = n.logits.log_softmax(1) + dist.Normal(n.loc, 1.0).log_prob(x[..., None])  # (N, D, C)
    truth = (each.logsumexp(2) * mask).sum(1)
    close(objective(pair, x, mask), truth)
    if N > 1 and D > 1:
        together = (each * mask[..., None] + n.logits.log_softmax(1) * ~mask[..., None]).sum(1).logsumexp(1)
        assert (together - truth).abs().max() > 1  # the trap is far away


def test_a_product_over_features_of_their_own_latents_is_refused():
    """s sums over the features' terms while the guide averages over each feature's w: C^D combinations, not C."""

    def story(numbers, x=None, *, size=1):
        N, D = size if x is None else len(x), len(numbers.loc)
        with pyro.plate("data", N, dim=-2):
            s = pyro.sample("s", dist.Bernoulli(0.3), infer=PARALLEL)
            with pyro.plate("features", D, dim=-1):
                w = pyro.sample("w", dist.Categorical(logits=numbers.logits), infer=PARALLEL)
                return pyro.sample("x", dist.Normal(numbers.loc[torch.arange(D), w.long()] + s, 1.0), obs=x)

    n = Numbers(logits=torch.randn(3, 2), loc=3 * torch.randn(3, 2))
    x = torch.randn(4, 3)
    with pytest.raises(ppvae.Problem, match="every combination"):
        ppvae.elbo()(ppvae.Pair(story, features_guide, numbers=n), x)
    each = n.logits.log_softmax(1)[:, None] + dist.Normal(
        n.loc[:, None] + torch.tensor([0.0, 1.0])[:, None], 1.0
    ).log_prob(x[..., None, None])
    truth = (each.logsumexp(3).sum(1) + torch.tensor([0.7, 0.3]).log()).logsumexp(1)  # (N, D, S, C)
    close(ppvae.elbo()(ppvae.Pair(story, numbers=n), x), truth)  # the story alone: exact
    with torch.no_grad():
        close(ppvae.iw_elbo(1)(ppvae.Pair(story, features_guide, numbers=n), x), truth)


# --- chains -----------------------------------------------------------------------------------------------


def chain(numbers, x=None, mask=True, *, size=1):
    """h_t | h_{t-1} ~ Categorical(logits_{h_{t-1}}),  x_t | h_t ~ N(loc_{h_t}, 1);  one row is one sequence."""
    N, T = size if x is None else len(x), int(numbers.steps)
    mask = torch.ones(N, T, dtype=torch.bool) if isinstance(mask, bool) else mask
    steps, h = [], torch.zeros(1, 1)
    with pyro.plate("data", N, dim=-2):
        for t in pyro.markov(range(T)):
            h = pyro.sample(f"h{t}", dist.Categorical(logits=pick(numbers.logits, h).unsqueeze(-2)), infer=PARALLEL)
            with poutine.mask(mask=mask[:, t : t + 1]):
                obs = None if x is None else x[:, t : t + 1]
                steps.append(pyro.sample(f"x{t}", dist.Normal(pick(numbers.loc, h).unsqueeze(-1), 1.0), obs=obs))
    return torch.cat(steps, -1)


def forward_algorithm(numbers, x, mask):
    moves = numbers.logits.log_softmax(1)
    emit = dist.Normal(numbers.loc, 1.0).log_prob(x[..., None]) * mask[..., None]  # (N, T, C)
    alpha = moves[0] + emit[:, 0]
    for t in range(1, x.shape[1]):
        alpha = (alpha[:, :, None] + moves).logsumexp(1) + emit[:, t]
    return alpha.logsumexp(1)


def chain_pair(T):
    torch.manual_seed(3)
    n = Numbers(logits=torch.randn(3, 3), loc=torch.tensor([-2.0, 0.0, 2.0]))
    n.register_buffer("steps", torch.tensor(T))
    return ppvae.Pair(chain, numbers=n), 2 * torch.randn(4, T), torch.rand(4, T) > 0.3


@bounds
def test_a_markov_chain_against_the_forward_algorithm(objective):
    pair, x, mask = chain_pair(6)
    truth = forward_algorithm(pair.numbers, x, mask)
    bound = objective(pair, x, mask)
    close(bound, truth)
    for ours, brute in zip(gradients(bound, pair), gradients(truth, pair), strict=True):
        close(ours, brute, 1e-8)


def test_a_long_chain_costs_its_length():
    pair, x, mask = chain_pair(25)  # 3^25 sequences
    close(ppvae.elbo()(pair, x, mask), forward_algorithm(pair.numbers, x, mask))


def test_a_chain_in_the_guide_is_refused():
    def guide(numbers, x, mask=True):
        h = torch.zeros(1, 1)
        with pyro.plate("data", len(x), dim=-2):
            for t in pyro.markov(range(4)):
                h = pyro.sample(f"h{t}", dist.Categorical(logits=pick(numbers.logits, h).unsqueeze(-2)), infer=PARALLEL)

    pair, x, mask = chain_pair(4)
    with pytest.raises(ppvae.Problem, match="markov"):
        ppvae.elbo()(ppvae.Pair(chain, guide, numbers=pair.numbers), x, mask)


# --- rows that are sometimes seen -------------------------------------------------------------------------


def exact_labelled_guide(numbers, x, y=None, mask=True):
    with poutine.block(hide=[] if y is None else ["y"]), poutine.condition(data={} if y is None else {"y": y}):
        exact_guide(numbers, x, mask)


@quiet
@bounds
@pytest.mark.parametrize("N", [6, 1])
def test_a_label_seen_in_some_rows_and_enumerated_by_the_guide(objective, N):
    n = numbers_of_analysers()
    pair = ppvae.Pair(labelled_analysers, exact_labelled_guide, numbers=n)
    x, mask = torch.randn(N, 4), torch.rand(N, 4) > 0.3
    joint, y = class_evidence(n, x, mask), torch.randint(3, (N,))
    known = joint.gather(1, y[:, None]).squeeze(1)
    seen = torch.arange(N) % 2 == 0
    truth = torch.where(seen, known, joint.logsumexp(1))
    close(objective(pair, {"x": x, "y": y}, {"x": mask, "y": seen}), truth)
    close(objective(pair, {"x": x, "y": y}, {"x": mask}), known)  # seen everywhere: conditioning
    table = enter(pair, {"x": x, "y": y}, {"x": mask, "y": seen})
    close(torch.cat([objective(pair, table.rows(slice(i, i + 1))) for i in range(N)]), truth)  # batches of one row


@elbos
def test_a_seen_label_is_conditioned_on_by_a_guide_that_is_not_exact(particles):
    """The rows that saw y have the bound of conditioning, at the expectation; the others that of the enumerated y. Neither
    stands above the evidence; q(y) of what was seen is not subtracted."""
    pair = class_pair(labelled_analysers)
    x, y, seen = torch.randn(6, 4), torch.randint(3, (6,)), torch.arange(6) < 3
    full = torch.ones(6, 4, dtype=torch.bool)

    def mean(data, masks=None):
        draws = torch.stack([ppvae.elbo(particles * 100)(pair, data, masks) for _ in range(20)])
        return draws.mean(0), draws.std(0) / math.sqrt(20)

    with torch.no_grad():
        ours, error = mean({"x": x, "y": y}, {"y": seen})
        known, error_known = mean({"x": x, "y": y})
        free, error_free = mean(x)
        joint = class_evidence(pair.numbers, x, full)
    truth, spread = torch.where(seen, known, free), torch.where(seen, error_known, error_free)
    assert ((ours - truth).abs() < 5 * (error**2 + spread**2).sqrt()).all()
    evidence = torch.where(seen, joint.gather(1, y[:, None]).squeeze(1), joint.logsumexp(1))
    assert (ours < evidence + 5 * error).all()


def regression(numbers, x=None, y=None, mask=True, *, size=1):
    """y ~ N(0, 1),  z | y ~ N(y, 1),  x | y, z ~ N(a y + b z, 1)."""
    N = size if x is None else len(x)
    with pyro.plate("data", N, dim=-2):
        y = pyro.sample("y", dist.Normal(torch.zeros(1, 1), 1.0), obs=y)
        z = pyro.sample("z", dist.Normal(y, 1.0))
        with pyro.plate("features", len(numbers.a), dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(numbers.a * y + numbers.b * z, 1.0), obs=x)


def regression_guide(numbers, x, y=None, mask=True):
    """q(y | x) and q(z | x, y), exact."""
    mask = torch.as_tensor(mask).expand(x.shape)
    slope, noise = numbers.a + numbers.b, torch.eye(len(numbers.a)) + numbers.b[:, None] * numbers.b
    with pyro.plate("data", len(x), dim=-2):
        if y is None:
            rows = []
            for row, o in zip(x, mask, strict=True):
                gain = slope[o] @ torch.linalg.inv(noise[o][:, o])
                precision = 1 + gain @ slope[o]
                rows.append(torch.stack([gain @ row[o] / precision, precision.rsqrt()]))
            q = torch.stack(rows)  # (N, 2)
            y = pyro.sample("y", dist.Normal(q[:, :1], q[:, 1:]))
        precision = 1 + (mask * numbers.b**2).sum(-1, keepdim=True)  # (N, 1)
        loc = (y + (mask * numbers.b * (x - numbers.a * y)).sum(-1, keepdim=True)) / precision
        pyro.sample("z", dist.Normal(loc, precision.rsqrt()))


regression_guide.exact = True


def regression_evidence(numbers, x, mask):
    """log p(x_o) and log p(x_o, y) as a function of y, from dense Gaussians."""
    slope, D = numbers.a + numbers.b, len(numbers.a)
    W = torch.stack([slope, numbers.b], 1)
    free = dense_log_evidence(W, torch.zeros(D), torch.ones(D), x, mask)
    return (
        free,
        lambda y: (
            dist.Normal(0.0, 1.0).log_prob(y)
            + dense_log_evidence(numbers.b[:, None], torch.zeros(D), torch.ones(D), x - slope * y[:, None], mask)
        ),
    )


@bounds
@pytest.mark.parametrize("N", [6, 1])
def test_a_number_seen_in_some_rows_and_drawn_by_the_guide(objective, N):
    torch.manual_seed(6)
    pair = ppvae.Pair(regression, regression_guide, numbers=Numbers(a=torch.randn(3), b=torch.randn(3)))
    x, y, mask = torch.randn(N, 3), torch.randn(N), torch.rand(N, 3) > 0.3
    seen = torch.arange(N) % 2 == 0
    free, known = regression_evidence(pair.numbers, x, mask)
    close(objective(pair, {"x": x, "y": y}, {"x": mask, "y": seen}), torch.where(seen, known(y), free))


def test_a_number_left_to_the_story_counts_where_it_was_seen():
    """No guide site for y: drawn from the story where unseen (log p - log p = 0), scored where seen."""

    def guide(numbers, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(1, 1), 1.5))

    torch.manual_seed(6)
    pair = ppvae.Pair(regression, guide, numbers=Numbers(a=0.5 * torch.randn(3), b=0.5 * torch.randn(3)))
    x, y, seen = torch.randn(6, 3), torch.randn(6), torch.arange(6) < 3
    full = torch.ones(6, 3, dtype=torch.bool)
    with torch.no_grad():
        free, known = regression_evidence(pair.numbers, x, full)
        truth = torch.where(seen, known(y), free)
        table = {"x": x.repeat(20000, 1), "y": y.repeat(20000)}
        weights = (ppvae.iw_elbo(1)(pair, table, {"y": seen.repeat(20000)}).reshape(-1, 6) - truth).exp()
        elbo = ppvae.elbo()(pair, table, {"y": seen.repeat(20000)}).reshape(-1, 6)
    assert ((weights.mean(0) - 1).abs() < 5 * weights.std(0) / math.sqrt(20000)).all()
    # written out for the rows that saw y: log p(y) + E_q[log p(z | y) + log p(x | y, z) - log q(z)]
    a, b, v = pair.numbers.a.detach(), pair.numbers.b.detach(), 1.5**2
    fit = dist.Normal(0.0, 1.0).log_prob(x - a * y[:, None]) - 0.5 * b**2 * v
    kl = -0.5 * (1 + math.log(2 * math.pi * v)) + 0.5 * math.log(2 * math.pi) + 0.5 * (v + y**2)
    exact = dist.Normal(0.0, 1.0).log_prob(y) + fit.sum(1) - kl
    error = elbo.std(0) / math.sqrt(20000)
    assert ((elbo.mean(0) - exact).abs() < 5 * error)[:3].all()
    assert (elbo.mean(0) < truth + 5 * error).all()


@quiet
def test_labels_of_each_feature_seen_in_some_entries():
    def story(numbers, x=None, w=None, mask=True, *, size=1):
        with poutine.condition(data={} if w is None else {"w": w}):
            return features_mixture(numbers, x, mask, size=size)

    def guide(numbers, x, w=None, mask=True):
        features_guide(numbers, x, mask)

    torch.manual_seed(2)
    n, x = Numbers(logits=torch.randn(5, 3), loc=3 * torch.randn(5, 3)), 2 * torch.randn(4, 5)
    w, seen = torch.randint(3, (4, 5)), torch.rand(4, 5) > 0.5
    each = n.logits.log_softmax(1) + dist.Normal(n.loc, 1.0).log_prob(x[..., None])
    truth = torch.where(seen, each.gather(2, w[..., None]).squeeze(2), each.logsumexp(2)).sum(1)
    for pair in (ppvae.Pair(story, numbers=n), ppvae.Pair(story, guide, numbers=n)):
        for objective in OBJECTIVES:
            close(objective(pair, {"x": x, "w": w}, {"w": seen}), truth)


# --- sites in one program only ----------------------------------------------------------------------------


def with_noise(numbers, x=None, mask=True, *, size=1):
    """Factor analysis, and a latent u that nothing sees."""
    N, (D, K) = size if x is None else len(x), numbers.W.shape
    with pyro.plate("data", N, dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(1, K), 1.0).to_event(1))
        pyro.sample("u", dist.Normal(z.sum(-1), 1.0), infer={"is_auxiliary": True})
        with pyro.plate("features", D, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal((z @ numbers.W.T).squeeze(-2), 1.0), obs=x)


def without_u(numbers, x, mask=True):
    q = ppvae.exact.posterior(numbers.W, torch.zeros(len(numbers.W)), torch.ones(len(numbers.W)), x, mask)
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.MultivariateNormal(q.loc[:, None], scale_tril=q.scale_tril[:, None]))


without_u.exact = True


@bounds
def test_a_latent_left_to_the_story_contributes_nothing(objective):
    pair = ppvae.Pair(with_noise, without_u, numbers=Numbers(W=torch.randn(4, 2)))
    x, mask = torch.randn(5, 4), torch.rand(5, 4) > 0.3
    close(objective(pair, x, mask), dense_log_evidence(pair.numbers.W, torch.zeros(4), torch.ones(4), x, mask))
    ppvae.check(pair, x, mask)


@bounds
def test_a_site_of_the_guide_alone_is_refused_unless_it_says_that_it_is_auxiliary(objective):
    def guide(numbers, x, mask=True, infer=None):
        """q(z | x) through a base draw: log q is the base's density and the log-Jacobian in the Delta."""
        q = ppvae.exact.posterior(numbers.W, torch.zeros(4), torch.ones(4), x, mask)
        with pyro.plate("data", len(x), dim=-2):
            e = pyro.sample("e", dist.Normal(torch.zeros(len(x), 1, 2), 1.0).to_event(1), infer=infer)
            z = q.loc[:, None] + (q.scale_tril[:, None] @ e[..., None]).squeeze(-1)
            volume = q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
            pyro.sample("z", dist.Delta(z, log_density=-volume, event_dim=1))

    def auxiliary(numbers, x, mask=True):
        guide(numbers, x, mask, infer={"is_auxiliary": True})

    def alone(numbers, x, mask=True):
        guide(numbers, x, mask)

    n = Numbers(W=torch.randn(4, 2))
    x, mask = torch.randn(5, 4), torch.rand(5, 4) > 0.3
    with pytest.raises(ppvae.Problem, match="guide draws 'e', which the story does not have"):
        objective(ppvae.Pair(with_noise, alone, numbers=n), x, mask)
    pair = ppvae.Pair(with_noise, auxiliary, numbers=n)
    close(objective(pair, x, mask), dense_log_evidence(n.W, torch.zeros(4), torch.ones(4), x, mask))


def test_labels_that_the_guide_was_given_are_data():
    """A guide that observes y itself: log p(y) counts and log q(y) does not."""

    def guide(q, x, y=None, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("y", dist.Categorical(logits=(x @ q.B).unsqueeze(-2)), obs=y, infer=PARALLEL)

    pair, x, mask = gaussian_mixture()
    pair = ppvae.Pair(mixture, guide, numbers=pair.numbers, q=Numbers(B=torch.randn(4, 3)))
    y = torch.randint(3, (5,))
    truth = mixture_joint(pair.numbers, x, mask).gather(1, y[:, None]).squeeze(1)
    for objective in OBJECTIVES:
        close(objective(pair, {"x": x, "y": y}, {"x": mask}), truth)


# --- globals ----------------------------------------------------------------------------------------------


def switch(numbers, x=None, *, size=1):
    """s ~ Bernoulli(0.3), one for all rows,  x_n | s ~ N(loc_s, 1)."""
    s = pyro.sample("s", dist.Bernoulli(torch.tensor(0.3)), infer=PARALLEL)
    with pyro.plate("data", size if x is None else len(x), dim=-2), pyro.plate("features", 2, dim=-1):
        return pyro.sample("x", dist.Normal(numbers.loc[s.long()].reshape(*s.shape[:-2], 1, 2), 1.0), obs=x)


@elbos
def test_a_global_switch_counts_once_in_the_guide_and_is_refused_in_the_story(particles):
    def guide(q, x):
        pyro.sample("s", dist.Bernoulli(logits=q.logit), infer=PARALLEL)

    n, x = Numbers(loc=torch.randn(2, 2)), torch.randn(7, 2)
    each = dist.Normal(n.loc[:, None], 1.0).log_prob(x).sum((1, 2)) + torch.tensor([0.7, 0.3]).log()
    pair = ppvae.Pair(switch, guide, numbers=n, q=Numbers(logit=each[1] - each[0]))
    close(ppvae.elbo(particles)(pair, x).sum(), each.logsumexp(0))
    with pytest.raises(ppvae.Problem, match="global"):
        ppvae.iw_elbo(2)(pair, x)
    with pytest.raises(ppvae.Problem, match="global"):  # log sum_s of one row at a time is no term of the evidence
        ppvae.elbo(particles)(ppvae.Pair(switch, numbers=n), x)


def test_a_global_latent_left_to_the_story_has_no_weight_of_a_row():
    def story(numbers, x=None, *, size=1):
        w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", size if x is None else len(x), dim=-2), pyro.plate("features", 2, dim=-1):
            return pyro.sample("x", dist.Normal(numbers.loc + w, 1.0), obs=x)

    pair = ppvae.Pair(story, numbers=Numbers(loc=torch.zeros(2)))
    with pytest.raises(ppvae.Problem, match="global"):
        ppvae.iw_elbo(3)(pair, torch.randn(4, 2))


# --- gradients that would be noise ------------------------------------------------------------------------


def test_a_discrete_draw_without_enumeration_has_no_gradient():
    def guide(q, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("y", dist.Categorical(logits=(x @ q.B).unsqueeze(-2)))

    pair, x, mask = gaussian_mixture(
        story=lambda numbers, x=None, mask=True, *, size=1: mixture(numbers, x, None, mask, size=size)
    )
    pair = ppvae.Pair(pair._functions["model"], guide, numbers=pair.numbers, q=Numbers(B=torch.randn(4, 3)))
    for objective in OBJECTIVES:
        with pytest.raises(ppvae.Problem, match="Categorical, which cannot be reparametrised"):
            objective(pair, x, mask)
    truth = mixture_joint(pair.numbers, x, mask).logsumexp(1).detach()
    with torch.no_grad():
        weights = (ppvae.iw_elbo(1)(pair, x.repeat(20000, 1), mask.repeat(20000, 1)).reshape(-1, 5) - truth).exp()
        assert ((weights.mean(0) - 1).abs() < 5 * weights.std(0) / math.sqrt(20000)).all()
    assert (ppvae.condition(pair, x, mask).log_evidence(5000) - truth).abs().max() < 0.5


def test_a_discrete_draw_of_the_story_without_enumeration_has_no_gradient():
    def story(numbers, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            y = pyro.sample("y", dist.Categorical(logits=numbers.logits))
            with pyro.plate("features", 4, dim=-1):
                return pyro.sample("x", dist.Normal(pick(numbers.loc, y), 1.0), obs=x)

    pair, x, _ = gaussian_mixture(story=story)
    for objective in OBJECTIVES:
        with pytest.raises(ppvae.Problem, match="the story draws 'y'"):
            objective(pair, x)
        with torch.no_grad():
            assert objective(pair, x).isfinite().all()


# --- conditioning, checking, fitting ----------------------------------------------------------------------


def unlabelled(numbers, x=None, mask=True, *, size=1):
    return mixture(numbers, x, None, mask, size=size)


def unlabelled_guide(q, x, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("y", dist.Categorical(logits=(x @ q.B).unsqueeze(-2)), infer=PARALLEL)


@pytest.mark.parametrize("guide", [None, unlabelled_guide], ids=["story", "guide"])
def test_conditioning_gives_the_exact_responsibilities(guide):
    pair, x, mask = gaussian_mixture(story=unlabelled)
    if guide:
        pair = ppvae.Pair(unlabelled, guide, numbers=pair.numbers, q=Numbers(B=0.3 * torch.randn(4, 3)))
    joint = mixture_joint(pair.numbers, x, mask).detach()
    post = ppvae.condition(pair, x, mask)
    close(post.log_evidence(7), joint.logsumexp(1))
    S = 4000
    y = post.sample(S, particles=10 * S)["y"]
    assert y.shape == (S, 5)
    truth = joint.softmax(1)
    for c in range(3):
        share = (y == c).double().mean(0)
        # the pool of 10 S weighted draws errs too: its effective size is that of the weights
        error = (truth[:, c] * (1 - truth[:, c]) * (1 / S + 1 / (0.02 * 10 * S))).sqrt()
        assert ((share - truth[:, c]).abs() < 5 * error + 1e-9).all()


def test_conditioning_on_a_label_that_some_rows_show_gives_the_evidence():
    pair, x, mask = gaussian_mixture()
    joint, y, seen = mixture_joint(pair.numbers, x, mask).detach(), torch.randint(3, (5,)), torch.arange(5) < 2
    truth = torch.where(seen, joint.gather(1, y[:, None]).squeeze(1), joint.logsumexp(1))
    close(ppvae.condition(pair, {"x": x, "y": y}, {"x": mask, "y": seen}).log_evidence(3), truth)


@pytest.mark.parametrize("compile", ["auto", "off"])
def test_pairs_with_sums_pass_the_check_and_learn(compile):
    """A fit of the mixture climbs to what gradient ascent on the plain sum reaches."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(60, 2) + 3, torch.randn(60, 2) - 3])
    pair = ppvae.Pair(unlabelled, numbers=Numbers(logits=torch.zeros(2), loc=torch.tensor([[0.5, 0.0], [-0.5, 0.0]])))
    ppvae.check(pair, x)
    before = ppvae.elbo()(pair, x).mean()
    result = ppvae.fit(pair, x, epochs=40, batch_size=60, learning_rate=0.2, compile=compile)
    full = torch.ones(120, 2, dtype=torch.bool)
    after = mixture_joint(pair.numbers, x, full).logsumexp(1).mean()
    best = torch.stack(
        [dist.Normal(m, 1.0).log_prob(h).sum(1).mean() for m, h in ((x[:60].mean(0), x[:60]), (x[60:].mean(0), x[60:]))]
    )
    assert result.step == ("staged" if compile == "auto" else "eager: compile='off'")
    assert before < after - 1 and abs(after - (best.mean() - math.log(2))) < 0.05
