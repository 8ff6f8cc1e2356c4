"""Scenes of sprites: against a loop over pixels, the law that they are drawn from, and a fit that sees new ones at every step."""

import math

import pytest
import torch

import ppvae
from ppvae.data.sprites import COLOURS, RADIUS, SHAPES, SMALLEST, Anew, draw, scenes_of, sprites
from ppvae.errors import Problem


def inside(shape, u, v):
    """Whether a point, in units of the radius, right and up of the centre of an unturned sprite, belongs to it."""
    if shape == "square":
        return max(abs(u), abs(v)) <= 0.7
    if shape == "ellipse":
        return u**2 + (v / 0.6) ** 2 <= 1
    return ((1.25 * u) ** 2 + (1.25 * v) ** 2 - 1) ** 3 <= (1.25 * u) ** 2 * (1.25 * v) ** 3


def drawn(of, n, size):
    """A scene pixel by pixel: sprites turned back by complex numbers, colours summed and clipped."""
    scene = [[[0.0] * size for _ in range(size)] for _ in range(3)]
    for m in range(of.exists.shape[1]):
        if not of.exists[n, m]:
            continue
        radius, right, down, angle = (float(f[n, m]) for f in (of.radius, of.right, of.down, of.angle))
        for i in range(size):
            for j in range(size):
                point = complex((j + 0.5) / size - right, down - (i + 0.5) / size) / radius
                point *= complex(math.cos(angle), -math.sin(angle))
                if inside(SHAPES[of.shape[n, m]], point.real, point.imag):
                    for c in range(3):
                        scene[c][i][j] = min(1.0, scene[c][i][j] + float(of.colour[n, m, c]))
    return torch.tensor(scene, dtype=torch.float32).flatten()


@pytest.mark.parametrize("colours", COLOURS)
def test_a_scene_is_what_a_loop_over_its_pixels_draws(colours):
    """Single precision may put a pixel whose middle is on an edge on its other side: none is, at these seeds."""
    made = sprites(12, 4, 20, seed=3, colours=colours)
    assert made.factors.exists.any() and set(made.factors.shape[made.factors.exists].tolist()) == {0, 1, 2}
    for n in range(12):
        assert (made.x[n] - drawn(made.factors, n, 20)).abs().max() < 1e-6


def test_colours_are_bits_or_shares_and_masks_are_of_sprites_that_exist():
    made, grey = sprites(300, 3, 16, seed=1), sprites(300, 3, 16, seed=1, colours="real")
    assert (
        made.x.dtype == torch.float32 and ((made.x == 0) | (made.x == 1)).all() and made.x.shape == (300, 3 * 16 * 16)
    )
    assert (grey.x >= 0).all() and (grey.x <= 1).all() and ((grey.x > 0) & (grey.x < 1)).any()
    assert torch.equal(made.counts, made.factors.exists.sum(1))
    assert torch.equal(made.masks.any(-1), made.factors.exists)
    covered = made.masks.any(1)
    assert torch.equal(covered, made.x.unflatten(1, (3, -1)).any(1))  # no colour is black


def test_every_sprite_lies_inside_and_on_a_pixel_in_the_smallest_frame_too():
    for size in (SMALLEST, 31):
        made = sprites(3000, 2, size, seed=2)
        assert torch.equal(made.masks.any(-1), made.factors.exists)
        of = made.factors
        assert ((of.right - of.radius).min() >= 0) and ((of.down + of.radius).max() <= 1 + 1e-6)
        steps = (torch.arange(size) + 0.5) / size
        down, right = torch.meshgrid(steps, steps, indexing="ij")
        away = ((right.flatten() - of.right[..., None]) ** 2 + (down.flatten() - of.down[..., None]) ** 2).sqrt()
        reach = torch.where(of.shape == SHAPES.index("heart"), 1.14, 1.0)  # radii
        assert (away[made.masks] <= (of.radius * reach * (1 + 1e-5))[..., None].expand_as(away)[made.masks]).all()


def test_sprites_are_drawn_independently_and_evenly():
    """Frequencies against their law by the normal error of each, at 5 sigma."""
    of = draw(40_000, 2, "bits")
    both = of.exists[:, 0].double() * of.exists[:, 1].double()
    number = (of.colour.long() * torch.tensor([1, 2, 4])).sum(-1)
    for event, share in (
        (of.exists.double().flatten(), 1 / 2),
        (both, 1 / 4),
        *(((of.shape == s).double().flatten(), 1 / 3) for s in range(3)),
        *(((number == c).double().flatten(), 1 / 7) for c in range(1, 8)),
        ((of.radius < (RADIUS[0] + RADIUS[1]) / 2).double().flatten(), 1 / 2),
        ((of.angle < torch.pi).double().flatten(), 1 / 2),
        ((of.right < 1 / 2).double().flatten(), 1 / 2),
        ((of.down < 1 / 2).double().flatten(), 1 / 2),
    ):
        assert abs(event.mean() - share) < 5 * math.sqrt(share * (1 - share) / len(event))


def test_a_seed_is_a_set_of_scenes_and_touches_no_other_chance():
    before = torch.get_rng_state()
    a, b, other = sprites(5, seed=4), sprites(5, seed=4), sprites(5, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a.x, b.x) and not torch.equal(a.x, other.x)
    with_default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        assert torch.equal(a.x, sprites(5, seed=4).x)
    finally:
        torch.set_default_dtype(with_default)


def test_factors_are_scenes_again():
    made = sprites(6, 3, 24, seed=7)
    again = scenes_of(made.factors, 24)
    assert torch.equal(again.x, made.x) and torch.equal(again.masks, made.masks)


def test_a_fit_sees_new_scenes_at_every_step_and_the_same_again_by_its_seed():
    """What is stored is narrower than what is observed: it only counts rows."""
    anew, ends = Anew(2, 8), []
    for _ in range(2):
        seen = []

        def spy(stored, seen=seen):
            seen.append(anew(stored))
            return seen[-1]

        torch.manual_seed(0)
        pair = ppvae.make("multi_entity_vae", 3 * 64, 2, entities=2, hidden=(4, 4), channels=3)
        found = ppvae.fit(pair, torch.zeros(20, 1), redraw=spy, epochs=2, batch_size=10, seed=3)
        assert found.step.startswith("staged") and [tuple(x.shape) for x in seen] == [(20, 192), *[(10, 192)] * 4]
        lit = [row for x in seen for row in x if row.any()]
        assert len(lit) > 20 and len({tuple(row.tolist()) for row in lit}) > 0.9 * len(lit)  # 8 x 8 has few scenes
        ends.append((seen, pair.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1].values(), ends[1][1].values(), strict=True))


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"rows": 0}, "rows"),
        ({"rows": 2.0}, "rows"),
        ({"most": 0}, "most"),
        ({"most": True}, "most"),
        ({"size": 7}, "size"),
        ({"colours": "grey"}, "bits or real"),
        ({"seed": "one"}, "seed"),
    ],
)
def test_what_is_no_scene_is_refused(wrong, word):
    with pytest.raises(Problem, match=word):
        sprites(**({"rows": 2} | wrong))
    if "most" in wrong or "size" in wrong or "colours" in wrong:
        with pytest.raises(Problem, match=word):
            Anew(**wrong)
