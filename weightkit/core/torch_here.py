"""Whether torch is here and fit for use; if not, one line that says what to do.

Found out when torch is first needed, so that what needs none works without it.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from importlib import import_module
from types import ModuleType

from weightkit.core.errors import TorchError
from weightkit.core.installed import adding

__all__ = ["CPU_INDEX", "load", "ways_to_get"]

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch publishes the builds that bring no CUDA packages along."""

OLDEST = (2, 1)
"""The first torch that the operations were tested with; as setup.cfg has it."""

NUMPY_2 = (2, 3)
"""The first torch that was built for numpy 2. Source: PyTorch's release notes, 2.3."""


def ways_to_get() -> str:
    """The commands that install torch: its CPU build, and the one with CUDA where there is another."""
    wanted = f"torch>={OLDEST[0]}.{OLDEST[1]}"
    if sys.platform == "darwin":
        return f"{adding(wanted)} (for the CPU; macOS has no CUDA)"
    return (
        f"for the CPU (about 1 GB): {adding(wanted, '--index-url', CPU_INDEX)}; or with CUDA (about 5.5 GB): {adding(wanted)}"
    )


def version_of(distribution: str) -> tuple[int, int] | None:
    """Major and minor version of what is installed; None where nothing says."""
    try:
        found = re.match(r"(\d+)\.(\d+)", importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return None
    return (int(found[1]), int(found[2])) if found else None


def load() -> ModuleType:
    """torch.

    Raises:
        TorchError: It is not installed, does not load, or is too old; with the commands that mend it.
    """
    torch_version, numpy_version = version_of("torch"), version_of("numpy")
    if torch_version and numpy_version and torch_version < NUMPY_2 and numpy_version >= (2, 0):
        raise TorchError(
            f"torch {importlib.metadata.version('torch')} works with numpy 1 alone, and numpy "
            f"{importlib.metadata.version('numpy')} is installed",
            adding("numpy<2"),
        )
    if torch_version and torch_version < OLDEST:
        raise TorchError(f"torch {importlib.metadata.version('torch')} is too old, 2.1 or later is needed", ways_to_get())
    try:
        torch = import_module("torch")
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise TorchError("this needs torch, which is not installed", ways_to_get()) from error
        raise TorchError(f"torch is installed and does not load: {in_one_line(error)}", ways_to_get()) from error
    except Exception as error:  # whatever a library of somebody else's raises while it loads
        raise TorchError(f"torch is installed and does not load: {in_one_line(error)}", ways_to_get()) from error
    if not hasattr(torch, "frombuffer"):
        where = getattr(torch, "__file__", None) or next(iter(getattr(torch, "__path__", [])), "somewhere")
        raise TorchError(f"this needs torch, and what is called so is something else: {where}", ways_to_get())
    return torch


def in_one_line(error: Exception) -> str:
    """What an error says first, without line breaks."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
