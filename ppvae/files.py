"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ppvae.errors import Problem


def write_whole(path: str | Path, write: Callable[[str], None]) -> None:
    """Write a file whole or not at all: to a neighbour first, then renamed into place."""
    path = Path(path)
    if not path.parent.is_dir():
        raise Problem(f"there is no folder {path.parent}", "a misspelt path", f"mkdir -p {path.parent}")
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(draft)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
