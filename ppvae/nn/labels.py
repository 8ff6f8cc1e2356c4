"""A class as a network reads it."""

from __future__ import annotations

import torch
from torch import Tensor


def indicator(label: Tensor, classes: int) -> Tensor:
    """1 at the label's place: label (…, N, 1) of the classes 0 … C-1 to (…, N, C) bools."""
    return label == torch.arange(classes, device=label.device)


def beside(value: Tensor, label: Tensor, classes: int) -> Tensor:
    """value (…, N, K) with the indicator of label (…, N, 1) beside it, (…, N, K + C); leading dims broadcast, so that a label
    that holds every class along a dim of its own, when it is enumerated, meets each value with each class."""
    other = indicator(label, classes).to(value)
    lead = torch.broadcast_shapes(value.shape[:-1], other.shape[:-1])
    return torch.cat([value.expand(*lead, value.shape[-1]), other.expand(*lead, classes)], -1)
