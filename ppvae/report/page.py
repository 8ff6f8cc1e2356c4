"""Pages that need nothing but themselves: no script, no request, every word from a table escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder.

    Args:
        template: its file name.
        values: what its names stand for.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=lambda value: f"{value:.4g}",
        count=lambda value: f"{value:,}",
        percent=lambda value: f"{100 * value:.1f}\u00a0%",
    )
    return environment.get_template(template).render(**values)
