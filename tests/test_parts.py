"""Objects of parts: existence, the exact two-layer model, and what stands where a part is absent."""

import math

import pytest
import torch
from examples import pair as example
from ppvae.guides.shape_fa import u_given_x
from ppvae.models import shape_gaussian
from torch.distributions import MultivariateNormal, Normal

import ppvae
from ppvae.exact.layers import Law, _Sufficient
from ppvae.nn.parts import Existence, Parts, PartwiseNormal, patterns

SIZES = (4, 3, 2)
EVERY = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)


def existences(rows=50, seed=0):
    """The first part always, the others often; never the first alone."""
    torch.manual_seed(seed)
    exists = (torch.rand(rows, 3) > 0.3).double()
    exists[:, 0] = 1
    exists[~exists[:, 1:].any(-1), 1] = 1
    return exists


def law(known=(0, 0, 0), possible=(1, 1, 1)):
    seen = patterns(existences())
    bits, rows = torch.tensor(seen.bits).double(), torch.tensor(seen.rows).double()
    return Existence(bits, rows, torch.tensor(known).double(), torch.tensor(possible).double())


def linear(latents=2, size=2, seed=0):
    torch.manual_seed(seed)
    pair = ppvae.make("shape_fa", 9, latents, parts=SIZES, patterns=patterns(existences()), size=size)
    with torch.no_grad():
        for layer in (pair.decoder.top, pair.decoder.bottom):
            layer.loc.normal_()
            layer.log_scale.normal_(-0.5, 0.3)
    return pair


def dense(pair):
    """Mean and covariance of x where every part exists, by writing them down."""
    d = pair.decoder
    with torch.no_grad():
        B = torch.zeros(9, 3 * d.size)
        start = 0
        for p, features in enumerate(SIZES):
            for j in range(start, start + features):
                B[j, p * d.size : (p + 1) * d.size] = d.bottom.W[j]
            start += features
        u = d.top.W @ d.top.W.T + torch.diag(d.top.scale**2)
        return d.bottom.loc + B @ d.top.loc, B @ u @ B.T + torch.diag(d.bottom.scale**2)


def rows_of(exists, hidden=0.0, seed=3):
    """x of these existences, NaN where absent, some entries hidden, at least one of each part seen."""
    torch.manual_seed(seed)
    there = exists.repeat_interleave(torch.tensor(SIZES), -1) > 0
    seen = torch.rand(there.shape) >= hidden
    seen[:, [0, 4, 7]] = True
    return torch.where(there & seen, torch.randn(there.shape), torch.nan)


# --- which parts exist ------------------------------------------------------------------------------------


def test_existence_is_a_law_of_all_patterns_and_of_the_counts():
    seen = patterns(existences())
    assert sum(seen.rows) == 50 and seen.rows == sorted(seen.rows, reverse=True)
    log = law().log_prob(EVERY)
    assert (log.exp().sum() - 1).abs() < 1e-12
    for bits, rows in zip(*seen, strict=True):
        at = (torch.tensor(bits) == EVERY).all(-1)
        assert (log[at].exp() - (rows + 1 / 8) / 51).abs() < 1e-12


@pytest.mark.parametrize("known, possible", [((0, 0, 0), (1, 1, 1)), ((0, 1, 0), (1, 1, 1)), ((1, 0, 0), (1, 1, 0))])
def test_existence_conditioned_is_bayes_rule_and_is_what_it_draws(known, possible):
    fits = ((torch.tensor(known) <= EVERY) & (torch.tensor(possible) >= EVERY)).all(-1)
    prior = law().log_prob(EVERY).exp() * fits
    given = law(known, possible)
    assert torch.allclose(given.log_prob(EVERY).exp(), prior / prior.sum(), atol=1e-12)
    torch.manual_seed(0)
    drawn = given.sample((40000,))
    for bits, p in zip(EVERY, prior / prior.sum(), strict=True):
        share = (drawn == bits).all(-1).double().mean()
        assert abs(share - p) <= 5 * (p * (1 - p) / 40000).sqrt()


def test_what_was_seen_of_a_part_says_whether_it_exists():
    parts = Parts(9, SIZES, patterns(existences()))
    x = torch.zeros(3, 9)
    x[0, 5] = 1.0  # of the second part
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, :4], mask[1], mask[2, 2:] = False, False, False
    given = parts.given(x, mask)
    assert given.least.squeeze(-2).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert given.most.squeeze(-2).tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]


# --- features of parts -----------------------------------------------------------------------------------------


