"""Traps of the objectives and of the step, shown with Pyro or by hand, and what happens here instead.

It goes on where test_traps ends; the numbers are those of the first table of pitfalls.
"""

import itertools
import math
import random
import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from test_traps import Autoregressive, D, K, N, Numbers, a_pair, evidence, guide, rows, story
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import ppvae
from ppvae.door import enter
from ppvae.objectives.holding import free
from ppvae.staging.step import Step
from ppvae.tracing.traces import by_row, log_prob, run


def slope(bound, *parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(bound.mean(), parameters, retain_graph=True)])


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


# --- the first table: what Pyro gives where ppvae refuses -------------------------------------------------


def test_03_one_global_site_loosens_the_bound_of_all_rows():
    """A site whose weight is always 1 makes 200 weights by row one joint weight."""
    pair, x = a_pair(), a_pair().model(size=200).detach()

    def bound(program, proposal):
        elbo = RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True, max_plate_nesting=2)
        with torch.no_grad():
            return -elbo.loss(program, proposal, x)

    def also(program):
        def with_a_global(x):
            pyro.sample("g", dist.Normal(torch.zeros(()), 1.0))
            return program(x)

        return with_a_global

    with torch.no_grad():
        truth = evidence(pair, x).sum()
        ours = ppvae.iw_elbo(50)(pair, x).sum()
    assert bound(also(pair.model), also(pair.guide)) < ours - 20
    assert abs(bound(pair.model, pair.guide) - ours) < 10 and ours < truth + 1


def test_04_a_weight_of_the_kl_inside_a_log_mean_exp_exceeds_the_evidence():
    pair, (x, _) = a_pair(), rows(50)
    with torch.no_grad():  # the best diagonal guide
        precision = torch.eye(K) + pair.numbers.W.T @ pair.numbers.W
        pair.q.A.copy_(pair.numbers.W @ precision.inverse())
        pair.q.log_scale.copy_(-0.5 * precision.diagonal().log())

    def weighed(program):
        def scaled(*args):
            with poutine.scale(scale=0.1):
                return program(*args)

        return scaled

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            with poutine.scale(scale=0.1):
                z = pyro.sample("z", dist.Normal(torch.zeros(1, K), 1.0).to_event(1))
            with pyro.plate("features", D, dim=-1):
                pyro.sample("x", dist.Normal((z @ pair.numbers.W.T).squeeze(-2), 1.0), obs=x)

    theirs = RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True, max_plate_nesting=2)
    with torch.no_grad():
        assert -theirs.loss(model, weighed(pair.guide), x) > evidence(pair, x).sum() + 5
    with pytest.raises(ppvae.Problem, match="no KL term"):
        ppvae.iw_elbo(50, kl=ppvae.beta(0.1))
    assert ppvae.elbo(kl=ppvae.beta(0.1)).unit is None  # and where it may stand it is no bound, and says so


def test_08_obs_mask_costs_the_entropy_of_every_missing_entry():
    """The draw of a missing entry is scored under the story and never cancelled: (1 + log 2 pi) / 2 nats each."""
    pair, (x, mask) = a_pair(), rows(200)
    x = torch.where(mask, x, 0.0)

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, K), 1.0).to_event(1))
            with pyro.plate("features", D, dim=-1):
                pyro.sample("x", dist.Normal((z @ pair.numbers.W.T).squeeze(-2), 1.0), obs=x, obs_mask=mask)

    elbo = Trace_ELBO(50, vectorize_particles=True, max_plate_nesting=2)
    with torch.no_grad(), pytest.warns(UserWarning, match="x_unobserved"):
        theirs = torch.tensor([-elbo.loss(model, pair.guide, x) for _ in range(20)])
        ours = torch.stack([ppvae.elbo(50)(pair, x, mask).sum() for _ in range(20)])
    lost = 0.5 * (1 + math.log(2 * math.pi)) * (~mask).sum()
    error = ((theirs.var() + ours.var()) / 20).sqrt()
    assert abs(theirs.mean() + lost - ours.mean()) < 5 * error < lost / 10


