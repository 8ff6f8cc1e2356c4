"""Images with attributes: the product of experts against quadrature, the objectives against dense Gaussians."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.distributions import MultivariateNormal, Normal

import ppvae
from ppvae.door import enter
from ppvae.nn.attributes import AttributeExperts
from ppvae.objectives.modalities import bivcca, jmvae, telbo
from ppvae.tracing.traces import run

CLASSES = (3, 2, 3)
NAN = float("nan")


# --- the pair ---------------------------------------------------------------------------------------


def make(latents=2, features=5, seed=0, **options):
    torch.manual_seed(seed)
    pair = ppvae.make("multimodal_vae", features=features, latents=latents, hidden=(8, 6), classes=CLASSES, **options)
    with torch.no_grad():
        pair.encoder.attributes.loc.normal_()
        pair.encoder.attributes.spread.normal_()
    return pair


def rows():
    """Both, x alone, y alone, some of y alone, nothing, x and some of y, some of x."""
    torch.manual_seed(3)
    x, y = torch.rand(7, 5).bernoulli(), torch.stack([torch.randint(c, (7,)) for c in CLASSES], 1).double()
    mask, mask_y = torch.ones(7, 5, dtype=torch.bool), torch.ones(7, 3, dtype=torch.bool)
    mask[2:5], mask_y[1], mask_y[4], mask_y[6] = False, False, False, False
    mask_y[3], mask_y[5] = torch.tensor([True, False, True]), torch.tensor([False, True, False])
    mask[6, :3] = False
    return x, y, mask, mask_y


def guide_of(pair, x=None, y=None, mask=None, mask_y=None):
    """Mean and scale of q(z | what is given), (N, K)."""
    entries, masks = {"x": x, "y": y}, {"x": mask, "y": mask_y}
    known = {name: value for name, value in entries.items() if value is not None}
    table = enter(pair, known, {name: masks[name] for name in known})
    site = poutine.trace(pair.guide).get_trace(size=len(table), **table.call(pair)).nodes["z"]
    return site["fn"].mean.squeeze(-2), site["fn"].variance.squeeze(-2).sqrt()


@pytest.mark.parametrize("seen", [(), (0,), (1, 2), (0, 1, 2)])
def test_the_attributes_guide_is_the_product_of_its_gaussians(seen):
    pair = make(latents=1)
    y = torch.tensor([[2.0, 0.0, 1.0]])
    mask = torch.zeros(1, 3, dtype=torch.bool)
    mask[:, list(seen)] = True
    loc, scale = guide_of(pair, y=y, mask_y=mask)
    experts, reading = pair.encoder.attributes, pair.encoder.attributes.reading
    z = torch.linspace(-12, 12, 200_001)
    density = Normal(0.0, 1.0).log_prob(z)
    for k in seen:
        f = reading(y, torch.arange(3) == k)[0].argmax()  # the table's line of this class
        sigma = nn.functional.softplus(experts.spread[f]) + 1e-3
        density = density + Normal(experts.loc[f], sigma).log_prob(z)
    weights = density.softmax(0)
    mean = (weights * z).sum()
    assert torch.allclose(loc, mean, atol=1e-10)
    assert torch.allclose(scale, (weights * (z - mean) ** 2).sum().sqrt(), atol=1e-10)


def test_without_attributes_it_is_the_prior_exactly():
    pair = make()
    x, y, mask, mask_y = rows()
    loc, scale = guide_of(pair, x, y, mask, mask_y)
    assert torch.equal(loc[4], torch.zeros(2)) and torch.equal(scale[4], torch.ones(2))
    q = poutine.trace(pair.guide).get_trace(size=3).nodes["z"]["fn"]
    assert torch.equal(q.mean, torch.zeros(3, 1, 2)) and torch.equal(q.variance, torch.ones(3, 1, 2))


def test_another_expert_makes_every_coordinate_narrower():
    experts = AttributeExperts(CLASSES, 4)
    with torch.no_grad():
        experts.spread.normal_()
    y, last = torch.tensor([[1.0, 1.0, 2.0]]), torch.ones(1, 1, 4)
    for seen in (1, 2, 3):
        variance = experts(experts.reading(y, torch.arange(3) < seen)[0]).variance
        assert (variance < last).all()
        last = variance


def test_rows_of_one_batch_are_read_as_if_alone():
    pair, (x, y, mask, mask_y) = make(), rows()
    loc, scale = guide_of(pair, x, y, mask, mask_y)
    alone = {  # each row as a batch of its own, from which what it lacks is left out
        0: {"x": x[:1], "y": y[:1]},
        1: {"x": x[1:2]},
        2: {"y": y[2:3]},
        3: {"y": y[3:4], "mask_y": mask_y[3:4]},
        5: {"x": x[5:6], "y": y[5:6], "mask_y": mask_y[5:6]},
        6: {"x": x[6:7], "mask": mask[6:7]},
    }
    for n, given in alone.items():
        a, b = guide_of(pair, **given)
        assert torch.allclose(loc[n], a[0], atol=1e-14) and torch.allclose(scale[n], b[0], atol=1e-14), n
    assert not torch.allclose(loc[5], guide_of(pair, x[5:6])[0][0])  # one attribute is enough to be read
    networks = guide_of(pair, x[:1])[0], guide_of(pair, x[:1], y[:1])[0], guide_of(pair, y=y[:1])[0]
    assert len({tuple(loc[0].tolist()) for loc in networks}) == 3


def test_what_stands_in_a_gap_is_not_read():
    pair, (x, y, mask, mask_y) = make(), rows()
    other = torch.where(mask, x, 1 - x), torch.where(mask_y, y, 1.0)
    for a, b in zip(guide_of(pair, x, y, mask, mask_y), guide_of(pair, *other, mask, mask_y), strict=True):
        assert torch.equal(a, b)


def test_conditioning_on_attributes_is_quadrature():
    """log p(y_o), and E[x | y_o], of one latent: a grid against importance weights, 5 standard errors."""
    pair = make(latents=1)
    with torch.no_grad():
        pair.encoder.attributes.spread.add_(1.5)  # wide enough that no weight is nearly all
    y = torch.tensor([[2.0, NAN, 1.0], [NAN, 1.0, NAN], [NAN, NAN, NAN]])
    z = torch.linspace(-9, 9, 4001)[:, None, None]  # (G, 1, 1)
    with torch.no_grad():
        laws, image = pair.decoder.y(z), pair.decoder.x(z).mean  # (G, 3), (G, 5)
    prior = Normal(0.0, 1.0).log_prob(z.flatten()) + math.log(18 / 4000)
    post = ppvae.condition(pair, {"y": y})
    evidence, P = post.log_evidence(20_000), 20_000
    weights = post.log_weights(enter(pair, {"y": y}), P)
    for n, row in enumerate(y):
        likelihood = (laws.log_prob(row.nan_to_num().expand(len(z), 3)) * ~row.isnan()).sum(-1)
        exact = (prior + likelihood).logsumexp(0)
        error = weights[:, n].exp().std() / math.sqrt(P) / exact.exp()
        assert abs(evidence[n] - exact) < 5 * error + 1e-6
        mean = ((prior + likelihood).softmax(0)[:, None] * image).sum(0)
        assert torch.allclose(post.impute_mean(5_000)[n], mean, atol=0.03)
    assert post.impute(3).shape == (3, 3, 5) and evidence[2].abs() < 1e-12


@pytest.mark.parametrize("classes", [(), 3, (3, 1)])
def test_attributes_without_classes_are_refused(classes):
    with pytest.raises(ppvae.Problem):
        ppvae.make("multimodal_vae", features=5, latents=2, classes=classes)


# --- two Gaussian modalities ------------------------------------------------------------------------


class Linear(nn.Module):
    """z ~ N(0, I_2), x | z ~ N(W z, diag scale^2), y | z ~ N(V z, diag spread^2)."""

    def __init__(self):
        super().__init__()
        for name, shape in {"W": (3, 2), "V": (2, 2), "scale": (3,), "spread": (2,)}.items():
            value = torch.randn(shape) if len(shape) == 2 else torch.rand(shape) + 0.5
            setattr(self, name, nn.Parameter(value))

    def stacked(self):
        return torch.cat([self.W, self.V]), torch.cat([self.scale, self.spread])


class Gaussians(nn.Module):
    """q(z | x, y), q(z | x), q(z | y) and q(z) without data: N(B (x, y) + b, diag s^2), of each its own."""

    def __init__(self):
        super().__init__()
        self.B = nn.ParameterDict({name: nn.Parameter(0.3 * torch.randn(2, 5)) for name in ("xy", "x", "y")})
        self.b = nn.ParameterDict({name: nn.Parameter(torch.randn(2)) for name in ("xy", "x", "y", "none")})
        self.s = nn.ParameterDict({name: nn.Parameter(torch.rand(2) + 0.4) for name in ("xy", "x", "y", "none")})

    def forward(self, kind, row=None):
        loc = self.b[kind] if row is None else row @ self.B[kind].T + self.b[kind]
        return loc, self.s[kind].expand(loc.shape)


def story(decoder, x=None, y=None, mask=True, mask_y=True, *, size=1):
    N = next((len(v) for v in (x, y) if v is not None), size)
    with pyro.plate("data", N, dim=-2):
        z = pyro.sample("z", dist.Normal(decoder.W.new_zeros(1, 2), 1.0).to_event(1)).squeeze(-2)
        with pyro.plate("targets", 2, dim=-1), poutine.mask(mask=mask_y):
            pyro.sample("y", dist.Normal(z @ decoder.V.T, decoder.spread), obs=y)
        with pyro.plate("features", 3, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(z @ decoder.W.T, decoder.scale), obs=x)


def both(x, y, mask, mask_y, size):
    """The row (N, 5), 0 in a gap, and which entries are seen."""
    N = next((len(v) for v in (x, y) if v is not None), size)
    parts = [(x, mask, 3), (y, mask_y, 2)]
    values = [torch.zeros(N, d) if v is None else v for v, _, d in parts]
    seen = [
        torch.zeros(N, d, dtype=torch.bool) if v is None else torch.ones(N, d, dtype=torch.bool) & m
        for v, m, d in parts
    ]
    return torch.cat(values, 1) * torch.cat(seen, 1), torch.cat(seen, 1)


def amortized(encoder, x=None, y=None, mask=True, mask_y=True, *, size=1):
    row, seen = both(x, y, mask, mask_y, size)
    has = seen[:, :3].any(1), seen[:, 3:].any(1)
    kinds = {"xy": has[0] & has[1], "x": has[0] & ~has[1], "y": has[1] & ~has[0], "none": ~(has[0] | has[1])}
    loc, scale = torch.zeros(len(row), 2), torch.zeros(len(row), 2)
    for kind, where in kinds.items():
        a, b = encoder(kind, row if kind != "none" else None)
        loc, scale = loc + where[:, None] * a, scale + where[:, None] * b
    with pyro.plate("data", len(row), dim=-2):
        pyro.sample("z", dist.Normal(loc[:, None], scale[:, None]).to_event(1))


def exact(decoder, x=None, y=None, mask=True, mask_y=True, *, size=1):
    row, seen = both(x, y, mask, mask_y, size)
    W, scale = decoder.stacked()
    weighted = seen[:, :, None] * W / scale[:, None] ** 2  # (N, 5, 2)
    precision = torch.eye(2) + torch.einsum("njk,jl->nkl", weighted, W)
    loc = torch.linalg.solve(precision, torch.einsum("nj,njk->nk", row, weighted))
    with pyro.plate("data", len(row), dim=-2):
        pyro.sample("z", dist.MultivariateNormal(loc[:, None], precision_matrix=precision[:, None]))


exact.exact = True


def toy(guide=amortized, seed=0):
    torch.manual_seed(seed)
    modules = {"encoder": Gaussians()} if guide is amortized else {}
    return ppvae.Pair(story, guide, decoder=Linear(), **modules)


def gaussian_data(N=6, seed=1):
    torch.manual_seed(seed)
    return {"x": torch.randn(N, 3), "y": torch.randn(N, 2)}


def log_joint(decoder, entries):
    """log p(x, y) of each row, dense."""
    W, scale = decoder.stacked()
    row = torch.cat([entries["x"], entries["y"]], 1)
    return MultivariateNormal(torch.zeros(5), W @ W.T + torch.diag(scale**2)).log_prob(row)


def bound_of(decoder, loc, scale, row, seen, weight=1.0):
    """E_q log p(row_seen | z) - KL(q || p) of q = N(loc, diag scale^2), in closed form, of each row."""
    W, noise = decoder.stacked()
    away = (row - loc @ W.T) ** 2 + (scale**2) @ (W**2).T
    expected = -0.5 * (away / noise**2) - noise.log() - 0.5 * math.log(2 * math.pi)
    kl = 0.5 * (scale**2 + loc**2 - 1) - scale.log()
    return (weight * expected * seen).sum(1) - kl.sum(1)


def gradients(pair, value):
    named = list(pair.named_parameters())
    found = torch.autograd.grad(value, [p for _, p in named], allow_unused=True, retain_graph=True)
    return {name: None if g is None else g for (name, _), g in zip(named, found, strict=True)}


def test_with_exact_posteriors_the_story_learns_from_the_joint_evidence_alone():
    pair, entries = toy(exact), gaussian_data()
    value = telbo()(pair, entries)
    truth = log_joint(pair.decoder, entries)
    assert torch.allclose(value, truth, atol=1e-10)
    ours, exactly = gradients(pair, value.sum()), gradients(pair, truth.sum())
    for name, gradient in exactly.items():
        assert torch.allclose(ours[name], gradient, atol=1e-9), name


def test_the_storys_gradient_is_the_joint_bounds_and_the_value_too():
    pair, entries = toy(), gaussian_data()
    values = {}
    for objective in (ppvae.elbo(), telbo(alone={"y": 7.0})):
        torch.manual_seed(5)
        value = objective(pair, entries)
        values[type(objective)] = value, gradients(pair, value.sum())
    (a, of_a), (b, of_b) = values.values()
    assert torch.equal(a, b)
    for name in of_a:
        if name.startswith("decoder") or name.endswith("xy"):
            assert torch.equal(of_a[name], of_b[name]), name
    assert of_b["encoder.b.x"].abs().min() > 0 and of_b["encoder.b.y"].abs().min() > 0


@pytest.mark.parametrize("name, gamma", [("x", 1.0), ("y", 3.0)])
def test_what_is_alone_follows_its_own_bound(name, gamma):
    """The gradient in q(z | m) against that of the closed bound of m alone, over repeated rows: 5 standard errors."""
    pair, one = toy(), gaussian_data(1)
    entries = {n: v.expand(20_000, -1) for n, v in one.items()}
    row, seen = both(*(one[n] if n == name else None for n in "xy"), True, True, 1)
    exactly = gradients(pair, bound_of(pair.decoder, *pair.encoder(name, row), row, seen, gamma).sum())
    blocks = []
    for seed in range(40):
        torch.manual_seed(seed)
        part = {n: v[:500] for n, v in entries.items()}
        blocks.append(gradients(pair, telbo(alone={"y": 3.0})(pair, part).mean()))
    for parameter in (f"encoder.b.{name}", f"encoder.s.{name}", f"encoder.B.{name}"):
        found = torch.stack([block[parameter] for block in blocks])
        error = found.std(0) / math.sqrt(len(blocks))
        assert ((found.mean(0) - exactly[parameter]).abs() <= 5 * error + 1e-12).all(), parameter


def test_jmvae_subtracts_the_divergences_in_closed_form():
    pair, entries = toy(), gaussian_data()
    torch.manual_seed(5)
    joint = ppvae.elbo()(pair, entries)
    torch.manual_seed(5)
    value = jmvae(0.3)(pair, entries)
    row = torch.cat([entries["x"], entries["y"]], 1)
    q = MultivariateNormal(*_dense(*pair.encoder("xy", row)))
    away = 0.0
    for name, seen in (("x", [1, 1, 1, 0, 0]), ("y", [0, 0, 0, 1, 1])):
        p = MultivariateNormal(*_dense(*pair.encoder(name, row * torch.tensor(seen))))
        away = away + torch.distributions.kl_divergence(q, p)
    assert torch.allclose(value, joint - 0.3 * away, atol=1e-10)


def test_the_divergences_of_jmvae_move_both_of_their_guides():
    pair, entries = toy(), gaussian_data()
    row = torch.cat([entries["x"], entries["y"]], 1)
    torch.manual_seed(5)
    bound = ppvae.elbo()(pair, entries).sum()
    torch.manual_seed(5)
    ours = gradients(pair, jmvae(0.3)(pair, entries).sum() - bound)
    away = 0.0
    for name, seen in (("x", [1, 1, 1, 0, 0]), ("y", [0, 0, 0, 1, 1])):
        of = [torch.distributions.Normal(*pair.encoder(*a)) for a in (("xy", row), (name, row * torch.tensor(seen)))]
        away = away + torch.distributions.kl_divergence(*of).sum()
    wanted = gradients(pair, -0.3 * away)
    for name in (name for name, g in wanted.items() if g is not None):
        assert torch.allclose(ours[name], wanted[name], atol=1e-10), name
    assert {name[-1] for name, g in wanted.items() if g is not None and g.abs().max() > 0.01} == {"x", "y"}


def partly(w, x=None, y=None, z=None, mask=True, mask_y=True, *, size=1):
    """A number for x and y each, of a latent number that some rows show."""
    size = next((len(v) for v in (x, y, z) if v is not None), size)
    with pyro.plate("data", size, dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0), obs=z)  # (…, N, 1)
        with poutine.mask(mask=mask_y):
            pyro.sample("y", dist.Normal(z * w.slope, 0.5), obs=y)
        with poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def asks_for_z(w, x=None, y=None, z=None, mask=True, mask_y=True, *, size=1):
    if z is None:
        size = next((len(v) for v in (x, y) if v is not None), size)
        loc = sum(v * s for v, s in zip((x, y), w.shares, strict=True) if v is not None)
        with pyro.plate("data", size, dim=-2):
            pyro.sample("z", dist.Normal(loc, 0.7))


class Shares(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope, self.shares = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.tensor([0.4, 0.8]))


def test_no_divergence_is_charged_where_the_latent_was_seen():
    pair = ppvae.Pair(partly, asks_for_z, w=Shares())
    entries = {"x": torch.randn(6, 1), "y": torch.randn(6, 1), "z": torch.randn(6, 1)}
    entries["z"][::2] = NAN
    found = []
    for objective in (ppvae.elbo(), jmvae(1.0, entries=("x", "y"))):
        torch.manual_seed(5)
        found.append(objective(pair, entries))
    away = ((0.4 * entries["x"]) ** 2 + (0.8 * entries["y"]) ** 2) / (2 * 0.7**2)  # of the other modality's share
    wanted = torch.where(entries["z"].isnan(), away, 0.0).squeeze(1)
    assert torch.allclose(found[0] - found[1], wanted, atol=1e-10) and wanted[::2].max() > 0.01


def _dense(loc, scale):
    return loc, torch.diag_embed(scale**2)


def test_jmvae_of_exact_posteriors_and_draws_where_there_is_no_closed_form(monkeypatch):
    """Dense KL of posteriors with full covariances; its estimate at draws, 5 standard errors."""
    pair, one = toy(exact), gaussian_data(1)
    entries = {n: v.expand(20_000, -1) for n, v in one.items()}
    laws = {}
    for kind, given in {"xy": one, "x": {"x": one["x"]}, "y": {"y": one["y"]}}.items():
        laws[kind] = poutine.trace(pair.guide).get_trace(**given).nodes["z"]["fn"]
    away = sum(torch.distributions.kl_divergence(laws["xy"], laws[m]).squeeze() for m in "xy")
    truth = log_joint(pair.decoder, one)
    assert torch.allclose(jmvae(0.5)(pair, one), truth - 0.5 * away, atol=1e-10)

    def unknown(q, p):
        raise NotImplementedError

    monkeypatch.setattr("ppvae.objectives.modalities.kl_divergence", unknown)
    value = jmvae(0.5)(pair, entries)
    assert (value.mean() - truth + 0.5 * away).abs() < 5 * value.std() / math.sqrt(len(value))
    assert value.std() > 0.1


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0])
def test_bivcca_is_the_average_of_two_closed_bounds(mu):
    pair, one = toy(), gaussian_data(1)
    entries = {n: v.expand(40_000, -1) for n, v in one.items()}
    row, seen = torch.cat([one["x"], one["y"]], 1), torch.ones(1, 5)
    exactly = 0.0
    for name, share, keep in (("x", mu, [1, 1, 1, 0, 0]), ("y", 1 - mu, [0, 0, 0, 1, 1])):
        exactly = exactly + share * bound_of(pair.decoder, *pair.encoder(name, row * torch.tensor(keep)), row, seen)
    value = bivcca(mu)(pair, entries)
    assert (value.mean() - exactly).abs() < 5 * value.std() / math.sqrt(len(value))
    moved = {name for name, g in gradients(pair, value.sum()).items() if g is not None and g.abs().max() > 0}
    wanted = {name for name, share in (("x", mu), ("y", 1 - mu)) if share}
    assert {name[-1] for name in moved if name.startswith("encoder") and not name.endswith("xy")} == wanted
    assert not any(name.endswith("xy") for name in moved)


def test_weights_stand_before_the_log_probabilities():
    """Zero weights of y leave the bound of x; the unit is gone."""
    pair, one = toy(), gaussian_data(1)
    entries = {n: v.expand(40_000, -1) for n, v in one.items()}
    row = torch.cat([one["x"], one["y"]], 1)
    weight = torch.tensor([1.0, 1.0, 1.0, 4.0, 4.0])
    exactly = bound_of(pair.decoder, *pair.encoder("xy", row), row, torch.ones(1, 5), weight)
    for objective in (telbo({"y": 4.0}), jmvae(0.0, {"y": 4.0}), ppvae.elbo(likelihood={"y": 4.0})):
        value = objective(pair, entries)
        assert (value.mean() - exactly).abs() < 5 * value.std() / math.sqrt(len(value))
        assert objective.unit is None
    exactly = 0.5 * sum(
        bound_of(pair.decoder, *pair.encoder(name, row * torch.tensor(keep)), row, torch.ones(1, 5), weight)
        for name, keep in (("x", [1, 1, 1, 0, 0]), ("y", [0, 0, 0, 1, 1]))
    )
    value = bivcca(0.5, {"y": 4.0})(pair, entries)
    assert (value.mean() - exactly).abs() < 5 * value.std() / math.sqrt(len(value))
    assert (
        telbo().unit == jmvae().unit == bivcca().unit == "nats per row" and bivcca(likelihood={"y": 2.0}).unit is None
    )


# --- rows that lack a modality ------------------------------------------------------------------------


def unpaired():
    entries = gaussian_data()
    entries["y"][1::3] = NAN  # rows of x alone
    entries["x"][2::3] = NAN  # rows of y alone
    return entries


def test_a_row_without_a_modality_adds_nothing_to_its_term():
    pair, entries = toy(), unpaired()
    torch.manual_seed(5)
    joint = ppvae.elbo()(pair, entries)
    torch.manual_seed(5)
    assert torch.allclose(jmvae(0.3)(pair, entries)[[1, 4, 2, 5]], joint[[1, 4, 2, 5]], atol=1e-12)
    value = telbo()(pair, entries)
    for n, absent in ((1, "y"), (2, "x")):
        of_row = gradients(pair, value[n])
        for name, gradient in of_row.items():
            if name.startswith("encoder") and name.rsplit(".", 1)[1] in (absent, "none", "xy"):
                assert gradient is None or gradient.abs().max() == 0, (n, name)
    torch.manual_seed(5)
    shared = bivcca(0.3)(pair, entries)
    torch.manual_seed(5)
    alone = ppvae.elbo()(pair, {"x": entries["x"].nan_to_num()})
    assert torch.allclose(shared[[1, 4]], alone[[1, 4]], atol=1e-12)
    assert bivcca(1.0)(pair, entries)[2] == 0.0


@pytest.mark.parametrize("objective", [telbo(), jmvae(), bivcca()], ids=lambda o: type(o).__name__)
def test_a_modality_that_no_row_has_is_refused(objective):
    pair, (x, y, *_) = make(), rows()
    for entries in ({"x": x}, {"y": y}, {"x": x, "y": y * NAN}):
        with pytest.raises(ppvae.Problem, match="absent in every row|no modality beside"):
            objective(pair, entries)
    with pytest.raises(ppvae.Problem):
        ppvae.fit(pair, {"x": x, "y": y * NAN}, objective=objective)
    with pytest.raises(ppvae.Problem, match="'y' is absent"):
        type(objective)(entries=("x", "y"))(pair, {"x": x})
    with pytest.raises(ppvae.Problem, match="a story with"):
        objective(ppvae.make("vae", features=5, latents=2), x)


def test_what_cannot_be_asked_is_refused():
    pair, entries = toy(), gaussian_data()
    with pytest.raises(ppvae.Problem, match="weight of 'z'"):
        telbo({"z": 2.0})(pair, entries)
    for wrong in (lambda: bivcca(1.5), lambda: jmvae(-1.0), lambda: telbo({"y": NAN}), lambda: jmvae(NAN)):
        with pytest.raises(ppvae.Problem):
            wrong()

    def needs_x(encoder, x, y=None, mask=True, mask_y=True, *, size=1):
        amortized(encoder, x, y, mask, mask_y, size=size)

    def blind(encoder, x=None, y=None, mask=True, *, size=1):
        amortized(encoder, x, y, mask, size=size)

    for guide, words in ((needs_x, "cannot do without 'x'"), (blind, "no mask")):
        other = ppvae.Pair(story, guide, decoder=pair.decoder, encoder=pair.encoder)
        with pytest.raises(ppvae.Problem, match=words):
            telbo()(other, unpaired())


# --- with the rest of the library -----------------------------------------------------------------------


def test_weights_in_the_place_of_a_number_are_refused():
    """And a number in theirs."""
    wrong = {
        lambda: jmvae({"y": 10.0}): "alpha is",
        lambda: bivcca({"y": 10.0}): "mu is",
        lambda: telbo(3): "weights are 3",
    }
    for make_it, words in wrong.items():
        with pytest.raises(ppvae.Problem, match=words):
            make_it()
    with pytest.raises(ppvae.Problem, match="the weights are '3'"):
        ppvae.elbo(likelihood="3")


def fitted(objective, compile):
    pair, (x, y, mask, mask_y) = make(), rows()
    pair.encoder.joint.requires_grad_(not isinstance(objective, bivcca))
    keep = [0, 1, 2, 3, 5]  # 20 rows: one graph
    entries = {"x": x[keep].repeat(4, 1), "y": y[keep].repeat(4, 1)}
    masks = {"x": mask[keep].repeat(4, 1), "y": mask_y[keep].repeat(4, 1)}
    ppvae.check(pair, entries, masks, objective=objective)
    before = copy.deepcopy(pair.state_dict())
    result = ppvae.fit(
        pair, entries, masks, objective=objective, epochs=4, batch_size=10, learning_rate=1e-2, compile=compile
    )
    still = [k for k, v in pair.state_dict().items() if torch.equal(before[k], v)]
    return result, pair.state_dict(), still


@pytest.mark.parametrize(
    "objective",
    [telbo(), telbo({"y": 5.0}, {"y": 2.0}), jmvae(0.1), bivcca(0.4)],
    ids=["telbo", "weighted", "jmvae", "bivcca"],
)
def test_it_is_fitted_staged_as_eagerly(objective):
    (a, of_a, still), (b, of_b, _) = fitted(objective, "auto"), fitted(objective, "off")
    assert a.step.startswith("staged") and b.step.startswith("eager")
    assert [r["bound"] for r in a.history] == [r["bound"] for r in b.history]
    assert all(torch.equal(of_a[k], of_b[k]) for k in of_a)
    assert all(k.startswith("encoder.joint") for k in still) and bool(still) == isinstance(objective, bivcca)


def test_saved_and_loaded_it_answers_the_same(tmp_path):
    pair, (_, y, _, mask_y) = make(), rows()
    ppvae.save(pair, tmp_path / "pair.pt")
    again = ppvae.load(tmp_path / "pair.pt")
    answers = []
    for one in (pair, again):
        torch.manual_seed(0)
        answers.append(ppvae.condition(one, {"y": y}, {"y": mask_y}).impute(4))
    assert torch.equal(*answers)


def test_training_pulls_each_guide_to_the_posterior():
    """On two Gaussian modalities each q(z | m) ends near the best diagonal Gaussian under a story that is held."""
    pair = toy()
    pair.decoder.requires_grad_(False)
    with torch.no_grad():
        trace = poutine.trace(pair.model).get_trace(size=400)
    entries = {name: trace.nodes[name]["value"] for name in "xy"}
    ppvae.fit(pair, entries, objective=telbo(), epochs=100, batch_size=100, learning_rate=5e-2)
    W, scale = pair.decoder.stacked()
    for name, keep in (("x", slice(0, 3)), ("y", slice(3, 5))):
        precision = torch.eye(2) + (W[keep].T / scale[keep] ** 2) @ W[keep]
        gain = torch.linalg.solve(precision, W[keep].T / scale[keep] ** 2)
        row = torch.cat([entries["x"], entries["y"]], 1)
        loc, spread = pair.encoder(name, torch.zeros_like(row).index_copy_(1, torch.arange(5)[keep], row[:, keep]))
        assert (loc - row[:, keep] @ gain.T).abs().mean() < 0.1
        assert torch.allclose(spread[0], precision.diagonal().rsqrt(), rtol=0.15)


def test_the_traces_of_a_batch_are_those_of_the_story():
    pair, (x, y, mask, mask_y) = make(), rows()
    traces = run(pair, enter(pair, {"x": x, "y": y}, {"x": mask, "y": mask_y}))
    assert [name for name, _ in traces.drawn()] == ["z"] and {n for n, _ in traces.scored()} == {"x", "y", "z"}


def test_one_modality_alone_is_learned_by_the_elbo():
    """The attributes that no row has are a discrete draw of the story, on which nothing depends: no gradient is lost."""
    made = ppvae.make("multimodal_vae", 9, 2, classes=(3, 2), hidden=(8,))
    x = torch.rand(8, 9).round()
    torch.manual_seed(0)
    alone = ppvae.elbo()(made, x)
    torch.manual_seed(0)
    hidden = ppvae.elbo()(made, {"x": x, "y": torch.zeros(8, 2)}, {"y": torch.zeros(8, 2, dtype=torch.bool)})
    assert torch.allclose(alone, hidden, atol=1e-12) and alone.requires_grad
    with pytest.raises(ppvae.Problem, match="no gradient reaches the parameter 'decoder.words") as problem:
        ppvae.fit(made, x, epochs=2, batch_size=4)
    assert "freeze it: pair.decoder.words.requires_grad_(False)" in problem.value.remedy  # all that is idle in there
    for idle in (made.decoder.words, made.encoder.joint, made.encoder.attributes):
        idle.requires_grad_(False)
    assert ppvae.fit(made, x, epochs=2, batch_size=4).step == "staged"
    assert ppvae.condition(made, x).impute(3, entry="y").shape == (3, 8, 2)
