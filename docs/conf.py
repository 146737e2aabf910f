"""How the documentation is built: sphinx-build -W docs docs/_build. No network is needed to read it."""

from __future__ import annotations

from importlib.util import find_spec

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
html_show_sphinx = False
html_theme_options = {
    "source_repository": "https://github.com/weightkit/weightkit/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_static_path: list[str] = []
