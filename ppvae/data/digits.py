"""The 8 × 8 digits that scikit-learn carries: 1797 rows, no download."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ppvae.data.chance import split
from ppvae.data.dataset import Dataset, bernoulli, dequantise


def digits(folder: str | Path | None = None) -> Dataset:
    """Load the digits as grey values, (x + u)/17 of the levels 0 … 16."""
    del folder  # scikit-learn carries the digits
    levels, label = _raw()
    scaling = "grey, (x + u)/17 with u uniform from a fixed seed (dequantised)"
    return Dataset("digits", dequantise(levels, 17), split(len(levels)), label, (1, 8, 8), scaling, "normal")


def digits_binary(folder: str | Path | None = None) -> Dataset:
    """Load the digits as probabilities x/16 of dynamic binarization."""
    del folder  # scikit-learn carries the digits
    levels, label = _raw()
    scaling = "binary, redrawn for each use from grey/16 (dynamic)"
    return Dataset("digits_binary", levels / 16, split(len(levels)), label, (1, 8, 8), scaling, "bernoulli", bernoulli)


def _raw() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    raw = load_digits()
    return torch.tensor(raw.data, dtype=torch.float32), torch.tensor(raw.target, dtype=torch.int64)
