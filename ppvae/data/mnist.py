"""MNIST: binary and redrawn, binary and fixed, or grey. Likelihoods of the three cannot be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppvae.data.dataset import Dataset, bernoulli, dequantise
from ppvae.data.formats import idx
from ppvae.data.sources import Source, fetch

SHAPE = (1, 28, 28)
HOMES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# The decompressed files: their compressed forms differ from home to home.
CANONICAL = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
LAROCHELLE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
# Packed bits, in the row order of the published .amat files.
STATIC = {
    "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}


def mnist(folder: str | Path | None = None) -> Dataset:
    """Load MNIST as probabilities grey/255 of dynamic binarization (Burda et al. 2016)."""
    levels, label = _raw(folder)
    scaling = "binary, redrawn for each use from grey/255 (dynamic)"
    return Dataset(
        "mnist",
        levels.float() / 255,
        _parts(train=60_000, test=10_000),
        label,
        SHAPE,
        scaling,
        "bernoulli",
        bernoulli,
    )


def mnist_grey(folder: str | Path | None = None) -> Dataset:
    """Load MNIST as dequantised grey values, (x + u)/256."""
    levels, label = _raw(folder)
    scaling = "grey, (x + u)/256 with u uniform from a fixed seed (dequantised)"
    return Dataset(
        "mnist_grey",
        dequantise(levels, 256),
        _parts(train=60_000, test=10_000),
        label,
        SHAPE,
        scaling,
        "normal",
    )


def mnist_static(folder: str | Path | None = None) -> Dataset:
    """Load the one fixed binarization of Larochelle & Murray (2011), which published static results use.

    The published files have no labels, and their test rows are sorted by class.
    """
    bits = np.unpackbits(np.concatenate([fetch(_static(part), folder) for part in STATIC]), axis=1)
    scaling = "binary, fixed draw of Larochelle (static)"
    parts = _parts(train=50_000, valid=10_000, test=10_000)
    return Dataset("mnist_static", torch.from_numpy(bits).float(), parts, None, SHAPE, scaling, "bernoulli")


def _static(part: str) -> Source:
    amat = f"binarized_mnist_{part}.amat"
    return Source(STATIC[part], ("binarized_mnist.npz", amat), (LAROCHELLE + amat,), key=f"x_{part}")


def _raw(folder: str | Path | None) -> tuple[Tensor, Tensor]:
    images, labels = (
        np.concatenate([_idx(f"{part}-{kind}-ubyte.gz", folder) for part in ("train", "t10k")])
        for kind in ("images-idx3", "labels-idx1")
    )
    return torch.from_numpy(images).reshape(len(images), -1), torch.from_numpy(labels).long()


def _idx(file: str, folder: str | Path | None) -> np.ndarray:
    source = Source(CANONICAL[file], (f"mnist/{file}", file), tuple(home + file for home in HOMES))
    return idx(fetch(source, folder))


def _parts(**sizes: int) -> dict[str, Tensor]:
    """Number consecutive blocks of rows."""
    blocks = torch.arange(sum(sizes.values())).split(list(sizes.values()))
    return dict(zip(sizes, blocks, strict=True))
