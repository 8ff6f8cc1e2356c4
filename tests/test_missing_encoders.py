"""Encoders of rows with missing entries: every kind in every amortized guide, and what each kind promises."""

import inspect
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, linear_gaussian, pair
from oracles import dense_log_evidence, dense_posterior
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import MultivariateNormal, kl_divergence

import ppvae
from ppvae.catalogue import maker
from ppvae.nn.encoders import KINDS
from ppvae.tracing.kl import FullGaussian

GUIDES = [name for name in ppvae.names() if "encoder" in inspect.signature(maker(name).make).parameters]
HIDDEN = {"conv_vae": (4, 4)}
TOLD = [kind for kind in KINDS if kind != "zero_fill"]


def made_of(guide, kind, seed=0):
    return pair(guide, seed=seed, hidden=HIDDEN.get(guide, (8, 8)), encoder=kind)


@pytest.fixture(params=GUIDES)
def guide(request):
    return request.param


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def parameters_of(q):
    """The numbers that say what q is, read off without a word on its family."""
    return q.mean, q.variance, getattr(q, "scale_tril", q.variance)


def posterior_of(made, entries, mask):
    """The guide's q of the latent nearest the data."""
    given = {name: value for name, value in entries.items() if name != "x"}
    trace = pyro.poutine.trace(made.guide).get_trace(entries["x"], mask, **given)
    return trace.nodes["z1" if "z1" in trace.nodes else "z"]["fn"]


def test_every_amortized_guide_of_networks_takes_every_kind():
    assert {"vae", "conv_vae", "two_layer", "conditional_vae"} <= set(GUIDES)


def test_check_passes_with_and_without_gaps(guide, kind):
    made = made_of(guide, kind)
    entries, mask = data(made)
    mask[0] = False
    ppvae.check(made, entries, {"x": mask})
    ppvae.check(made, entries)


def test_a_gradient_reaches_every_parameter(guide, kind):
    made = made_of(guide, kind)
    entries, mask = data(made)
    ppvae.elbo(5)(made, entries, {"x": mask}).sum().backward()
    assert [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_staged_step_equals_the_eager_step_bit_for_bit(guide, kind):
    ends = []
    for compile in ("auto", "off"):
        made = made_of(guide, kind)
        entries, mask = data(made, rows=25)
        mask[0] = True
        result = ppvae.fit(made, entries, {"x": mask}, epochs=3, batch_size=10, compile=compile, learning_rate=1e-2)
        assert result.step.startswith("staged" if compile == "auto" else "eager")
        ends.append(([r["bound"] for r in result.history], made.state_dict()))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1].values(), ends[1][1].values(), strict=True))


def test_saved_and_loaded_it_gives_the_same_numbers(guide, kind, tmp_path):
    made = made_of(guide, kind)
    entries, mask = data(made)
    ppvae.save(made, tmp_path / "pair.pt")
    again = ppvae.load(tmp_path / "pair.pt")
    assert type(again.encoder) is type(made.encoder) and again._built[1]["encoder"] == kind
    bounds = []
    for one in (made, again):
        torch.manual_seed(0)
        bounds.append(ppvae.iw_elbo(3)(one, entries, {"x": mask}))
    assert torch.equal(*bounds)


