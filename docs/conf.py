"""How the documentation is built: sphinx-build -W docs docs/_build. No network is needed to read it."""

from __future__ import annotations

import re
from importlib.util import find_spec

from sphinx.application import Sphinx

from weightkit import __version__

project = "weightkit"
author = "the weightkit authors"
release = version = __version__
copyright = "2026, the weightkit authors. Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
root_doc = "index"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_mock_imports = [] if find_spec("torch") else ["torch"]
napoleon_google_docstring = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"weightkit {release}"
html_favicon = "icon.svg"
html_show_sphinx = False
html_theme_options = {
    "source_repository": "https://github.com/weightkit/weightkit/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_static_path: list[str] = []

BETWEEN_CHINESE = re.compile(r"(?<=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])\n *(?=[\u4e00-\u9fff\uff00-\uffef])")
"""A line that ends and one that begins: HTML would show a space, which Chinese does not have there."""


def join_chinese(app: Sphinx, page: str, source: list[str]) -> None:
    """Take the line breaks within Chinese sentences away."""
    if page.startswith("zh/"):
        source[0] = BETWEEN_CHINESE.sub("", source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", join_chinese)
