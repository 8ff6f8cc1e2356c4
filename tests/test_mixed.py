"""Tables of several kinds of columns: each kind's law against an independent one, and the story against identities."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from oracles import dense_log_evidence
from ppvae.models import mixed_vae

import ppvae
from ppvae import Problem
from ppvae.nn.columns import Columns, ColumnsHead, ordinal
from ppvae.nn.events import by_row
from ppvae.nn.kinds import arranged, scales
from ppvae.nn.reading import Reading

KINDS = (
    "real",
    "categorical:3",
    "count",
    "binary",
    "positive",
    "ordinal:4",
    "real",
    "categorical:3",
    "ordinal:2",
    "count",
)
D = len(KINDS)


def table(rows=40, missing=0.3, seed=0):
    """Rows of every kind that hang on one latent, in units far from 1, NaN where missing."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows)
    columns = {
        "real": lambda: 50 + 7 * (z + 0.5 * rng.normal(size=rows)),
        "positive": lambda: np.exp(3 + 0.6 * z + 0.2 * rng.normal(size=rows)),
        "count": lambda: rng.poisson(np.exp(1 + 0.7 * z)).astype(float),
        "binary": lambda: (2 * z + rng.logistic(size=rows) > 0).astype(float),
        "ordinal:4": lambda: np.digitize(z + 0.3 * rng.normal(size=rows), [-1, 0, 1]).astype(float),
        "ordinal:2": lambda: (z > 0.2).astype(float),
        "categorical:3": lambda: np.where(rng.random(rows) < 0.3, 1.0, np.where(z > 0, 2.0, 0.0)),
    }
    x = np.stack([columns[kind]() for kind in KINDS], 1)
    x[rng.random(x.shape) < missing] = np.nan
    return torch.as_tensor(x)


def made(x=None, kinds=KINDS, latents=1, seed=0, **options):
    torch.manual_seed(seed)
    known = {} if x is None else {"scales": scales(x, kinds)}
    pair = ppvae.make(
        "mixed_vae", features=len(kinds), latents=latents, kinds=kinds, **{"hidden": (16,), **known, **options}
    )
    with torch.no_grad():  # away from the start, so that no two parameters agree
        for p in pair.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return pair


def laws(seed=0):
    """One row's law of every kind, by a head that has scales: (Columns of batch (1, D), each column's law by scipy)."""
    x = table()
    torch.manual_seed(seed)
    head = ColumnsHead(3, KINDS, scales(x, KINDS))
    with torch.no_grad():
        for p in head.parameters():
            p.add_(0.5 * torch.randn_like(p))
        columns = head(torch.randn(1, 3))
    parts = dict(zip(dict.fromkeys(KINDS), columns.laws, strict=True))
    seen, found = dict.fromkeys(KINDS, 0), []
    for kind in KINDS:
        law, j = parts[kind], seen[kind]
        seen[kind] += 1
        if kind == "real":
            found.append(scipy.stats.norm(law.loc[0, j], law.scale[0, j]))
        elif kind == "positive":
            found.append(scipy.stats.lognorm(law.scale[0, j], scale=math.exp(law.loc[0, j])))
        elif kind == "count":
            r, mean = float(law.total_count[j] if law.total_count.dim() == 1 else law.total_count[0, j]), law.mean[0, j]
            found.append(scipy.stats.nbinom(r, r / (r + float(mean))))
        elif kind == "binary":
            found.append(scipy.stats.bernoulli(float(law.probs[0, j])))
        else:
            found.append(scipy.stats.rv_discrete(values=(range(law.probs.shape[-1]), law.probs[0, j].numpy())))
    return columns, found


def test_each_column_has_its_own_law_whatever_stands_beside_it():
    columns, found = laws()
    with torch.no_grad():
        value = columns.sample((50,))  # (50, 1, D)
        score = columns.log_prob(value)
    for j, law in enumerate(found):
        log = law.logpmf if hasattr(law, "pmf") and KINDS[j] not in ("real", "positive") else law.logpdf
        np.testing.assert_allclose(score[:, 0, j], log(value[:, 0, j].numpy()), rtol=1e-8, atol=1e-10)


