"""Objects of parts: correspondence, normals, what is absent, what is refused, and how symmetric they are."""

import os
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch

from ppvae.data import shapes, shapes_of
from ppvae.data.draws import Draws
from ppvae.data.shapes import MAKERS, Shapes
from ppvae.data.solids import at, box, mirrored, ring, surface, tube
from ppvae.errors import Problem
from ppvae.evaluate import symmetry

MADE = tuple(MAKERS)
HUMANS = pytest.mark.skipif(
    not os.path.isfile(os.path.join(os.environ.get("PPVAE_DATA", ""), "human_shapes.npz")),
    reason="human_shapes.npz is not below PPVAE_DATA",
)
TOUCH = {"chairs": 0.1, "planes": 0.1, "bikes": 0.3}  # between points on grids; the wheel has no spokes
TUBES = {"fork": (24, 24), "frame": (40, 16, 16)}  # parts of several surfaces: their points
TEMPLATES = {"box": box(1.0, 3, 2, 4), "tube": tube(1.0, 6, 5), "ball": tube(1.0, 8, 6, 2.0), "ring": ring(1.0, 12, 5)}


def bent(p):
    """A map of space with a Jacobian of positive determinant, of two rows."""
    a, b, c = p.unbind(-1)
    k = torch.tensor([[0.2], [0.5]], dtype=torch.float64)
    return at(1.5 * a + 0.2 * torch.sin(c) * k, 0.7 * b + k * 0.3 * c.square(), 2 * c - 0.1 * k * a * b)


# --- surfaces -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_tangents_of_a_template_lie_in_its_surface_and_point_outwards(name):
    points, first, second = TEMPLATES[name]
    normal = torch.linalg.cross(first, second)
    sides = points.clone().requires_grad_()
    radius = sides[:, :2].square().sum(-1).sqrt()
    far = (sides[:, 1:].square().sum(-1).sqrt() - 1).square()
    level = {
        "box": (sides**8).sum(-1),
        "tube": radius**6 + sides[:, 2] ** 6,
        "ball": sides.square().sum(-1),
        "ring": far * 16 + sides[:, 0].square() * 16,
    }[name]
    torch.testing.assert_close(level.detach(), torch.ones_like(level))  # the points are on the surface that is claimed
    upward = torch.autograd.grad(level.sum(), sides)[0]
    cosine = torch.cosine_similarity(upward, normal)
    assert (cosine - 1).abs().max() < 1e-8, cosine


@pytest.mark.parametrize("name", TEMPLATES)
def test_normals_are_those_of_the_jacobian(name):
    """Against automatic differentiation: a normal goes by the inverse transpose of J."""
    template = TEMPLATES[name]
    found = surface(template, bent)
    J = torch.func.vmap(torch.func.jacrev(lambda p: bent(p[None])[:, 0]))(template.points)  # (M, 2, 3, 3)
    assert (torch.linalg.det(J) > 0).all()
    start = torch.linalg.cross(template.first, template.second)
    expected = torch.linalg.solve(J.mT, start[:, None].expand(-1, 2, 3))
    assert (torch.cosine_similarity(expected, found.normals.transpose(0, 1), dim=-1) - 1).abs().max() < 1e-9
    torch.testing.assert_close(found.points, bent(template.points))


