"""Bounds and their gradients, held against quadrature and against an independent Monte Carlo in numpy."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, linear_gaussian, pair
from torch import nn

import ppvae
from ppvae.door import enter
from ppvae.objectives import (
    annealed,
    beta,
    capacity,
    elbo,
    free_bits,
    frozen,
    iw_elbo,
    renyi,
    wake_sleep,
)
from ppvae.staging.step import Step

ALPHAS = (-2.0, -0.5, 0.0, 0.5, 2.0)


def wrong(N=3, D=3):
    """One latent, a linear guide that knows nothing, and rows with gaps."""
    made, x, mask = linear_gaussian("factor_analysis_diagonal", N=N, D=D, K=1)
    with torch.no_grad():
        made.encoder.linear.weight.mul_(0.3)
        made.encoder.log_scale.fill_(-0.4)
    return made, x, mask


# --- the reference: numpy alone, but for the guide's own formula ------------------------------------------


def log_weight(made, x, mask, noise):
    """log p(x_o, z) - log q(z) at z = loc + scale · noise, noise (…, N)."""
    d, e = made.decoder, made.encoder
    W, loc, scale = (t.detach().numpy() for t in (d.W[:, 0], d.loc, d.scale))
    x, mask = x.numpy(), mask.numpy()
    mean = np.where(mask, x, 0.0) @ e.linear.weight.detach().numpy()[0] + e.linear.bias.item()
    sd = math.exp(e.log_scale.item())
    z = mean + sd * noise
    errors = (x - z[..., None] * W - loc) / scale
    likelihood = (np.where(mask, -0.5 * errors**2 - np.log(scale) - 0.5 * np.log(2 * np.pi), 0.0)).sum(-1)
    return likelihood - 0.5 * z**2 + np.log(sd) + 0.5 * noise**2


def combine(log_w, alpha):
    """log mean w^(1-α) / (1-α) over the first axis."""
    if alpha == 1:
        return log_w.mean(0)
    s = (1 - alpha) * log_w
    top = s.max(0)
    return (top + np.log(np.exp(s - top).mean(0))) / (1 - alpha)


def nodes(P, points):
    """Gauss-Hermite for P independent standard normals: noise (P, Q), weights (Q,)."""
    t, w = np.polynomial.hermite_e.hermegauss(points)
    grids = np.meshgrid(*[t] * P, indexing="ij")
    weights = np.prod(np.meshgrid(*[w / w.sum()] * P, indexing="ij"), axis=0)
    return np.stack([g.ravel() for g in grids]), weights.ravel()


def by_quadrature(made, x, mask, P, alpha, points=120):
    noise, weights = nodes(P, points)
    return weights @ combine(log_weight(made, x, mask, noise[..., None] * np.ones(len(x))), alpha)  # (N,)


PARAMETERS = (
    ("decoder.W", (0, 0)),
    ("decoder.loc", (1,)),
    ("encoder.linear.weight", (0, 1)),
    ("encoder.log_scale", (0,)),
)


def slopes(made, value, h=1e-5):
    """Central differences of ``value()`` along each of PARAMETERS."""
    found = []
    named = dict(made.named_parameters())
    for name, at in PARAMETERS:
        kept = named[name].detach().clone()
        ends = []
        for step in (h, -h):
            with torch.no_grad():
                named[name].copy_(kept).__getitem__(at).add_(step)
            ends.append(value())
        with torch.no_grad():
            named[name].copy_(kept)
        found.append((ends[0] - ends[1]) / (2 * h))
    return np.stack(found, -1)  # (…, 4)


def chosen(made, bound):
    named = dict(made.named_parameters())
    found = torch.autograd.grad(bound, [named[name] for name, _ in PARAMETERS])
    return torch.stack([g[at] for g, (_, at) in zip(found, PARAMETERS, strict=True)])


def sampled(made, objective, x, mask, chunks=40, copies=500):
    """Mean and standard error of a bound by row and of the gradient of its mean."""
    many, masks = x.repeat(copies, 1), mask.repeat(copies, 1)
    values, gradients = [], []
    for _ in range(chunks):
        bound = objective(made, many, masks)
        values.append(bound.detach().reshape(copies, -1).mean(0))
        gradients.append(chosen(made, bound.mean()))
    return [(torch.stack(s).mean(0), torch.stack(s).std(0) / math.sqrt(chunks)) for s in (values, gradients)]


def agree(estimate, truth, other=0.0):
    mean, error = estimate
    z = (mean - torch.as_tensor(truth)).abs() / (error**2 + torch.as_tensor(other) ** 2 + 1e-24).sqrt()
    assert (z < 5).all(), z


CASES = [
    *((elbo(1), 1, 1.0), (elbo(3), 1, 1.0), (elbo(2, "stl"), 1, 1.0), (elbo(4, "score"), 1, 1.0)),
    *((iw_elbo(P, g), P, 0.0) for P in (1, 2) for g in ("pathwise", "dreg")),
    *((iw_elbo(1, "stl"), 1, 0.0), (iw_elbo(2, "vimco"), 2, 0.0)),
    *((renyi(a, 2, g), 2, a) for a in ALPHAS for g in ("pathwise", "dreg")),
    *((renyi(1.0, 2, g), 1, 1.0) for g in ("pathwise", "stl", "dreg")),
    *((renyi(-2.0, 1), 1, 1.0), (renyi(2.0, 1, "dreg"), 1, 1.0)),
]


@pytest.mark.parametrize("objective, P, alpha", CASES, ids=lambda v: repr(v))
def test_bounds_and_gradients_are_those_of_quadrature(objective, P, alpha):
    made, x, mask = wrong()
    value = by_quadrature(made, x, mask, P, alpha)
    slope = slopes(made, lambda: by_quadrature(made, x, mask, P, alpha).mean())
    bound, gradient = sampled(made, objective, x, mask, copies=1500 if objective.gradient == "score" else 500)
    agree(bound, value)
    agree(gradient, slope)


MANY = [
    *((iw_elbo(P, g), 0.0) for P in (10, 100, 1000) for g in ("pathwise", "dreg")),
    *((renyi(a, 10, "dreg"), a) for a in ALPHAS),
    (iw_elbo(10, "vimco"), 0.0),
]


@pytest.mark.parametrize("objective, alpha", MANY, ids=lambda v: repr(v))
def test_bounds_and_gradients_of_many_particles_are_those_of_numpy(objective, alpha):
    made, x, mask = wrong()
    P = objective.particles
    noise = np.random.default_rng(1).standard_normal((P, 1_000_000 // P, len(x)))
    draws = combine(log_weight(made, x, mask, noise), alpha)  # (R, N)
    slope = slopes(made, lambda: combine(log_weight(made, x, mask, noise), alpha).mean(-1))  # (R, 4)
    bound, gradient = sampled(made, objective, x, mask, chunks=30, copies=max(10, 3000 // P))
    agree(bound, draws.mean(0), draws.std(0) / math.sqrt(len(draws)))
    agree(gradient, slope.mean(0), slope.std(0) / math.sqrt(len(slope)))


def test_the_elbo_without_closed_forms_is_the_closed_one():
    """stl and score take every KL by draws; the quadrature above is of draws too. Here: the Gaussian formula."""
    made, x, mask = wrong()
    with torch.no_grad():
        assert elbo().terms(made, x, mask).analytic == ("z",)
        assert elbo(1, "stl").terms(made, x, mask).analytic == ()
        closed = elbo().terms(made, x, mask).kl["z"]
        draws = torch.stack([elbo(2000, "stl").terms(made, x, mask).kl["z"] for _ in range(30)])
    agree((draws.mean(0), draws.std(0) / math.sqrt(30)), closed)


@pytest.mark.parametrize("P", [1, 4])
def test_renyi_at_0_is_the_importance_weighted_bound_bit_for_bit(P):
    made, x, mask = wrong()
    for gradient in ("pathwise", "stl", "dreg"):
        found = []
        for objective in (renyi(0.0, P, gradient), renyi(0, P, gradient), iw_elbo(P, gradient)):
            torch.manual_seed(3)
            bound = objective(made, x, mask)
            found.append((bound, *torch.autograd.grad(bound.sum(), list(made.parameters()))))
        assert all(torch.equal(a, b) for other in found[:2] for a, b in zip(other, found[2], strict=True))


@pytest.mark.parametrize(
    "estimator, plain",
    [
        (iw_elbo(5, "stl"), iw_elbo(5)),
        (iw_elbo(5, "dreg"), iw_elbo(5)),
        (wake_sleep(5), iw_elbo(5)),
        (wake_sleep(5, sleep=True), iw_elbo(5)),
        (renyi(0.5, 5, "dreg"), renyi(0.5, 5)),
        (elbo(3, "stl"), elbo(3)),
    ],
    ids=repr,
)
def test_an_estimator_changes_the_gradient_and_not_the_value(estimator, plain):
    """On the same draws; z1 of two layers has no closed KL, z2 has one, which the path gradient does without."""
    made, x = pair("two_layer"), data(pair("two_layer"))[0]["x"]
    found = []
    for objective in (estimator, plain):
        torch.manual_seed(2)
        bound = objective(made, x)
        found.append(
            (bound.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(bound.sum(), made.parameters())]))
        )
    (value, slope), (other, plain_slope) = found
    assert not torch.allclose(slope, plain_slope)
    with torch.no_grad():
        torch.manual_seed(2)
        assert torch.equal(estimator(made, x), value)
    assert torch.equal(value, other) == (not isinstance(estimator, elbo))


def test_with_the_exact_posterior_the_path_gradient_has_no_variance():
    """Of the guide's own parameters: 0 at every draw, where the plain gradient's is only 0 on average."""
    made, x, mask = linear_gaussian("factor_analysis_rank_one_experts", N=6, D=4, K=2)
    d = made.decoder
    made.encoder.set_(d.W, d.loc, d.scale)
    parameters = list(made.encoder.parameters())
    largest = {}
    for objective in (
        elbo(1, "stl"),
        iw_elbo(5, "stl"),
        iw_elbo(5, "dreg"),
        renyi(0.5, 5, "dreg"),
        iw_elbo(5),
        renyi(2.0, 5),
    ):
        found = [torch.autograd.grad(objective(made, x, mask).sum(), parameters) for _ in range(5)]
        largest[objective] = max(float(g.abs().max()) for gs in found for g in gs)
    assert all(v < 1e-12 for o, v in largest.items() if o.gradient != "pathwise"), largest
    assert all(v > 1e-2 for o, v in largest.items() if o.gradient == "pathwise"), largest


def test_the_stl_gradient_of_the_importance_weighted_bound_is_biased():
    """Its docstring says so: many standard errors from the quadrature for the guide, none for the story."""
    made, x, mask = wrong()
    slope = torch.as_tensor(slopes(made, lambda: by_quadrature(made, x, mask, 2, 0.0).mean()))
    _, (mean, error) = sampled(made, iw_elbo(2, "stl"), x, mask)
    z = (mean - slope) / error
    assert (z[:2].abs() < 5).all() and (z[2:].abs() > 10).all(), z


def test_the_path_of_a_hierarchical_guide_is_weighed_once():
    """Two layers, the second drawn from the first: DReG and the plain gradient have one mean."""
    torch.manual_seed(0)
    made = pair("two_layer", features=3, latents=1, hidden=(3, 3))
    for p in made.parameters():  # so that the layers depend on one another
        p.data.mul_(3.0)
    x = torch.bernoulli(torch.full((2, 3), 0.5))
    parameters = list(made.parameters())

    def gradients(objective, chunks=40):
        rows = []
        for _ in range(chunks):
            found = torch.autograd.grad(objective(made, x.repeat(1500, 1)).mean(), parameters)
            rows.append(torch.cat([g.flatten() for g in found]))
        rows = torch.stack(rows)
        return rows.mean(0), rows.std(0) / math.sqrt(chunks)

    plain, error = gradients(iw_elbo(4))
    for objective in (iw_elbo(4, "dreg"), elbo(1, "stl")):
        other, others = gradients(objective)
        base, bases = (plain, error) if isinstance(objective, iw_elbo) else gradients(elbo(1))
        z = (other - base).abs() / (others**2 + bases**2 + 1e-24).sqrt()
        assert z.max() < 5.5, z.max()  # a few dozen parameters


class Numbers(nn.Module):
    """Parameters by name."""

    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.tensor(value)))


def heard(theta, x=None, y=None, mask=True, *, size=1):
    """y ~ N(m, 1),  z | y ~ N(y, s),  x | z ~ N(w z, 1), where y is seen in some rows."""
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        y = pyro.sample("y", dist.Normal(theta.m.expand(1), 1.0), obs=y)
        z = pyro.sample("z", dist.Normal(y, theta.s.exp()))
        with pyro.plate("features", 2, dim=-1):
            return pyro.sample("x", dist.Normal(z * theta.w, 1.0), obs=x)


def hearing(phi, x, y=None, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        if y is None:
            y = pyro.sample("y", dist.Normal(x.sum(-1, keepdim=True) * phi.a, phi.s.exp()))
        pyro.sample("z", dist.Normal(y * phi.c + phi.b, 0.8))


def test_an_entry_that_some_rows_saw_has_no_path_and_no_score_there():
    """Each estimator against the plain gradient of its bound: the guide's y is a draw in every second row."""
    theta, phi = Numbers(m=0.3, s=-0.2, w=[0.5, -1.0]), Numbers(a=0.2, s=0.1, c=0.8, b=0.1)
    made = ppvae.Pair(heard, hearing, theta=theta, phi=phi)
    rows = {"x": torch.randn(4, 2).repeat(1000, 1), "y": torch.randn(4, 1).repeat(1000, 1)}
    table = enter(made, rows, {"y": torch.tensor([True, False]).repeat(2000)})

    def gradient(objective, chunks=40):
        found = [torch.autograd.grad(objective(made, table).mean(), list(made.parameters())) for _ in range(chunks)]
        found = torch.stack([torch.cat([g.flatten() for g in each]) for each in found])
        return found.mean(0), found.std(0) / math.sqrt(chunks)

    for plain, others in ((iw_elbo(3), ("dreg", "vimco")), (elbo(2), ("stl", "score"))):
        truth, error = gradient(plain)
        for other in others:
            agree(gradient(type(plain)(plain.particles, other)), truth, error)
    assert wake_sleep(3, sleep=True)(made, table).isfinite().all()


