"""What setup.cfg cannot say.

Where the catalog goes; and the README as a package index shows it, where a link into the source leads nowhere.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = re.compile(r"!?\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]*)\)")


class BuildWithCatalog(build_py):
    """The packages, and ``checksums/`` inside them; a clone that is installed in place has it beside them."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        built = Path(self.build_lib) / "weightkit"
        if built.resolve() != (ROOT / "weightkit").resolve():
            shutil.rmtree(built, ignore_errors=True)  # an earlier build's modules would be installed again
        super().run()
        shutil.copytree(ROOT / "checksums", built / "checksums", ignore=shutil.ignore_patterns("__pycache__", ".*"))


setup(
    cmdclass={"build_py": BuildWithCatalog},
    long_description=ELSEWHERE.sub(lambda link: f"{link[1]} ({link[2]} in the source)", README),
    long_description_content_type="text/markdown",
)
