"""Entries that go missing by their values: the evidence, the imputations and the fit against closed forms and quadrature."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import pair
from ppvae.guides import vae
from ppvae.models import factor_analysis, factor_analysis_not_at_random, vae_not_at_random
from ppvae.models.vae import Decoder
from torch import nn

import ppvae
from ppvae.nn import Groups, SelfMasking, mechanism

D, K, SLOPE, OFFSET = 4, 2, 2.0, 0.3
PHI = torch.special.ndtr


class Probit(nn.Module):
    """P(seen_0 | x) = Phi(b - a x_0); all other columns are seen half of the time."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(SLOPE))

    def forward(self, x):
        p = torch.full_like(x, 0.5)
        return dist.Bernoulli(torch.cat([PHI(OFFSET - self.slope * x[..., :1]), p[..., 1:]], -1))


def exact_guide(decoder, x, mask=True):
    """The posterior as if all were missing at random: x_m given z and the mechanism's weight are left to the story."""
    q = ppvae.exact.posterior(decoder.W, decoder.loc, decoder.scale, x, mask)
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.MultivariateNormal(q.loc[:, None], scale_tril=q.scale_tril[:, None]))


def made_with(mechanism, seed=0):
    torch.manual_seed(seed)
    decoder = factor_analysis.Decoder(D, K)
    decoder.set_(torch.randn(D, K), torch.randn(D) * 0.3, torch.rand(D) * 0.5 + 0.3)
    return ppvae.Pair(factor_analysis_not_at_random.model, exact_guide, decoder=decoder, mechanism=mechanism)


def rows(made, N=6, gone=(0,)):
    torch.manual_seed(5)
    with torch.no_grad():
        x = made.model(size=N)
    mask = torch.rand(N, D) > 0.3
    mask[:, list(gone)] = False
    mask[-1] = True
    return x, mask


def moments(made, x, mask):
    """Mean and covariance of all of x given a row's observed entries, and log p(x_o), by dense Gaussians, row by row."""
    W, loc, noise = made.decoder.W.detach(), made.decoder.loc.detach(), made.decoder.scale.detach().square()
    C = W @ W.T + noise.diag()
    for row, seen in zip(x, mask, strict=True):
        o = seen.nonzero().flatten()
        gain = C[:, o] @ torch.linalg.inv(C[o][:, o])
        evidence = dist.MultivariateNormal(loc[o], C[o][:, o]).log_prob(row[o]) if len(o) else torch.zeros(())
        yield loc + gain @ (row[o] - loc[o]), C - gain @ C[o], evidence


def test_probit_self_masking_of_one_column_has_the_evidence_of_its_closed_form():
    """log p(x_o, s): E Phi(b - a x) = Phi((b - a m) / sqrt(1 + a^2 v)), m and v the moments of x_0 given x_o."""
    made = made_with(Probit())
    x, mask = rows(made)
    truth = []
    for n, (mean, covariance, evidence) in enumerate(moments(made, x, mask)):
        if mask[n, 0]:
            p = PHI(OFFSET - SLOPE * x[n, 0])
        else:
            p = 1 - PHI((OFFSET - SLOPE * mean[0]) / (1 + SLOPE**2 * covariance[0, 0]).sqrt())
        truth.append(evidence + p.log() + (D - 1) * math.log(0.5))
    truth = torch.stack(truth)
    with torch.no_grad():
        weights = ppvae.tracing.terms.log_weights(made, ppvae.door.enter(made, x, mask), 40_000)
    p = weights.exp()
    assert ((p.mean(0) - truth.exp()).abs() <= 5 * p.std(0) / 200 + 1e-12 * p.mean(0)).all()
    assert (p.std(0)[:-1] > 0).all() and p.std(0)[-1] < 1e-10  # the last row is complete
    found = ppvae.condition(made, x, mask).log_evidence(40_000)
    assert ((found - truth).abs() < 5 * p.std(0) / p.mean(0) / 200 + 1e-10).all()


