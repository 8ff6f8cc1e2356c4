"""Pictures: what stands in them is what was computed, and what cannot be drawn is refused."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from examples import linear_gaussian, pair
from matplotlib.axes import Axes

import ppvae
from ppvae import exact, plots
from ppvae.machine import own_generators
from ppvae.plots.style import mosaic
from ppvae.plots.values import codes_of, means_at

matplotlib.use("Agg")
SHAPE = (2, 3)


def gaussian(name, N):
    """A factor analysis with two latents, complete rows of it, and its parameters."""
    one, x, _ = linear_gaussian(name, N=N, D=6, K=2)
    story = one.decoder
    return one, x, [getattr(story, part).detach() for part in ("W", "loc", "scale")]


@pytest.fixture(autouse=True)
def closed():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def rows(N=12, D=6):
    return torch.rand(N, D, generator=torch.Generator().manual_seed(3)).round()


def image(ax):
    return np.asarray(ax.images[0].get_array())


def test_images_stand_side_by_side():
    images = torch.arange(24.0).reshape(4, 6)
    assert mosaic(images, SHAPE, 2).tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]


def test_the_manifold_goes_through_the_inverse_normal_cdf():
    one = pair("vae", features=6, latents=2)
    ax = plots.manifold(one, SHAPE, side=4)
    assert isinstance(ax, Axes) and image(ax).shape == (8, 12)
    # the image of the second row from below, third from the left: u = (5/8, 3/8)
    z = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([[5 / 8, 3 / 8]]))
    by_hand = one.decoder(z).mean.detach().reshape(SHAPE)
    assert np.allclose(image(ax)[4:6, 6:9], by_hand, atol=1e-6)


def test_a_traversal_moves_one_coordinate_at_a_time():
    one, x = pair("vae", features=6, latents=3), rows()
    ax = plots.traversal(one, x[2], SHAPE, span=2.0, steps=5)
    mean, spread = codes_of(one, x[2:3])
    order = (mean.abs() / spread)[0].argsort(descending=True)
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"z{k + 1}" for k in order.tolist()]
    z = mean.clone()
    z[0, order[1]] = 1.0  # the fourth of -2, -1, 0, 1, 2 in the second row
    assert np.allclose(image(ax)[2:4, 9:12], means_at(one, z).reshape(SHAPE), atol=1e-6)


def test_a_line_between_two_codes_and_their_rows_at_its_ends():
    one, x = pair("vae", features=6, latents=2), rows()
    ax = plots.interpolation(one, x[:2], SHAPE, steps=3)
    mean, _ = codes_of(one, x[:2])
    assert np.array_equal(image(ax)[:, :3], x[0].reshape(SHAPE)) and np.array_equal(
        image(ax)[:, 12:], x[1].reshape(SHAPE)
    )
    assert np.allclose(image(ax)[:, 6:9], means_at(one, mean.mean(0, keepdim=True)).reshape(SHAPE), atol=1e-6)


def test_codes_are_the_guides_means_and_means_the_stories():
    one, x, (W, loc, scale) = gaussian("factor_analysis_exact", 7)
    mean, spread = codes_of(one, x)
    truth = exact.posterior(W, loc, scale, x)
    assert torch.allclose(mean, truth.mean.detach()) and torch.allclose(spread, truth.stddev.detach())
    assert torch.allclose(means_at(one, mean), (mean @ W.T + loc).detach())


def test_masks_grow_and_the_spread_is_that_of_what_is_missing():
    one, x, (W, loc, scale) = gaussian("factor_analysis_exact", 7)
    ax = plots.reconstructions(one, x[0], SHAPE, shares=(0.0, 0.5, 0.9), draws=4000)
    picture = image(ax)
    orange = np.array(matplotlib.colors.to_rgba("tab:orange"))
    gaps = np.isclose(picture[:2], orange).all(-1).reshape(2, 3, 3).transpose(1, 0, 2).reshape(3, 6)
    assert not gaps[0].any() and 0 < gaps[1].sum() < gaps[2].sum() and (gaps[1] <= gaps[2]).all()
    seen = torch.from_numpy(~gaps[2])
    q = exact.posterior(W, loc, scale, x[:1], seen[None])
    sd = ((W @ q.covariance_matrix[0] * W).sum(-1) + scale.square()).sqrt().detach()
    largest = float(sd[~seen].max())
    told = float(ax.get_title().split()[-1])
    assert abs(told - largest) < 5 * largest / math.sqrt(2 * 4000) + 0.05 * largest  # two digits are said


def test_codes_in_the_plane_have_their_labels_and_the_prior():
    one, x = pair("vae", features=6, latents=3), rows(20)
    label = torch.arange(20) % 3
    ax = plots.codes(one, x, label=label)
    mean, _ = codes_of(one, x)
    a, b = sorted(mean.var(0).argsort(descending=True)[:2].tolist())
    assert ax.get_xlabel() == f"E[z{a + 1} | x]" and ax.get_ylabel() == f"E[z{b + 1} | x]"
    points = np.asarray(ax.collections[1].get_offsets())
    assert np.allclose(points, mean[label == 1][:, [a, b]])
    assert sorted(patch.get_width() for patch in ax.patches) == [2, 4, 6]
    assert len(np.asarray(plots.codes(one, x).collections[0].get_offsets())) == 20


def test_tsne_draws_every_row():
    ax = plots.tsne(pair("vae", features=6, latents=3), rows(20), label=torch.arange(20) % 2)
    assert sum(len(np.asarray(c.get_offsets())) for c in ax.collections) == 20


def test_ellipses_are_those_of_the_covariances():
    one, x, (W, loc, scale) = gaussian("factor_analysis_full", 3)
    x[0, :4] = torch.nan
    ax = plots.ellipses(one, x)
    truth = exact.posterior(W, loc, scale, x.nan_to_num(), ~x.isnan())
    assert len(ax.patches) == 6
    for n, patch in enumerate(ax.patches[:3]):
        # points of the ellipse are one standard deviation away from its centre, in the exact posterior's own metric
        path = patch.get_patch_transform().transform(patch.get_path().vertices[:-1])
        away = torch.tensor(path) - truth.mean[n].detach()
        metric = torch.linalg.inv(truth.covariance_matrix[n].detach())
        far = ((away @ metric) * away).sum(-1).sqrt()
        assert far.max() < 1.45 and abs(far[::8].mean() - 1) < 0.05  # Bézier control points lie outside


def test_bars_are_the_kl_of_each_coordinate():
    one, x = pair("vae", features=6, latents=4), rows(30)
    ax = plots.kl(one, x)
    units = ppvae.evaluate.units(one, x)["z"]
    assert [bar.get_height() for bar in ax.patches] == pytest.approx(sorted(units.kl.tolist(), reverse=True), abs=1e-6)
    assert f"{units.kl.sum():.1f} nats" in ax.get_title() and f"{int(units.active.sum())} of 4" in ax.get_title()


def test_curves_of_a_fit_and_of_its_folder(tmp_path):
    one = pair("vae", features=6, hidden=(4,))
    history = ppvae.fit(one, rows(40), epochs=3, held_out=0.25, checkpoint=tmp_path / "run").history
    for source in (history, tmp_path / "run"):
        bound, held_out = plots.training(source).lines
        assert list(bound.get_ydata()) == [record["bound"] for record in history]
        assert list(held_out.get_ydata()) == [record["held_out"] for record in history]


def test_bounds_rise_to_the_evidence():
    one, x, story = gaussian("factor_analysis_full", 300)
    ax = plots.bounds(one, x, particles=(1, 20, 500))
    low, middle, high = ax.lines[0].get_ydata()
    with own_generators(0):
        by_row = [ppvae.condition(one, x).log_evidence(count) for count in (1, 20, 500)]
    assert high == pytest.approx(float(by_row[2].mean()), abs=1e-5)
    band = ax.collections[0].get_paths()[0].vertices
    at_one = band[np.isclose(band[:, 0], 1.0), 1]
    assert np.ptp(at_one) == pytest.approx(2 * float(by_row[0].std()) / 300**0.5, rel=1e-4)
    truth = float(exact.log_evidence(*story, x).mean())
    assert low < middle < high < truth + 0.05 and abs(high - truth) < 0.2 * (truth - low)


def test_a_graph_has_what_depends_on_what():
    one = pair("two_layer", features=4)
    ax = plots.graph(one, rows(5, 4))
    words = [text.get_text() for text in ax.texts]
    assert {"z1", "z2", "x", "data", "features"} <= set(words)
    arrows = [p for p in ax.patches if type(p).__name__ == "FancyArrowPatch"]
    drawn = {p.get_linestyle() for p in arrows}
    assert len(arrows) == 4 and drawn == {"solid", "--"}  # z2 to z1 to x, and back; none from x to z2
    given = pair("semi_supervised_vae", features=4, classes=3)
    assert len([p for p in plots.graph(given, rows(5, 4)).patches if type(p).__name__ == "FancyArrowPatch"]) == 5


def test_what_cannot_be_drawn_is_refused(tmp_path):
    flat, wide, deep, x = pair("vae", features=6, latents=2), pair("vae", features=6), pair("two_layer"), rows()
    for wrong, words in (
        (lambda: plots.manifold(flat, (2, 2)), "a row has 6 entries"),
        (lambda: plots.manifold(pair("vae", features=6, latents=3), SHAPE), "the picture shows 2 coordinates"),
        (lambda: plots.codes(deep, torch.rand(4, 9).round()), "the latents z2, z1"),
        (lambda: plots.traversal(flat, x, SHAPE), "x has 12 rows"),
        (lambda: plots.interpolation(flat, x, SHAPE), "x has 12 rows"),
        (lambda: plots.reconstructions(wide, x[0], SHAPE, shares=(1.0,)), "shares is"),
        (lambda: plots.reconstructions(wide, x, SHAPE), "x has 12 rows"),
        (lambda: plots.codes(flat, x, label=torch.zeros(3)), "label has the shape"),
        (lambda: plots.tsne(flat, x[:3]), "x has 3 rows"),
        (lambda: plots.ellipses(flat, x), "no W, loc and scale"),
        (lambda: plots.training([]), "no epoch"),
        (lambda: plots.training(tmp_path), "cannot be read"),
        (lambda: plots.bounds(flat, x, particles=(0,)), "particles is"),
        (lambda: plots.manifold(flat, SHAPE, side=0), "side is 0"),
        (lambda: plots.manifold(flat, SHAPE, levels=3), "levels is 3"),
        (lambda: plots.traversal(flat, x[0], SHAPE, steps=0), "steps is 0"),
        (lambda: plots.interpolation(flat, x[:2], SHAPE, steps=0), "steps is 0"),
        (lambda: plots.reconstructions(wide, x[0], 8), r"shape is \(8,\)"),
        (lambda: plots.reconstructions(wide, x[0], SHAPE, levels=3), "levels is 3"),
        (lambda: plots.codes(flat, x, label=["a"] * 12), "label cannot be read"),
        (lambda: plots.codes("vae", x), "a str stands where a pair belongs"),
        (lambda: plots.kl(flat, x[:1]), "x has 1 row"),
    ):
        with pytest.raises(ppvae.Problem, match=words):
            wrong()


def test_it_draws_where_it_is_told():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert plots.manifold(pair("vae", features=6, latents=2), SHAPE, side=2, ax=ax) is ax
