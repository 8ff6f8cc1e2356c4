"""Entries that were observed and are hidden, to choose among fits by how well they foretell them."""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.exact.choice import spared

HIDDEN = 0.1  # share of the observed entries


def tenth(x: Tensor, seed: int) -> Tensor:
    """A tenth of what was observed, (N, D); no column loses all that varies in it.

    A count of the observed entries is drawn, not a number an entry: of a table whose tenth is hidden already the same seed
    hides another tenth, where equal numbers would hide none.
    """
    seen = (~x.isnan()).flatten().nonzero().flatten()
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed)).to(x.device)
    hidden = torch.zeros(x.numel(), dtype=torch.bool, device=x.device)
    hidden[seen[order[: round(HIDDEN * len(seen))]]] = True
    unit = (x - x.nanmean(0)).square().nanmean(0).sqrt()
    return spared(x / unit, hidden.view_as(x))