def test_absent_features_are_a_point_at_0_and_the_others_normal():
    torch.manual_seed(0)
    loc, scale, there = torch.randn(5), torch.rand(5) + 0.5, torch.tensor([True, False, True, False, True])
    fn = PartwiseNormal(loc, scale, there)
    x = torch.randn(5)
    assert torch.allclose(fn.log_prob(x)[there], Normal(loc, scale).log_prob(x)[there], atol=1e-12)
    assert (fn.log_prob(x)[~there] == -math.inf).all() and (fn.log_prob(torch.zeros(5))[~there] == 0).all()
    drawn = fn.sample((20000,))
    assert (drawn[:, ~there] == 0).all() and (fn.mean[~there] == 0).all() and (fn.variance[~there] == 0).all()
    assert ((drawn.mean(0) - fn.mean).abs() <= 5 * (fn.variance / 20000).sqrt()).all()


@pytest.mark.parametrize("name", ["shape_vae", "shape_fa"])
def test_nothing_that_stands_in_an_absent_part_is_read(name):
    made = example(name)
    exists = torch.tensor([[1.0, 0, 1], [1, 1, 1], [0, 1, 1]])
    x = rows_of(exists)
    bounds = []
    for fill in (0.0, 7.0):
        torch.manual_seed(0)
        bounds.append(ppvae.elbo()(made, {"x": x.nan_to_num(fill), "exists": exists}, {"x": ~x.isnan()}))
    assert torch.equal(*bounds)
    torch.manual_seed(0)  # 0 is how a part that is absent is observed
    assert torch.equal(bounds[0], ppvae.elbo()(made, {"x": x.nan_to_num(0.0), "exists": exists}))


def test_a_part_that_is_absent_and_one_that_was_not_seen_have_each_a_bias():
    made = example("shape_vae")
    exists = torch.tensor([[1.0, 0, 1], [1, 1, 1]])
    x = rows_of(torch.tensor([[1.0, 0, 1]])).expand(2, -1)  # of the second part nothing was seen
    with torch.no_grad():
        for name, row in (("absent", 0), ("unseen", 1)):
            before = made.encoder.z(x.nan_to_num(), exists.unsqueeze(-2), ~x.isnan()).mean
            getattr(made.encoder, name)[1] += 1
            after = made.encoder.z(x.nan_to_num(), exists.unsqueeze(-2), ~x.isnan()).mean
            changed = (before != after).flatten(1).any(-1)
            assert changed[row] and not changed[1 - row]


def test_an_observed_entry_of_an_absent_part_has_no_density():
    made = linear()
    exists = torch.tensor([[1.0, 0, 1]])
    x = rows_of(exists).nan_to_num(2.0)
    assert ppvae.condition(made, {"x": x, "exists": exists}).log_evidence() == -math.inf


# --- two linear layers, exactly --------------------------------------------------------------------------------


def test_shape_fa_is_its_dense_gaussian_and_the_frequency_of_the_pattern():
    made, exists = linear(), existences(30)
    x = rows_of(exists, hidden=0.3)
    loc, cov = dense(made)
    found = ppvae.condition(made, {"x": x, "exists": exists}).log_evidence()
    bound = ppvae.elbo()(made, {"x": x, "exists": exists})
    for n in range(30):
        o = ~x[n].isnan()
        truth = MultivariateNormal(loc[o], cov[o][:, o]).log_prob(x[n, o]) + law().log_prob(exists[n])
        assert (found[n] - truth).abs() < 1e-10 and (bound[n] - truth).abs() < 1e-10


def test_shape_fa_with_unknown_existences_sums_over_all_that_fit():
    made = linear()
    exists = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 1, 0]])
    x = rows_of(exists)  # a part without an entry may exist or not
    loc, cov = dense(made)
    found = ppvae.condition(made, {"x": x}).log_evidence()
    for n in range(3):
        o = ~x[n].isnan()
        fits = EVERY[(exists[n] <= EVERY).all(-1)]
        truth = MultivariateNormal(loc[o], cov[o][:, o]).log_prob(x[n, o]) + law().log_prob(fits).logsumexp(0)
        assert (found[n] - truth).abs() < 1e-10


