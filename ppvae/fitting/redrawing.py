"""Stored rows that are no observation: what is trained on is drawn from them anew (dynamic binarization)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ppvae.errors import Problem

Redraw = Callable[[Tensor], Tensor]


def observe(stored: Tensor, redraw: Redraw) -> Tensor:
    """One observation of stored rows, (N, D), NaN where they are NaN.

    Raises:
        Problem: ``redraw`` cannot observe them.
    """
    try:
        return torch.where(stored.isnan(), torch.nan, redraw(stored.nan_to_num()))
    except RuntimeError as error:  # torch.bernoulli of something that is no probability
        raise Problem(
            f"redraw cannot observe x ({error})",
            "the stored values are no probabilities",
            "scale grey pixels to [0, 1]",
        ) from error
