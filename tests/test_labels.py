"""Rows of which some show their class: M2, ADGM and `ppvae.semi_supervised`, against sums and integrals written out."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import pair
from ppvae.models import adgm
from pyro import poutine
from torch import nn

import ppvae
from ppvae.evaluate import class_probabilities
from ppvae.reproduce import few_labels, half_moons

N, C, P = 6, 3, 4


def labelled(rows=N, seed=3, D=9):
    torch.manual_seed(seed)
    x, y = torch.rand(rows, D).round(), torch.randint(C, (rows,)).double()
    return x, torch.where(torch.arange(rows) % 2 == 0, y, torch.nan), torch.rand(rows, D) > 0.3


def made(name, **options):
    return pair(name, classes=C, hidden=(8,), **options)


def value(objective, one, x, y, mask, seed=0):
    torch.manual_seed(seed)
    return objective(one, {"x": x, "y": y}, {"x": mask})


def log_p(one, x, mask, points=401, width=8.0):
    """log p(x_o, y = c) by a grid over z, which has one coordinate: (N, C)."""
    z = torch.linspace(-width, width, points)
    weight = dist.Normal(0.0, 1.0).log_prob(z) + math.log(2 * width / (points - 1))
    found = []
    for c in range(C):
        site = one.decoder.x(z[:, None, None, None], torch.full((1, 1), float(c)))  # batch (points, 1, D)
        score = (site.log_prob(x.expand(points, *x.shape)) * mask).sum(-1)  # (points, N)
        found.append((score + weight[:, None]).logsumexp(0) - math.log(C))
    return torch.stack(found, 1)


@pytest.mark.parametrize("name", ["semi_supervised_vae", "adgm"])
def test_the_evidence_is_the_sum_over_classes_of_integrals_over_styles(name):
    """What the guide draws first and what the story draws last cancel in the mean: the weights stay unbiased."""
    one = made(name, latents=1)
    x, y, mask = labelled()
    with torch.no_grad():
        joint = log_p(one, x, mask)
        shown = ~y.isnan()
        truth = torch.where(shown, joint.gather(1, y.nan_to_num(0).long()[:, None]).squeeze(1), joint.logsumexp(1))
        post = ppvae.condition(one, {"x": x, "y": y}, {"x": mask})
        torch.manual_seed(0)
        ratio = (post.log_weights(post.table, 4000) - truth).exp()
    error = ratio.std(0) / math.sqrt(4000)
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all() and error.max() < 0.05


def draws_its_class(encoder, x, y=None, mask=True):
    """The auxiliary model's guide, y drawn."""
    with pyro.plate("data", len(x), dim=-2):
        a = pyro.sample("a", encoder.a(x, mask))
        y = pyro.sample("y", encoder.y(x, a, mask)) if y is None else y
        pyro.sample("z", encoder.z(x, a, y, mask))


@pytest.mark.parametrize("name", ["semi_supervised_vae", "adgm"])
def test_the_enumerated_bound_is_the_mean_of_the_sampled_one(name):
    summed = made(name)
    if name == "adgm":
        drawn = ppvae.Pair(adgm.model, draws_its_class, decoder=summed.decoder, encoder=summed.encoder)
    else:
        drawn = made(name, labels="sampled")
        drawn.load_state_dict(summed.state_dict())
    x, y, mask = labelled()
    found = []
    for one in (summed, drawn):
        with torch.no_grad():
            torch.manual_seed(1)
            found.append(torch.stack([ppvae.elbo(200)(one, {"x": x, "y": y}, {"x": mask}) for _ in range(50)]))
    a, b = found
    error = ((a.var(0) + b.var(0)) / 50).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 5 * error).all()


