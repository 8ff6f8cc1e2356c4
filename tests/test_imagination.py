"""Imagination: the three C's by hand, images whose attributes can be read back, and the command."""

import json
import math

import pytest
import torch

import ppvae
from ppvae.data.digits import digits_binary
from ppvae.data.mnist_attributes import CENTRES, COUNTS, NAMES, mnist_attributes, with_attributes
from ppvae.evaluate.imagination import compositionality, correctness, coverage
from ppvae.reproduce import Run, imagination
from ppvae.reproduce.judge import Judge, judged, taught

NAN = float("nan")


# --- the three C's ------------------------------------------------------------------------------------


def test_correctness_by_hand():
    predicted = torch.tensor([[[3, 0, 1], [3, 1, 2]], [[5, 0, 0], [4, 0, 0]]])  # two queries, two samples each
    asked = torch.tensor([[3.0, NAN, 1.0], [4.0, 0.0, 0.0]])
    value = correctness(predicted, asked, ~asked.isnan())
    assert torch.allclose(value, torch.tensor([(1 + 0.5) / 2, (2 / 3 + 1) / 2]).double())
    assert correctness(predicted[0], asked[0].nan_to_num(), torch.tensor([False, False, True])) == 0.5
    assert correctness(predicted[0], asked[0], torch.zeros(3, dtype=torch.bool)).isnan()


def test_coverage_is_one_where_laws_are_equal_and_zero_where_they_share_nothing():
    predicted = torch.tensor([[0, 2], [1, 2], [0, 2], [1, 2]])  # (S, A)
    truth = [torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75, 0.0])]
    asked = {k: torch.arange(2) == k for k in range(2)}
    assert coverage(predicted, asked[1], truth) == 1.0
    assert coverage(predicted, asked[0], truth) == 0.0
    assert coverage(predicted, torch.zeros(2, dtype=torch.bool), truth) == 0.5
    assert coverage(predicted, torch.ones(2, dtype=torch.bool), truth).isnan()


def test_few_perfect_draws_cover_less_than_all():
    for count, wanted in ((20, 0.89), (100, 0.98)):
        drawn = torch.randint(10, (2000, count, 1), generator=torch.Generator().manual_seed(count)).double()
        found = coverage(drawn, torch.zeros(2000, 1, dtype=torch.bool), [torch.full((2000, 10), 0.1)])
        assert abs(found.mean() - wanted) < 0.005 + 5 * found.std() / 2000**0.5


def test_coverage_by_hand():
    """p = (3/4, 1/4), q = (1/2, 1/2): entropy of the middle less the mean entropy."""
    predicted = torch.tensor([0, 0, 0, 1])[:, None]
    entropy = [-sum(p * math.log2(p) for p in law) for law in ((5 / 8, 3 / 8), (3 / 4, 1 / 4), (1 / 2, 1 / 2))]
    value = coverage(predicted, torch.tensor([False]), [torch.tensor([0.5, 0.5])])
    assert abs(value - (1 - entropy[0] + (entropy[1] + entropy[2]) / 2)) < 1e-12


def test_many_queries_are_each_by_itself():
    torch.manual_seed(0)
    predicted, asked = torch.randint(2, (6, 9, 3)), torch.randint(2, (6, 3))
    mask, truth = torch.rand(6, 3) > 0.4, [torch.rand(6, 2) for _ in range(3)]
    truth = [q / q.sum(-1, keepdim=True) for q in truth]
    together = correctness(predicted, asked, mask), coverage(predicted, mask, truth)
    for n in range(6):
        own = correctness(predicted[n], asked[n], mask[n]), coverage(predicted[n], mask[n], [q[n] for q in truth])
        for a, b in zip(together, own, strict=True):
            assert torch.allclose(a[n], b, equal_nan=True, atol=1e-12)


def test_compositionality_takes_no_concept_that_was_trained_on():
    trained = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    predicted = torch.tensor([[[1, 1], [1, 0]]])
    assert torch.equal(compositionality(predicted, torch.tensor([[1.0, 1.0]]), trained), torch.tensor([0.75]))
    with pytest.raises(ppvae.Problem, match="1 of 1 concepts were trained on"):
        compositionality(predicted, torch.tensor([[1.0, 0.0]]), trained)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, a: correctness(p, a[:1]),
        lambda p, a: correctness(p, a, torch.ones(2, 3)),
        lambda p, a: coverage(p, torch.ones(2, 3, dtype=torch.bool), [torch.ones(2)] * 3),
        lambda p, a: coverage(p, torch.ones(2, 3, dtype=torch.bool), [torch.tensor([0.5, 0.5])] * 2),
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(ppvae.Problem):
        wrong(torch.zeros(2, 4, 3), torch.zeros(2, 3))