def test_what_is_imputed_is_drawn_given_that_it_was_not_seen():
    """Moments of x_0 given x_o and s_0 = 0 by quadrature, of the mean, the draws, and other missing columns too."""
    made = made_with(Probit())
    x, mask = rows(made)
    truth, spread = [], []
    for mean, covariance, _ in moments(made, x[:-1], mask[:-1]):
        v = covariance[0, 0]
        grid = mean[0] + v.sqrt() * torch.linspace(-9, 9, 20_001)
        density = dist.Normal(mean[0], v.sqrt()).log_prob(grid).exp() * (1 - PHI(OFFSET - SLOPE * grid))
        total = torch.trapezoid(density, grid)
        tilted = torch.trapezoid(density * grid, grid) / total
        second = torch.trapezoid(density * (grid - tilted) ** 2, grid) / total
        truth.append(mean + covariance[:, 0] / v * (tilted - mean[0]))  # x_0 tells of the others as it always does
        spread.append(covariance.diagonal() + (covariance[:, 0] / v).square() * (second - v))
    truth, spread = torch.stack(truth), torch.stack(spread).sqrt()
    hole = ~mask[:-1]
    post = ppvae.condition(made, x, mask)
    torch.manual_seed(0)
    means, draws = post.impute_mean(40_000)[:-1], post.impute(2000, particles=20_000)[:, :-1]
    assert ((means - truth).abs() < 5 * 1.5 * spread / 200)[hole].all()  # 1.5: the weights are uneven, ess above 0.45
    assert ((draws.mean(0) - truth).abs() < 5 * 1.2 * spread / 2000**0.5)[hole].all()
    assert ((draws.std(0) - spread).abs() < 5 * spread / 2000**0.5)[hole].all()
    assert torch.equal(draws[:, mask[:-1]], x[:-1][mask[:-1]].expand(2000, -1))
    at_random = torch.stack([mean for mean, _, _ in moments(made, x[:-1], mask[:-1])])
    assert (truth - at_random)[:, 0].min() > 0.05  # what is not seen is larger than its neighbours say
    assert post.sample(3).keys() == {"z"}


@pytest.mark.parametrize("kind", ["self_masking", "agnostic", "group"])
def test_logistic_mechanisms_of_two_missing_columns_agree_with_quadrature(kind):
    torch.manual_seed(2)
    by = mechanism(kind, D, groups=((0, 1), (2, 3)) if kind == "group" else None)
    with torch.no_grad():
        by.level.normal_().div_(40)
        by.pace.normal_().div_(40)
    made = made_with(by)
    x, mask = rows(made, N=4, gone=(0, 1))
    mask[:-1, 2:] = True
    axis = torch.linspace(-8, 8, 401)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)  # (G, G, 2)
    truth = []
    for n, (mean, covariance, evidence) in enumerate(moments(made, x[:-1], mask[:-1])):
        full = torch.cat([grid, x[n, 2:].expand(*grid.shape[:2], 2)], -1)
        p = by(full).log_prob(mask[n].to(full)).sum(-1)
        p = (p + dist.MultivariateNormal(mean[:2], covariance[:2, :2]).log_prob(grid)).exp()
        truth.append(evidence + torch.trapezoid(torch.trapezoid(p, axis, dim=0), axis, dim=0).log())
    truth = torch.stack(truth).detach()
    with torch.no_grad():
        p = ppvae.tracing.terms.log_weights(made, ppvae.door.enter(made, x, mask), 40_000).exp()[:, :-1]
    assert ((p.mean(0) - truth.exp()).abs() < 5 * p.std(0) / 200).all()


def test_an_ignorable_mask_leaves_the_story_as_it_is():
    """With slopes 0 the bound is that of factor analysis plus log p(s), and so is its gradient, to the bit of rounding."""
    made = made_with(SelfMasking(D))
    x, mask = rows(made, N=30)
    with torch.no_grad():
        made.mechanism.level.normal_().div_(40)
    plain = ppvae.make("factor_analysis_exact", D, K)
    plain.decoder.load_state_dict(made.decoder.state_dict())
    of_mask = dist.Bernoulli(logits=made.mechanism.offset).log_prob(mask.to(x)).sum(-1)
    for objective in (ppvae.elbo(), ppvae.iw_elbo(7)):
        bound, known = objective(made, x, mask), objective(plain, x, mask)
        assert (bound - known - of_mask).abs().max() < 1e-10
        for of, by in zip(_gradients(bound, made), _gradients(known, plain), strict=True):
            assert (of - by).abs().max() < 1e-9


def _gradients(bound, made):
    return torch.autograd.grad(bound.sum(), list(made.decoder.parameters()), retain_graph=True)