def test_09_rows_that_the_story_masks_leave_their_entropy_free():
    """The story's terms are gone, -log q stays: a wider guide is a higher number, whatever the data are."""

    def masked(numbers, x=None, mask=True, *, size=1):
        with poutine.mask(mask=mask):
            return story(numbers, x, size=size)

    pair, (x, _) = a_pair(), rows()
    nothing = torch.zeros(N, 1, dtype=torch.bool)
    elbo, found = Trace_ELBO(500, vectorize_particles=True, max_plate_nesting=2), []
    for log_scale in (0.0, 5.0):
        with torch.no_grad():
            pair.q.log_scale.fill_(log_scale)
            found.append(-elbo.loss(poutine.mask(pair.model, mask=nothing), pair.guide, x))
    assert found[1] - found[0] == pytest.approx(5 * K * N, abs=1.0) and found[1] > 50
    with pytest.raises(ppvae.Problem, match="mask stands around the latent 'z'"):
        ppvae.elbo()(a_pair(masked), x, nothing)


def test_12_a_store_that_is_read_back_without_its_modules_changes_nothing(tmp_path):
    """Pyro's file is read and the module keeps its own weights; ours is the module's."""
    pyro.clear_param_store()
    trained, fresh = nn.Linear(2, 2), nn.Linear(2, 2)
    pyro.module("net", trained)
    pyro.get_param_store().save(tmp_path / "store")
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "store")
    kept = fresh.weight.clone()
    assert torch.equal(fresh.weight, kept) and not torch.equal(fresh.weight, trained.weight)
    pair = ppvae.make("factor_analysis_diagonal", features=3, latents=1)
    with torch.no_grad():
        [p.add_(1.0) for p in pair.parameters()]
    ppvae.save(pair, tmp_path / "pair.pt")
    loaded = ppvae.load(tmp_path / "pair.pt")
    assert all(torch.equal(a, b) for a, b in zip(pair.parameters(), loaded.parameters(), strict=True))


# --- discrete draws ---------------------------------------------------------------------------------------


def classes(numbers, x=None, *, size=1):
    """y ~ Categorical, x | y ~ N(W[0, y], 1): three classes, one feature a row."""
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        y = pyro.sample("y", dist.Categorical(logits=numbers.logits))
        with pyro.plate("features", 1, dim=-1):
            return pyro.sample("x", dist.Normal(numbers.loc[y], 1.0), obs=x)


def class_of(q, x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("y", dist.Categorical(logits=q.logits))


def class_pair():
    numbers = Numbers(logits=torch.tensor([0.0, 0.5, -0.5]), loc=torch.tensor([-1.0, 0.0, 2.0]))
    return ppvae.Pair(classes, class_of, numbers=numbers, q=Numbers(logits=torch.tensor([1.0, -0.5, 0.2])))


def by_enumeration(pair, x, P):
    """Gradients in q's logits of one row's bound of P draws, summed over all draws: (exact, through the weights alone)."""
    logits = pair.q.logits
    log_q, log_p = logits.log_softmax(0), pair.numbers.logits.log_softmax(0)
    weights = (log_p + dist.Normal(pair.numbers.loc, 1.0).log_prob(x) - log_q)[None]
    total, plain = 0.0, 0.0
    for ys in itertools.product(range(3), repeat=P):
        ys = list(ys)
        chance, bound = log_q[ys].sum().exp(), weights[0, ys].logsumexp(0) - math.log(P)
        total, plain = total + chance * bound, plain + chance.detach() * bound
    return slope(total, logits), slope(plain, logits)


def test_the_importance_weighted_gradient_of_a_discrete_guide_points_backwards():
    """Through the weights alone it is the opposite; it is refused, and vimco and wake-sleep go the right way."""
    pair, x = class_pair(), torch.tensor([[0.4]])
    exact, plain = by_enumeration(pair, x[0, 0], 5)
    assert cosine(exact, plain) < -0.9
    with pytest.raises(ppvae.Problem, match="'y' from Categorical, which cannot be reparametrised"):
        ppvae.iw_elbo(5)(pair, x)
    torch.manual_seed(0)
    many = x.expand(40_000, 1)
    found = torch.stack([slope(ppvae.iw_elbo(5, "vimco")(pair, part), pair.q.logits) for part in many.split(1000)])
    assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / 40**0.5).all() and cosine(found.mean(0), exact) > 0.95


