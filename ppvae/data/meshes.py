"""Surfaces as triangles, of points with normals.

Poisson reconstruction (Kazhdan, Bolitho & Hoppe 2006; screened, Kazhdan & Hoppe 2013) is MeshLab's, through pymeshlab. On a whole
object of a few hundred points it fails, as it must at so few samples: thin legs break, wings burst into sheets. Here therefore

- each part is reconstructed by itself, so that a part is closed and ends where the next begins;
- each point is five more, on the disc around it that reaches half-way to its neighbours;
- a part is made rounder first: its principal axes are divided by the roots of their lengths, normals go with the inverse.

Alpha shapes (Edelsbrunner & Mücke 1994) need no normals and no library but SciPy: the Delaunay tetrahedra whose circumscribed
sphere is smaller than a radius, and of them the faces that belong to one only.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ppvae.data.segmented import numbers
from ppvae.errors import Problem

SAMPLES = 1.5  # a node, as in the thesis this follows
DEPTH, FULL = 5, 4  # of the octree: 2^5 cells a side, 2^4 where there are no points
ROOM = 1.5  # the octree's side, of the part's: what comes too near to its walls is left open
ALPHA = 0.12  # radius of an alpha shape, of the longest side of the object's box
LEAST = 8  # points of a part
NEIGHBOUR, SHARE = 4, 0.55  # a disc's radius, as a share of the distance to that neighbour of the same part
CORNERS = np.linspace(0, 2 * np.pi, 10, endpoint=False)


class Mesh(NamedTuple):
    """Triangles, counterclockwise seen from outside.

    Attributes:
        vertices: (V, 3) float64.
        faces: (F, 3) int64, indices of vertices.
        part: (F,) int64, the part that a face is of.
    """

    vertices: np.ndarray
    faces: np.ndarray
    part: np.ndarray

    @property
    def open_edges(self) -> int:
        """How many edges are not of exactly two faces; 0: the surface is closed."""
        ends = np.sort(self.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
        return int((np.unique(ends, axis=0, return_counts=True)[1] != 2).sum())

    @property
    def volume(self) -> float:
        """What a closed surface holds, by the divergence theorem; parts that overlap count twice."""
        a, b, c = self.vertices[self.faces].transpose(1, 0, 2)
        return float((np.cross(a, b) * c).sum() / 6)


def poisson(points: Any, normals: Any, part: Any = None) -> Mesh:
    """The surface that points with normals are on, part by part.

    Args:
        points: (M, 3), NaN where there is none.
        normals: (M, 3), outward.
        part: (M,) whole numbers, or None: the object is one part.

    Raises:
        Problem: shapes that do not fit; a part of fewer than 8 different points; a normal of length 0; pymeshlab is not
            installed.
    """
    points, part, normals = _seen(points, part, normals)
    library = pymeshlab()
    names = np.unique(part)
    for p in names:
        _refuse_part(int(p), points[part == p], normals[part == p])
    return _together([_one(library, points[part == p], normals[part == p]) for p in names], names)


def alpha_shape(points: Any, part: Any = None, radius: float | None = None) -> Mesh:
    """The union of Delaunay tetrahedra whose circumscribed sphere has at most a radius, as its outer faces.

    Args:
        points: (M, 3), NaN where there is none.
        part: (M,), only to say which part a face is of: that of its first vertex.
        radius: in units of the points; None: 0.12 of the longest side of their box.

    Raises:
        Problem: shapes that do not fit, fewer than 4 points or all in one plane, a radius that leaves nothing.
    """
    from scipy.spatial import Delaunay, QhullError

    points, part, _ = _seen(points, part, points)
    radius = ALPHA * np.ptp(points, axis=0).max() if radius is None else radius
    try:
        four = Delaunay(points).simplices
    except (QhullError, ValueError) as error:
        seen = f"{len(points)} points have no tetrahedra between them"
        raise Problem(seen, "fewer than four, or all of them in one plane", "points on a closed surface") from error
    four = four[_radii_of_spheres(points[four]) <= radius]
    if not len(four):
        raise Problem(
            f"radius is {radius:.4g}", "smaller than the gaps between points: nothing is left", "a larger one"
        )
    faces = np.concatenate([_away(points, four[:, [i for i in range(4) if i != j]], four[:, j]) for j in range(4)])
    _, first, counts = np.unique(np.sort(faces, 1), axis=0, return_index=True, return_counts=True)
    faces = faces[first[counts == 1]].astype(np.int64)
    return Mesh(points, faces, part[faces[:, 0]])


def write_mesh(mesh: Mesh, path: str | Path) -> Path:
    """Write a mesh as .ply, .obj or .stl; a file of that name stays as it is.

    Raises:
        Problem: another ending, a file that is there already, a folder that is not; pymeshlab is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in (".ply", ".obj", ".stl"):
        raise Problem(f"the file is {path.name!r}", "its ending says the format", ".ply, .obj or .stl")
    if path.exists() or not path.parent.is_dir():
        seen = f"{path} exists" if path.exists() else f"there is no folder {path.parent}"
        raise Problem(seen, "nothing is overwritten, and no folder is made", "another path")
    library = pymeshlab()
    held = library.MeshSet()
    held.add_mesh(library.Mesh(vertex_matrix=mesh.vertices, face_matrix=mesh.faces.astype(np.int32)))
    held.save_current_mesh(str(path))
    return path


def pymeshlab() -> ModuleType:
    """The library of reconstruction and file formats, or a Problem that says how to get it."""
    try:
        import pymeshlab
    except ImportError:
        cause = "Poisson reconstruction and mesh files are its work; alpha_shape needs nothing more"
        raise Problem("pymeshlab is not installed", cause, "pip install 'ppvae[surfaces]'") from None
    return pymeshlab


