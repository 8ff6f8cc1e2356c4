"""Scenes of entities: the story does not mind their order, the attention is what a loop finds, and the scores what hands count."""

import itertools
import json
import math

import pytest
import torch
from torch import distributions as dist

import ppvae
from ppvae.data.sprites import Factors, sprites
from ppvae.errors import Problem
from ppvae.evaluate import rate_distortion
from ppvae.reproduce import object_scores as scores

SIZES = {"features": 3 * 16 * 16, "channels": 3, "hidden": (4, 4)}  # a grid of 4 x 4


def mvae(entities=3, latents=2, loud=3.0, **options):
    """A small pair, whose last layers speak louder than they start, so that places differ."""
    torch.manual_seed(1)
    pair = ppvae.make("multi_entity_vae", latents=latents, entities=entities, **(SIZES | options))
    with torch.no_grad():
        for last in (pair.encoder.trunk.tell, pair.decoder.render, pair.decoder.object):
            for parameter in last.parameters():
                parameter.mul_(loud)
    return pair


def scenes(rows=6, **options):
    made = sprites(rows, 3, 16, seed=5, **options)
    return made._replace(x=made.x.double())


# --- the story ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregate", ["max", "sum"])
def test_entities_that_change_places_change_nothing(aggregate):
    decoder = mvae(4, aggregate=aggregate).decoder
    z = torch.randn(5, 1, 4, 2)
    logits = decoder(z).logits
    assert (logits - logits[:1]).abs().max() > 1e-2  # codes matter
    for order in itertools.permutations(range(4)):
        assert (decoder(z[:, :, list(order)]).logits - logits).abs().max() < 1e-10


@pytest.mark.parametrize("aggregate", ["max", "sum"])
def test_entities_are_drawn_one_by_one_and_pooled(aggregate):
    decoder = mvae(3, aggregate=aggregate).decoder
    z = torch.randn(2, 1, 3, 2)
    for n in range(2):
        pooled = decoder.object(z[n, 0, 0])
        for k in (1, 2):
            maps = decoder.object(z[n, 0, k])
            pooled = torch.where(maps > pooled, maps, pooled) if aggregate == "max" else pooled + maps
        by_hand = decoder.render(pooled[None])[0].flatten()
        assert (decoder(z[n : n + 1]).logits[0] - by_hand).abs().max() < 1e-10


def test_the_same_object_twice_is_one_object_under_max_and_two_under_sum():
    z = torch.randn(4, 1, 1, 2)
    for aggregate, same in (("max", True), ("sum", False)):
        decoder = mvae(2, aggregate=aggregate).decoder
        apart = (decoder(z.expand(4, 1, 2, 2)).logits - decoder(z).logits).abs().max()
        assert (apart < 1e-10) == same


# --- the guide ------------------------------------------------------------------------------------------


def test_the_map_is_the_kl_of_each_place_and_the_entities_are_its_largest():
    pair, x = mvae(5), scenes().x
    mask = torch.rand(x.shape) > 0.3
    with torch.no_grad():
        q, found, kl = pair.encoder.candidates(x, mask), pair.encoder(x, mask), pair.encoder.kl_map(x, mask)
    assert kl.shape == (6, 4, 4) and found.batch_shape == (6, 1) and found.event_shape == (5, 2)
    for n in range(6):
        by_hand = {}
        for i, j in itertools.product(range(4), range(4)):
            m, s = q.loc[n, i, j], q.scale[n, i, j]
            by_hand[i, j] = float((0.5 * (s**2 + m**2 - 1) - s.log()).sum())
            torchs = dist.kl_divergence(dist.Normal(m, s), dist.Normal(0.0, 1.0)).sum()
            assert abs(by_hand[i, j] - kl[n, i, j]) < 1e-10 and abs(torchs - kl[n, i, j]) < 1e-10
        for k, place in enumerate(sorted(by_hand, key=by_hand.__getitem__, reverse=True)[:5]):
            assert torch.equal(found.mean[n, 0, k], q.loc[n][place])
            assert torch.equal(found.stddev[n, 0, k], q.scale[n][place])


def test_the_bound_pays_for_the_chosen_places_alone():
    pair, x = mvae(3), scenes().x
    rate, _ = rate_distortion(pair, x, draws=1)
    largest = pair.encoder.kl_map(x).flatten(1).sort(descending=True).values[:, :3].sum(1)
    assert (rate - largest).abs().max() < 1e-10


