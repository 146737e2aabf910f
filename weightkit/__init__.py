"""weightkit: rebuild released model weights from patches, byte for byte, and prove it.

Each job is a module of its own, imported when it is first used (none needs torch to be imported before):

    weightkit.recover   a base and a diff give the release
    weightkit.convert   from one layout to another
    weightkit.diff      a base and a tuned model give a diff
    weightkit.verify    files against published digests
    weightkit.inspect   what is in a folder of weights
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from weightkit.core.errors import DigestMismatch, FormatError, PlanError, WeightkitError

if TYPE_CHECKING:
    from weightkit import convert, diff, inspect, recover, verify

__all__ = [
    "DigestMismatch",
    "FormatError",
    "PlanError",
    "WeightkitError",
    "__version__",
    "convert",
    "diff",
    "inspect",
    "recover",
    "verify",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("convert", "diff", "inspect", "recover", "verify"):
        return import_module(f"weightkit.{name}")
    raise AttributeError(f"module 'weightkit' has no attribute {name!r}")
