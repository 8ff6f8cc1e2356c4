"""What the site needs beyond Sphinx.

Formulas are MathML, which browsers show without a script or a request. The notebooks are copied to where Sphinx reads: it takes a link for
the file that it points to, and finds that outside. A field of a named tuple that has no words of its own is told by its class.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", _notebooks)
    app.connect("autodoc-skip-member", _told)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}


def _notebooks(app: Sphinx) -> None:
    here = Path(app.srcdir) / "notebooks"
    here.mkdir(exist_ok=True)
    wanted = {path.name: path.read_text(encoding="utf-8") for path in here.parent.parent.glob("notebooks/*.ipynb")}
    for path in here.glob("*.ipynb"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        copy = here / name
        if not copy.exists() or copy.read_text(encoding="utf-8") != text:  # what is unchanged is not read again
            copy.write_text(text, encoding="utf-8")


def _told(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


NAMED = r"(?<!<msub>)<mi>(?:log|exp)</mi>"  # with a subscript it is the child of an msub, which has no room for a space


def _formula(latex: str, display: str) -> str:
    """MathML, with TeX's thin spaces beside a named function, which the converter leaves out."""
    found, space = convert(latex, display=display), '<mspace width="0.167em"/>'
    found = re.sub(rf"({NAMED})(?=<m(?!o\b))", rf"\1{space}", found)
    return re.sub(rf"(</m(?:i|n|sub|sup|subsup|frac|row)>)(?={NAMED})", rf"\1{space}", found)


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_formula(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="formula">{_formula(node.astext(), "block")}</div>')
    raise nodes.SkipNode
