"""Cells that were observed, and are hidden to see how well they are completed."""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.exact.choice import spared

SHARE = 0.1  # of the observed cells, hidden to choose a model; and of the others, to score it
SCORED = 50_000  # cells that are scored, at most: more of them take memory and say nothing new


def hide(z: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Which observed cells to hide to choose a model, and which others to score it, (N, D) each.

    No cell is in both: the best of several errors is lower than the error to expect.

    Args:
        z: rows (N, D), standardised, NaN = missing.
        seed: the same one hides the same cells.
    """
    drawn = torch.rand(z.shape, generator=torch.Generator().manual_seed(seed)).to(z.device)
    share = min(SHARE, SCORED / int((~z.isnan()).sum()))
    hidden = spared(z, drawn < SHARE + share)
    return hidden & (drawn < SHARE), hidden & (drawn >= SHARE)


def mean_error(z: Tensor, hidden: Tensor, unseen: Tensor) -> float:
    """The root mean squared error of the column mean on hidden cells, of means that leave out the unseen ones."""
    mean = z.masked_fill(unseen, torch.nan).nanmean(0).expand_as(z)
    return float((mean - z)[hidden].square().mean().sqrt())