def test_stock_svi_trains_it(guide, kind):
    made = made_of(guide, kind)
    entries, mask = data(made)
    before = {name: value.clone() for name, value in made.encoder.state_dict().items()}
    svi = SVI(made.model, made.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(2):
        assert math.isfinite(svi.step(mask=mask, **entries))
    assert all(not torch.equal(before[name], value) for name, value in made.encoder.state_dict().items())


def test_what_fills_a_gap_is_read_by_zero_fill_alone(guide, kind):
    """Bound and gradients, bit for bit. A mixed table's columns are read on scales of their own, a gap as 0 there."""
    made = made_of(guide, kind)
    entries, mask = data(made)
    found = []
    for fill in (0.0, 1.0):
        made._fills["x"] = fill
        torch.manual_seed(0)
        bound = ppvae.elbo()(made, entries, {"x": mask})
        found.append((bound, *torch.autograd.grad(bound.sum(), list(made.parameters()))))
    same = all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert same == (kind != "zero_fill" or guide == "mixed_vae")


@pytest.mark.parametrize("kind", TOLD)
@pytest.mark.parametrize("stands", [5.0, math.nan, math.inf])
def test_what_stands_in_a_gap_does_not_move_q_by_a_bit(guide, kind, stands):
    """The encoder alone, without the door that fills."""
    made = made_of(guide, kind)
    entries, mask = data(made)
    label = {"label": entries["label"]} if "label" in entries else {}
    module = made.encoder.z1 if guide == "two_layer" else made.encoder
    seen = [module(x, mask=mask, **label) for x in (entries["x"], torch.where(mask, entries["x"], stands))]
    assert all(torch.equal(a, b) for a, b in zip(*map(parameters_of, seen), strict=True))
    other = module(1 - entries["x"], mask=mask, **label)
    assert not torch.equal(seen[0].mean, other.mean)  # and what was observed does


@pytest.mark.parametrize("kind", TOLD)
def test_that_an_entry_is_missing_is_told_from_any_value_of_it(guide, kind):
    made = made_of(guide, kind)
    with torch.no_grad():
        for name, parameter in made.encoder.named_parameters():
            if name.endswith("fill"):
                parameter.normal_()
    entries, _ = data(made)
    whole = torch.ones_like(entries["x"], dtype=torch.bool)
    less = whole.clone()
    less[:, 2] = False
    entries["x"][:, 2] = 0.0  # what zero_fill would put there
    means = [posterior_of(made, entries, mask).mean for mask in (whole, less)]
    assert (means[0] - means[1]).abs().max() > 1e-6


def test_the_label_is_read_whatever_is_missing(kind):
    made = made_of("conditional_vae", kind)
    nothing = torch.zeros(2, 9, dtype=torch.bool)
    mean = made.encoder(torch.zeros(2, 9), torch.tensor([3, 7]), nothing).mean
    assert (mean[0] - mean[1]).abs().max() > 1e-6


def test_no_mask_is_all_observed_and_a_mask_by_row_is_each_of_its_entries(kind):
    module = ppvae.nn.encoder(kind, 6, 2, (8,))
    x = torch.randn(5, 6)
    row = torch.tensor([True, False, True, True, False])[:, None]
    for short, long in ((True, torch.ones(5, 6, dtype=torch.bool)), (row, row.expand(5, 6).contiguous())):
        pairs = zip(parameters_of(module(x, short)), parameters_of(module(x, long)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(module(x).mean, module(x, True).mean)


def test_leading_dims_are_rows_too(kind):
    module = ppvae.nn.encoder(kind, 6, 2, (8,))
    x, mask = torch.randn(3, 5, 6), torch.rand(3, 5, 6) > 0.4
    q = module(x, mask)
    assert (q.batch_shape, q.event_shape) == ((3, 5, 1), (2,))
    for i in range(3):
        each = parameters_of(module(x[i], mask[i]))
        assert all((a[i] - b).abs().max() < 1e-12 for a, b in zip(parameters_of(q), each, strict=True))


def test_a_row_of_which_nothing_was_observed_has_a_q_of_its_own(kind):
    """One for all such rows; the empty sum of ``set``, the prior itself of ``experts``."""
    module = ppvae.nn.encoder(kind, 6, 2, (8,))
    q = module(torch.randn(5, 6), torch.zeros(5, 6, dtype=torch.bool))
    if kind == "zero_fill":  # filled at the door
        q = module(torch.zeros(5, 6))
    assert all((value == value[:1]).all() for value in parameters_of(q))
    if kind == "set":
        empty = module.head(module.net(torch.zeros(5, module.width)))
        assert torch.equal(q.mean, empty.mean) and torch.equal(q.variance, empty.variance)
    if kind == "experts":
        assert torch.equal(q.mean, torch.zeros(5, 1, 2))
        assert torch.equal(q.scale_tril, torch.eye(2).expand(5, 1, 2, 2))


@pytest.mark.parametrize("kind", ["set", "experts"])
def test_permuting_the_features_with_their_parameters_changes_nothing(kind):
    module, order = ppvae.nn.encoder(kind, 7, 3, (8, 8)), torch.randperm(7)
    x, mask = torch.randn(40, 7), torch.rand(40, 7) > 0.4
    before = parameters_of(module(x, mask))
    assert (module(x[:, order], mask[:, order]).mean - before[0]).abs().max() > 1e-3  # the place counts
    places = [p for p in module.parameters() if p.shape[:1] == (7,)]
    assert len(places) == {"set": 2, "experts": 5}[kind]
    with torch.no_grad():
        for place in places:
            place.copy_(place[order])
    after = parameters_of(module(x[:, order], mask[:, order]))
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(before, after, strict=True))


def test_blocks_of_rows_are_the_rows(monkeypatch):
    x, mask = torch.randn(11, 6), torch.rand(11, 6) > 0.4
    for kind in ("set", "experts"):
        module = ppvae.nn.encoder(kind, 6, 2, (8,))
        monkeypatch.setattr("ppvae.nn.sets.CHUNK_BYTES", 2**26)
        whole = parameters_of(module(x, mask))
        monkeypatch.setattr("ppvae.nn.sets.CHUNK_BYTES", 1)  # one row at a time
        assert all((a - b).abs().max() < 1e-12 for a, b in zip(whole, parameters_of(module(x, mask)), strict=True))


def test_the_sum_of_the_set_by_hand():
    module = ppvae.nn.encoder("set", 5, 2, (8,))
    x, mask = torch.randn(6, 5), torch.rand(6, 5) > 0.4
    entries = module.entries
    for n in range(6):
        total = torch.zeros(module.width)
        for j in range(5):
            if mask[n, j]:
                total = total + entries.shared((x[n, j] * entries.a[j] + entries.b[j]).relu()).relu()
        wanted = module.head(module.net(total / 5**0.5))
        q = module(x, mask)
        assert (q.mean[n] - wanted.mean).abs().max() < 1e-12
        assert (q.variance[n] - wanted.variance).abs().max() < 1e-12


def test_the_experts_by_hand():
    """Precision and shift entry by entry, solved densely."""
    module = ppvae.nn.encoder("experts", 5, 3)
    with torch.no_grad():
        module.c.normal_()
    x, mask = torch.randn(6, 5), torch.rand(6, 5) > 0.4
    q = module(x, mask)
    for n in range(6):
        precision, shift = torch.eye(3), torch.zeros(3)
        for j in range(5):
            if mask[n, j]:
                h = module.entries.shared((x[n, j] * module.entries.a[j] + module.entries.b[j]).relu()).relu()
                v = module.v[j] + module.V.weight @ h
                s = module.t[j] * (x[n, j] - module.c[j]) + module.S.weight[0] @ h
                precision, shift = precision + torch.outer(v, v), shift + s * v
        covariance = torch.linalg.inv(precision)
        assert (q.covariance_matrix[n, 0] - covariance).abs().max() < 1e-10
        assert (q.mean[n, 0] - covariance @ shift).abs().max() < 1e-10


def of_factor_analysis(kind, D=8, K=3, N=60, seed=0):
    """A factor analysis and an encoder of this kind: (pair, x, mask); row 0 observes nothing, row 1 everything."""
    exact, x, mask = linear_gaussian(N=N, D=D, K=K, seed=seed)
    guide, model = maker("vae").guide, exact._functions["model"]
    made = ppvae.Pair(model, guide, decoder=exact.decoder, encoder=ppvae.nn.encoder(kind, D, K, (32,)))
    return made, x, mask


def test_at_the_true_terms_the_experts_are_the_posterior_of_factor_analysis_under_every_mask():
    """Every importance weight is then the evidence itself, whatever was drawn: 1e-10, without variance."""
    made, x, _ = of_factor_analysis("experts")
    decoder, terms = made.decoder, made.encoder
    with torch.no_grad():
        terms.v.copy_(decoder.W / decoder.scale[:, None])
        terms.t.copy_(1 / decoder.scale)
        terms.c.copy_(decoder.loc)
        terms.V.weight.zero_()
        terms.S.weight.zero_()
    story = decoder.W.detach(), decoder.loc.detach(), decoder.scale.detach()
    subsets = (torch.arange(256)[:, None] >> torch.arange(8)) % 2 == 1  # all 2^8 masks
    x = x[torch.arange(256) % len(x)]
    truth = dense_log_evidence(*story, x, subsets)
    mean, covariance = dense_posterior(*story, x, subsets)
    q = made.encoder(x, subsets)
    assert (q.mean.squeeze(1) - mean).abs().max() < 1e-10
    assert (q.covariance_matrix.squeeze(1) - covariance).abs().max() < 1e-10
    for particles in (1, 5):
        assert (ppvae.iw_elbo(particles)(made, x, subsets) - truth).abs().max() < 1e-10
    ours = ppvae.condition(made, x, subsets)
    assert (ours.log_evidence(3) - truth).abs().max() < 1e-10


def test_the_divergence_of_a_gaussian_from_a_diagonal_one_is_the_dense_one():
    root = torch.randn(6, 1, 4, 4).tril(-1) + torch.diag_embed(torch.rand(6, 1, 4) + 0.3)
    q = FullGaussian(torch.randn(6, 1, 4), scale_tril=root)
    loc, scale = torch.randn(1, 4), torch.rand(1, 4) + 0.2
    p = dist.Normal(loc, scale).to_event(1)
    dense = MultivariateNormal(loc, torch.diag_embed(scale.square()))
    assert (kl_divergence(q, p) - kl_divergence(q, dense)).abs().max() < 1e-12
    with pytest.raises(NotImplementedError):
        kl_divergence(q, dist.Laplace(loc, scale).to_event(1))
    with pytest.raises(NotImplementedError):
        kl_divergence(q, dist.Normal(loc.expand(6, 1, 4), scale).to_event(2))


def test_the_experts_kl_is_the_closed_form_and_their_elbo_is_log_p_minus_the_divergence():
    made, x, mask = of_factor_analysis("experts")
    with torch.no_grad():
        terms = ppvae.elbo(2).terms(made, x, mask)
        q = made.encoder(x, mask)
        prior = MultivariateNormal(torch.zeros(3), torch.eye(3))
        dense = kl_divergence(MultivariateNormal(q.loc.squeeze(1), q.covariance_matrix.squeeze(1)), prior)
        assert terms.analytic == ("z",) and (terms.kl["z"] - dense).abs().max() < 1e-10
        d = made.decoder
        bound = dense_log_evidence(d.W, d.loc, d.scale, x, mask) - ppvae.exact.kl(made, x, mask)
        draws = torch.stack([ppvae.elbo(200)(made, x, mask) for _ in range(40)])
    assert ((draws.mean(0) - bound).abs() < 5 * draws.std(0) / math.sqrt(40) + 1e-10).all()


def test_an_unknown_kind_is_refused_with_the_known_ones(guide):
    with pytest.raises(ppvae.Problem, match="zero_fill, learned_fill, mask, set, experts"):
        pair(guide, encoder="zero")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask", "set", "experts"])
def test_told_what_is_missing_it_comes_nearer_to_the_evidence(kind):
    """KL(q || posterior), in closed form, on new rows under new masks, over 10 stories: its log-ratio to that of zero_fill."""
    gains = []
    for seed in range(10):
        apart = []
        for one in ("zero_fill", kind):
            made, *_ = of_factor_analysis(one, D=12, seed=seed)
            made.decoder.requires_grad_(False)
            x = made.model(size=2000)
            mask = torch.rand(2000, 12) > 0.5
            mask[:, 0] |= ~mask.any(1)
            ppvae.fit(made, x[:1000], mask[:1000], epochs=40, batch_size=50, learning_rate=5e-3, seed=seed)
            apart.append(ppvae.exact.kl(made, x[1000:], mask[1000:]).mean())
        gains.append((apart[0] / apart[1]).log())
    gains = torch.stack(gains)
    assert gains.mean() > 5 * gains.std() / math.sqrt(10)
