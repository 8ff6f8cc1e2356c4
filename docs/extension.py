"""What the site needs beyond Sphinx: formulas as MathML, which browsers show without a script or a request."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}


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