# --- images with attributes -----------------------------------------------------------------------------

CORNER = torch.zeros(
    20, 20, dtype=torch.float32
)  # no turn leaves it as it is: a bar down the left, a foot to the right
CORNER[:, :6], CORNER[14:] = 1.0, 1.0


@pytest.fixture(autouse=True)
def _single():
    torch.set_default_dtype(torch.float32)  # as images are


def corners(count, split="iid", size=64, seed=0, rows=None):
    digit = torch.arange(count) % 10
    return with_attributes(CORNER.expand(count, 20, 20), digit, size, split, rows or (count - 20, 10, 10), seed)


def moments(x, size=64):
    """Centre of mass right and down from the middle in halves of the canvas, (N, 2); ink, (N,); and its third moment's axis."""
    place = (torch.arange(size) + 0.5) / size * 2 - 1
    images = x.view(-1, size, size)
    ink = images.sum((1, 2))
    right, down = (images.sum(1) @ place) / ink, (images.sum(2) @ place) / ink
    return torch.stack([right, down], 1), ink


def test_location_size_and_orientation_can_be_read_back():
    data = corners(600)
    y, x = data.y.long(), data.x
    centre, ink = moments(x)
    assert torch.equal((centre[:, 0] > 0).long() + 2 * (centre[:, 1] > 0).long(), y[:, 3])
    share = 2 * ink.sqrt() / 64 / CORNER.mean().sqrt()  # the side of the box, of a quadrant's
    assert torch.equal((share < 0.75).long(), y[:, 1])
    for code, side in enumerate((0.9, 0.6)):
        sides = share[y[:, 1] == code]
        assert (sides.mean() - side).abs() < 0.03 and sides.max() < side + 0.14 and sides.min() > side - 0.14
    # the upright corner's mass lies left of and below its box's centre: by 225 degrees; a turn moves that direction
    grid = (torch.arange(20) + 0.5) / 10 - 1
    upright = torch.stack([(CORNER.sum(0) @ grid), (CORNER.sum(1) @ grid)]) / CORNER.sum()
    for code, degrees in enumerate((0.0, 45.0, -45.0)):
        turned = y[:, 2] == code
        scale = torch.tensor([0.9, 0.6])[y[turned, 1]][:, None] / 2
        away = (centre[turned] - CENTRES[y[turned, 3]]) / scale
        angle = math.radians(degrees)  # clockwise, where down is positive
        wanted = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) @ upright
        error = away.std(0) / turned.sum().sqrt()
        assert ((away.mean(0) - wanted).abs() < 5 * error + 0.02).all(), degrees
    assert ((x == 0) | (x == 1)).all() and torch.equal(y[:, 0], torch.arange(600) % 10)


def test_a_clockwise_turn_is_clockwise():
    """A bar that stands upright leans to the right when turned clockwise: its upper half lies right of its lower half."""
    bar = torch.zeros(20, 20, dtype=torch.float32)
    bar[:, 8:12] = 1.0
    data = with_attributes(bar.expand(300, 20, 20), torch.zeros(300).long(), 64, "iid", (280, 10, 10))
    images, place = data.x.view(-1, 64, 64), torch.arange(64.0)
    rows = (images.sum(2) > 0).float()
    middle = (rows * place).sum(1) / rows.sum(1)
    upper = (place < middle[:, None]).float()[:, :, None] * images
    lean = (upper.sum(1) @ place) / upper.sum((1, 2)) - (images.sum(1) @ place) / images.sum((1, 2))
    for code, sign in ((1, 1), (2, -1)):
        assert (sign * lean[data.y[:, 2] == code] > 0.5).all()


def test_every_part_of_iid_has_all_concepts_and_comp_keeps_a_tenth_from_training():
    iid, comp = corners(12_000, size=16, rows=(8000, 2000, 2000)), corners(12_000, "comp", 16, rows=(8000, 2000, 2000))
    assert len(iid.held_out) == 0 and len(torch.unique(iid.rows("train")["y"], dim=0)) == 240
    assert torch.equal(torch.cat(list(iid.split.values())), torch.arange(12_000))
    held = {tuple(row) for row in comp.held_out.tolist()}
    assert len(held) == 24
    for part in ("train", "valid"):
        assert not held & {tuple(row) for row in comp.rows(part)["y"].tolist()}
    assert len(torch.unique(comp.rows("train")["y"], dim=0)) == 216
    assert {tuple(row) for row in comp.rows("test")["y"].tolist()} == held
    assert 0 < len(comp.split["test"]) <= 2000 and len(comp.split["train"]) == 8000
    counts = torch.bincount((iid.y[:, 1:] @ torch.tensor([12.0, 4.0, 1.0])).long())  # uniform: 24 equally often
    assert ((counts - 500).abs() < 5 * 500**0.5).all()