def test_the_pathwise_gradient_of_a_discrete_guide_is_noise():
    """Its mean is 0 wherever the guide stands; it is refused, and the score's is that of the sum."""
    pair, x = class_pair(), torch.tensor([[0.4]])
    exact, plain = by_enumeration(pair, x[0, 0], 1)
    assert plain.abs().max() < 1e-12 < 0.1 < exact.abs().max()
    with pytest.raises(ppvae.Problem, match="'y' from Categorical, which cannot be reparametrised"):
        ppvae.elbo()(pair, x)
    torch.manual_seed(0)
    many = x.expand(40_000, 1)
    found = torch.stack([slope(ppvae.elbo(2, "score")(pair, part), pair.q.logits) for part in many.split(1000)])
    assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / 40**0.5).all()


def test_one_draw_teaches_a_sleepless_guide_nothing():
    """Its normalised weight is 1: what is left is E_q[grad log q] = 0."""
    pair, x = class_pair(), torch.full((2000, 1), 0.4)
    with torch.no_grad():
        y = dist.Categorical(logits=pair.q.logits).sample((200_000,))
    assert slope(pair.q.logits.log_softmax(0)[y], pair.q.logits).abs().max() < 5 * 0.5 / 200_000**0.5
    with pytest.raises(ppvae.Problem, match="one draw's weight is 1"):
        ppvae.wake_sleep(1)
    torch.manual_seed(0)
    exact = dist.Categorical(logits=pair.numbers.logits + dist.Normal(pair.numbers.loc, 1.0).log_prob(x[0])).probs
    towards = exact.detach() - pair.q.logits.softmax(0).detach()  # - grad KL(p(y | x) || q)
    assert cosine(slope(ppvae.wake_sleep(50)(pair, x), pair.q.logits), towards) > 0.95
    assert ppvae.wake_sleep(1, sleep=True)(pair, x).isfinite().all()


# --- gradients that hold the guide ------------------------------------------------------------------------


def flow(q, x, mask=True):
    """`guide`'s own law, as a draw e that is moved: the Jacobian stands in the Delta."""
    with pyro.plate("data", len(x), dim=-2):
        e = pyro.sample("e", dist.Normal(torch.zeros(len(x), 1, K), 1.0).to_event(1), infer={"is_auxiliary": True})
        z = (x @ q.A).unsqueeze(-2) + q.log_scale.exp() * e
        pyro.sample("z", dist.Delta(z, log_density=-q.log_scale.sum(), event_dim=1))


def test_a_gradient_that_holds_the_guide_would_lose_the_jacobian_of_a_delta():
    """log q(z) = log N(e) - sum log scale: held, it knows of no path, and the entropy's gradient, 1, is gone."""
    pair, x = a_pair(story, flow), rows()[0].repeat(2000, 1)
    exact = 1 - (1 + pair.numbers.W.square().sum(0)).detach()  # of the ELBO in log scale, at scale 1
    torch.manual_seed(0)
    e = torch.randn(len(x), K)
    z = x @ pair.q.A.detach() + pair.q.log_scale.exp() * e
    log_p = -0.5 * z.square().sum(-1) - 0.5 * (x - z @ pair.numbers.W.T.detach()).square().sum(-1)
    held = slope(log_p - dist.Normal(0.0, 1.0).log_prob(e).sum(-1), pair.q.log_scale)
    assert (held - (exact - 1)).abs().max() < 0.3 < 0.7 < (held - exact).abs().min()
    ours = torch.stack([slope(ppvae.elbo()(pair, part), pair.q.log_scale) for part in x.split(600)])
    assert ((ours.mean(0) - exact).abs() < 5 * ours.std(0) / 20**0.5).all()
    for objective in (
        *(ppvae.elbo(3, "stl"), ppvae.elbo(3, "score"), ppvae.iw_elbo(3, "stl"), ppvae.iw_elbo(3, "dreg")),
        *(ppvae.iw_elbo(3, "vimco"), ppvae.wake_sleep(3)),
    ):
        with pytest.raises(ppvae.Problem, match="makes 'z' from other draws"):
            objective(pair, x[:N])
        with torch.no_grad():
            assert objective(pair, x[:N]).isfinite().all()


