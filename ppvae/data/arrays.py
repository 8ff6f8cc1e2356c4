"""Arrays in `.npy` files, mapped and not loaded: what is asked for is read, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppvae.errors import Problem


def read_array(path: str | Path) -> np.ndarray:
    """Map a `.npy` file of numbers, (N, D); rows of more than one dim, such as images, are flattened.

    Raises:
        Problem: no such file, something else in it, no rows of numbers.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise Problem(f"there is no file {path}", "a misspelt path", "the path of a .npy file") from None
    except (OSError, ValueError, EOFError) as error:
        seen = (
            "it is no array of numbers" if "pickle" in str(error) else str(error)
        )  # NumPy's advice would be to trust it
        cause = "a folder, a file of another kind under this name, one that was cut short, or Python objects in it"
        raise Problem(f"{path} cannot be read: {seen}", cause, "write it again: numpy.save(path, x)") from error
    if isinstance(array, np.ndarray) and not array.size:
        raise Problem(
            f"{path} holds no numbers: shape {array.shape}", "an empty selection was saved", "rows of numbers"
        )
    if not isinstance(array, np.memmap) or array.dtype.kind not in "fiub":
        kind = array.dtype if isinstance(array, np.ndarray) else "an archive of arrays (.npz)"
        raise Problem(
            f"{path} holds {kind}", "rows of numbers are needed", "numpy.save(path, x) of one array of numbers"
        )
    if array.ndim < 2 or not array.flags.c_contiguous:
        raise Problem(
            f"{path} holds an array of shape {array.shape}{'' if array.ndim < 2 else ', column after column'}",
            "data are rows first: (N, D), row after row in the file",
            "numpy.save(path, numpy.ascontiguousarray(x)) of x with two dims",
        )
    return array.reshape(len(array), -1)
