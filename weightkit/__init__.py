"""weightkit: rebuild released model weights from patches, byte for byte, and prove it.

Each job is a module of its own, imported when it is first used (none needs torch to be imported before):

    weightkit.recover    a base and a diff give the release
    weightkit.merge      a base and LoRA adapters give a model
    weightkit.convert    from one layout to another
    weightkit.diff       a base and a tuned model give a diff
    weightkit.xor        releases published as byte XOR
    weightkit.verify     files against published digests
    weightkit.manifest   digests of files and tensors
    weightkit.identify   which published file something is
    weightkit.inspect    what is in a folder of weights
    weightkit.explain    why a file is not the one wanted
    weightkit.virtual    a recovered model as tensors, nothing written
    weightkit.fetch      what a release takes, from the Hub
    weightkit.publish    a release of one's own, on the Hub
    weightkit.trying     what a model answers, through transformers

What each is for stands here as well: ``recover_release``, ``merge_lora``, ``convert_checkpoint``, ``make_diff``,
``verify_files``, ``identify_path``, ``open``, ``load_into``, ``fetch_release``, ``publish_release``.

>>> import weightkit
>>> weightkit.recover_release("base", "diff", "release", checksums="diff/RELEASE.sha256").ok
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from weightkit.core.errors import DigestMismatch, FormatError, PlanError, WeightkitError

if TYPE_CHECKING:
    from weightkit import (
        convert,
        diff,
        explain,
        fetch,
        identify,
        inspect,
        manifest,
        merge,
        publish,
        recover,
        trying,
        verify,
        virtual,
        xor,
    )
    from weightkit.convert import convert_checkpoint
    from weightkit.diff import make_diff
    from weightkit.fetch import fetch_release
    from weightkit.identify import identify_path
    from weightkit.merge import merge_lora
    from weightkit.publish import publish_release
    from weightkit.recover import recover_release
    from weightkit.verify import verify_files
    from weightkit.virtual import load_into
    from weightkit.virtual import open as open

__all__ = [
    "DigestMismatch",
    "FormatError",
    "PlanError",
    "WeightkitError",
    "__version__",
    "convert",
    "convert_checkpoint",
    "diff",
    "explain",
    "fetch",
    "fetch_release",
    "identify",
    "identify_path",
    "inspect",
    "load_into",
    "make_diff",
    "manifest",
    "merge",
    "merge_lora",
    "publish",
    "publish_release",
    "recover",
    "recover_release",
    "trying",
    "verify",
    "verify_files",
    "virtual",
    "xor",
]  # without ``open``, which a star import would put in place of Python's own

__version__ = "0.1.0"


FUNCTIONS = {
    "convert_checkpoint": "convert",
    "fetch_release": "fetch",
    "identify_path": "identify",
    "load_into": "virtual",
    "make_diff": "diff",
    "merge_lora": "merge",
    "open": "virtual",
    "publish_release": "publish",
    "recover_release": "recover",
    "verify_files": "verify",
}
"""Function -> the module that it is in."""


def __dir__() -> list[str]:
    return sorted({*__all__, *FUNCTIONS, "__doc__", "__file__", "__name__", "__path__"})


def __getattr__(name: str) -> Any:
    if name in FUNCTIONS:
        return getattr(import_module(f"weightkit.{FUNCTIONS[name]}"), name)
    if name in __all__:
        return import_module(f"weightkit.{name}")
    raise AttributeError(f"module 'weightkit' has no attribute {name!r}")