def test_a_capacity_beside_a_held_guide_would_push_the_wrong_way():
    """E|log q - log p - C|: the sign depends on the draw, so the scores that stl leaves out have no mean of 0."""
    m, log_s, C = torch.tensor(0.7, requires_grad=True), torch.tensor(math.log(0.4), requires_grad=True), 0.5
    e = torch.linspace(-12, 12, 100_001)
    density = dist.Normal(0.0, 1.0).log_prob(e).exp()
    z = m + log_s.exp() * e
    k = -log_s - 0.5 * e.square() + 0.5 * z.square()
    held = -log_s.detach() - 0.5 * ((z - m.detach()) / log_s.detach().exp()).square() + 0.5 * z.square()
    exact, stl = (
        torch.autograd.grad(torch.trapezoid((v - C).abs() * density, e), log_s, retain_graph=True)[0] for v in (k, held)
    )
    assert exact < -0.5 and stl > 0.3
    with pytest.raises(ppvae.Problem, match="(?s)capacity.*'stl'"):
        ppvae.elbo(3, "stl", ppvae.capacity(C, 1.0))


# --- what holds still in some terms -----------------------------------------------------------------------


def two_tables(numbers, x=None, y=None, mask=True, mask_y=True, *, size=1):
    n = next((len(v) for v in (x, y) if v is not None), size)
    with pyro.plate("data", n, dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(1, K), 1.0).to_event(1))
        with pyro.plate("features", D, dim=-1):
            with poutine.mask(mask=mask):
                x = pyro.sample("x", dist.Normal((z @ numbers.W.T).squeeze(-2), 1.0), obs=x)
            with poutine.mask(mask=mask_y):
                y = pyro.sample("y", dist.Normal((z @ numbers.V.T).squeeze(-2), 1.0), obs=y)
    return x, y


def from_what_is_there(both, alone, x, y=None, mask=True):
    q, data = (alone, x) if y is None else (both, torch.cat([x, y], -1))
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal((data @ q.A).unsqueeze(-2), q.log_scale.exp()).to_event(1))


def test_a_sum_of_bounds_of_one_and_two_modalities_moves_the_story_by_both():
    """TELBO: the unimodal guide learns from its bound, and the story from the joint one alone."""
    torch.manual_seed(0)
    pair = ppvae.Pair(
        two_tables,
        from_what_is_there,
        numbers=Numbers(W=torch.randn(D, K), V=torch.randn(D, K)),
        both=Numbers(A=0.1 * torch.randn(2 * D, K), log_scale=torch.zeros(K)),
        alone=Numbers(A=0.1 * torch.randn(D, K), log_scale=torch.zeros(K)),
    )
    data = {"x": torch.randn(N, D), "y": torch.randn(N, D)}

    def gradients(*bounds):
        torch.manual_seed(1)
        return torch.autograd.grad(sum(bound().mean() for bound in bounds), list(pair.parameters()), allow_unused=True)

    def joint():
        return ppvae.elbo()(pair, data)

    def unimodal():
        return ppvae.elbo()(pair, {"x": data["x"]})

    def held():
        with ppvae.frozen(pair.numbers):
            return unimodal()

    (W, *_), (plain_W, _, *plain), (held_W, held_V, *kept) = (
        gradients(joint),
        gradients(joint, unimodal),
        gradients(joint, held),
    )
    assert (plain_W - W).abs().max() > 0.1
    assert torch.equal(held_W, W) and torch.equal(held_V, gradients(joint)[1])
    assert len(kept) == 4 and all(torch.equal(a, b) for a, b in zip(kept, plain, strict=True))