def test_places_that_are_not_chosen_get_no_gradient():
    pair, x = mvae(3), scenes().x
    q = pair.encoder.candidates(x)
    loc = q.loc.detach().requires_grad_()
    pair.encoder.candidates = lambda *_: dist.Normal(loc, q.scale.detach())
    pair.encoder(x).mean.square().sum().backward()
    assert ((loc.grad != 0).any(-1).flatten(1).sum(1) == 3).all()


def test_what_hidden_pixels_hold_is_not_read_and_a_hidden_scene_has_an_evidence_of_one():
    """log p of nothing is 0: E_q[p(z) / q(z)] = 1, by 20,000 draws a scene. The bound is its KL below."""
    pair, x = mvae(2, 1, loud=1.5), scenes(2).x
    hidden = torch.zeros_like(x, dtype=torch.bool)
    assert torch.equal(pair.encoder(x, hidden).mean, pair.encoder(1 - x, hidden).mean)
    rate, distortion = rate_distortion(pair, x.masked_fill(~hidden, math.nan), draws=1)
    assert (rate > 0).all() and (distortion == 0).all()
    q = pair.encoder(x, hidden)
    z = q.sample((20_000,))
    weight = (dist.Normal(0.0, 1.0).log_prob(z).sum((-1, -2)) - q.log_prob(z)).exp().squeeze(-1)
    assert ((weight.mean(0) - 1).abs() < 5 * weight.std(0) / 20_000**0.5).all()


def test_the_plain_vae_is_the_story_of_one_entity():
    torch.manual_seed(0)
    pair = ppvae.make("single_entity_vae", latents=6, **SIZES)
    q = pair.encoder(scenes().x)
    assert q.batch_shape == (6, 1) and q.event_shape == (1, 6) and pair.decoder.entities == 1
    many = mvae(3).encoder.trunk.see
    ours = pair.encoder.trunk.see
    assert [p.shape for p in ours.parameters()] == [p.shape for p in many.parameters()]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"entities": 17}, "16 places"),
        ({"entities": 0}, "entities"),
        ({"aggregate": "mean"}, "max or sum"),
        ({"hidden": (4,) * 5}, "halved"),
        ({"hidden": 4}, "hidden"),
        ({"hidden": ()}, "hidden"),
        ({"hidden": (4, 0)}, "hidden"),
        ({"features": 700}, "no image"),
    ],
)
def test_what_cannot_be_made_is_refused(wrong, word):
    with pytest.raises(Problem, match=word):
        ppvae.make("multi_entity_vae", **(SIZES | {"latents": 2} | wrong))


def test_another_image_is_refused():
    with pytest.raises(Problem):
        ppvae.fit(mvae(), torch.zeros(4, 100), epochs=1)


# --- scores ---------------------------------------------------------------------------------------------


def test_the_threshold_is_the_best_of_all():
    """Against every threshold between two values, with ties and counts that no threshold meets."""
    for seed in range(20):
        torch.manual_seed(seed)
        kl, count = (5 * torch.rand(12, 4)).round(decimals=seed % 3), torch.randint(6, (12,))
        values = kl.flatten().unique()
        tried = [values[0] - 1, *((values[1:] + values[:-1]) / 2), values[-1] + 1]
        best = max(int(((kl > t).sum(1) == count).sum()) for t in tried)
        at = scores.threshold(kl, count.clamp(max=4))
        assert (
            int((scores.above(kl, at) == count.clamp(max=4)).sum())
            == max(int(((kl > t).sum(1) == count.clamp(max=4)).sum()) for t in tried)
            >= best
        )


def test_places_above_a_threshold_are_counted():
    kl = torch.tensor([[9.0, 1.0, 2.0, 8.0], [1.0, 2.0, 0.5, 1.5], [7.0, 7.5, 9.0, 1.0]])
    at = scores.threshold(kl, torch.tensor([2, 0, 3]))
    assert 2.0 <= at < 7.0 and scores.above(kl, at).tolist() == [2, 0, 3]