class Rows(nn.Module):
    """A guide with a location of its own in each row: one batch gives as many independent gradients as rows."""

    def __init__(self, N):
        super().__init__()
        self.loc = nn.Parameter(torch.full((N, 1, 1), 0.4))


def signal_to_noise(gradient, particles, N=4000):
    """|mean| / standard deviation of the gradient of the guide's location, over N independent estimates."""

    def model(x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 1), 1.0).to_event(1)).squeeze(-1)
            with pyro.plate("features", 1, dim=-1):
                return pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(rows, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(rows.loc, 0.8).to_event(1))

    made = ppvae.Pair(model, guide, rows=Rows(N))
    found = []
    for block in torch.full((N, 1), 1.5).split(N):
        bound = iw_elbo(particles, gradient)(made, block)
        found.append(torch.autograd.grad(bound.sum(), made.rows.loc)[0].flatten())
    found = torch.cat(found)
    return float(found.mean().abs() / found.std())


def test_the_signal_to_noise_of_dreg_grows_with_particles_and_the_plain_gradients_falls():
    plain = [signal_to_noise("pathwise", P) for P in (1, 16, 256)]
    dreg = [signal_to_noise("dreg", P) for P in (1, 16, 256)]
    assert plain[0] > 1.5 * plain[1] > 2 * plain[2], plain
    assert 1.5 * dreg[0] < dreg[1] and 2 * dreg[1] < dreg[2], dreg


