"""The page without a server: answers taken beforehand, at a grid of places and for every choice of a few blocks of a row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ppvae.explore.page import page
from ppvae.explore.views import View

SIDE = 15  # places of the plane, each way
SPAN = 3.0  # standard deviations of the prior, to either side, or as far as the codes go
SHOWN = 4  # rows
DOTS = 50  # draws of the posterior
BLOCKS = 3, 2  # of an image, down and across: each choice of them to erase is recorded


def recorded(view: View, track: Callable[[range], Iterable[int]] = iter) -> str:
    """Give a page that needs no server: a snapshot of `View`'s answers.

    Where the page that is served takes any place and any pixel, this one takes the nearest of 15 x 15 places and erases
    whole blocks, a sixth of an image or of a table's columns.

    Args:
        view: of a fitted pair.
        track: wraps the iterable of rows, to show progress.
    """
    answers: dict[str, Any] = {"blocks": blocks(view).tolist(), "rows": []}
    plane = None
    if view.latents:
        latent = next(iter(view.latents))
        codes = view.codes(latent)
        plane = answers["plane"] = {"latent": latent, **codes, **_grid(codes)}
    for row in track(range(min(SHOWN, len(view.x)))):
        answers["rows"].append(_row(view, row, torch.tensor(answers["blocks"]), plane))
    return page(view.about(), answers)


def blocks(view: View) -> Tensor:
    """Which block each entry of a row belongs to, (D,), numbered from 0."""
    if view.shape is None:
        D = view.x.shape[1]
        return torch.arange(D) * min(D, BLOCKS[0] * BLOCKS[1]) // D
    channels, height, width = view.shape
    down, across = torch.arange(height) * BLOCKS[0] // height, torch.arange(width) * BLOCKS[1] // width
    return (down[:, None] * BLOCKS[1] + across).expand(channels, height, width).flatten()


def _grid(codes: dict[str, Any]) -> dict[str, Any]:
    places = torch.tensor(codes["codes"])[:, codes["axes"]]
    span = max(SPAN, float(places.abs().quantile(0.99)))
    return {"grid": [round(float(at), 3) for at in torch.linspace(-span, span, SIDE)]}


def _row(view: View, row: int, of: Tensor, plane: dict[str, Any] | None) -> dict[str, Any]:
    count = int(of.max()) + 1
    found: dict[str, Any] = {**view.row(row), "decoded": None}
    found["inferred"] = [_lean(view.infer(row, seen), plane) for seen in _choices(of, count)]
    if plane is not None:
        z = list(plane["codes"][row])
        found["decoded"] = []
        # Rows of the grid from above: the second coordinate falls, the first rises.
        for second, first in itertools.product(reversed(plane["grid"]), plane["grid"]):
            for axis, at in zip(plane["axes"], (first, second), strict=False):
                z[axis] = at
            found["decoded"].append(view.decode(row, plane["latent"], z)["image"])
    return found


def _lean(answer: dict[str, Any], plane: dict[str, Any] | None) -> dict[str, Any]:
    """An answer with the draws that the plane shows, at their two coordinates, and no others."""
    if plane is None:
        return {**answer, "z": {}}
    draws = answer["z"][plane["latent"]][:DOTS]
    return {**answer, "z": {plane["latent"]: [[draw[axis] for axis in plane["axes"]] for draw in draws]}}


def _choices(of: Tensor, count: int) -> Iterable[Tensor]:
    """What is seen, (D,), for each choice of blocks to erase: the bits of its number say which."""
    bits = torch.arange(count)
    for choice in range(2**count):
        yield ((choice >> bits) & 1)[of] == 0