def test_gaps_that_say_nothing_make_the_guide_exact_and_gaps_that_say_something_are_pseudo_observations():
    made = pair("factor_analysis_not_at_random", features=D, latents=K)
    plain = ppvae.make("factor_analysis_exact", D, K)
    plain.decoder.load_state_dict(made.decoder.state_dict())
    x = torch.randn(5, D)
    mask = torch.rand(5, D) > 0.4
    with torch.no_grad():
        made.gaps.log_ratio.fill_(40.0)
    for ours, exact in ((made, plain),):
        a, b = (pyro.poutine.trace(p.guide).get_trace(x, mask).nodes["z"]["fn"] for p in (ours, exact))
        assert (a.loc - b.loc).abs().max() < 1e-10 and (a.scale_tril - b.scale_tril).abs().max() < 1e-10
    with torch.no_grad():
        made.gaps.log_ratio.fill_(-40.0)  # noise as the column's own
        made.gaps.value.normal_()
        full = torch.where(mask, x, made.gaps.value)
    a = pyro.poutine.trace(made.guide).get_trace(x, mask).nodes["z"]["fn"]
    b = pyro.poutine.trace(plain.guide).get_trace(full).nodes["z"]["fn"]
    assert (a.loc - b.loc).abs().max() < 1e-10 and (a.scale_tril - b.scale_tril).abs().max() < 1e-10


def self_masked(N=1000, seed=4):
    """Rows of a known factor analysis whose first two columns are seen by chance sigmoid(-4 x)."""
    truth = made_with(SelfMasking(D, signs=1.0), seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        x = truth.model(size=N)
        seen = torch.rand(N, D) < torch.sigmoid(-4 * (x - x.mean(0)))
    seen[:, 2:] = True
    return x, seen


@pytest.mark.parametrize("name", ["factor_analysis_not_at_random", "vae_not_at_random"])
def test_a_fit_finds_what_a_fit_that_ignores_the_mechanism_cannot(name):
    x, seen = self_masked()
    hole = ~seen
    at_random = ppvae.exact.em(x.masked_fill(hole, torch.nan), latents=K)
    ignoring = ppvae.exact.impute_mean(*at_random[:3], x, seen)
    options = {"hidden": (16,)} if name.startswith("vae") else {}
    made = pair(name, features=D, latents=K, mechanism="sign_known", **options)
    result = ppvae.fit(made, x, seen, objective=ppvae.iw_elbo(10), epochs=40, batch_size=100, learning_rate=0.02)
    assert result.step == "staged"
    ours = ppvae.condition(made, x, seen).impute_mean(300)
    rmse = {k: float((v - x)[hole].square().mean().sqrt()) for k, v in {"ours": ours, "ignoring": ignoring}.items()}
    assert rmse["ours"] < 0.75 * rmse["ignoring"], rmse
    bias = float((ours - x)[hole].mean()), float((ignoring - x)[hole].mean())
    assert abs(bias[0]) < 0.15 and bias[1] < -0.5, bias


def test_hiding_more_entries_does_not_say_that_they_were_missing():
    """`seen` given beside x: an entry that the mechanism showed, and that somebody hid, is drawn given that it was seen."""
    made = made_with(Probit())
    x, mask = rows(made)
    mask[:, 0] = True
    hidden = mask.clone()
    hidden[:, 0] = False
    torch.manual_seed(0)
    was_seen = ppvae.condition(made, {"x": x, "seen": mask.to(x)}, {"x": hidden}).impute_mean(20_000)[:, 0]
    not_seen = ppvae.condition(made, x, hidden).impute_mean(20_000)[:, 0]
    assert (not_seen > was_seen + 0.1).all()


def test_the_story_generates_its_mask_and_plain_pyro_takes_both():
    made = made_with(Probit())
    trace = pyro.poutine.trace(made.model).get_trace(size=20_000)
    share, p = trace.nodes["seen"]["value"][:, 0].mean(), trace.nodes["seen"]["fn"].probs[:, 0].mean()
    assert (share - p).abs() < 5 * 0.5 / 20_000**0.5 and trace.nodes["seen"]["value"].shape == (20_000, D)
    x, mask = rows(made)
    torch.manual_seed(0)
    guide = pyro.poutine.trace(made.guide).get_trace(x, mask)
    model = pyro.poutine.trace(pyro.poutine.replay(made.model, guide)).get_trace(x, mask)
    torch.manual_seed(0)
    bound = ppvae.iw_elbo(1)(made, x, mask).sum()
    assert (model.log_prob_sum() - guide.log_prob_sum() - bound).abs() < 1e-10
    torch.manual_seed(0)
    stock = -pyro.infer.Trace_ELBO().loss(made.model, made.guide, x, mask)
    assert abs(stock - bound) < 1e-10


def test_simulated_rows_are_seen_where_the_story_says():
    made = made_with(Probit())
    x, mask = rows(made, N=200)
    with torch.no_grad():
        _, simulated = ppvae.evaluate.density.simulate(made, ppvae.door.enter(made, x, mask))
    assert torch.equal(simulated.masks["x"], simulated.values["seen"] > 0.5)


# --- what is refused --------------------------------------------------------------------------------------------


class Never(nn.Module):
    """Nothing above 1 is ever seen."""

    def forward(self, x):
        return dist.Bernoulli((x <= 1.0).to(x) * 0.5)


def test_data_that_contradict_the_mechanism_are_refused_with_the_entry():
    made = made_with(Never())
    x, mask = rows(made, N=20, gone=())
    x = x.clamp(max=0.9)
    x[2, 1], mask[2, 1] = 3.0, True
    for act in (lambda: ppvae.fit(made, x, mask, epochs=1), lambda: ppvae.condition(made, x, mask).impute(2)):
        with pytest.raises(ppvae.Problem, match="row 2, column 1 was observed, and the mechanism says never"):
            act()


def test_draws_without_a_gradient_are_refused():
    made = ppvae.Pair(
        vae_not_at_random.model,
        vae.guide,
        decoder=Decoder(D, K),
        mechanism=SelfMasking(D),
        encoder=ppvae.nn.encoder("mask", D, K, (8,)),
    )
    x = torch.bernoulli(torch.full((6, D), 0.5))
    with pytest.raises(ppvae.Problem, match="Bernoulli, which cannot be reparametrised"):
        ppvae.elbo()(made, x, torch.rand(6, D) > 0.4)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"mechanism": "none"}, "no mechanism 'none'"),
        ({"mechanism": "sign_known", "signs": (1.0, 2.0, 1.0, 1.0)}, "signs"),
        ({"mechanism": "sign_known", "signs": (1.0, -1.0)}, "signs"),
        ({"mechanism": "group", "groups": ((0, 1), (1, 2))}, "groups"),
        ({"mechanism": "group", "groups": ((0, 9),)}, "groups"),
        ({"mechanism": "self_masking", "signs": 1.0}, "only 'sign_known' takes signs"),
        ({"mechanism": "agnostic", "groups": ((0, 1),)}, "only 'group' takes groups"),
    ],
)
def test_mechanisms_that_make_no_sense_are_refused(options, said):
    for name in ("factor_analysis_not_at_random", "vae_not_at_random"):
        with pytest.raises(ppvae.Problem, match=said):
            pair(name, features=D, latents=K, **options)