def test_the_score_gradient_of_a_drawn_class_is_that_of_the_sum():
    summed, drawn = made("semi_supervised_vae"), made("semi_supervised_vae", labels="sampled")
    drawn.load_state_dict(summed.state_dict())
    x, y, mask = labelled()
    found = []
    for one, bound in ((summed, ppvae.elbo(50)), (drawn, ppvae.elbo(50, gradient="score"))):
        objective, draws = ppvae.semi_supervised(bound), []
        for seed in range(60):
            loss = value(objective, one, x, y, mask, seed).sum()
            draws.append(torch.autograd.grad(loss, one.encoder.logits.weight)[0])
        found.append(torch.stack(draws))
    error = sum(g.var(0) / 60 for g in found).sqrt()
    assert ((found[0].mean(0) - found[1].mean(0)).abs() < 5 * error + 1e-12).all()


@pytest.mark.parametrize("labels", ["enumerated", "sampled"])
def test_a_row_that_shows_its_class_adds_its_log_probability_under_the_guide(labels):
    one = made("semi_supervised_vae", labels=labels)
    x, y, mask = labelled()
    shown = ~y.isnan()
    bound = ppvae.elbo(P) if labels == "enumerated" else ppvae.elbo(P, gradient="score")
    plain = value(bound, one, x, y, mask)
    weighted = value(ppvae.semi_supervised(bound, alpha=3.0, gamma=2.0), one, x, y, mask)
    log_q = one.encoder.y(x, mask).logits.squeeze(-2).log_softmax(-1)
    by_hand = 2.0 * (plain + 3.0 * log_q.gather(1, y.nan_to_num(0).long()[:, None]).squeeze(1))
    assert torch.equal(weighted[~shown], plain[~shown])
    assert torch.allclose(weighted[shown], by_hand[shown], atol=1e-10)


def test_what_a_row_shows_moves_the_class_network_by_alpha_alone():
    one = made("semi_supervised_vae")
    x, y, mask = labelled()
    y = y.nan_to_num(1.0)  # every row shows it
    ours, wanted = (
        torch.autograd.grad(number, one.encoder.logits.bias)[0]
        for number in (
            value(ppvae.semi_supervised(alpha=0.7), one, x, y, mask).sum(),
            0.7 * one.encoder.y(x, mask).log_prob(y[:, None]).sum(),
        )
    )
    assert torch.allclose(ours, wanted, atol=1e-12) and wanted.abs().max() > 0.01


class Numbers(nn.Module):
    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor))


def switch(n, x=None, y=None, mask=True, *, size=1):
    """A class by itself, z by itself, x of both."""
    size = next((len(v) for v in (x, y) if v is not None), size)
    with pyro.plate("data", size, dim=-2):
        y = pyro.sample("y", dist.Categorical(logits=n.prior.expand(1, 1, 2)), obs=y)
        z = pyro.sample("z", dist.Normal(n.prior.new_zeros(1, 1), 1.0).to_event(1))
        loc = z * n.slope + n.shift[y.long()].unsqueeze(-1) if y.dim() else z
        with pyro.plate("features", 1, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(loc.squeeze(-2), 0.5), obs=x)


def style_first(q, x, y=None, mask=True, *, infer=None):
    """z | x, and then y | z: what is shown of y makes some draws of z likelier than others."""
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal((x * q.w).unsqueeze(-2), q.log_scale.exp()).to_event(1))
        if y is None:
            pyro.sample("y", dist.Categorical(logits=z * q.v), infer=q.infer)


def style_first_pair(infer):
    torch.manual_seed(2)
    q = Numbers(w=torch.tensor([0.6]), log_scale=torch.tensor([-0.3]), v=torch.tensor([-1.0, 1.4]))
    q.infer = infer
    n = Numbers(prior=torch.tensor([0.2, -0.4]), slope=torch.tensor([1.1]), shift=torch.tensor([-0.7, 0.9]))
    return ppvae.Pair(switch, style_first, n=n, q=q)


