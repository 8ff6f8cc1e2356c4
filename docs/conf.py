"""The site: `make docs` builds it, running every program on it, so that its numbers are those of this build."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from stamp import stamp

from ppvae import __version__ as release  # noqa: F401

project = "ppvae"
copyright = "2026, the authors of ppvae. Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "extension"]
exclude_patterns = ["_build", "_made", "jupyter_execute", ".jupyter_cache"]

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # a page runs again when one of its programs changed, all of them when ppvae did
nb_execution_cache_path = str(Path(__file__).parent / "_build" / f"programs-{stamp()}")
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
suppress_warnings = ["mystnb.unknown_mime_type"]

napoleon_use_ivar = True
default_role = "code"  # `name` in a docstring
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"exclude-members": "__init__"}

html_theme = "furo"
html_title = "ppvae"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_extra_path = ["_made/recorded.html"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
