"""Files that are written whole or not at all, and records of tensors that know when they are damaged."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppvae.errors import Problem


def write_whole(path: str | Path, write: Callable[[str], object], before: Path | None = None) -> None:
    """Write a file whole or not at all: to a neighbour first, which is brought to the disk and then renamed into place.

    Args:
        path: the file.
        write: is given the neighbour's name.
        before: where what stood there goes; None: it is replaced.

    Raises:
        Problem: no such folder, a full disk, a folder that may not be written to; what stood there still does.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise Problem(f"there is no folder {path.parent}", "a misspelt path", f"mkdir -p {path.parent}")
    draft = None
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=draft_prefix(path))
        os.close(handle)
        write(draft)
        _to_disk(draft)
        os.chmod(draft, 0o644)
        if before is not None and path.exists():
            os.replace(path, before)
        os.replace(draft, path)
    except BaseException as error:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise Problem(
                f"{path} cannot be written ({os.strerror(error.errno)})",
                "a full disk, or a folder that may not be written to",
                "make room, or take another folder; what stood there still does",
            ) from error
        raise
    _to_disk(path.parent)


def draft_prefix(path: Path) -> str:
    """How the names begin of what `write_whole` leaves behind where the process is killed in it."""
    return f".{path.name}."


def write_record(path: str | Path, record: dict[str, Any], before: Path | None = None) -> None:
    """Write plain values and tensors by `torch.save`, with a digest of them: a zip of torch does not tell a flipped bit.

    ``before`` as in `write_whole`.
    """
    sealed = {**record, "digest": digest(record)}

    def write(draft: str) -> None:
        with open(draft, "wb") as file:  # torch's own file says nothing of a full disk
            torch.save(sealed, file)

    write_whole(path, write, before)


def read_record(path: str | Path, sealed: Callable[[dict[str, Any]], bool] = lambda record: True) -> dict[str, Any]:
    """Read what `write_record` wrote, on the CPU; no code in the file is run.

    Args:
        path: the file.
        sealed: whether a record without a digest is refused.

    Raises:
        Problem: no such file, or one that does not hold what was written.
    """
    if not Path(path).is_file():
        raise Problem(f"there is no file {path}", "a misspelt path, or nothing was saved", "a path that exists")
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip, a pickle with code, another format: torch raises many kinds
        raise Problem(
            f"{path} cannot be read",
            f"damaged, or a file of something else ({type(error).__name__})",
            "a copy of it, or do again what wrote it",
        ) from error
    if not isinstance(record, dict):
        raise Problem(
            f"{path} does not hold a pair, nor a checkpoint", "a file of something else", "a file that ppvae wrote"
        )
    said = record.pop("digest", None)
    if (said is not None or sealed(record)) and said != digest(record):
        raise Problem(
            f"{path} is damaged", "what it holds is not what was written", "a copy of it, or do again what wrote it"
        )
    return record


def digest(value: Any) -> str:
    """SHA-256 of nested dicts, lists, tuples, tensors and plain values."""
    found = hashlib.sha256()
    _add(found, value)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, dict):
        found.update(f"{{{len(value)}".encode())
        for key, item in value.items():
            _add(found, key)
            _add(found, item)
    elif isinstance(value, list | tuple):
        found.update(f"[{len(value)}".encode())
        for item in value:
            _add(found, item)
    else:
        found.update(repr(value).encode())


def _to_disk(path: str | Path) -> None:
    """What is written so far survives a power cut. A folder is opened to be synchronised too; not every system lets it be."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if Path(path).is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