# --- staging ----------------------------------------------------------------------------------------------

OBJECTIVES = [
    *(elbo(2), elbo(2, "stl"), elbo(3, "score"), iw_elbo(4), iw_elbo(4, "stl"), iw_elbo(4, "dreg"), iw_elbo(1, "dreg")),
    *(iw_elbo(4, "vimco"), renyi(0.5, 4), renyi(-0.5, 4, "dreg"), renyi(2.0, 4, "stl")),
    *(wake_sleep(4), wake_sleep(4, sleep=True), elbo(kl=beta(4.0)), elbo(kl=annealed(0.5, 4)), elbo(kl=free_bits(0.5))),
    *(elbo(kl=free_bits(0.1, per="unit")), elbo(kl=capacity(2.0, 10.0))),
    *(elbo(2, "stl", (annealed(), beta(2.0))), elbo(2, "score", (annealed(), beta(2.0)))),
]


@pytest.mark.parametrize(
    "name",
    [
        *("vae", "bayesian_linear"),
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("two_layer", "factor_analysis_diagonal")),
    ],
)
def test_every_objective_staged_equals_eager_bit_for_bit(name):
    made = pair(name, **{"vae": {"hidden": (8,)}, "two_layer": {"hidden": (8, 8)}}.get(name, {}))
    entries, mask = data(made, rows=20)
    parameters = list(made.parameters())
    refused = set()
    for objective in OBJECTIVES:
        try:
            ppvae.check(made, entries, mask, objective=objective)
        except ppvae.Problem as problem:
            refused.add((repr(objective), problem.seen.split(":")[0]))
            continue
        table = enter(made, entries, {"x": mask})
        staged, eager = (Step(made, objective, parameters, s) for s in (True, False))
        for i in range(10):
            batch, done = table.rows(torch.randperm(20)[:8]), torch.tensor(i / 9, dtype=torch.float64)
            found = []
            for step in (staged, eager):
                torch.manual_seed(i)
                found.append([step(batch, done), *(p.grad for p in parameters)])
            assert all(map(torch.equal, *found)), (objective, i)
        assert staged.how == "staged", (objective, staged.how)
    unit = repr(elbo(kl=free_bits(0.1, per="unit")))
    if name == "two_layer":
        assert refused == {(unit, "the KL of 'z1' is not known coordinate by coordinate")}
    elif name == "bayesian_linear":
        legal = [o for o in OBJECTIVES if isinstance(o, elbo) and o.gradient != "score" and repr(o) != unit]
        assert {r for r, _ in refused} == {repr(o) for o in OBJECTIVES if o not in legal}
    else:
        assert not refused


