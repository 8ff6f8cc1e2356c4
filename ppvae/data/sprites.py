"""Scenes of coloured sprites on black, made on the fly: squares, ellipses and hearts, turned, scaled and put anywhere.

Each of ``most`` sprites exists with probability 1/2, whatever the others do. Its radius is uniform from 1/8 to 1/5 of the
frame's side, its angle uniform, its centre uniform among the points at least a radius inside the frame. Squares and ellipses
lie within their radius; a heart's lobes reach to 1.14 radii and may be cut by the frame. A pixel belongs to a sprite
where its middle does, so an edge is a step. Where sprites overlap their colours are summed and clipped at 1.

Colours are bits by default, one of the seven that are not black: clipped sums of bits are bits, so a scene is what a Bernoulli
likelihood speaks of. "real" draws each of red, green and blue uniformly from 0 to 1; such a scene is a grey picture, of which
bits can be drawn (``redraw=torch.bernoulli``) and no Bernoulli likelihood is a density.

After the scenes of Nash et al. 2017, which are made of the sprites of Matthey et al. 2017; sizes and shares are chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ppvae.data.chance import generator
from ppvae.errors import Problem

SHAPES = ("square", "ellipse", "heart")
COLOURS = ("bits", "real")
RADIUS = (1 / 8, 1 / 5)  # of the frame's side
SMALLEST = 8  # pixels of a side: below, a sprite can fall between the pixels


class Factors(NamedTuple):
    """What a scene is made of, one value a sprite: lengths are shares of the frame's side, (N, M) each.

    Attributes:
        exists: bool; the other factors of a sprite that does not exist mean nothing.
        shape: index into ``SHAPES``.
        radius: as above.
        angle: in radians, counter-clockwise.
        right, down: of its centre, from the frame's top left corner.
        colour: red, green and blue, (N, M, 3).
    """

    exists: Tensor
    shape: Tensor
    radius: Tensor
    angle: Tensor
    right: Tensor
    down: Tensor
    colour: Tensor


class Scenes(NamedTuple):
    """N scenes.

    Attributes:
        x: (N, 3 S²) float32: the red picture row by row, then the green, then the blue.
        counts: (N,) int64, the sprites that exist.
        factors: what they were made of.
        masks: (N, M, S²) bool, the pixels of each sprite, overlapped or not; none where it does not exist.
    """

    x: Tensor
    counts: Tensor
    factors: Factors
    masks: Tensor


def sprites(rows: int, most: int = 3, size: int = 64, seed: int = 0, colours: str = "bits") -> Scenes:
    """Make scenes.

    Args:
        rows: N.
        most: M, the largest number of sprites in a scene.
        size: S, height and width in pixels.
        seed: equal seeds give equal scenes.
        colours: "bits" or "real".

    Raises:
        Problem: no rows, no sprites, a frame of fewer than 8 pixels a side, a misspelt name.
    """
    _refuse(most, size, colours)
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise Problem(f"rows is {rows!r}", "a number of scenes is a whole number of at least 1", "rows=1000")
    return scenes_of(draw(rows, most, colours, generator(seed)), size)


@dataclass(frozen=True)
class Anew:
    """New scenes for each batch, as the ``redraw`` of `ppvae.fit`: what is stored only counts rows.

        ppvae.fit(pair, torch.zeros(2000, 1), redraw=Anew(), …)

    makes 2000 scenes an epoch and never the same twice. They are drawn from torch's own generator, which a fit seeds.

    Args:
        most, size, colours: as in `sprites`.
    """

    most: int = 3
    size: int = 64
    colours: str = "bits"

    def __post_init__(self) -> None:
        _refuse(self.most, self.size, self.colours)

    def __call__(self, stored: Tensor) -> Tensor:
        """Stored rows (N, …) to scenes (N, 3 S²) of their type, on their device."""
        return scenes_of(draw(len(stored), self.most, self.colours), self.size).x.to(stored)


def draw(rows: int, most: int, colours: str, chance: torch.Generator | None = None) -> Factors:
    """The factors of so many scenes, from the prior of scenes."""

    def uniform(*more: int) -> Tensor:
        return torch.rand(rows, most, *more, generator=chance, dtype=torch.float32)

    exists = uniform() < 0.5
    shape = torch.randint(len(SHAPES), (rows, most), generator=chance)
    radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * uniform()
    angle = 2 * torch.pi * uniform()
    right, down = (radius + (1 - 2 * radius) * uniform() for _ in range(2))
    if colours == "real":
        colour = uniform(3)
    else:
        number = torch.randint(1, 8, (rows, most, 1), generator=chance)
        colour = (number >> torch.arange(3) & 1).float()
    return Factors(exists, shape, radius, angle, right, down, colour)


def scenes_of(of: Factors, size: int) -> Scenes:
    """The scenes of given factors, of so many pixels a side."""
    masks = outlines(of, size)
    x = torch.einsum("nmp,nmc->ncp", masks.float(), of.colour).clamp(max=1)
    return Scenes(x.flatten(1), of.exists.sum(1), of, masks)


def outlines(of: Factors, size: int) -> Tensor:
    """The pixels of each sprite, (N, M, S²): those whose middle satisfies its shape's inequality in its own coordinates."""
    middle = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    right = ((middle - of.right[..., None]) / of.radius[..., None])[..., None, :]  # (N, M, 1, S)
    up = ((of.down[..., None] - middle) / of.radius[..., None])[..., None]  # (N, M, S, 1)
    cos, sin = of.angle.cos()[..., None, None], of.angle.sin()[..., None, None]
    u, v = cos * right + sin * up, cos * up - sin * right  # (N, M, S, S)
    square = (u.abs() <= 0.7) & (v.abs() <= 0.7)
    ellipse = u.square() + (v / 0.6).square() <= 1
    s, t = (1.25 * u).square(), 1.25 * v
    heart = (s + t.square() - 1) ** 3 <= s * t**3
    inside = torch.where(
        of.shape[..., None, None] == 0, square, torch.where(of.shape[..., None, None] == 1, ellipse, heart)
    )
    return (inside & of.exists[..., None, None]).flatten(-2)


def _refuse(most: int, size: int, colours: str) -> None:
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise Problem(f"most is {most!r}", "it counts sprites: a whole number of at least 1", "most=3")
    if not isinstance(size, int) or isinstance(size, bool) or size < SMALLEST:
        raise Problem(f"size is {size!r}", f"pixels of a side, at least {SMALLEST}", "size=64")
    if colours not in COLOURS:
        raise Problem(f"there are no colours {colours!r}", "a misspelt name", " or ".join(COLOURS))