def discs(points: np.ndarray, normals: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Ten corners of the disc around each point, across its normal: (M, 10, 3), larger where points of a part are sparse."""
    aside = np.cross(normals, np.eye(3)[np.abs(normals).argmin(1)])
    aside /= np.linalg.norm(aside, axis=1, keepdims=True).clip(1e-12)
    ahead = np.cross(normals, aside)
    spokes = aside[:, None] * np.cos(CORNERS)[:, None] + ahead[:, None] * np.sin(CORNERS)[:, None]
    return points[:, None] + _radii(points, part)[:, None, None] * spokes


def _radii(points: np.ndarray, part: np.ndarray) -> np.ndarray:
    radii = np.zeros(len(points))
    for p in np.unique(part):
        own = points[part == p]
        apart = np.sort(np.linalg.norm(own[:, None] - own[None], axis=-1), 1)
        radii[part == p] = SHARE * apart[:, min(NEIGHBOUR, len(own) - 1)]
    return np.where(radii > 0, radii, 0.02 * np.ptp(points, axis=0).max())  # a point alone has no neighbour


def _refuse_part(p: int, points: np.ndarray, normals: np.ndarray) -> None:
    count = len(np.unique(points, axis=0))
    if count < LEAST:
        cause = "a surface of so few is anybody's guess"
        raise Problem(f"part {p} has {count} points", cause, f"{LEAST} points a part; or alpha_shape")
    none = np.linalg.norm(normals, axis=1) == 0
    if none.any():
        seen = f"{none.sum()} normals of part {p} have length 0"
        raise Problem(seen, "they are directions", "normals of length 1; or alpha_shape, which needs none")


def _one(library: ModuleType, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    around = discs(points, normals, np.zeros(len(points)))[:, ::2]
    points = np.concatenate([points, around.reshape(-1, 3)])
    normals = np.concatenate([normals, normals.repeat(around.shape[1], 0)])
    centre = points.mean(0)
    axes, stretch = _frame(points - centre)
    placed, turned = _rounder(points - centre, normals, axes, stretch)
    held = library.MeshSet()
    held.add_mesh(library.Mesh(vertex_matrix=placed, v_normals_matrix=turned))
    held.generate_surface_reconstruction_screened_poisson(
        depth=DEPTH, fulldepth=FULL, samplespernode=SAMPLES, scale=ROOM, threads=1
    )
    found = held.current_mesh()
    return found.vertex_matrix() * stretch @ axes + centre, found.face_matrix().astype(np.int64)


def _frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes of centred points, the rows of a rotation (3, 3), and by what each is divided (3,)."""
    _, lengths, axes = np.linalg.svd(points, full_matrices=False)
    axes[2] = np.cross(axes[0], axes[1])  # a rotation, not a reflection, which would turn the surface inside out
    return axes, (lengths.clip(1e-3 * lengths[0]) / lengths[0]) ** 0.5


def _rounder(
    points: np.ndarray, normals: np.ndarray, axes: np.ndarray, stretch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points by a linear map, normals by its inverse's transpose."""
    turned = normals @ axes.T * stretch
    return points @ axes.T / stretch, turned / np.linalg.norm(turned, axis=1, keepdims=True).clip(1e-12)


def _together(parts: list[tuple[np.ndarray, np.ndarray]], names: np.ndarray) -> Mesh:
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    faces = [corners + start for (_, corners), start in zip(parts, starts, strict=False)]
    which = names.repeat([len(corners) for _, corners in parts])
    return Mesh(np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces), which)


def _seen(points: Any, part: Any, normals: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points that are there, as numpy's; the part of each; the normals."""
    points, normals = numbers("points", points).numpy(), numbers("normals", normals).numpy()
    if points.ndim != 2 or points.shape[1] != 3 or normals.shape != points.shape:
        seen = f"points has shape {points.shape}, normals {normals.shape}"
        raise Problem(seen, "one object at a time", "points and normals (M, 3)")
    which = np.zeros(len(points)) if part is None else numbers("part", part).numpy()
    if which.shape != (len(points),) or (which != np.floor(which)).any():
        seen = f"part has shape {which.shape} for {len(points)} points, or holds fractions"
        raise Problem(seen, "one whole number a point", "part (M,)")
    there = np.isfinite(points).all(1) & np.isfinite(normals).all(1)
    if not there.any():
        raise Problem("there are no points", "all of them are NaN: every part is absent", "an object with parts")
    return points[there], which[there].astype(np.int64), normals[there]


def _radii_of_spheres(corners: np.ndarray) -> np.ndarray:
    """Of the spheres around tetrahedra (T, 4, 3); infinite where one is flat."""
    sides = corners[:, 1:] - corners[:, :1]
    volume = np.linalg.det(sides)
    flat = np.abs(volume) < 1e-12 * np.abs(sides).max((1, 2)) ** 3
    sides[flat] = np.eye(3)
    centre = np.linalg.solve(2 * sides, (sides**2).sum(-1, keepdims=True))[..., 0]
    return np.where(flat, np.inf, np.linalg.norm(centre, axis=1))


def _away(points: np.ndarray, faces: np.ndarray, opposite: np.ndarray) -> np.ndarray:
    """Faces (F, 3), turned so that the opposite corner of their tetrahedron is behind them."""
    a, b, c = points[faces].transpose(1, 0, 2)
    inward = (np.cross(b - a, c - a) * (points[opposite] - a)).sum(-1) > 0
    return np.where(inward[:, None], faces[:, ::-1], faces)
