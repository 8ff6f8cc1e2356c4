"""Images with attributes, made of digits: each is turned, scaled and put somewhere on a larger canvas.

digit         0 … 9, of the source
size          big, small: the side of a digit's box is 0.9 or 0.6 of a quadrant's, each with a spread
orientation   upright, clockwise, counter-clockwise: 0, 45 or -45 degrees, each with a spread
location      one of the four quadrants: around its centre

The spreads are Gaussian, cut at two standard deviations: of 0.05 of the scale, 10 degrees, and 0.05 of half the canvas. Bits
are 1 where the grey level is above 0.4, so that thin strokes hold together. After MNIST-A of
Vedantam et al. 2018, of 64 x 64; what a scale is a share of, and the spreads, are chosen here.

The 240 concepts, one value of each attribute, are drawn at random given the digit. "iid": all of them in every part. "comp":
a tenth is held out: no row to train on or to validate with has one of these, all rows to test on do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from ppvae.data.chance import generator
from ppvae.data.mnist import mnist
from ppvae.errors import Problem

NAMES = ("digit", "size", "orientation", "location")
CLASSES = (
    tuple("0123456789"),
    ("big", "small"),
    ("upright", "clockwise", "counter-clockwise"),
    ("top left", "top right", "bottom left", "bottom right"),
)
COUNTS = tuple(len(names) for names in CLASSES)
CONCEPTS = torch.cartesian_prod(*(torch.arange(count) for count in COUNTS))  # (240, 4)
HELD_OUT = 24
SCALES = torch.tensor([0.9, 0.6], dtype=torch.float32)
DEGREES = torch.tensor([0.0, 45.0, -45.0], dtype=torch.float32)
# right and down from the middle, in halves of the canvas
CENTRES = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]], dtype=torch.float32)
SPREADS = {"scale": 0.05, "degrees": 10.0, "place": 0.05}
BOX = 20 / 28  # of MNIST's frame, which a digit fills
LIT = 0.4
BLOCK = 2048  # images at a time


@dataclass(frozen=True, eq=False, repr=False)
class Attributes:
    """Images, their attributes, and which concepts were held out.

    Attributes:
        x: (N, D) float32 bits, row by row of the canvas.
        y: (N, 4) float32 codes of the classes, so that NaN can say that one is missing.
        names: of the attributes.
        classes: the names of each attribute's classes, in the order of their codes.
        split: row indices (int64) of "train", "valid" and "test".
        held_out: (H, 4) float32, the concepts that are only in "test"; H is 0 where none is.
        shape: (1, height, width).
        scaling: what was done; print it beside each figure.
    """

    x: Tensor
    y: Tensor
    names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    split: dict[str, Tensor]
    held_out: Tensor
    shape: tuple[int, int, int]
    scaling: str

    def rows(self, split: str) -> dict[str, Tensor]:
        """The rows of one part, as `ppvae.fit` takes them: {"x": (n, D), "y": (n, 4)}."""
        if split not in self.split:
            raise Problem(f"there is no split {split!r}", "a misspelt name", " or ".join(self.split))
        return {"x": self.x[self.split[split]], "y": self.y[self.split[split]]}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(rows)}" for name, rows in self.split.items())
        return f"<{len(self.x)} × {self.x.shape[1]} with {', '.join(self.names)}; {sizes}; {self.scaling}>"


def mnist_attributes(
    size: int = 64,
    split: str = "iid",
    rows: tuple[int, int, int] = (55_000, 5_000, 10_000),
    seed: int = 0,
    folder: str | Path | None = None,
) -> Attributes:
    """Make them of MNIST: those to train and to validate on of its training digits, those to test on of its test digits.

    Args:
        size: height and width of the canvas.
        split: "iid", or "comp", in which a tenth of the concepts is held out.
        rows: at most so many to train, validate and test on, each used once. In "comp" a digit without a concept that is held
            out has no rows to test on.
        seed: of attributes and spreads; equal seeds give equal rows. Of "comp" also which concepts are held out.
        folder: as in `ppvae.data.load`.

    Raises:
        Problem: an unknown split, a canvas or a number of rows out of range; what `ppvae.data.load` refuses.
    """
    source = mnist(folder)
    assert source.label is not None  # MNIST has labels
    if len(rows) != 3 or min(rows) < 1 or sum(rows[:2]) > 60_000 or rows[2] > 10_000:
        raise Problem(
            f"rows is {rows!r}", "MNIST has 60,000 digits to train on and 10,000 to test on", "(55_000, 5_000, 10_000)"
        )
    used = torch.cat([torch.arange(rows[0] + rows[1]), 60_000 + torch.arange(rows[2])])
    grey = source.x[used].reshape(-1, *source.shape[1:])
    return with_attributes(grey, source.label[used], size, split, rows, seed, BOX)


def with_attributes(
    grey: Tensor, digit: Tensor, size: int, split: str, rows: tuple[int, int, int], seed: int = 0, box: float = 1.0
) -> Attributes:
    """Make them of any digits.

    Args:
        grey: (N, H, W) in [0, 1], the first rows[0] to train on, the next to validate, the last to test on.
        digit: (N,) of 0 … 9.
        size, split, rows, seed: as in `mnist_attributes`.
        box: the share of the frame's side that a digit fills.
    """
    if split not in ("iid", "comp"):
        raise Problem(f"there is no split {split!r}", "a misspelt name", "iid or comp")
    if not isinstance(size, int) or size < 16:
        raise Problem(
            f"size is {size!r}",
            "a digit fills less than half of the canvas",
            "size=64; 32 for a laptop; 16 at the least",
        )
    chance = generator(seed)
    held = torch.zeros(COUNTS, dtype=torch.bool)
    if split == "comp":
        held.view(-1)[torch.randperm(len(CONCEPTS), generator=chance)[:HELD_OUT]] = True
    testing = torch.arange(len(digit)) >= rows[0] + rows[1]
    allowed = (held if split == "comp" else ~held).flatten(1)[digit] & testing[:, None]
    allowed |= ~held.flatten(1)[digit] & ~testing[:, None]  # (N, 24): size, orientation and location, given the digit
    kept = allowed.any(1)
    code = torch.multinomial(allowed.float() + ~kept[:, None], 1, generator=chance).squeeze(1)
    y = torch.stack([digit, *torch.unravel_index(code, COUNTS[1:])], 1)
    x = placed(grey, y, size, chance, box).flatten(1)
    ends = [0, rows[0], rows[0] + rows[1], len(digit)]
    parts = {
        name: (first + kept[first:last].nonzero().squeeze(1))
        for name, first, last in zip(("train", "valid", "test"), ends, ends[1:], strict=False)
    }
    held_out = CONCEPTS[held.flatten()].float()
    said = f"bits of {size} x {size}, grey above {LIT}; {len(held_out)} of {len(CONCEPTS)} concepts held out"
    return Attributes(x, y.float(), NAMES, CLASSES, parts, held_out, (1, size, size), said)


def placed(grey: Tensor, y: Tensor, size: int, chance: torch.Generator, box: float = 1.0) -> Tensor:
    """Each image as its attributes say, on a canvas: grey (N, H, W), y (N, 4) int64 to bits (N, size, size)."""
    scale = SCALES[y[:, 1]] + SPREADS["scale"] * _spread(len(y), chance)
    turn = torch.deg2rad(DEGREES[y[:, 2]] + SPREADS["degrees"] * _spread(len(y), chance))
    centre = CENTRES[y[:, 3]] + SPREADS["place"] * torch.stack([_spread(len(y), chance) for _ in range(2)], 1)
    half = (scale / (2 * box))[:, None, None]  # of the frame's side, as a share of half the canvas
    cos, sin = turn.cos(), turn.sin()
    back = torch.stack([cos, sin, -sin, cos], 1).view(-1, 2, 2) / half  # from the canvas to the frame, y pointing down
    theta = torch.cat([back, -back @ centre.unsqueeze(-1)], 2)
    found = []
    for images, affine in zip(grey.float().split(BLOCK), theta.split(BLOCK), strict=True):
        grid = affine_grid(affine, [len(images), 1, size, size], align_corners=False)
        found.append(grid_sample(images[:, None], grid, align_corners=False).squeeze(1) > LIT)
    return torch.cat(found).float()


def _spread(count: int, chance: torch.Generator) -> Tensor:
    """A standard Gaussian between -2 and 2, by its inverse distribution function."""
    most = math.erf(2 / math.sqrt(2))
    return math.sqrt(2) * torch.erfinv(most * (2 * torch.rand(count, generator=chance, dtype=torch.float32) - 1))
