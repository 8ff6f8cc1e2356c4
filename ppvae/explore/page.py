"""The page: one file of HTML that holds its style and its script, and asks for nothing but this machine's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent
SCRIPTS = "ask.js", "pictures.js", "plane.js", "page.js"


def page(about: dict[str, Any], recorded: dict[str, Any] | None = None) -> str:
    """Give the page as HTML.

    Args:
        about: what `ppvae.explore.views.View.about` says.
        recorded: the answers of a page without a server (`ppvae.explore.record`); None: it asks its server.
    """
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        about=about,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup("\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)),
        data=_inside({"about": about, "recorded": recorded}),
    )


def _inside(value: Any) -> Markup:
    """JSON that cannot end the element it stands in."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))
