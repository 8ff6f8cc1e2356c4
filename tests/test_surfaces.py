"""Meshes of points with normals, and the pictures of clouds and meshes."""

import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib import colors

from ppvae.data import alpha_shape, poisson, shapes, write_mesh
from ppvae.data.meshes import Mesh, _frame, _radii_of_spheres, _rounder, discs
from ppvae.data.solids import at, ring, surface, tube
from ppvae.errors import Problem
from ppvae.plots import cloud, surfaces
from ppvae.plots.clouds import PARTS

matplotlib.use("agg")
WHY = "Poisson reconstruction is an extra: pip install 'ppvae[surfaces]'"


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def library():
    return pytest.importorskip("pymeshlab", reason=WHY)


def ball(a=1.0, b=1.0, c=1.0, grain=2.0):
    """Points and normals of an ellipsoid, (M, 3) each."""
    made = surface(tube(grain, 10, 8, 2.0), lambda p: at(a * p[:, 0], b * p[:, 1], c * p[:, 2])[None])
    return made.points[0], made.normals[0]


# --- alpha shapes ---------------------------------------------------------------------------------------------------------


def cube(n=4):
    grid = torch.linspace(0, 1, n, dtype=torch.float64)
    jitter = 1e-3 * torch.rand(n**3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cartesian_prod(grid, grid, grid) + jitter


def test_an_alpha_shape_of_great_radius_is_the_convex_hull():
    from scipy.spatial import ConvexHull

    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mesh, hull = alpha_shape(points, radius=1e9), ConvexHull(points)
    assert mesh.volume == pytest.approx(hull.volume, rel=1e-9) and mesh.open_edges == 0
    assert {tuple(sorted(face)) for face in mesh.faces.tolist()} == {tuple(sorted(f)) for f in hull.simplices.tolist()}


def test_an_alpha_shape_keeps_holes_that_are_wider_than_its_radius():
    made = surface(ring(3.0, 16, 5), lambda p: at(p[:, 0], p[:, 1], p[:, 2])[None])
    mesh, full = alpha_shape(made.points[0], radius=0.45), alpha_shape(made.points[0], radius=1e9)
    exact = 2 * np.pi**2 * 0.25**2
    assert mesh.volume == pytest.approx(exact, rel=0.12) and full.volume > 1.3 * exact
    ends = np.sort(mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
    assert (np.unique(ends, axis=0, return_counts=True)[1] % 2 == 0).all()  # the edge of a solid's edge is nothing


def test_volume_is_positive_and_grows_with_the_radius():
    points = cube()
    small, large = alpha_shape(points, radius=0.3), alpha_shape(points, radius=5.0)
    assert 0 < small.volume <= large.volume and large.volume == pytest.approx(1.0, rel=0.01)


def test_spheres_through_four_corners():
    corners = np.array(
        [[[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]]
    )
    radii = _radii_of_spheres(corners)
    assert radii[0] == pytest.approx(3**0.5) and radii[1] == np.inf


def test_what_an_alpha_shape_refuses():
    with pytest.raises(Problem, match="no tetrahedra"):
        alpha_shape(torch.randn(3, 3))
    with pytest.raises(Problem, match="nothing is left"):
        alpha_shape(torch.randn(30, 3), radius=1e-6)
    with pytest.raises(Problem, match="points has shape"):
        alpha_shape(torch.randn(2, 30, 3))
    with pytest.raises(Problem, match="part has shape"):
        alpha_shape(torch.randn(30, 3), part=[0, 1])
    with pytest.raises(Problem, match="no points"):
        alpha_shape(torch.full((30, 3), float("nan")))


# --- Poisson --------------------------------------------------------------------------------------------------------------


def test_an_ellipsoid_by_poisson(library):
    """Closed, outside outwards, of about its volume, and near its own points: 4/3 π abc, of 320 points."""
    points, normals = ball(1.0, 0.3, 0.6)
    mesh = poisson(points, normals)
    assert mesh.open_edges == 0 and mesh.volume == pytest.approx(4 / 3 * np.pi * 0.18, rel=0.08)
    level = np.sqrt((mesh.vertices / [1.0, 0.3, 0.6]) ** 2 @ np.ones(3))
    assert np.abs(level - 1).mean() < 0.05
    upright = np.cross(*(mesh.vertices[mesh.faces[:, k]] - mesh.vertices[mesh.faces[:, 0]] for k in (1, 2)))
    assert ((upright * mesh.vertices[mesh.faces].mean(1)).sum(1) > 0).mean() > 0.99


def test_normals_stay_across_the_surface_when_a_part_is_made_rounder():
    """An ellipsoid (p/s)² = 1 on its axes goes to another one, whose normals are its gradients p/s²."""
    points, normals = (value.numpy() for value in ball(1.0, 0.3, 0.6))
    axes, stretch = _frame(points)
    assert np.linalg.det(axes) == pytest.approx(1)
    placed, turned = _rounder(points, normals, axes, stretch)
    sides = np.array([1.0, 0.6, 0.3]) / stretch  # the principal axes are x, z, y
    np.testing.assert_allclose(((placed / sides) ** 2).sum(1), 1, atol=1e-9)
    gradients = placed / sides**2
    np.testing.assert_allclose(turned, gradients / np.linalg.norm(gradients, axis=1, keepdims=True), atol=1e-9)


def test_parts_are_surfaces_of_their_own(library):
    points, normals = ball()
    far = points + torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64)
    part = torch.arange(2).repeat_interleave(len(points))
    nan = torch.full((4, 3), float("nan"), dtype=torch.float64)
    mesh = poisson(torch.cat([points, far, nan]), torch.cat([normals, normals, nan]), torch.cat([part, part[:4]]))
    assert mesh.open_edges == 0 and set(mesh.part) == {0, 1}
    for p, middle in ((0, 0.0), (1, 5.0)):
        assert mesh.vertices[mesh.faces[mesh.part == p]][..., 2].mean() == pytest.approx(middle, abs=0.1)


def test_parts_of_chairs_are_closed(library):
    data = shapes("chairs", rows=2)
    part = np.repeat(np.arange(len(data.sizes)), np.array(data.sizes) // 6)
    mesh = poisson(data.points[1], data.normals[1], part)
    assert mesh.open_edges == 0 and set(mesh.part) == set(np.flatnonzero(data.exists[1]))
    for p in set(mesh.part):
        assert Mesh(mesh.vertices, mesh.faces[mesh.part == p], mesh.part).volume > 0


def test_meshes_are_written_and_nothing_is_lost(library, tmp_path):
    mesh = poisson(*ball())
    for name in ("a.ply", "a.obj"):
        path = write_mesh(mesh, tmp_path / name)
        again = library.MeshSet()
        again.load_new_mesh(str(path))
        assert again.current_mesh().face_number() == len(mesh.faces)
        np.testing.assert_allclose(again.current_mesh().vertex_matrix(), mesh.vertices, atol=1e-5)
    before = (tmp_path / "a.ply").read_bytes()
    with pytest.raises(Problem, match="exists"):
        write_mesh(mesh, tmp_path / "a.ply")
    assert (tmp_path / "a.ply").read_bytes() == before
    with pytest.raises(Problem, match="no folder"):
        write_mesh(mesh, tmp_path / "b" / "a.ply")
    with pytest.raises(Problem, match="its ending"):
        write_mesh(mesh, tmp_path / "a.txt")


def test_too_few_points(library):
    points, normals = ball()
    with pytest.raises(Problem, match="part 3 has 5 points"):
        poisson(points[:5], normals[:5], [3] * 5)
    with pytest.raises(Problem, match="part 0 has 1 points"):
        poisson(points[:1].repeat(20, 1), normals[:20])


def test_what_poisson_cannot_read(library):
    points, normals = ball()
    with pytest.raises(Problem, match="1 normals of part 0 have length 0"):
        poisson(points, torch.cat([0 * normals[:1], normals[1:]]))
    with pytest.raises(Problem, match="holds fractions"):
        poisson(points, normals, torch.full((len(points),), 0.5))
    with pytest.raises(Problem, match="points cannot be read"):
        poisson("words", normals)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymeshlab", None)
    with pytest.raises(Problem, match=r"pip install 'ppvae\[surfaces\]'"):
        poisson(*ball())


def test_discs_lie_across_the_normals_and_grow_where_points_are_sparse():
    points, normals = (value.numpy() for value in ball())
    far = 3 * points
    corners = discs(np.concatenate([points, far]), np.concatenate([normals, normals]), np.repeat([0, 1], len(points)))
    spokes = corners - np.concatenate([points, far])[:, None]
    radii = np.linalg.norm(spokes, axis=-1)
    assert np.abs((spokes * np.concatenate([normals, normals])[:, None]).sum(-1)).max() < 1e-12
    np.testing.assert_allclose(radii[len(points) :], 3 * radii[: len(points)])
    np.testing.assert_allclose(radii, radii[:, :1].repeat(10, 1))


# --- pictures -------------------------------------------------------------------------------------------------------------


def painted(ax):
    return sum(len(collection.get_paths()) for collection in ax.collections)


def test_a_cloud_has_one_disc_for_each_point_that_is_there():
    data = shapes("chairs", rows=5)
    ax = cloud(data.x, data.sizes, titles=list("abcde"), columns=3)
    there = int((~data.points.isnan().any(-1)).sum())
    assert painted(ax) == there and [text.get_text() for text in ax.texts] == list("abcde")
    fewer = data.exists.clone()
    fewer[:, 0] = 0
    assert painted(cloud(data.x, data.sizes, fewer)) == there - 5 * data.sizes[0] // 6


def test_a_cloud_greys_what_was_given():
    data = shapes("planes", rows=1)
    changed = torch.zeros_like(data.exists)
    changed[0, 1] = 1
    shades = cloud(data.x, data.sizes, changed=changed).collections[0].get_facecolors()
    coloured = np.ptp(shades[:, :3], axis=1) > 0.01
    assert coloured.sum() == data.sizes[1] // 6


def test_nearer_discs_are_painted_later_and_up_is_up():
    """Two balls: the one in front comes last; the one above is above."""
    points, normals = ball()
    row = torch.cat([torch.cat([points + shift, normals], 1) for shift in torch.tensor([[0.0, 2, 9], [0, -2, 0]])])
    ax = cloud(row.reshape(1, -1), (6 * len(points),) * 2)
    shades = ax.collections[0].get_facecolors()[:, :3]
    tint = np.array([colors.to_rgb(PARTS[p]) for p in (0, 1)])
    which = np.array([np.argmax(tint @ shade / np.linalg.norm(tint, axis=1)) for shade in shades])
    assert (which[: len(points)] == 1).all() and (which[len(points) :] == 0).all()
    heights = np.array([path.vertices[:, 1].mean() for path in ax.collections[0].get_paths()])
    assert heights[which == 0].mean() > heights[which == 1].mean()


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"x": torch.zeros(2, 5)}, "x has shape"),
        ({"sizes": (5, 7)}, "sizes is"),
        ({"exists": torch.ones(2, 3)}, "exists has shape"),
        ({"changed": torch.ones(3, 2)}, "changed has shape"),
        ({"titles": ["a"]}, "1 titles for 2 objects"),
        ({"columns": 0}, "columns is 0"),
        ({"x": torch.full((2, 96), float("nan"))}, "row 0 has no points"),
        ({"x": "words"}, "x cannot be read"),
        ({"exists": "words"}, "exists cannot be read"),
    ],
)
def test_what_a_cloud_refuses(changed, said):
    with pytest.raises(Problem, match=said):
        cloud(**({"x": torch.randn(2, 96), "sizes": (48, 48)} | changed))


def test_surfaces_beside_points():
    data = shapes("planes", rows=2)
    ax = surfaces(data.x, data.sizes, data.exists, methods=("alpha",))
    meshes = [collection for collection in ax.collections if len(collection.get_paths()[0].vertices) == 4]
    assert len(ax.collections) == 4 and len(meshes) == 2 and [t.get_text() for t in ax.texts] == ["points", "alpha"]
    with pytest.raises(Problem, match="methods is"):
        surfaces(data.x, data.sizes, methods=("marching",))


def test_poisson_surfaces_beside_points(library):
    data = shapes("bikes", rows=1)
    assert len(surfaces(data.x, data.sizes).collections) == 3
