"""Entries that lie in files (`numpy.memmap`): which these are, their shapes, and copies of some of their rows."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppvae.door import refuse_rows
from ppvae.errors import Problem

PART = 2**20  # numbers of an entry that a pass over all rows holds at a time


class Mapped:
    """Entries of N rows of which one at least, or a mask, is a `numpy.memmap`: only rows that are asked for are read.

    Args:
        entries: arrays by name, rows first.
        masks: by the same names, True = observed; None or True where only NaN is missing.

    Attributes:
        values, masks: what was given, as plain arrays.

    Raises:
        Problem: shapes that do not fit, in the words of `ppvae.door.enter`; a file that is shorter than it was mapped.
    """

    def __init__(self, entries: Mapping[str, Any], masks: Mapping[str, Any]) -> None:
        given = {name: mask for name, mask in masks.items() if mask is not None and mask is not True}
        self._files = _files([*entries.values(), *given.values()])
        self.values = {name: _array(value) for name, value in entries.items() if value is not None}
        self.masks = {name: _array(mask) for name, mask in given.items()}
        _refuse_shapes(self.values, self.masks)

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))

    def parts(self) -> Iterator[tuple[int, dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Copies of all rows in turn, so many at a time as `rows_at_once` says: (first row, values, masks)."""
        size = rows_at_once(value.shape for value in self.values.values())
        for start in range(0, len(self) or 1, size):
            self._refuse_lost()
            rows = slice(start, start + size)
            yield (
                start,
                {name: _native(value[rows]) for name, value in self.values.items()},
                {name: _native(mask[rows]) for name, mask in self.masks.items()},
            )

    def take(self, index: np.ndarray, pinned: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Copies of the rows of ``index``, in the files' own types, on the CPU: values and masks by name.

        Args:
            index: (B,) row numbers.
            pinned: into page-locked memory, from which a GPU copies by itself.
        """
        self._refuse_lost()
        return (
            {name: gather(value, index, pinned) for name, value in self.values.items()},
            {name: gather(mask, index, pinned) for name, mask in self.masks.items()},
        )

    def _refuse_lost(self) -> None:
        """Look at the files before each reading: where a mapped file ends too early, reading on ends the process."""
        for path, needed in self._files.items():
            try:
                size = os.stat(path).st_size
            except OSError as error:
                raise Problem(
                    f"the file {path} is gone ({error.strerror})",
                    "it was moved or removed while its rows were read",
                    "put it back; a fit with a checkpoint goes on from there",
                ) from error
            if size < needed:
                raise Problem(
                    f"the file {path} holds {size} bytes, and {needed} are needed",
                    "it was cut or written anew while its rows were read",
                    "restore it; a fit with a checkpoint goes on from there",
                )


def gather(array: np.ndarray, index: np.ndarray, pinned: bool) -> Tensor:
    """Rows of an array as a tensor of their own type. Only NumPy works here: torch would start threads in each thread."""
    kind = torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype
    rows = torch.empty((len(index), *array.shape[1:]), dtype=kind, pin_memory=pinned)
    order = index.argsort()  # a disk reads forward
    rows.numpy()[order] = array[index[order]]
    return rows


def rows_at_once(shapes: Iterable[tuple[int, ...]]) -> int:
    """How many rows a pass over all of them takes at a time. It depends on shapes alone: what is drawn for each part in
    turn, and what is added up, is then the same whether rows lie in files or in memory."""
    return max(1, PART // max([1, *(int(np.prod(shape[1:])) for shape in shapes)]))


def in_files(arrays: Iterable[Any]) -> bool:
    """Whether any of them is a `numpy.memmap` of a file."""
    return any(_root(array) is not None for array in arrays)


def _root(array: Any) -> np.memmap | None:
    """The whole map that a memmap is a view of; None for what has been copied from one, which is a memmap by type only."""
    while isinstance(array, np.memmap):
        if isinstance(array.base, mmap.mmap):
            return array
        array = array.base
    return None


def _files(arrays: list[Any]) -> dict[str, int]:
    """How many bytes each file must have."""
    needed: dict[str, int] = {}
    for root in map(_root, arrays):
        if root is not None and root.filename is not None:
            path = os.fspath(root.filename)
            needed[path] = max(needed.get(path, 0), root.offset + root.nbytes)
    return needed


def _array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.filled(value.astype(float), np.nan)
    return np.asarray(value)


def _native(rows: np.ndarray) -> np.ndarray:
    return np.array(rows, dtype=rows.dtype.newbyteorder("="))


def _refuse_shapes(values: dict[str, np.ndarray], masks: dict[str, np.ndarray]) -> None:
    """What the door could not tell from a part of the rows."""
    for name, value in values.items():
        if value.ndim == 0 or (name == "x" and value.ndim != 2):
            raise Problem(
                f"{name} has shape {value.shape}",
                "data are rows first: (N, D), at least one row",
                "x.reshape(len(x), -1) flattens images; x[None] makes one row of a vector",
            )
    refuse_rows(values)
    rows = {name: len(value) for name, value in values.items()}
    for name, mask in masks.items():
        if name in values and mask.shape not in (values[name].shape, (rows[name],), (rows[name], 1)):
            raise Problem(
                f"the mask of {name} has shape {mask.shape}, the data {values[name].shape}",
                "a mask of other rows, or transposed",
                "one bool an entry, or one a row: (N,) or (N, 1)",
            )