def test_shape_fa_completes_by_the_dense_conditional_mean():
    made = linear()
    exists = torch.ones(4, 3)
    x = rows_of(exists, hidden=0.5)
    loc, cov = dense(made)
    draws = 4000
    found = ppvae.condition(made, {"x": x, "exists": exists}).impute(draws)
    for n in range(4):
        o = ~x[n].isnan()
        m = ~o
        gain = torch.linalg.solve(cov[o][:, o], cov[o][:, m]).T
        mean, var = loc[m] + gain @ (x[n, o] - loc[o]), (cov[m][:, m] - gain @ cov[o][:, m]).diagonal()
        assert ((found[:, n, m].mean(0) - mean).abs() < 5 * (var / draws).sqrt()).all()


def test_layerwise_never_lowers_the_likelihood_and_ends_at_the_dense_one():
    torch.manual_seed(0)
    x = torch.randn(200, 3) @ torch.randn(3, 9) + 0.3 * torch.randn(200, 9)
    x[::5, 4:7] = torch.nan  # a part that is absent
    x[1::7, 0] = torch.nan
    fitted = ppvae.exact.layerwise(x, SIZES, latents=2, size=1, iterations=200, tolerance=1e-4)
    values = fitted.log_likelihood
    assert len(values) > 5 and (values.diff() >= -1e-10).all() and values[-1] > values[0] + 0.05
    groups = [ppvae.exact.em(p[p.isfinite().any(-1)], 1, iterations=200, tolerance=1e-4) for p in x.split(SIZES, -1)]
    rows = [p.isfinite().any(-1).sum() / 200 for p in x.split(SIZES, -1)]
    alone = sum(g.log_likelihood[-1] * share for g, share in zip(groups, rows, strict=True))
    assert (values[0] - alone).abs() < 1e-8
    made = linear(latents=2, size=1)
    made.decoder.top.set_(*fitted.top)
    made.decoder.bottom.set_(*fitted.bottom)
    loc, cov = dense(made)
    truth = [MultivariateNormal(loc[o], cov[o][:, o]).log_prob(r[o]) for r in x for o in [~r.isnan()]]
    assert (values[-1] - torch.stack(truth).mean()).abs() < 1e-10


def test_the_moments_of_the_top_layer_are_the_exact_posteriors():
    made, exists = linear(), existences(20)
    x = rows_of(exists, hidden=0.3)
    d, mask = made.decoder, ~x.isnan()
    with torch.no_grad():
        top = Law(d.top.W, d.top.loc, d.top.scale)
        found = _Sufficient(d.loadings, d.bottom.loc, d.bottom.scale, x.nan_to_num(), mask)(top)
        truth = u_given_x(d, x.nan_to_num(), mask)
    assert torch.allclose(found.means, truth.mean, atol=1e-10)
    assert torch.allclose(found.covariances, truth.covariance_matrix.sum(0), atol=1e-10)


def test_layerwise_does_not_fall_where_the_noise_stands_at_its_least():
    torch.manual_seed(0)
    x = torch.randn(200, 1) + 1e-4 * torch.randn(200, 40)
    with pytest.warns(ppvae.Caution, match="least value"):
        values = ppvae.exact.layerwise(x, (20, 20), latents=1, size=1).log_likelihood
    assert len(values) >= 3 and (values.diff() >= -1e-9).all()


def test_layerwise_approaches_what_generated_the_rows():
    made = linear(latents=1, size=1)
    with torch.no_grad():
        made.decoder.bottom.log_scale.fill_(-1.5)
        x = made.model(size=2000)
    x = torch.where(x == 0, torch.nan, x)[x.any(-1)]
    loc, cov = dense(made)
    fitted = ppvae.exact.layerwise(x, SIZES, latents=1, size=1, iterations=300, tolerance=1e-4)
    truth = torch.stack([MultivariateNormal(loc[o], cov[o][:, o]).log_prob(r[o]) for r in x for o in [~r.isnan()]])
    # the same story, fitted greedily: at most what overfitting adds above the truth, at least nearly as good
    assert truth.mean() - 0.05 < fitted.log_likelihood[-1] < truth.mean() + 0.05


@pytest.mark.parametrize("name", ["shape_vae", "shape_fa"])
def test_a_file_keeps_the_patterns(name, tmp_path):
    made = ppvae.make(name, 9, 2, parts=SIZES, patterns=patterns(existences()), size=1)
    ppvae.save(made, tmp_path / "pair.pt")
    again = ppvae.load(tmp_path / "pair.pt")
    assert torch.equal(again.decoder.parts.law().log_prob(EVERY), law().log_prob(EVERY))


# --- without latents -----------------------------------------------------------------------------------------------