class Adversarial(nn.Module):
    """log p(x | z) - T(x, z), T a classifier's estimate of log q(z | x) - log p(z), by its own loss or by the bound."""

    unit = None

    def __init__(self, own_loss):
        super().__init__()
        self.own_loss, self.T = own_loss, nn.Linear((D + K) ** 2 + D + K, 1)

    def classified(self, x, z):
        h = torch.cat([x, z], -1)
        return self.T(torch.cat([h, (h.unsqueeze(-1) * h.unsqueeze(-2)).flatten(1)], -1)).squeeze(-1)

    def forward(self, pair, x, mask=None):
        table = enter(pair, x, mask)
        traces = run(pair, table)
        x, z = table.values["x"], traces.guide.nodes["z"]["value"].squeeze(-2)
        likelihood = by_row(log_prob(traces.model.nodes["x"]), traces)[0]
        if not self.own_loss:
            return likelihood - self.classified(x, z)
        with ppvae.frozen(self.T):
            bound = likelihood - self.classified(x, z)
        prior = torch.randn_like(z)
        log_loss = nn.functional.softplus
        loss = log_loss(-self.classified(x, z.detach())) + log_loss(self.classified(x, prior))
        return bound - free(loss)


def test_a_discriminator_that_the_bound_trains_lifts_it_above_the_evidence():
    with torch.no_grad():
        x = a_pair().model(size=300)
    found = {}
    for own_loss in (True, False):
        pair = a_pair()
        for p in pair.parameters():
            p.requires_grad_(False)
        torch.manual_seed(0)
        objective = Adversarial(own_loss)
        result = ppvae.fit(pair, x, objective=objective, epochs=40, batch_size=100, learning_rate=0.03)
        with torch.no_grad():
            found[own_loss] = result.history[-1]["bound"], float(ppvae.elbo(100)(pair, x).mean())
        truth = float(evidence(pair, x).mean())
    assert found[False][0] > truth + 10
    assert found[True][0] < truth + 1 and abs(found[True][0] - found[True][1]) < 2


# --- estimates of a mixture and of what is missing --------------------------------------------------------


def test_minibatch_weights_understate_the_aggregate_posterior():
    """1 / (N M) for every row of a batch of M: with all N rows, log q(z) is low by log N, a total correlation high by
    (K - 1) log N. `information` sums over all rows."""
    pair, (x, _) = a_pair(), rows(40)
    n = len(x)
    with torch.no_grad():
        loc, scale = x @ pair.q.A, pair.q.log_scale.exp()
        torch.manual_seed(0)
        z = loc + scale * torch.randn(n, K)
        each = dist.Normal(loc, scale).log_prob(z[:, None])  # (n, n, K)
        joint, units = each.sum(-1).logsumexp(1), each.logsumexp(1).sum(-1)
        exact, mws = joint - math.log(n), joint - 2 * math.log(n)
        assert torch.allclose(exact - mws, torch.full((n,), math.log(n)))
        total = (exact - (units - K * math.log(n))).mean()
        assert (mws - (units - 2 * K * math.log(n))).mean() - total == pytest.approx((K - 1) * math.log(n))
        carried = (each.diagonal().sum(0) - exact).mean()
        ours = ppvae.evaluate.information(pair, x, draws=30)
    wrong = carried + math.log(n)
    assert abs(ours.mutual_information - carried) < 5 * ours.standard_error * 30**0.5 < wrong - carried
    assert ours.rate == pytest.approx(ours.mutual_information + ours.marginal_kl)