def test_a_mirrored_part_keeps_its_normals_outside():
    ball = surface(TEMPLATES["ball"], lambda p: at(p[:, 0] + 3, p[:, 1], p[:, 2]))
    other = mirrored(ball)
    assert (other.points[..., 0] < 0).all()
    centre = torch.tensor([-3.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(other.normals, other.points - centre)


@pytest.mark.parametrize("name", MADE)
def test_normals_of_every_part_point_outwards(name):
    """The divergence theorem, ∫ p · n = 3 volumes, with the areas of the cells left out: a part inside out has a negative sum."""
    parts, _, _ = MAKERS[name].make(Draws(200, 3), 1.0)
    for part, (points, normals) in parts.items():
        assert ((normals.norm(dim=-1) - 1).abs() < 1e-9).all(), part
        of_its_own = TUBES.get(part, (points.shape[1],))
        for piece, across in zip(points.split(of_its_own, 1), normals.split(of_its_own, 1), strict=True):
            outward = ((piece - piece.mean(1, keepdim=True)) * across).sum((1, 2))
            assert (outward > 0).all(), (part, outward.min())


@pytest.mark.parametrize("name", MADE)
def test_points_correspond(name):
    """Neighbours on a part's grid are neighbours in every row: a fine grid's tangent is across the normal."""
    data = shapes(name, rows=60)
    start = 0
    for part, size in enumerate(data.sizes):
        M = size // 6
        points, there = data.points[:, start : start + M].double(), data.exists[:, part].bool()
        start += M
        if there.sum() < 2:
            continue
        apart = torch.cdist(points[there], points[there])
        nearest = (apart + torch.eye(M) * 9).argmin(-1)  # (n, M)
        common = nearest.mode(0).values
        assert (apart.gather(2, common.expand(len(apart), -1)[..., None])[..., 0] < 0.35).all(), data.part_names[part]


# --- rows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_a_class_is_what_it_says(name):
    data = shapes(name, rows=300, seed=1)
    P, M = len(data.part_names), data.x.shape[1] // 6
    assert data.x.dtype == torch.float32 and data.exists.shape == (300, P) and sum(data.sizes) == data.x.shape[1]
    assert data.factors.shape == (300, len(data.factor_names)) and data.factors.isfinite().all()
    assert 300 <= M <= 600 and data.mirror == 0
    lengths = data.normals.norm(dim=-1)
    assert ((lengths - 1).abs() < 1e-5)[~lengths.isnan()].all()
    absent = data.x.isnan().split(list(data.sizes), 1)
    for part, block in enumerate(absent):
        assert torch.equal(block.all(1), data.exists[:, part] == 0) and torch.equal(block.any(1), block.all(1))
    assert (data.exists.mean(0) > 0).all() and len(data.exists.unique(dim=0)) >= 4  # parts come and go
    low, high = (torch.nan_to_num(data.points, nan=fill) for fill in (9.0, -9.0))
    low, high = low.amin(1), high.amax(1)
    torch.testing.assert_close(low + high, torch.zeros_like(low), atol=1e-5, rtol=0)
    assert 0.5 < (high - low).amax(1).mean() < 2.5


@pytest.mark.parametrize("name", MADE)
def test_a_row_does_not_depend_on_the_others(name):
    few, many, other = shapes(name, rows=7), shapes(name, rows=40), shapes(name, rows=7, seed=1)
    torch.testing.assert_close(few.x, many.x[:7], equal_nan=True, rtol=0, atol=0)
    assert torch.equal(few.exists, many.exists[:7]) and not torch.equal(few.factors, other.factors)


def test_the_split_has_every_row_once_and_rows_are_what_a_fit_takes():
    data = shapes("chairs", rows=100)
    assert {name: len(rows) for name, rows in data.split.items()} == {"train": 70, "valid": 10, "test": 20}
    assert torch.cat(list(data.split.values())).sort().values.equal(torch.arange(100))
    rows = data.rows("valid")
    assert torch.equal(rows["exists"], data.exists[data.split["valid"]]) and rows["x"].shape == (10, data.x.shape[1])
    with pytest.raises(Problem, match="no split 'validation'"):
        data.rows("validation")


@pytest.mark.parametrize("name", MADE)
def test_objects_are_not_a_linear_map_of_a_few_numbers(name):
    """Of a linear map of F factors no more than F components would be left."""
    data = shapes(name, rows=400)
    x = data.x[:, ~data.x.isnan().any(0)].double()
    values = torch.linalg.svdvals(x - x.mean(0)).square()
    assert values[len(data.factor_names) :].sum() / values.sum() > 1e-7  # rounding leaves 1e-14


def test_parts_meet():
    """Legs reach the seat and wings the fuselage, whatever their factors."""
    touching = {
        "chairs": {
            "back": ["seat"],
            "front leg +x": ["seat"],
            "back leg -x": ["seat"],
            "pedestal": ["seat"],
            "base": ["pedestal"],
            "arm +x": ["back"],
        },
        "planes": {
            "wing +x": ["fuselage"],
            "fin": ["fuselage"],
            "tail -x": ["fuselage", "fin"],
            "engine +x": ["fuselage", "wing +x"],
        },
        "bikes": {
            "fork": ["front wheel"],
            "frame": ["back wheel"],
            "tank": ["frame", "saddle"],
            "handlebar": ["fork"],
            "case +x": ["back wheel", "frame"],
        },
    }
    for name, parts in touching.items():
        made, exists, _ = MAKERS[name].make(Draws(100, 5), 2.0)
        there = dict(zip(made, exists.T, strict=True))
        for part, others in parts.items():
            gaps = [torch.cdist(made[part].points, made[other].points).amin((1, 2)) for other in others]
            gaps = [gap.masked_fill(~there[other], 9.0) for gap, other in zip(gaps, others, strict=True)]
            gap = torch.stack(gaps).amin(0)[there[part]]
            assert gap.max() < TOUCH[name], (part, gap.max())


def test_points_is_the_most_there_are():
    data = shapes("planes", rows=3, points=200)
    assert 100 < data.x.shape[1] // 6 <= 200 and min(data.sizes) >= 6
    with pytest.raises(Problem, match="points=.* or more"):
        shapes("planes", rows=3, points=9)


@HUMANS
def test_humans_come_part_by_part():
    data = shapes("humans", rows=50)
    assert data.x.shape == (50, 6 * 1024) and data.exists.all() and not data.x.isnan().any()
    with np.load(os.path.join(os.environ["PPVAE_DATA"], "human_shapes.npz")) as file:
        part, points = file["part"], file["points_q"][49] * float(file["scale"]) / 10
        assert data.sizes == tuple(6 * np.bincount(part))
        head = points[part == 0]
    np.testing.assert_allclose(data.points[49, : len(head)].numpy(), head, atol=1e-6)
    left = data.part_names.index("thigh +x")
    ends = np.cumsum([0, *data.sizes]) // 6
    assert (data.points[:, ends[left] : ends[left + 1], 0].mean(1) > 0).all()
    few = shapes("humans", rows=50, points=128)
    assert sum(few.sizes) == 6 * 128 and min(few.sizes) >= 6
    assert set(few.points[3].flatten().tolist()) <= set(data.points[3].flatten().tolist())
    with pytest.raises(Problem, match="there are 1200 bodies"):
        shapes("humans", rows=1201)


# --- refusals -------------------------------------------------------------------------------------------------------------


def test_humans_without_their_file(monkeypatch, tmp_path):
    monkeypatch.delenv("PPVAE_DATA", raising=False)
    with pytest.raises(Problem, match="no folder holds human_shapes.npz"):
        shapes("humans")
    with pytest.raises(Problem, match="is not in"):
        shapes("humans", folder=tmp_path)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"name": "chair"}, "misspelling of 'chairs'"),
        ({"name": "chairs", "rows": 0}, "rows is 0"),
        ({"name": "chairs", "rows": True}, "rows is True"),
        ({"name": "bikes", "points": 2.5}, "points is 2.5"),
        ({"name": "bikes", "seed": "x"}, "seed is 'x'"),
    ],
)
def test_what_shapes_refuses(options, said):
    with pytest.raises(Problem, match=said):
        shapes(**options)