def test_the_diagonal_gaussian_is_each_patterns_own():
    exists = existences(60)
    x = rows_of(exists)
    parts = Parts(9, SIZES, patterns(exists))
    made = ppvae.Pair(shape_gaussian.model, decoder=shape_gaussian.Decoder(parts, x, exists))
    found = ppvae.condition(made, {"x": x, "exists": exists}).log_evidence(1)
    for n in range(10):
        same = (exists == exists[n]).all(-1)
        scale = x[same].std(0, correction=0).clamp_min(1e-3**0.5)
        o = ~x[n].isnan()
        truth = Normal(x[same][:, o].mean(0), scale[o]).log_prob(x[n, o]).sum()
        assert (found[n] - truth).abs() < 1e-10


# --- chains of means ---------------------------------------------------------------------------------------------------


def test_a_chain_of_means_moves_the_latents_and_not_the_noise():
    made = linear()
    exists = torch.ones(3, 3)
    x = rows_of(exists, hidden=0.5)
    posterior = ppvae.condition(made, {"x": x, "exists": exists})
    torch.manual_seed(0)
    chain = posterior.gibbs(draws=3, burn_in=2, gap=1, metropolis=False, means=True)
    d = made.decoder
    with torch.no_grad():
        means = chain.latents["u"] @ d.loadings.T + d.bottom.loc
    assert torch.allclose(chain.x, torch.where(x.isnan(), means, x), atol=1e-12)
    with pytest.raises(ppvae.Problem, match="means"):
        posterior.gibbs(means=True)
    with pytest.raises(ppvae.Problem, match="complete rows say what the latent 'exists' is"):
        ppvae.condition(made, {"x": x}).gibbs(draws=1, burn_in=0, gap=1)


def test_wake_sleep_trains_the_guide_of_parts():
    made = example("shape_vae")
    exists = torch.ones(12, 3)
    rows = {"x": rows_of(exists), "exists": exists}
    before = made.encoder.head.linear.weight.clone()
    ppvae.fit(made, rows, objective=ppvae.wake_sleep(3), epochs=2, batch_size=6)
    assert not torch.equal(before, made.encoder.head.linear.weight)


# --- bad input -----------------------------------------------------------------------------------------------------------


def test_an_unseen_pattern_is_scored_and_said():
    made = linear()
    exists = torch.tensor([[1.0, 1, 1], [0, 0, 1]])
    x = rows_of(exists)
    with pytest.warns(ppvae.Caution, match=r"1 of 2 rows .* no training row had, the first row 1: \[0, 0, 1\]"):
        posterior = ppvae.condition(made, {"x": x, "exists": exists})
    assert posterior.log_evidence().isfinite().all()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"parts": (4, 3)}, "7 in all, for 9 features"),
        ({"parts": (9, 0)}, "a part has some"),
        ({"parts": SIZES, "patterns": ([[1, 0, 1]], [5])}, "part 1 occurs in no row"),
        ({"parts": SIZES, "patterns": ([[1, 1]], [5])}, "2 parts for 3 parts"),
        ({"parts": SIZES, "patterns": ([], [5])}, "0 patterns, 1 counts"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, words):
    for name in ("shape_vae", "shape_fa"):
        with pytest.raises(ppvae.Problem, match=words):
            ppvae.make(name, 9, 2, **options)


def test_what_no_layer_can_be_fitted_to_is_refused():
    x = torch.randn(20, 9)
    for sizes, latents, size, words in [
        ((4, 3), 2, 1, "7 in all"),
        (SIZES, 2, 2, "the smallest of which has 2"),
        (SIZES, 3, 1, "3 latents above 3"),
    ]:
        with pytest.raises(ppvae.Problem, match=words):
            ppvae.exact.layerwise(x, sizes, latents, size)
    x = torch.randn(20, 1) + 0.1 * x
    x[:, 4:7] = torch.nan
    with pytest.raises(ppvae.Problem, match="group 1 of the features is observed in no row"):
        ppvae.exact.layerwise(x, SIZES, 2, 1, tolerance=1e-2)
    with pytest.raises(ppvae.Problem, match="one bit a part"):
        patterns(torch.rand(4, 3))
    with pytest.raises(ppvae.Problem, match="min_variance"):
        ppvae.make("shape_vae", 9, 2, parts=SIZES, min_variance=0.0)
    with pytest.raises(ppvae.Problem, match="row 0 of exists is observed in part"):
        ppvae.condition(
            linear(), {"x": x, "exists": torch.full((20, 3), torch.nan).index_fill(1, torch.tensor(0), 1.0)}
        )