def test_each_law_is_one_in_all():
    columns, _ = laws()

    def density(j, values):
        x = columns.sample().expand(len(values), 1, D).clone()
        x[:, 0, j] = torch.as_tensor(values, dtype=x.dtype)
        return columns.log_prob(x)[:, 0, j].exp().numpy()

    for j, kind in enumerate(KINDS):
        if kind in ("real", "positive"):
            draws = columns.sample((4000,))[:, 0, j]
            low, high = draws.min().item() - 8 * draws.std().item(), draws.max().item() + 20 * draws.std().item()
            grid = np.linspace(max(low, 1e-9) if kind == "positive" else low, high, 100_001)
            total = scipy.integrate.simpson(density(j, grid), x=grid)
            assert abs(total - 1) < 1e-6
        else:
            assert abs(density(j, np.arange({"count": 5000, "binary": 2}.get(kind) or int(kind[-1]))).sum() - 1) < 1e-9


def test_means_and_variances_and_draws_agree_with_the_laws():
    """20,000 draws: means, and frequencies of classes, within 5 standard errors."""
    columns, found = laws()
    draws = columns.expand((20_000, D)).sample()
    assert draws.shape == (20_000, D) and draws.dtype == torch.float64
    assert (draws[:, [0, 2, 4]].var(0) > 0).all()  # no two rows share a draw
    for j, (kind, law) in enumerate(zip(KINDS, found, strict=True)):
        if ":" in kind:
            assert columns.mean[0, j].isnan()
            share = np.bincount(draws[:, j].long().numpy(), minlength=int(kind[-1])) / 20_000
            p = law.pmf(range(int(kind[-1])))
            assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / 20_000) + 1e-12).all()
            continue
        np.testing.assert_allclose(columns.mean[0, j], law.mean(), rtol=1e-9)
        np.testing.assert_allclose(columns.variance[0, j], law.var(), rtol=1e-9)
        assert abs(draws[:, j].mean() - law.mean()) < 5 * draws[:, j].std() / 20_000**0.5
        fourth = float((draws[:, j] - law.mean()).pow(4).mean() - law.var() ** 2)
        assert abs(draws[:, j].var() - law.var()) < 5 * (fourth / 20_000) ** 0.5


def test_the_cumulative_logit_is_differences_of_sigmoids_and_its_gradient_is_finite_far_out():
    score, cuts = torch.randn(7, 2), torch.tensor([[-1.0, 0.2, 3.0], [0.0, 0.1, 0.2]])
    below = torch.cat([torch.zeros(7, 2, 1), (cuts - score[..., None]).sigmoid(), torch.ones(7, 2, 1)], -1)
    torch.testing.assert_close(ordinal(score, cuts).probs, below.diff(dim=-1))
    far = torch.tensor([[-800.0, 800.0]], requires_grad=True)
    for code in range(4):
        (gradient,) = torch.autograd.grad(ordinal(far, cuts).log_prob(torch.full((1, 2), code)).sum(), far)
        assert gradient.isfinite().all()


def test_counts_are_poisson_in_the_limit_and_spread_more_otherwise():
    head = ColumnsHead(1, ("count",))
    with torch.no_grad():
        head.laws[0].spread.fill_(-30.0)
        head.linear.weight.zero_()
        head.linear.bias.fill_(math.log(4.0))
        law = head(torch.zeros(1, 1))
    width = 1e-3  # the smallest
    assert abs(law.variance - (4 + 16 * width)) < 1e-6
    values = torch.arange(15.0)[:, None]
    torch.testing.assert_close(law.log_prob(values), dist.Poisson(4.0).log_prob(values), atol=0.05, rtol=0)