def test_overlaps_are_intersections_over_unions_and_matched_one_to_one():
    shown = torch.tensor([[[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]]).bool()
    masks = torch.tensor([[[1, 0, 0, 0], [0, 0, 0, 0]]]).bool()
    expected = torch.tensor([[[1 / 2, 0.0], [0.0, 0.0], [1 / 3, 0.0]]])
    assert (scores.overlaps(shown, masks) - expected).abs().max() < 1e-6
    overlap = torch.rand(5, 3)
    best = max(
        itertools.permutations(range(5), 3), key=lambda slots: sum(float(overlap[s, m]) for m, s in enumerate(slots))
    )
    assert torch.allclose(scores.matched(overlap), overlap[list(best), range(3)].to(torch.get_default_dtype()))


def test_sprites_change_places_with_those_of_the_neighbouring_scene():
    of = sprites(4, 3, 16, seed=2).factors
    leading = torch.tensor([0, 2, 1, 1])
    moved = scores.exchanged(of, leading)
    for before, after in zip(of, moved, strict=True):
        for n, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
            assert torch.equal(after[n, leading[n]], before[other, leading[other]])
            rest = [m for m in range(3) if m != leading[n]]
            assert torch.equal(after[n, rest], before[n, rest])
    assert all(torch.equal(a, b) for a, b in zip(scores.exchanged(moved, leading), of, strict=True))
    assert isinstance(moved, Factors)


class Knowing(torch.nn.Module):
    """A pair that is told the scenes: slot k is sprite k, its code the numbers of the scene and of the sprite."""

    def __init__(self, made):
        super().__init__()
        self.made, self.home = made, torch.nn.Parameter(torch.zeros(()))

    def encoder(self, x):
        scene = (x[:, None] == self.made.x).all(-1).double().argmax(1)  # (N,)
        number = torch.arange(3.0)
        z = torch.stack(torch.broadcast_tensors(scene[:, None], number), -1)[:, None]  # (N, 1, K, 2)
        return dist.Independent(dist.Normal(z, 1.0), 2)

    def decoder(self, z):
        scene, number = z.squeeze(-3).round().long().unbind(-1)  # (…, K) each
        colour = self.made.factors.colour[scene, number].bool()
        shown = self.made.masks[scene, number][..., None, :] & colour[..., None]  # (…, K, 3, P)
        return dist.Bernoulli(probs=shown.any(-3).flatten(-2).double(), validate_args=False)


def test_a_pair_that_knows_the_sprites_has_every_sprite_in_one_slot_and_exchanges_them_without_error():
    made = sprites(40, 3, 32, seed=3)
    pair = Knowing(made)
    found = scores.slots(pair, made)
    assert found["overlap"] == pytest.approx(1.0) and found["in several, %"] + found["in one slot, %"] == pytest.approx(
        100
    )
    moved = scores.exchange(pair, made)
    assert moved["same pairs as they are"] == 0 and moved["exchanged, squared error x 1000"] == 0


# --- the table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["objects", "objects-8"])
def test_the_table_is_made_and_its_pictures(ppvae_, tmp_path, name):
    pictured = ["--figures", "pictures"] if name == "objects" else []
    code, _, err = ppvae_("reproduce", name, "--budget", "smoke", "--json", "t.json", *pictured)
    assert code == 0, err
    found = {(r["row"], r["column"]): r for r in json.load(open("t.json"))["results"]}
    for row in ("Multi-entity VAE", "Multi-entity VAE, KL x 3", "VAE"):
        bound, likelihood, kl = (found[row, column]["value"] for column in ("ELBO", "reconstruction", "KL"))
        assert bound == pytest.approx(likelihood - kl, rel=1e-5)
        assert 0 <= found[f"{row}, its KL", scores.COUNTED[1]]["value"] <= 100
    assert 0 < found["Most frequent", scores.COUNTED[0]]["value"] < 100
    assert found["Multi-entity VAE", scores.COUNTED[1]]["reference"] == (72.6 if name == "objects" else None)
    if pictured:
        marks = ("objects-3", "objects-3-kl-x-3")
        drawn = {path.name for path in (tmp_path / "pictures").iterdir()}
        assert drawn == {f"{mark}-{what}.png" for mark in marks for what in PICTURES} | {"objects-3-traversal-VAE.png"}


PICTURES = ("reconstructions", "kl", "exchange", "sequential", "traversal")
