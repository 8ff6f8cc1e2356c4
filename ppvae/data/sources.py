"""Find the bytes of a public data set: in a folder, or at its public home; and check them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppvae.data.formats import read
from ppvae.errors import Problem


@dataclass(frozen=True)
class Source:
    """Name one array: where it lies, and what it must be.

    Attributes:
        sha256: of the array's own bytes (uint8; of a table float64), so that every compression and format must agree.
        files: accepted places below the data folder, the first one that exists is read.
        urls: public homes, tried in order.
        key: name of the array in a .npz.
        columns: so many of a table's first columns count; None: all.
    """

    sha256: str
    files: tuple[str, ...]
    urls: tuple[str, ...]
    key: str = "x"
    columns: int | None = None


def fetch(source: Source, folder: str | Path | None = None) -> np.ndarray:
    """Read and check the array of a source.

    The folder is `folder`, else the one that the environment variable PPVAE_DATA names; without
    both the file is downloaded once and kept in the user's cache. With a folder nothing is downloaded.

    Raises:
        Problem: a missing folder or file, a failed download, a damaged file, or other bytes.
    """
    place = folder or os.environ.get("PPVAE_DATA")
    return _from_home(source) if not place else _checked(_in_folder(source, Path(place).expanduser()), source)


def _in_folder(source: Source, folder: Path) -> Path:
    if not folder.is_dir():
        raise Problem(
            f"the data folder {folder} is not a folder",
            "a misspelt folder argument or PPVAE_DATA",
            "an existing folder, or unset PPVAE_DATA to download",
        )
    for file in source.files:
        if (folder / file).is_file():
            return folder / file
    raise Problem(
        f"{' or '.join(source.files)} is not in {folder}",
        "the folder is given by the argument or PPVAE_DATA, so nothing is downloaded",
        f"put the file there (from {source.urls[0]}), or unset PPVAE_DATA to download",
    )


def _from_home(source: Source) -> np.ndarray:
    tried: list[str] = []
    for url, path in _downloads(source, tried):
        try:
            return _checked(path, source)
        except Problem as problem:
            path.unlink(missing_ok=True)  # else the damaged copy would be met again on each run
            tried.append(f"{url}: {problem.seen}")
    raise Problem(
        "\n    ".join([f"{source.files[-1]} could not be downloaded; tried", *tried]),
        "no network, or the public home has moved or changed",
        f"again later; or put the files in a folder ({' or '.join(source.files)}) and set PPVAE_DATA to it",
    )


def _downloads(source: Source, tried: list[str]) -> Iterator[tuple[str, Path]]:
    import pooch

    for url in source.urls:
        try:
            # No known_hash: the bytes that count are those inside the file, see `Source.sha256`.
            name = "-".join(url.split("/")[-2:])  # more than one repository calls its file data.csv
            path = pooch.retrieve(url, known_hash=None, fname=name, path=pooch.os_cache("ppvae"))
        except Exception as error:  # each transport has exceptions of its own
            tried.append(f"{url}: {type(error).__name__}: {error}")
        else:
            yield url, Path(path)


def _checked(path: Path, source: Source) -> np.ndarray:
    try:
        array = read(path, source.key)
        array = array if source.columns is None else np.ascontiguousarray(array[:, : source.columns])
    except Exception as error:  # each decoder has exceptions of its own
        raise Problem(
            f"{path} cannot be read ({type(error).__name__}: {error})",
            "the file is truncated, damaged or of another format",
            "delete it and download it again",
        ) from error
    seen = hashlib.sha256(array.tobytes()).hexdigest()
    if seen != source.sha256:
        raise Problem(
            f"{path} holds {array.shape} {array.dtype} with sha256 {seen}, expected {source.sha256}",
            "another version of the data, or a damaged file",
            "delete it and download it again",
        )
    return array
