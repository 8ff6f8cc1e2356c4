"""Frey faces: 1965 frames of one face, 20 × 28 grey pixels (Roweis, Saul & Hinton 2001)."""

from __future__ import annotations

from pathlib import Path

import torch

from ppvae.data.chance import split
from ppvae.data.dataset import Dataset
from ppvae.data.sources import Source, fetch

SOURCE = Source(
    sha256="2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78",  # of the (1965, 28, 20) bytes
    files=("frey.npz", "frey_rawface.mat"),
    urls=("https://cs.nyu.edu/~roweis/data/frey_rawface.mat",),
)


def frey(folder: str | Path | None = None) -> Dataset:
    """Load the Frey faces as x/127.5 - 1, with a fixed random split of 1572 and 393 rows.

    The frames are consecutive: neighbours of a test row are in the train part, so a test
    likelihood here measures interpolation.
    """
    levels = torch.from_numpy(fetch(SOURCE, folder)).reshape(-1, 28 * 20).float()
    scaling = "grey, x/127.5 - 1 in [-1, 1], not dequantised (256 levels scored by a density)"
    return Dataset("frey", levels / 127.5 - 1, split(len(levels)), None, (1, 28, 20), scaling, "normal")