def test_the_seed_says_all_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    a, b, c = corners(40), corners(40), corners(40, seed=1)
    assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and not torch.equal(a.y, c.y)
    assert torch.equal(before, torch.get_rng_state())
    assert a.shape == (1, 64, 64) and "0 of 240 concepts" in repr(a)


def test_what_cannot_be_made_is_refused():
    for wrong in (lambda: corners(40, "other"), lambda: corners(40, size=8), lambda: corners(40).rows("all")):
        with pytest.raises(ppvae.Problem):
            wrong()


def test_mnist_gives_its_digits_and_its_split(data_folder):
    data = mnist_attributes(32, rows=(300, 100, 200))
    source = ppvae.data.load("mnist")
    assert torch.equal(data.rows("train")["y"][:, 0].long(), source.label[:300])
    assert torch.equal(data.rows("test")["y"][:, 0].long(), source.label[60_000:60_200])
    with pytest.raises(ppvae.Problem, match="60,000"):
        mnist_attributes(32, rows=(60_000, 1, 1))


# --- the table ------------------------------------------------------------------------------------------


def test_queries_fit_the_training_rows_and_their_laws_are_frequencies():
    y = corners(3000, "comp", 16, rows=(2900, 50, 50)).rows("train")["y"]
    chosen, scored = imagination.queries(y, 0)
    concepts = torch.cat([chosen.concrete, scored.concrete])
    assert torch.equal(torch.unique(concepts, dim=0), torch.unique(y, dim=0)) and len(concepts) == len(
        torch.unique(y, dim=0)
    )
    given = (~torch.cat([chosen.abstract, scored.abstract]).isnan()).sum(1)
    assert (given == 1).sum() == 19 and (given == 2).sum() == 116 and set(given.tolist()) == {1, 2, 3}
    for q in (0, 5, 50):
        asked = scored.abstract[q]
        fits = torch.tensor(
            [all(a != a or a == b for a, b in zip(asked.tolist(), row, strict=True)) for row in y.tolist()]
        )
        for k, law in enumerate(scored.truth):
            by_hand = torch.bincount(y[fits][:, k].long(), minlength=law.shape[1]).double() / fits.sum()
            assert torch.allclose(law[q], by_hand)


def test_draws_of_the_prior_under_weights_are_the_posteriors():
    """E[z | y_o] of draws of the prior against those of the guide under importance weights, one latent."""
    torch.manual_seed(0)
    pair = ppvae.make("multimodal_vae", features=4, latents=1, hidden=(8,))
    with torch.no_grad():
        for parameter in pair.decoder.words.parameters():
            parameter.mul_(4)
    asked = torch.tensor([[3.0, NAN, 1.0, NAN], [NAN, 0.0, NAN, NAN]])
    a, b = (way(pair, asked, 4000) for way in (imagination.prior_draws, imagination.weighted_draws))
    assert a.shape == b.shape == (2, 4000, 1)
    z = torch.linspace(-8, 8, 3001)[:, None, None]
    with torch.no_grad():
        law = pair.decoder.y(z)
    for n, row in enumerate(asked):
        score = (law.log_prob(row.nan_to_num().expand(3001, 4)) * ~row.isnan()).sum(-1) - z.flatten() ** 2 / 2
        mean = (score.softmax(0) * z.flatten()).sum()
        for draws in (a, b):  # weights make draws depend: a tenth as many count
            assert (draws[n].mean() - mean).abs() < 5 * draws[n].std() / 400**0.5
    own = imagination.own_draws(pair, asked, 4000)
    assert own.shape == (2, 4000, 1)


def test_draws_of_the_guide_are_told_what_is_asked():
    torch.manual_seed(0)
    pair = ppvae.make("multimodal_vae", features=4, latents=2, hidden=(8,))
    with torch.no_grad():
        pair.encoder.attributes.loc.mul_(20)
    asked = torch.tensor([[3.0, NAN, 1.0, NAN], [NAN, 0.0, NAN, NAN]])
    draws = imagination.own_draws(pair, asked, 4000)
    q = pair.encoder.attributes(pair.encoder.attributes.reading(asked.nan_to_num(), ~asked.isnan())[0])
    error = draws.std(1) / 4000**0.5
    assert ((draws.mean(1) - q.mean.squeeze(1)).abs() < 5 * error).all() and q.mean.abs().max() > 0.5


