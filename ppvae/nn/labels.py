"""A class as a network reads it."""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.nn.layers import together


def beside(value: Tensor, label: Tensor, classes: int) -> Tensor:
    """value (…, N, K) with the indicator of label (…, N, 1), of the classes 0 … C-1, beside it: (…, N, K + C)."""
    return together(value, (label == torch.arange(classes, device=label.device)).to(value))
