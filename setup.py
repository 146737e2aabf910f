"""What setup.cfg cannot say: the README as a package index shows it, where a link into the source leads nowhere."""

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
ELSEWHERE = re.compile(r"!?\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]*)\)")

setup(
    long_description=ELSEWHERE.sub(lambda link: f"{link[1]} ({link[2]} in the source)", README),
    long_description_content_type="text/markdown",
)