def test_what_was_imagined_is_scored_by_what_was_asked(monkeypatch):
    """A judge that sees big upright threes, top left, in every image."""
    seen = torch.tensor([3.0, 1.0, 1.0, 0.0])
    monkeypatch.setattr(imagination, "judged", lambda judge, x: seen.expand(*x.shape[:2], 4))
    monkeypatch.setattr(imagination, "means", lambda pair, z: z)
    way = lambda pair, asked, draws: torch.zeros(len(asked), draws, 2)  # noqa: E731
    concrete, held_out = torch.tensor([[3.0, 1, 1, 0], [3, 1, 0, 1]]), torch.tensor([[3.0, 0, 0, 1], [3, 0, 0, 1]])
    abstract = torch.tensor([[3.0, NAN, NAN, NAN], [NAN, 0.0, 1.0, NAN]])
    trained = torch.tensor([[3.0, 1.0, 1.0, 0.0], [5.0, 0.0, 1.0, 2.0]])
    asked = imagination.Queries(concrete, abstract, imagination.laws(abstract, trained))
    found = imagination._scored("row", None, way, asked, held_out, trained, 5, None)
    assert found["row", "correctness, 4 asked"] == 0.75 and found["row", "correctness, 1-3 asked"] == 0.75
    # 3 asked: all that is open is as in training. Small and upright asked: the row of a 5, none of whose two is seen
    assert found["row", "coverage, 1-3 asked"] == 0.5 and found["row", "compositionality"] == 0.25


def test_the_weight_is_chosen_on_the_queries_kept_for_it(monkeypatch):
    worth = {1.0: 0.2, 5.0: 0.9, 9.0: 0.4}

    def scored(row, pair, way, asked, held_out, *rest):
        assert asked == "kept" and held_out is None
        return {(row, measure): worth[pair] for measure in imagination.MEASURES[:3]}

    monkeypatch.setattr(imagination, "_fitted", lambda run, spent, name, rows, weight, epochs, seed: weight)
    monkeypatch.setattr(imagination, "_scored", scored)
    spent = imagination.BUDGETS["smoke"]._replace(weights=tuple(worth))
    assert imagination._weight(None, spent, {"y": None}, "kept", None, 0) == 5.0


def test_the_judge_is_taught_other_placements_in_each_pass_and_no_test_row(monkeypatch):
    shown = []

    def remembers(judge, rows, *rest):
        shown.append(rows["x"])
        return "judge"

    monkeypatch.setattr(imagination, "taught", remembers)
    monkeypatch.setattr(imagination, "judged", lambda judge, x: torch.zeros(len(x), 4))
    spent = imagination.BUDGETS["smoke"]._replace(taught=2)
    _, able = imagination._judge(Run(seeds=1, budget="smoke"), spent, 0)
    assert len(shown) == 2 and not torch.equal(*shown) and len(able) == 4
    for epoch, rows in enumerate(shown):
        assert torch.equal(rows, imagination.images("smoke", spent, "iid", 1000 + epoch).rows("train")["x"])


def test_the_judge_learns_to_read_location():
    data, judge = corners(1200, size=32, rows=(1000, 100, 100)), None
    for _ in range(3):
        judge = taught(judge, data.rows("train"), (1, 32, 32), COUNTS, 1.0)
    assert isinstance(judge, Judge) and not judge.training
    seen = judged(judge, data.rows("test")["x"].view(4, 25, -1))
    assert seen.shape == (4, 25, 4)
    assert (seen.view(100, 4)[:, 3] == data.rows("test")["y"][:, 3]).double().mean() > 0.9


def test_the_command_writes_the_table_and_the_boards(ppvae_, monkeypatch):
    small = imagination.BUDGETS["smoke"]._replace(canvas=16, weights=(10.0,), hidden=(16,), draws=3, epochs=1)
    monkeypatch.setitem(imagination.BUDGETS, "smoke", small)
    monkeypatch.setattr(imagination, "POOL", 500)
    assert len(digits_binary().x) >= sum(small.rows)
    code, out, err = ppvae_(
        "reproduce", "imagination", "--budget", "smoke", "--json", "t.json", "--figures", "pictures"
    )
    assert code == 0, err
    found = {(r["row"], r["column"]): r["value"] for r in json.load(open("t.json"))["results"]}
    for row in ("TELBO", "JMVAE", "BiVCCA", "TELBO, weighted", "JVAE, weighted prior"):
        for measure in imagination.MEASURES:
            assert 0 <= found[row, measure] <= 1
    assert all(0 <= found["Real images", f"judge: {name}"] <= 1 for name in NAMES)
    assert found["All", "weight of log p(y | z)"] == 10.0
    for name in imagination.METHODS:
        assert open(f"pictures/imagination-{name}.png", "rb").read(8) == b"\x89PNG\r\n\x1a\n"