@pytest.mark.parametrize("infer", [{}, {"enumerate": "parallel"}], ids=["drawn", "enumerated"])
def test_draws_before_the_class_are_weighed_by_the_class_that_a_row_shows(infer):
    """E_{q(z | x, y)}[log p(x, y, z) - log q(y, z | x)] + (1 + alpha) log q(y | x), by a grid over z."""
    one = style_first_pair(infer)
    x, y, alpha = torch.tensor([[0.3], [-1.2]]), torch.tensor([1.0, 0.0]), 1.7
    z = torch.linspace(-8, 8, 4001)[:, None]
    n, q, c = one.n, one.q, y.long()
    with torch.no_grad():
        log_q_z = dist.Normal(x.T * q.w, q.log_scale.exp()).log_prob(z)  # (points, N)
        log_q_y = (z[..., None] * q.v).log_softmax(-1)[:, 0, :][:, c]
        log_p = n.prior.log_softmax(-1)[c] + dist.Normal(0.0, 1.0).log_prob(z)
        log_p = log_p + dist.Normal(z * n.slope + n.shift[c], 0.5).log_prob(x.T)
        step = math.log(16 / 4000)
        evidence = (log_q_z + log_q_y).logsumexp(0) + step  # log q(y | x)
        share = (log_q_z + log_q_y + step - evidence).exp()  # q(z | x, y)
        truth = (share * (log_p - log_q_z - log_q_y)).sum(0) + (1 + alpha) * evidence
        objective = ppvae.semi_supervised(ppvae.elbo(4000), alpha=alpha)
        torch.manual_seed(0)
        ours = torch.stack([objective(one, {"x": x, "y": y}) for _ in range(100)])
    error = ours.std(0) / 10
    assert ((ours.mean(0) - truth).abs() < 5 * error + 1e-3).all()  # a ratio's bias falls as 1/P
    assert error.max() < 0.01


def test_weighing_draws_by_the_class_has_the_gradient_of_what_it_estimates():
    """The same grid, differentiated: draws, their weights and log q(y | x) all move."""
    one = style_first_pair({"enumerate": "parallel"})
    x, y, alpha = torch.tensor([[0.3], [-1.2]]), torch.tensor([1.0, 0.0]), 1.7
    z = torch.linspace(-8, 8, 4001)[:, None]
    n, q, c = one.n, one.q, y.long()
    log_q_z = dist.Normal(x.T * q.w, q.log_scale.exp()).log_prob(z)
    log_q_y = (z[..., None] * q.v).log_softmax(-1)[:, 0, :][:, c]
    log_p = n.prior.log_softmax(-1)[c] + dist.Normal(0.0, 1.0).log_prob(z)
    log_p = log_p + dist.Normal(z * n.slope + n.shift[c], 0.5).log_prob(x.T)
    step = math.log(16 / 4000)
    evidence = (log_q_z + log_q_y).logsumexp(0) + step
    share = (log_q_z + log_q_y + step - evidence).exp()
    truth = (share * (log_p - log_q_z - log_q_y)).sum(0) + (1 + alpha) * evidence
    parameters = list(one.parameters())
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(truth.sum(), parameters)])
    objective, found = ppvae.semi_supervised(ppvae.elbo(2000), alpha=alpha), []
    torch.manual_seed(0)
    for _ in range(100):
        ours = torch.autograd.grad(objective(one, {"x": x, "y": y}).sum(), parameters)
        found.append(torch.cat([g.flatten() for g in ours]))
    found = torch.stack(found)
    error = found.std(0) / 10
    assert ((found.mean(0) - wanted).abs() < 5 * error + 5e-3).all()  # a ratio's bias falls as 1/P
    assert error.max() < 0.05 and wanted.abs().min() > 0.02


def continuous(n, x=None, y=None, mask=True, *, size=1):
    """A number y that some rows show, and x of it."""
    size = next((len(v) for v in (x, y) if v is not None), size)
    with pyro.plate("data", size, dim=-2):
        y = pyro.sample("y", dist.Normal(n.prior.new_zeros(1, 1), 1.0), obs=y)
        with pyro.plate("features", 1, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(y * n.slope, 0.5), obs=x)