# --- identities of the story ----------------------------------------------------------------------


def test_a_real_linear_story_is_factor_analysis_in_the_tables_own_units():
    """With the exact posterior as guide every log-weight is the dense log-evidence, whatever is missing."""
    x = 40 + 9 * torch.randn(25, 6) @ torch.randn(6, 6)
    x[torch.rand(x.shape) < 0.4] = torch.nan
    pair = made(x, ("real",) * 6, latents=2, hidden=())
    head = pair.decoder.head
    W = head.laws[0].scale[:, None] * head.linear.weight
    loc = head.laws[0].loc + head.laws[0].scale * head.linear.bias
    scale = head.laws[0].scale * head.laws[0]._width()

    def guide(decoder, x, mask=True):
        with ppvae.pair.pyro.plate("data", len(x), dim=-2):
            mask = torch.ones_like(x, dtype=torch.bool) if mask is True else mask
            ppvae.pair.pyro.sample("z", by_row(ppvae.exact.posterior(W, loc, scale, x, mask)))

    exact = ppvae.Pair(mixed_vae.model, guide, decoder=pair.decoder)
    found = ppvae.condition(exact, x).log_weights(ppvae.condition(exact, x).table, 3)
    expected = dense_log_evidence(W, loc, scale, x.nan_to_num(), ~x.isnan())
    torch.testing.assert_close(found, expected.expand(3, -1), rtol=1e-10, atol=1e-10)


def test_an_all_real_story_is_the_vaes():
    ours, theirs = made(kinds=("real",) * 5, latents=2), ppvae.make("vae", 5, 2, hidden=(16,), likelihood="normal")
    theirs.decoder.net.load_state_dict(ours.decoder.net.state_dict())
    theirs.decoder.head.linear.load_state_dict(ours.decoder.head.linear.state_dict())
    theirs.decoder.head.spread.data.copy_(ours.decoder.head.laws[0].spread)
    z, x = torch.randn(7, 30, 2), torch.randn(30, 5)
    assert torch.equal(ours.decoder(z).log_prob(x), theirs.decoder(z).log_prob(x))


def test_positive_columns_are_real_ones_of_the_logarithm_and_units_are_only_units():
    x = torch.randn(30, 4).exp() * torch.tensor([1.0, 1e4, 1e-3, 7.0])
    positive, real = made(x, ("positive",) * 4), made(x.log(), ("real",) * 4)
    z = torch.randn(30, 1)
    torch.testing.assert_close(positive.decoder(z).log_prob(x), real.decoder(z).log_prob(x.log()) - x.log())
    for kind in ("real", "positive"):
        one, other = (made(rows, (kind,) * 4).decoder(z).log_prob(rows) for rows in (x, 1000 * x))
        torch.testing.assert_close(other, one - math.log(1000), rtol=1e-5, atol=1e-5)  # scales are kept in float32


