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
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from weightkit.core.errors import DigestMismatch, FormatError, PlanError, WeightkitError

if TYPE_CHECKING:
    from weightkit import convert, diff, explain, identify, inspect, manifest, merge, recover, verify, xor

__all__ = [
    "DigestMismatch",
    "FormatError",
    "PlanError",
    "WeightkitError",
    "__version__",
    "convert",
    "diff",
    "explain",
    "identify",
    "inspect",
    "manifest",
    "merge",
    "recover",
    "verify",
    "xor",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"weightkit.{name}")
    raise AttributeError(f"module 'weightkit' has no attribute {name!r}")