def regression(q, x, y=None, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        if y is None:
            pyro.sample("y", dist.Normal(x * q.w, q.log_scale.exp()))


BOUNDS = [ppvae.elbo(2), ppvae.elbo(2, "score"), ppvae.elbo(2, "stl"), ppvae.elbo(2, "stl", kl=ppvae.beta(2.0))]


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_naming_the_class_teaches_the_guide_whatever_the_gradient(bound):
    """Where every row shows y the guide learns by alpha log q(y | x) alone."""
    q = Numbers(w=torch.tensor([0.6]), log_scale=torch.tensor([-0.3]))
    one = ppvae.Pair(continuous, regression, n=Numbers(prior=torch.zeros(1), slope=torch.tensor([1.1])), q=q)
    x, y = torch.tensor([[0.3], [-1.2]]), torch.tensor([[1.0], [0.0]])
    ours = torch.autograd.grad(ppvae.semi_supervised(bound, alpha=2.0)(one, {"x": x, "y": y}).sum(), q.w)[0]
    wanted = torch.autograd.grad(2.0 * dist.Normal(x * q.w, q.log_scale.exp()).log_prob(y).sum(), q.w)[0]
    assert torch.allclose(ours, wanted, atol=1e-12)


def shared_first(q, x, y=None, mask=True, *, size=1):
    """A global latent, and then the class."""
    w = pyro.sample("w", dist.Normal(q.w, q.log_scale.exp()).to_event(1))
    with pyro.plate("data", len(x), dim=-2):
        if y is None:
            pyro.sample(
                "y", dist.Categorical(logits=(x * w.squeeze(-1)).unsqueeze(-1) * q.v), infer={"enumerate": "parallel"}
            )


def with_shared(n, x=None, y=None, mask=True, *, size=1):
    pyro.sample("w", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    return switch_without_style(n, x, y, mask, size=size)


def switch_without_style(n, x=None, y=None, mask=True, *, size=1):
    size = next((len(v) for v in (x, y) if v is not None), size)
    with pyro.plate("data", size, dim=-2):
        y = pyro.sample("y", dist.Categorical(logits=n.prior.expand(1, 1, 2)), obs=y)
        with pyro.plate("features", 1, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(n.shift[y.long()], 0.5), obs=x)


def test_a_global_latent_before_the_class_has_no_weight_of_a_row():
    one = style_first_pair({})
    one = ppvae.Pair(with_shared, shared_first, n=one.n, q=one.q)
    rows = {"x": torch.tensor([[0.3], [-1.2]]), "y": torch.tensor([1.0, torch.nan])}
    with pytest.raises(ppvae.Problem, match="'w' is global"):
        ppvae.semi_supervised(ppvae.elbo(3))(one, rows)
    assert ppvae.semi_supervised()(one, rows).isfinite().all()


def test_with_one_draw_the_class_is_named_at_that_draw():
    one = style_first_pair({})
    x, y = torch.tensor([[0.3], [-1.2]]), torch.tensor([1.0, 0.0])
    with torch.no_grad():
        torch.manual_seed(4)
        z = poutine.trace(one.guide).get_trace(x).nodes["z"]["value"].squeeze(-1)
        bound = ppvae.elbo()
        without = value(ppvae.semi_supervised(bound, alpha=0.0), one, x, y, torch.ones_like(x, dtype=torch.bool), 4)
        ours = value(ppvae.semi_supervised(bound, alpha=2.0), one, x, y, torch.ones_like(x, dtype=torch.bool), 4)
    named = (z * one.q.v).log_softmax(-1).gather(1, y.long()[:, None]).squeeze(1)
    assert torch.allclose(ours - without, 2.0 * named, atol=1e-12)


def bits(n, x=None, y=None, mask=True, *, size=1):
    """A mixture of bits."""
    size = next((len(v) for v in (x, y) if v is not None), size)
    with pyro.plate("data", size, dim=-2):
        y = pyro.sample("y", dist.Categorical(logits=n.prior.expand(1, 1, C)), obs=y)
        with pyro.plate("features", 5, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Bernoulli(logits=n.logits[y.long().squeeze(-1)]), obs=x)


def joint_of(n, x, mask):
    score = dist.Bernoulli(logits=n.logits[:, None]).log_prob(x) * mask
    return (score.sum(-1) + n.prior.log_softmax(-1)[:, None]).T  # (N, C)


def responsibilities(n, x, y=None, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        if y is None:
            logits = joint_of(n, x, torch.as_tensor(mask).expand(x.shape))
            pyro.sample("y", dist.Categorical(logits=logits.unsqueeze(-2)), infer={"enumerate": "parallel"})


def test_under_the_exact_guide_it_is_the_evidence_of_what_each_row_shows():
    torch.manual_seed(0)
    one = ppvae.Pair(bits, responsibilities, n=Numbers(prior=torch.randn(C), logits=torch.randn(C, 5)))
    x, y, mask = labelled(D=5)
    joint = joint_of(one.n, x, mask)
    shown = joint.gather(1, y.nan_to_num(0).long()[:, None]).squeeze(1)
    for alpha in (0.0, 1.5):
        truth = torch.where(y.isnan(), joint.logsumexp(1), shown + alpha * (shown - joint.logsumexp(1)))
        assert torch.allclose(value(ppvae.semi_supervised(alpha=alpha), one, x, y, mask), truth, atol=1e-10)


def test_a_schedule_of_the_kl_and_weights_of_the_data_act_on_the_bound_within():
    one = made("semi_supervised_vae")
    x, y, mask = labelled()
    bound = ppvae.elbo(kl=ppvae.annealed(0.5), likelihood={"x": 2.0})
    objective = ppvae.semi_supervised(bound, alpha=0.0)
    assert objective.scheduled and not objective.coupled and objective.unit is None
    torch.manual_seed(0)
    a = objective(one, {"x": x, "y": y}, {"x": mask}, done=0.25)
    torch.manual_seed(0)
    b = bound(one, {"x": x, "y": y}, {"x": mask}, done=0.25)
    assert torch.equal(a, b)
    result = ppvae.fit(one, {"x": x, "y": y}, {"x": mask}, objective=objective, epochs=4, batch_size=6)
    assert result.step == "staged" and [r["kl_weight"] for r in result.history][-1] == 1.0


def test_conditioning_finds_the_class():
    torch.manual_seed(0)
    one = ppvae.Pair(bits, responsibilities, n=Numbers(prior=torch.randn(C), logits=torch.randn(C, 5)))
    x, y, mask = labelled(D=5)
    post = ppvae.condition(one, {"x": x, "y": y}, {"x": mask})
    draws = post.sample(4000, particles=4000)["y"]
    truth = joint_of(one.n, x, mask).softmax(1)
    truth = torch.where(y.isnan()[:, None], truth, (torch.arange(C) == y[:, None]).double())
    share = (draws[..., None] == torch.arange(C)).double().mean(0)
    assert ((share - truth).abs() < 5 * (truth * (1 - truth) / 1000).sqrt() + 1e-12).all()  # drawn again from 4,000


@pytest.mark.parametrize("bad", [3.0, -1.0, 0.5])
def test_a_class_outside_of_its_range(bad):
    x, y, _ = labelled()
    y[4] = bad
    with pytest.raises(
        ppvae.Problem, match=rf"y is {bad:.4g} at row 4, column 0, outside the whole numbers 0 … 2"
    ) as e:
        ppvae.fit(made("semi_supervised_vae"), {"x": x, "y": y}, epochs=1)
    assert "counted from 0 on" in str(e.value)


def test_indicators_of_classes_are_no_classes():
    with pytest.raises(ppvae.Problem, match=r"y has 3 columns and is one number of a class(?s:.*)y.argmax\(-1\)"):
        ppvae.check(
            ppvae.make("semi_supervised_vae", 4, 2, classes=3), {"x": torch.rand(5, 4).round(), "y": torch.eye(5, 3)}
        )


def without_mask(n, x=None, y=None, mask=True, mask_y=True, *, size=1):
    with poutine.mask(mask=mask_y):
        return bits(n, x, y, mask, size=size)


def silent(n, x, y=None, mask=True):
    """A guide that leaves y to the story."""


@pytest.mark.parametrize(
    "objective, pair_of, entries, says",
    [
        (lambda: ppvae.semi_supervised(alpha=-1.0), None, "xy", "alpha is -1.0"),
        (lambda: ppvae.semi_supervised(gamma=math.inf), None, "xy", "gamma is inf"),
        (lambda: ppvae.semi_supervised(ppvae.iw_elbo(5)), None, "xy", "bound is iw_elbo"),
        (lambda: ppvae.semi_supervised(), None, "x", "no row shows 'y'"),
        (lambda: ppvae.semi_supervised(site="class"), None, "xy", "no row shows 'class'"),
        (lambda: ppvae.semi_supervised(), silent, "xy", "the guide does not draw 'y'"),
        (lambda: ppvae.semi_supervised(ppvae.elbo(3, gradient="score")), "drawn", "xy", "other latents before 'y'"),
        (lambda: ppvae.semi_supervised(ppvae.elbo(3, kl=ppvae.beta(2.0))), "summed", "xy", "other latents before 'y'"),
    ],
)
def test_what_cannot_be_taught(objective, pair_of, entries, says):
    x, y, mask = labelled(D=5)
    numbers = Numbers(prior=torch.randn(C), logits=torch.randn(C, 5))
    if pair_of in ("drawn", "summed"):
        one = style_first_pair({} if pair_of == "drawn" else {"enumerate": "parallel"})
        x, y, mask = x[:, :1], y.clamp(max=1), mask[:, :1]
    else:
        one = ppvae.Pair(bits, pair_of or responsibilities, n=numbers)
    with pytest.raises(ppvae.Problem, match=says), torch.set_grad_enabled(pair_of is not silent):
        objective()(one, {"x": x, "y": y} if "y" in entries else {"x": x}, {"x": mask})


def test_a_class_that_the_story_masks_is_no_class_to_be_named():
    one = ppvae.Pair(without_mask, responsibilities, n=Numbers(prior=torch.randn(C), logits=torch.randn(C, 5)))
    x, y, mask = labelled(D=5)
    with pytest.raises(ppvae.Problem, match="the story masks it"):
        ppvae.semi_supervised()(one, {"x": x, "y": y}, {"x": mask})


def test_a_guide_told_how_to_go_about_y():
    with pytest.raises(ppvae.Problem, match="labels is 'summed'"):
        ppvae.make("semi_supervised_vae", features=4, latents=2, labels="summed")


def test_the_class_that_the_guide_gives_is_its_own_law_averaged_over_what_it_draws_first():
    one, x = made("semi_supervised_vae"), labelled()[0]
    assert torch.allclose(class_probabilities(one, x), one.encoder.y(x).probs.squeeze(-2), atol=1e-12)
    one, mask = made("adgm"), labelled()[2]
    with torch.no_grad():
        torch.manual_seed(0)
        ours = class_probabilities(one, x, mask, particles=4000)
        each = one.encoder.y(x, one.encoder.a(x, mask).expand((4000, N, 1)).sample(), mask).probs.squeeze(-2)
    assert ((ours - each.mean(0)).abs() < 5 * each.std(0) * (2 / 4000) ** 0.5).all()
    assert ours.sum(-1).allclose(torch.ones(N)) and not torch.equal(ours, each.mean(0))
    with pytest.raises(ppvae.Problem, match="draws no class 'y' of these rows"):
        class_probabilities(pair("vae"), x)


def test_few_labels_of_each_class_and_their_share_of_the_table():
    label = torch.arange(40) % 4
    shown = few_labels.few(label, 3, seed=1)
    assert (label[shown].bincount() == 3).all() and len(shown.unique()) == 12
    assert not torch.equal(shown, few_labels.few(label, 3, seed=2))
    x = torch.randn(1000, 2)
    table = few_labels.repeated(x, torch.arange(1000) % 2, torch.tensor([4, 7]))
    told = ~table["y"].isnan()
    assert abs(told.double().mean() - few_labels.SHARE) < 0.01 and torch.equal(table["x"][:1000], x)
    assert (
        set(table["y"][told].tolist()) == {0.0, 1.0}
        and (table["x"][told].unique(dim=0) == x[[4, 7]].unique(dim=0)).all()
    )


@pytest.mark.parametrize("name, pictures", [("semi-supervised", ["classes", "codes"]), ("half-moons", ["moons"])])
def test_the_command_writes_the_table_and_the_pictures(ppvae_, name, pictures):
    code, _, err = ppvae_("reproduce", name, "--seeds", 1, "--budget", "smoke", "--json", "t.json", "--figures", "p")
    assert code == 0, err
    found = {(r["row"], r["column"]): r for r in json.load(open("t.json"))["results"]}
    assert all(math.isfinite(r["value"]) for r in found.values())
    if name == "semi-supervised":
        assert found["M1+M2", "100 labels, error %"]["reference"] == 3.33
    else:
        assert found["every label", "error %"]["value"] < 5 < found["nearest label", "error %"]["value"]
    for picture in pictures:
        assert open(f"p/labels-{picture}.png", "rb").read(8) == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow  # about a minute
def test_half_moons_are_told_apart_by_three_labels_a_class():
    found = half_moons._moons(0, half_moons.BUDGETS["cpu"])
    assert found["M2", "error %"] < 1 and found["ADGM", "error %"] < 1 < found["nearest label", "error %"]


def test_the_class_is_completed_where_it_is_not_known():
    one = made("semi_supervised_vae")
    x, y, mask = labelled()
    post = ppvae.condition(one, {"x": x, "y": y}, {"x": mask})
    torch.manual_seed(0)
    drawn = post.impute(7, entry="y")
    torch.manual_seed(0)
    assert drawn.shape == (7, N, 1) and torch.equal(drawn.squeeze(-1), post.sample(7)["y"].double())
    assert (drawn[:, ~y.isnan(), 0] == y[~y.isnan()]).all() and drawn[:, y.isnan()].unique().numel() > 1
    with pytest.raises(ppvae.Problem, match="has no mean"):
        post.impute_mean(entry="y")
    with pytest.raises(ppvae.Problem, match="no entry 'z' to complete"):
        post.impute(entry="z")


def test_classes_that_no_row_shows_are_refused_by_fit():
    x, y, _ = labelled()
    with pytest.raises(ppvae.Problem, match="'y' is absent in every row"):
        ppvae.fit(
            made("semi_supervised_vae"), {"x": x, "y": y * torch.nan}, objective=ppvae.semi_supervised(), epochs=1
        )


def test_pictures_are_not_replaced(ppvae_, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "mine.png").write_bytes(b"mine")
    code, _, err = ppvae_("reproduce", "half-moons", "--seeds", 1, "--budget", "smoke", "--figures", tmp_path / "p")
    assert code == 2 and "holds pictures already" in err and (tmp_path / "p" / "mine.png").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["semi_supervised_vae", "adgm"])
def test_what_fills_a_gap_moves_no_bit_of_bound_or_gradient(name):
    """Of the guide's networks, and of the story's own p(a | x_o, y, z), which `ppvae.check` does not score."""
    one = made(name)
    x, y, mask = labelled()
    found = []
    for fill in (0.0, 1.0):
        one._fills["x"] = fill
        bound = value(ppvae.semi_supervised(ppvae.elbo(2)), one, x, y, mask)
        found.append([bound, *torch.autograd.grad(bound.sum(), list(one.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