def given(**changed):
    """Three objects of five points in two parts, not in order; the second part is absent in row 1."""
    normals = torch.zeros(3, 5, 3)
    normals[..., 1] = 1
    points = torch.arange(45.0).reshape(3, 5, 3)
    exists = torch.tensor([[1, 1], [1, 0], [1, 1]])
    part = torch.tensor([1, 0, 0, 1, 0])
    return {"points": points, "normals": normals, "part": part, "exists": exists, "part_names": ("a", "b")} | changed


def test_shapes_of_your_own_are_put_in_order():
    data = shapes_of(**given())
    assert isinstance(data, Shapes) and data.sizes == (18, 12) and data.factors.shape == (3, 0)
    assert torch.equal(data.points[0], given()["points"][0, [1, 2, 4, 0, 3]]) and data.x[1, 18:].isnan().all()
    assert data.x.isnan().sum() == 12 and all(getattr(data, field.name) is not None for field in fields(data))


def _with(name, place, value):
    changed = given()[name].clone().float()
    changed[place] = value
    return {name: changed}


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"exists": torch.tensor([[1, 0]] * 3)}, "'b' is in no row"),
        ({"part": torch.zeros(5)}, "'b' has no points"),
        (_with("normals", (2, 1), 3.0), "row 2, point 1 has length"),
        (_with("points", (0, 3, 1), float("nan")), "points of row 0, point 3"),
        (_with("normals", (0, 3, 1), float("nan")), "normals of row 0, point 3"),
        (_with("exists", (1, 1), 0.5), "exists is 0.5 in row 1, part 'b'"),
        ({"points": torch.zeros(3, 5)}, "points has shape"),
        ({"normals": torch.zeros(3, 4, 3)}, "normals has shape"),
        ({"part": torch.zeros(4)}, "part has shape"),
        ({"part": torch.tensor([0, 1, 2, 0, 0])}, "runs from 0 to 2 for 2 names"),
        ({"part_names": ("a",)}, "exists has shape"),
        ({"mirror": 3}, "mirror is 3"),
        ({"factors": torch.zeros(3, 2), "factor_names": ("one",)}, "factors has shape"),
        ({"points": "words"}, "points cannot be read"),
    ],
)
def test_what_shapes_of_refuses(changed, said):
    with pytest.raises(Problem, match=said):
        shapes_of(**given(**changed))


