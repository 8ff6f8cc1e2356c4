"""Human bodies, in metres: 1024 points of each in ten parts, every part in every row; y up, mirror images across x = 0 nearly."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppvae.data.sources import Source, fetch
from ppvae.errors import Problem

FILE = "human_shapes.npz"
DECIMETRE = 0.1  # in metres
NAMES = ("head", "torso", "upper arm +x", "upper arm -x", "forearm +x", "forearm -x")
NAMES += ("thigh +x", "thigh -x", "shin +x", "shin -x")
# of the file's arrays, as float64
SHA256 = {
    "points_q": "ba6fc096b4641ccfcd474274c27f269391ebb684ac878edf18d82bfdbe8c18ef",
    "scale": "3cc0e245135639a97bf530fadfb207e92b19b784175e87762fafed1c91177b8a",
    "normals_q": "43b1c1b9615be7b9a5631ea3924706ca6ee6c763c46e52a21b0de1af826ebc26",
    "part": "1dfa3db22e33be7ab12935873130bde746f823ef96a69b9b148a5d6b6350e99b",
    "factors": "28e21938c60b79326a717b8b0422f63e36517a68b2df2d8cb82716cfca588d31",
}
FACTORS = ("gender", "age", "muscle", "weight", "height", "proportions", "first race", "second race")


class Bodies(NamedTuple):
    """Points and normals (N, M, 3) in the order of the parts, the part of each point (M,), and factors (N, 8)."""

    points: Tensor
    normals: Tensor
    part: Tensor
    factors: Tensor


def humans(folder: str | Path | None = None) -> Bodies:
    """Read the bodies from the file, whose bytes are checked.

    Raises:
        Problem: no folder, or one without the file; a damaged file, or another.
    """
    place = folder or os.environ.get("PPVAE_DATA")
    if not place or (Path(place).expanduser().is_dir() and not (Path(place).expanduser() / FILE).is_file()):
        raise Problem(
            f"{FILE} is not in {place}" if place else f"no folder holds {FILE}",
            "the bodies are not downloaded: they were made with MakeHuman (CC0) and have no public home",
            "set PPVAE_DATA to a folder with the file; or chairs, planes or bikes, which need none",
        )
    read = partial(_array, place)
    part = torch.from_numpy(read("part")).long()
    order = part.argsort(stable=True)
    points = torch.from_numpy(read("points_q"))[:, order].double() * (float(read("scale")) * DECIMETRE)
    normals = torch.nn.functional.normalize(torch.from_numpy(read("normals_q"))[:, order].double(), dim=-1)
    return Bodies(points, normals, part[order], torch.from_numpy(read("factors")))


def _array(place: str | Path, key: str) -> np.ndarray:
    return fetch(Source(SHA256[key], (FILE,), (), key), place)


def spread_out(points: Tensor, part: Tensor, count: int) -> Tensor:
    """So many points, evenly: of each part its share, each next one as far as can be from those before it on the mean body.

    Args:
        points: (N, M, 3).
        part: (M,), in order.
        count: of all points, at least one for each part and at most M.

    Returns:
        Indices of the points, in order.
    """
    mean = points.mean(0)
    sizes = part.bincount()
    shares = (count - len(sizes)) * sizes / len(part)
    quota = 1 + shares.long().minimum(sizes - 1)
    rest = (shares - shares.floor()).argsort(descending=True, stable=True)[: count - int(quota.sum())]
    quota[rest] += 1
    kept = [_farthest(mean, (part == p).nonzero().squeeze(1), int(n)) for p, n in enumerate(quota)]
    return torch.cat(kept)


def _farthest(points: Tensor, among: Tensor, count: int) -> Tensor:
    places = points[among]
    chosen = [int((places - places.mean(0)).square().sum(-1).argmax())]
    gap = (places - places[chosen[0]]).square().sum(-1)
    while len(chosen) < count:
        chosen.append(int(gap.argmax()))
        gap = gap.minimum((places - places[chosen[-1]]).square().sum(-1))
    return among[torch.tensor(sorted(chosen))]