def test_what_takes_the_storys_density_for_an_entrys_own_is_refused():
    made = made_with(Probit())
    x, mask = rows(made)
    for act in (
        lambda: ppvae.evaluate.gain(made, x, mask),
        lambda: ppvae.evaluate.ais(made, x, mask),
        lambda: ppvae.condition(made, x, mask).gibbs(2),
    ):
        with pytest.raises(ppvae.Problem, match="goes on from|depends on what stands"):
            act()


def test_a_column_goes_missing_by_its_own_row_of_slopes_within_its_group():
    by = Groups(3, ((0, 2),))
    with torch.no_grad():
        by.pace.copy_(torch.arange(9.0).reshape(3, 3))
    x = torch.tensor([[1.0, 10.0, 100.0]])
    expected = torch.tensor([[-(40 * 0 * 1 + 0.4 * 2 * 100.0), 0.0, -(0.4 * 6 * 1 + 40 * 8 * 100.0)]])
    assert (by(x).logits - expected).abs().max() < 1e-9


def test_a_row_of_which_nothing_was_seen_teaches_and_meets_no_warning():
    made = made_with(Probit())
    x, mask = rows(made, N=20, gone=())
    mask[3] = False
    ppvae.fit(made, x, mask, epochs=1)  # a warning would fail here
    bound = ppvae.iw_elbo(5)(made, x, mask)[3]
    (gradient,) = torch.autograd.grad(bound, [made.decoder.loc])
    assert gradient[0] != 0 and (gradient[1:] == 0).all()  # Probit looks at the first column alone


def test_what_is_steep_is_no_contradiction():
    """Rows far on the other side of a learned limit are unlikely, not impossible: in single precision too."""
    made = made_with(SelfMasking(D, signs=1.0)).float()
    x, mask = rows(made, N=20, gone=())
    with torch.no_grad():
        made.mechanism.pace.fill_(5.0)  # slope 200
    x[3, 0], mask[3, 0] = 6.0, True
    assert ppvae.condition(made, x, mask).log_evidence(50).isfinite().all()


def test_latents_of_simulated_rows_rank_evenly_among_weighted_draws_and_not_among_a_guides_that_ignores_the_mask():
    made = made_with(Probit())
    with torch.no_grad():
        made.mechanism.slope.fill_(6.0)
    x, mask = rows(made, N=600)
    p = []
    for particles in (500, None):
        torch.manual_seed(0)
        p.append(ppvae.evaluate.sbc(made, x, mask, draws=49, particles=particles).p_value["z"].min())
    assert p[0] > 1e-3 and p[1] < 1e-6