def test_nan_in_an_absent_part_is_no_error():
    shapes_of(**given(**_with("points", (1, 0), float("nan"))))


# --- symmetry -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_made_objects_are_symmetric(name):
    data = shapes(name, rows=20)
    assert symmetry(data.points, data.mirror).max() < 1e-6
    assert (symmetry(data.points, 1) > 1e-3).all()


def test_a_mirror_image_of_itself_scores_exactly_zero():
    half = torch.randn(4, 30, 3, generator=torch.Generator().manual_seed(0))
    both = torch.cat([half, half * torch.tensor([1.0, 1.0, -1.0])], 1)
    assert (symmetry(both, 2) == 0).all()


@pytest.mark.parametrize("axis", range(3))
def test_symmetry_by_hand(axis, monkeypatch):
    monkeypatch.setattr(sys.modules["ppvae.evaluate.symmetry"], "AT_ONCE", 2 * 9 * 9)  # two rows at a time
    points = torch.randn(5, 9, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points[1, 4:] = float("nan")
    points[3, 0] = float("nan")
    found = symmetry(points, axis)
    for n, row in enumerate(points):
        here = [p for p in row.tolist() if p[0] == p[0]]
        total = 0.0
        for p in here:
            images = [[-v if k == axis else v for k, v in enumerate(q)] for q in here]
            total += min(sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) ** 0.5 for q in images)
        assert found[n].item() == pytest.approx(total / len(here), abs=1e-12)


@pytest.mark.parametrize(
    "points, axis, said",
    [
        (torch.zeros(3, 4), 0, "points has shape"),
        (torch.zeros(3, 4, 3), 3, "axis is 3"),
        (torch.zeros(3, 4, 3), 1.0, "axis is 1.0"),
        (torch.full((3, 4, 3), float("nan")), 0, "row 0 has no points"),
    ],
)
def test_what_symmetry_refuses(points, axis, said):
    with pytest.raises(Problem, match=said):
        symmetry(points, axis)
