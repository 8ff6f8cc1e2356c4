"""What the site's numbers hang on, as one word: where any of it changes, every program on the site is run again."""

from __future__ import annotations

import hashlib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent


def stamp() -> str:
    """A digest of the package, the README's figures, and what makes the catalogue."""
    files = [path for folder in ("ppvae", "models", "guides") for path in (ROOT / folder).rglob("*.py")]
    files += [HERE / name for name in ("catalogue.py", "figures.py", "recipes.py", "scored.py", "recorded.py")]
    held = hashlib.sha256()
    for file in sorted({*files, ROOT / "README.md"}):
        held.update(file.read_bytes())
    return held.hexdigest()[:16]
