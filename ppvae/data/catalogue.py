"""The data sets by name."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from ppvae.data.dataset import Dataset
from ppvae.data.digits import digits, digits_binary
from ppvae.data.frey import frey
from ppvae.data.mnist import mnist, mnist_grey, mnist_static
from ppvae.data.uci import MAKERS as TABLES
from ppvae.errors import Problem

IMAGES = (digits, digits_binary, mnist, mnist_static, mnist_grey, frey)
MAKERS = {maker.__name__: maker for maker in IMAGES} | TABLES


def names() -> tuple[str, ...]:
    """List the data sets that `load` knows."""
    return tuple(MAKERS)


def load(name: str, *, folder: str | Path | None = None) -> Dataset:
    """Load a data set by name: rows, split, labels, and what was done to the numbers.

    Args:
        name: one of `names()`.
        folder: where the files lie; else the environment variable PPVAE_DATA; else they are
            downloaded once, checked by sha256, and kept in the user's cache. Digits and breast need no file.

    Raises:
        Problem: an unknown name; a file that is missing, damaged or other than the published one.

    Example:
        >>> data = load("digits")
        >>> data.rows("train").shape, data.likelihood
        (torch.Size([1438, 64]), 'normal')
    """
    if name not in names():
        close = get_close_matches(str(name), MAKERS, n=1, cutoff=0.5)
        meant = f"a misspelling of {close[0]!r}" if close else "no data set has this name"
        raise Problem(f"data set {name!r}", meant, f"one of {', '.join(MAKERS)}")
    return MAKERS[name](folder)
