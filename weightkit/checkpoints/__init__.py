"""One folder <-> named tensors."""

from __future__ import annotations

from pathlib import Path

from weightkit.checkpoints.huggingface import Checkpoint, open_huggingface
from weightkit.errors import PlanError

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(path: Path, role: str) -> Checkpoint:
    """Index a folder (or one file) of weights.

    Args:
        path: The folder.
        role: What it is to the caller, for messages: ``--raw``.

    Raises:
        PlanError: There is nothing there that is understood.
        FormatError: A file in it is damaged or no file of weights.
    """
    if not path.exists():
        raise PlanError(f"{role}: {path} does not exist")
    if path.is_dir() and ((path / "params.json").exists() or (path / "consolidated.00.pth").exists()):
        raise PlanError(
            f"{role}: {path} holds weights in Meta's layout (consolidated.NN.pth); convert it to transformers' first"
        )
    return open_huggingface(path, role)