class Offset(nn.Module):
    """An objective with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, pair, x, mask=None):
        return elbo()(pair, x, mask) - (self.offset - 1.0) ** 2


def test_an_objective_with_parameters_is_staged_and_trained():
    ends = []
    for compile in ("auto", "off"):
        made, objective = pair("vae"), Offset()
        result = ppvae.fit(
            made, data(made)[0], objective=objective, epochs=4, batch_size=6, learning_rate=0.1, compile=compile
        )
        ends.append([objective.offset, *made.parameters()])
    assert all(map(torch.equal, *ends)) and ends[0][0] > 0.1 and compile in result.step


# --- wake-sleep -------------------------------------------------------------------------------------------


def test_wake_sleep_gives_each_side_its_own_gradient():
    """By hand on the same draws: the story sum w grad log p, the guide sum w grad log q."""
    made, x, mask = wrong()
    torch.manual_seed(4)
    bound = wake_sleep(6)(made, x, mask).sum()
    ours = torch.autograd.grad(bound, list(made.parameters()))
    d, e = made.decoder, made.encoder
    filled = torch.where(mask, x, 0.0)
    torch.manual_seed(4)
    q = torch.distributions.Normal(e.linear(filled), e.log_scale.exp())
    z = (q.loc + q.scale * torch.randn(6, 3, 1, 1).squeeze(-1)).detach()  # (P, N, 1)
    log_q = q.log_prob(z).sum(-1)
    errors = torch.distributions.Normal(z * d.W[:, 0] + d.loc, d.scale).log_prob(filled)
    log_p = (errors * mask).sum(-1) + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    w = (log_p - log_q).detach().softmax(0)
    theirs = torch.autograd.grad((w * (log_p + log_q)).sum(), list(made.parameters()))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_in_its_sleep_the_guide_falls_towards_the_posterior():
    """The stationary point of E_p(x,z)[log q(z | x)] under complete rows is the regression of z on x."""
    made, x, _ = linear_gaussian("factor_analysis_diagonal", N=200, D=3, K=1)
    d = made.decoder
    covariance = d.W @ d.W.T + torch.diag(d.scale**2)
    gain = (d.W.T @ torch.linalg.inv(covariance)).detach()  # (1, D)
    d.requires_grad_(False)
    with torch.no_grad():
        made.encoder.linear.weight.copy_(gain)
        made.encoder.linear.bias.copy_(-(gain @ d.loc))
        made.encoder.log_scale.copy_(0.5 * (1 - gain @ d.W).squeeze(1).log())
    weight = made.encoder.linear.weight
    found = torch.stack([_sleep_gradient(made, x, weight) for _ in range(50)])
    assert (found.mean(0).abs() < 5 * found.std(0) / math.sqrt(50)).all()
    with torch.no_grad():
        weight.add_(0.1)
    found = torch.stack([_sleep_gradient(made, x, weight) for _ in range(50)])
    assert (found.mean(0).abs() > 5 * found.std(0) / math.sqrt(50)).any()


def _sleep_gradient(made, x, weight):
    """The gradient with sleep less the gradient without, on the same draws."""
    found = []
    seed = int(torch.randint(10**6, ()))
    for sleep in (True, False):
        torch.manual_seed(seed)
        found.append(torch.autograd.grad(wake_sleep(2, sleep=sleep)(made, x).mean(), weight)[0])
    return found[0] - found[1]


# --- frozen -----------------------------------------------------------------------------------------------


def held_story(pair, x, mask=None):
    with frozen(pair.decoder):
        return elbo()(pair, x, mask)


def held_by_half(pair, x, mask=None):
    with frozen(pair.encoder):
        return 0.5 * elbo()(pair, x, mask) + 0.5 * held_story(pair, x, mask)


def test_frozen_modules_get_no_gradient_and_let_it_through():
    made = pair("vae")
    table = enter(made, data(made)[0])
    parameters, story = list(made.parameters()), {id(p) for p in made.decoder.parameters()}
    torch.manual_seed(1)
    elbo()(made, table).mean().backward()
    free = [-p.grad for p in parameters]
    before = dict(made.named_parameters())
    for staged in (True, False):
        step = Step(made, held_story, parameters, staged)
        for _ in range(3):
            torch.manual_seed(1)
            step(table)
            for p, whole in zip(parameters, free, strict=True):
                assert torch.equal(p.grad, torch.zeros_like(p) if id(p) in story else whole)
        assert step.how == ("staged" if staged else "eager: compile='off'")
    after = dict(made.named_parameters())
    assert all(after[name] is p and p.requires_grad for name, p in before.items())
    Step(made, held_by_half, parameters, True)(table)  # one inside the other
    assert all(dict(made.named_parameters())[name] is p for name, p in before.items())


# --- what is refused --------------------------------------------------------------------------------------

REFUSED = {
    "a weight of the KL under importance weights": (lambda: iw_elbo(5, kl=beta(2.0)), "no KL term", "ppvae.elbo"),
    "the same of renyi": (lambda: renyi(0.5, kl=annealed()), "no KL term", "ppvae.elbo"),
    "a misspelt gradient": (lambda: elbo(gradient="slt"), "'slt'", "stl"),
    "dreg of the elbo": (lambda: elbo(gradient="dreg"), "'dreg'", "iw_elbo"),
    "vimco of the elbo": (lambda: elbo(gradient="vimco"), "'vimco'", "score"),
    "score of the iw_elbo": (lambda: iw_elbo(gradient="score"), "'score'", "vimco"),
    "vimco of renyi": (lambda: renyi(0.5, gradient="vimco"), "'vimco'", "iw_elbo"),
    "a score without a baseline": (lambda: elbo(1, "score"), "baseline", "particles=5"),
    "vimco with one particle": (lambda: iw_elbo(1, "vimco"), "baseline", "particles=5"),
    "no order": (lambda: renyi(math.nan), "alpha is nan", "0.5"),
    "an infinite order": (lambda: renyi(math.inf), "alpha is inf", "0.5"),
    "no particles": (lambda: renyi(0.5, 0), "particles is 0", "5"),
    "no particles to wake": (lambda: wake_sleep(0), "particles is 0", "5"),
    "a negative weight": (lambda: beta(-1.0), "weight is -1.0", "beta"),
    "a share of more than all": (lambda: annealed(1.5), "share is 1.5", "0.5"),
    "half a cycle": (lambda: annealed(0.5, 0.5), "cycles is 0.5", "4"),
    "no bits": (lambda: free_bits(0.0), "nats is 0.0", "free_bits"),
    "bits of what": (lambda: free_bits(0.1, per="pixel"), "per is 'pixel'", "unit"),
    "no capacity": (lambda: capacity(-3.0, 10.0), "target is -3.0", "capacity"),
    "a capacity without weight": (lambda: capacity(3.0, 0.0), "weight is 0.0", "capacity"),
    "a number as a shape": (lambda: elbo(kl=0.5), "kl is 0.5", "beta"),
    "two weights": (lambda: elbo(kl=(beta(1.0), beta(2.0))), "beta, beta", "one of each"),
    "a capacity and a weight": (lambda: elbo(kl=(capacity(1.0, 2.0), beta(2.0))), "capacity, beta", "one of each"),
    "a floor under scores": (lambda: elbo(3, "score", free_bits(0.1)), "free_bits.*'score'", "pathwise"),
    "coordinates by draws": (lambda: elbo(3, "stl", free_bits(0.1, per="unit")), "free_bits.*'stl'", "pathwise"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_objective_is_refused(what):
    build, says, instead = REFUSED[what]
    with pytest.raises(ppvae.Problem, match=f"(?s){says}") as met:
        build()
    assert met.value.cause and instead in met.value.remedy


def test_a_kl_that_is_not_there_cannot_be_shaped():
    def model(numbers, x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2), pyro.plate("features", 2, dim=-1):
            return pyro.sample("x", dist.Normal(numbers.loc, 1.0), obs=x)

    numbers = nn.Module()
    numbers.loc = nn.Parameter(torch.zeros(2))
    for kl in (beta(2.0), free_bits(0.1), capacity(1.0, 1.0)):
        with pytest.raises(ppvae.Problem, match="draws nothing"):
            elbo(kl=kl)(ppvae.Pair(model, numbers=numbers), torch.randn(4, 2))


def test_dropout_stands_in_the_way_of_running_the_guide_twice():
    made = pair("vae", hidden=(4,))
    made.encoder.add_module("drop", nn.Dropout(0.5))
    x = data(made)[0]["x"]
    with pytest.raises(ppvae.Problem, match="dropout"):
        iw_elbo(3, "dreg")(made.train(), x)
    assert iw_elbo(3, "dreg")(made.eval(), x).isfinite().all() and iw_elbo(3)(made.train(), x).isfinite().all()


def test_running_the_guide_twice_moves_no_buffer_twice():
    made = pair("vae", hidden=(4,))
    norm = nn.BatchNorm1d(9)
    made.encoder.register_forward_pre_hook(lambda module, args: (norm(args[0]), *args[1:]))
    made.encoder.add_module("norm", norm)
    x = data(made)[0]["x"]
    elbo(1, "stl")(made.train(), x)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize(
    "objective, unit",
    [
        *((elbo(), True), (elbo(kl=beta(0.5)), False), (elbo(kl=beta(1.0)), True), (elbo(kl=beta(4.0)), True)),
        *((elbo(kl=annealed()), False), (elbo(kl=free_bits(0.5)), True), (elbo(kl=capacity(1.0, 2.0)), False)),
        *((renyi(-0.1), False), (renyi(0.0), True), (renyi(3.0), True), (iw_elbo(), True), (wake_sleep(), True)),
    ],
    ids=repr,
)
def test_a_unit_is_said_where_the_number_is_a_bound(objective, unit):
    assert (objective.unit == "nats per row") == unit and objective.unit in ("nats per row", None)
