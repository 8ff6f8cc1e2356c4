"""Read the file formats of the public data sets into their numbers. Nothing is unpickled."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np


def read(path: Path, key: str) -> np.ndarray:
    """Read a file by its suffix: .gz, .npz, .mat or .amat as uint8, tables in .npz, .csv or .txt as float64.

    Args:
        path: the file.
        key: name of the array in a .npz.

    Returns:
        .gz: the decompressed bytes, (n,). .npz: the array `key`. .mat: Frey faces, (N, 28, 20).
        .amat: the bits of each line packed as `numpy.packbits` does, (N, D/8). .csv, .txt: numbers between
        commas or semicolons, (N, D), a first line of names left out.

    Raises:
        Exception: whatever the decoder says of a damaged file; `sources.fetch` explains it.
    """
    readers = {".gz": _gz, ".npz": _npz, ".mat": _mat, ".amat": _amat, ".csv": _text, ".txt": _text}
    return readers[path.suffix](path, key)


def _gz(path: Path, key: str) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8)


def _npz(path: Path, key: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        array = arrays[key]
    return array if array.dtype == np.uint8 else array.astype(np.float64)


def _mat(path: Path, key: str) -> np.ndarray:
    from scipy.io import loadmat

    return loadmat(path)["ff"].T.reshape(-1, 28, 20)  # (560, N) columns of images -> (N, 28, 20)


def _amat(path: Path, key: str) -> np.ndarray:
    text = np.fromfile(path, np.uint8)
    width = int(np.flatnonzero(text[:10_000] == ord("\n"))[0]) + 1  # "0 1 … 0\n" is 2 D characters
    return np.packbits(text.reshape(-1, width)[:, ::2] == ord("1"), axis=1)


def _text(path: Path, key: str) -> np.ndarray:
    with open(path) as file:
        first = file.readline()
    names = any(character.isalpha() for character in first)
    return np.loadtxt(path, delimiter=";" if ";" in first else ",", skiprows=int(names), ndmin=2)


def idx(data: np.ndarray) -> np.ndarray:
    """Parse the idx format of MNIST: magic 0, 0, 8 (uint8), ndim, then big-endian sizes, then the data."""
    sizes = data[4 : 4 + 4 * data[3]].view(">u4")
    return data[4 + 4 * len(sizes) :].reshape(*map(int, sizes))