def test_completing_by_clamping_ignores_what_comes_later():
    """x_2 | x_1 ~ N(x_1 / 2, 1): drawn in order, x_1 does not hear of x_2 = 3, whose answer is 1.2."""

    def chain(numbers, x=None, mask=True, *, size=1):
        n = size if x is None else len(x)
        with pyro.plate("data", n, dim=-2), pyro.plate("features", 2, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", Autoregressive(numbers.loc, 1.0), obs=x)

    torch.manual_seed(0)
    first = torch.randn(20_000)  # clamp and continue: x_1 from its own density, x_2 as observed
    weights = dist.Normal(first / 2, 1.0).log_prob(torch.tensor(3.0)).softmax(0)
    assert first.mean().abs() < 0.05 and (weights * first).sum() == pytest.approx(1.2, abs=0.1)
    pair = ppvae.Pair(chain, numbers=Numbers(loc=torch.zeros(1)))
    x = torch.tensor([[math.nan, 3.0], [0.5, math.nan]])
    post = ppvae.condition(pair, x)
    for call in (
        lambda: post.impute(5),
        lambda: post.impute_mean(5),
        lambda: post.log_evidence(5),
        lambda: post.gibbs(5),
    ):
        with pytest.raises(ppvae.Problem, match="features depend on one another"):
            call()


def test_ties_of_a_discrete_latent_do_not_look_like_overconfidence():
    """Draws at exactly the truth's distance count by half: were they outside, a perfect guide would seem to fail."""

    def switched(numbers, x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            y = pyro.sample("y", dist.Bernoulli(torch.full((1, 1), 0.3)))
            with pyro.plate("features", 1, dim=-1):
                return pyro.sample("x", dist.Normal(2 * y * numbers.w, 1.0), obs=x)

    def exact(numbers, x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("y", dist.Bernoulli(logits=math.log(3 / 7) + 2 * numbers.w * x - 2 * numbers.w**2))

    def too_sure(numbers, x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("y", dist.Bernoulli(logits=9 * (math.log(3 / 7) + 2 * numbers.w * x - 2 * numbers.w**2)))

    torch.manual_seed(0)
    x, numbers = torch.zeros(1000, 1), Numbers(w=torch.ones(()))
    assert ppvae.evaluate.tarp(ppvae.Pair(switched, exact, numbers=numbers), x).p_value > 1e-4
    assert ppvae.evaluate.tarp(ppvae.Pair(switched, too_sure, numbers=numbers), x).p_value < 1e-4


# --- the step ---------------------------------------------------------------------------------------------


def test_a_padded_batch_gives_another_number_where_rows_share_a_floor():
    """fit's last batch is as short as it is: free bits see its own rows, and the step is staged for them."""
    pair, (x, _) = a_pair(), rows(13)
    objective, sizes = ppvae.elbo(kl=ppvae.free_bits(0.1)), []

    def floor(batch):
        with torch.no_grad():
            bound, terms = objective.evaluate(pair, enter(pair, batch))
        return (terms.likelihood - bound)[:3], terms.kl["z"].mean().clamp(min=0.1)

    alone, mean = floor(x[10:])
    padded, _ = floor(torch.cat([x[10:], torch.zeros(7, D)]))
    assert torch.allclose(alone, mean.expand(3)) and (alone - padded).abs().min() > 0.01

    class Watching(nn.Module):
        coupled = True

        def forward(self, pair, table, mask=None):
            sizes.append(len(table))
            return objective(pair, table)

    result = ppvae.fit(pair, x, objective=Watching(), epochs=2, batch_size=10)
    assert result.step == "staged" and set(sizes[1:]) == {10, 3}  # the first is what check saw


def steps_of(pair, objective, x, change):
    """Three steps, each as its objective has it; how the last was made."""
    step = Step(pair, objective, list(pair.parameters()), staged=True)
    for turn in range(3):
        change(turn)
        torch.manual_seed(turn)
        found = step(enter(pair, x))
        change(turn)
        torch.manual_seed(turn)
        assert torch.equal(found, objective(pair, x).mean()), turn
    return step.how


@pytest.mark.parametrize("what", ["a float", "Python's random", "closed-over rows"])
def test_what_would_stand_still_in_the_graph(what):
    pair, (x, _) = a_pair(), rows()
    held = {}

    def objective(pair, x, mask=None):
        bound = ppvae.elbo()(pair, x, mask)
        return (
            bound
            * {"a float": held["float"], "Python's random": random.random(), "closed-over rows": held["rows"]}[what]
        )

    def change(turn):
        random.seed(turn)
        held.update({"float": 1.0 + turn, "rows": torch.full((N,), 1.0 + turn)})

    assert "differs from the eager one" in steps_of(pair, objective, x, change)


def one_hot(h):
    return nn.functional.one_hot((h > 0).long(), 2)[..., 0].double()


def packed(h):
    lengths = (h > 0).sum(-1).clamp(min=1)
    return pack_padded_sequence(h.unsqueeze(-1), lengths, batch_first=True, enforce_sorted=False).data.sum()


def sparse(h):
    return h @ (torch.eye(D).to_sparse_csr() @ torch.ones(D, 1))


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("operation", [one_hot, packed, sparse])
def test_what_cannot_be_staged_is_stepped_eagerly_to_the_same_numbers(operation):
    def model(numbers, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, K), 1.0).to_event(1))
            with pyro.plate("features", D, dim=-1):
                h = (z @ numbers.W.T).squeeze(-2)
                return pyro.sample("x", dist.Normal(h + 0.1 * operation(h), 1.0), obs=x)

    assert steps_of(a_pair(model, guide), ppvae.elbo(), rows()[0], lambda turn: None).startswith("eager: ")


@pytest.mark.parametrize("law", ["VonMises", "OneHotCategorical"])
def test_draws_that_cannot_be_staged_are_drawn_eagerly(law):
    def model(numbers, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            y = pyro.sample("y", fn(numbers.W[0, 0]))
            value = y.sum(-1, keepdim=True) if law == "VonMises" else y[..., 0]
            with pyro.plate("features", D, dim=-1):
                return pyro.sample("x", dist.Normal(value * numbers.W[:, 0], 1.0), obs=x)

    def fn(w):
        if law == "VonMises":
            return dist.VonMises(w.expand(1, 1), 1.0)
        return dist.OneHotCategorical(logits=torch.stack([w, -w]).expand(1, 1, 2))

    def proposal(q, x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("y", fn(q.A[0, 0]))

    objective = ppvae.elbo(2, "score")
    assert steps_of(a_pair(model, proposal), objective, rows()[0], lambda turn: None).startswith("eager: ")


# --- seen again on the page docs/pitfalls.md ------------------------------------------------------------


def test_threads_share_pyros_stack():
    """A site of another thread lands in this one's trace; whole fits run in parallel as processes."""
    go, done = threading.Event(), threading.Event()

    def here():
        go.set()
        assert done.wait(10)
        return pyro.sample("a", dist.Normal(0.0, 1.0))

    def there():
        assert go.wait(10)
        pyro.sample("b", dist.Normal(0.0, 1.0))
        done.set()

    other = threading.Thread(target=there)
    other.start()
    trace = poutine.trace(here).get_trace()
    other.join()
    assert "b" in trace.nodes


def test_renyi_elbo_gives_modules_without_param_sites_no_gradient():
    pair, (x, _) = a_pair(), rows()
    bound = RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True, max_plate_nesting=2)
    bound.loss_and_grads(lambda x: story(pair.numbers, x), lambda x: guide(pair.q, x), x)
    assert pair.q.A.grad is None
    ppvae.iw_elbo(3)(pair, x).mean().backward()
    assert pair.q.A.grad is not None