def by_quadrature(pair, x):
    """log p(x_o) of a story of one latent, (N,), and p(z | x_o) at the nodes, (200, N), by Gauss and Hermite's rule."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    z = torch.as_tensor(nodes)[:, None, None].expand(-1, len(x), 1)
    with torch.no_grad():
        score = pair.decoder(z).log_prob(x.nan_to_num(1.0))
    logs = torch.where(x.isnan(), 0.0, score).sum(-1) + torch.as_tensor(np.log(weights / weights.sum()))[:, None]
    return logs.logsumexp(0), logs.softmax(0), z


def test_the_evidence_of_a_mixed_story_is_that_of_quadrature():
    """50,000 draws a row; 5 standard errors of the mean weight."""
    x = table(rows=8)
    x[0] = torch.nan
    pair = made(x)
    exact = by_quadrature(pair, x)[0]
    post = ppvae.condition(pair, x)
    weights = post.log_weights(post.table, 20_000).exp()
    mean = weights.mean(0)
    assert ((mean - exact.exp()).abs() < 5 * weights.std(0) / 20_000**0.5 + 1e-12 * mean).all()
    assert abs(exact[0]) < 1e-10
    torch.testing.assert_close(post.log_evidence(20_000), exact, atol=0.2, rtol=0)


def test_holes_get_means_of_numbers_the_likeliest_category_and_the_median_of_what_is_ordered():
    x = table(rows=12, missing=0.5)
    pair = made(x)
    _, chances, z = by_quadrature(pair, x)
    parts = dict(zip(dict.fromkeys(KINDS), pair.decoder(z).laws, strict=True))
    torch.manual_seed(0)
    found, seen = ppvae.condition(pair, x).impute_mean(20_000), dict.fromkeys(KINDS, 0)
    torch.testing.assert_close(found[~x.isnan()], x[~x.isnan()], rtol=0, atol=0)
    for j, kind in enumerate(KINDS):
        law, i = parts[kind], seen[kind]
        seen[kind] += 1
        for n in x[:, j].isnan().nonzero().flatten().tolist():
            if ":" not in kind:
                expected = (chances[:, n] * law.mean[:, n, i]).sum()
                assert abs(found[n, j] - expected) < 0.05 * law.mean[:, n, i].std() + 0.02 * expected.abs()
                continue
            p = (chances[:, n, None] * law.probs[:, n, i]).sum(0).detach().numpy()
            certain = np.sort(p)[-1] - np.sort(p)[-2] > 0.05 and np.abs(np.cumsum(p) - 0.5).min() > 0.05
            code = int(np.argmax(p)) if kind.startswith("cat") else int(np.argmax(np.cumsum(p) >= 0.5))
            assert found[n, j] in range(int(kind[-1])) and (found[n, j] == code or not certain)


def test_a_row_is_read_as_a_network_wants_it():
    kinds = ("binary", "real", "categorical:3", "count", "ordinal:4", "positive")
    units = ((0.0, 1.0), (10.0, 2.0), (0.0, 1.0), (1.0, 0.5), (0.0, 1.0), (2.0, 4.0))
    read = Reading(kinds, units)
    x = torch.tensor([[1.0, 14.0, 2.0, math.e - 1, 2.0, math.exp(6)], [torch.nan] * 6])
    features, seen = read(x.nan_to_num(99.0), ~x.isnan())
    expected = torch.tensor([1, 2, 0, 0, 1, 0, 1, 1, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(features[0], expected, atol=1e-6, rtol=0)
    assert not features[1].any() and seen[0].all() and not seen[1].any() and read.features == 10
    assert torch.equal(read(x.nan_to_num(-3.0), ~x.isnan())[0], features)  # what fills a gap is not read


# --- the verbs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["mask", "experts"])
def test_the_verbs_take_a_mixed_pair_like_any_other(tmp_path, encoder):
    x = table(rows=60)
    pair = made(x, latents=2, encoder=encoder)
    ppvae.check(pair, x)
    ends = []
    for compile in ("auto", "off"):
        fresh = made(x, latents=2, encoder=encoder)
        result = ppvae.fit(fresh, x, epochs=3, batch_size=25, compile=compile, objective=ppvae.iw_elbo(3))
        assert (result.step == "staged") == (compile == "auto")
        ends.append(fresh.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*map(dict.values, ends), strict=True))
    ppvae.save(fresh, tmp_path / "pair.pt")
    again = ppvae.load(tmp_path / "pair.pt")
    filled = []
    for one in (fresh, again):
        torch.manual_seed(0)
        filled.append(ppvae.condition(one, x).impute(5))
    assert torch.equal(*filled) and torch.equal(filled[0][:, ~x.isnan()], x[~x.isnan()].expand(5, -1))
    assert all(pair.decoder(torch.zeros(1, 2)).support.check(filled[0]).flatten())
    tree = ppvae.condition(fresh, x).to_datatree(5)
    assert tree["posterior_predictive"]["x"].size == 5 * x.numel()


def test_a_fit_foretells_hidden_cells_of_every_kind_better_than_the_columns_do():
    x = table(rows=400, missing=0.0, seed=1)
    holes = table(rows=400, missing=0.3, seed=1)
    hidden = holes.isnan()
    torch.set_default_dtype(torch.float32)
    pair = ppvae.make("mixed_vae", D, 2, hidden=(32,), kinds=KINDS, scales=scales(holes, KINDS))
    ppvae.fit(pair, holes, epochs=60, batch_size=50, learning_rate=1e-2, progress=False)
    draws = ppvae.condition(pair, holes).impute(100).double()
    for j, kind in enumerate(KINDS):
        cells = hidden[:, j]
        seen, truth, drawn = holes[~cells, j], x[cells, j], draws[:, cells, j]
        if ":" in kind or kind == "binary":  # half Brier's score, by the draws' frequencies
            codes = torch.arange(int(kind[-1]) if ":" in kind else 2)
            ours = ((drawn[..., None] == codes).double().mean(0) - (truth[:, None] == codes).double()).square().sum(1)
            alone = ((seen[:, None] == codes).double().mean(0) - (truth[:, None] == codes).double()).square().sum(1)
        else:
            ours, alone = (drawn.mean(0) - truth).square(), (seen.mean() - truth).square()
        assert ours.mean() < 0.95 * alone.mean(), kind


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kinds": ("real", "wordy")}, "column 1 is of the kind 'wordy'"),
        ({"kinds": ("real", "categorical")}, "without its number of classes"),
        ({"kinds": ("real", "ordinal:1")}, "'ordinal:1'"),
        ({"kinds": ("real",)}, "1 kinds for 2 columns"),
        ({"kinds": "real"}, "one word for 2 columns"),
        ({"scales": ((0.0, 1.0),)}, "scales has 1 entries for 2 columns"),
        ({"scales": ((0.0, 1.0), (0.0, 0.0))}, "no location and positive unit"),
        ({"encoder": "wide"}, "no encoder 'wide'"),
    ],
)
def test_what_makes_no_pair_is_refused(options, says):
    with pytest.raises(Problem, match=says):
        ppvae.make("mixed_vae", 2, 1, **options)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("positive", 0.0), ("count", 1.5), ("count", -1.0), ("ordinal:3", 3.0), ("binary", 2.0), ("real", math.inf)],
)
def test_a_value_that_a_kind_does_not_have_is_refused_with_its_place(kind, value):
    x = torch.ones(6, 3)
    x[:, 1] = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, torch.nan]) + (kind == "positive")
    x[4, 1] = value
    kinds = ("real", kind, "real")
    with pytest.raises(
        Problem, match=rf"column 1 holds {value:g} in row 4 \(1 such values\), and is of the kind {kind}"
    ):
        scales(x, kinds)
    with pytest.raises(
        Problem, match="infinite at row 4, column 1" if kind == "real" else f"row 4, column 1, .* {kind} "
    ):
        ppvae.condition(ppvae.make("mixed_vae", 3, 1, kinds=kinds), x)


def test_columns_of_a_distribution_can_be_given_by_hand():
    columns = Columns(
        ("binary", "real", "binary"), [dist.Bernoulli(torch.tensor([0.2, 0.9])), dist.Normal(torch.zeros(1), 1.0)]
    )
    assert arranged(columns.kinds)[0].tolist() == [0, 2, 1]
    torch.testing.assert_close(columns.mean, torch.tensor([0.2, 0.0, 0.9]))
    assert columns.expand((4, 3)).sample().shape == (4, 3)
    wide = Columns(("real", "binary"), [dist.Normal(torch.zeros(1), 1.0), dist.Bernoulli(torch.full((50, 1), 0.5))])
    assert wide.batch_shape == (50, 2) and len(wide.sample()[:, 0].unique()) == 50  # no two rows share a draw
