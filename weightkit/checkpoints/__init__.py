"""One folder <-> named tensors. Whatever its layout, tensors are handed out under transformers' names and in its shapes."""

from __future__ import annotations

from pathlib import Path

from weightkit.checkpoints.huggingface import Checkpoint, open_huggingface
from weightkit.core.errors import PlanError
from weightkit.families.converters import DEFAULT_CONVERTER, Converter, converter_named

__all__ = ["Checkpoint", "converter_for", "open_checkpoint"]


def converter_for(name: str) -> Converter:
    """The converter that ``--as`` names.

    Raises:
        PlanError: None of that name is known.
    """
    try:
        return converter_named(name)
    except ValueError as error:
        raise PlanError(f"--as: {error}") from error


def open_checkpoint(path: Path, role: str, converter: Converter | None = None) -> Checkpoint:
    """Index a folder (or one file) of weights.

    Args:
        path: The folder.
        role: What it is to the caller, for messages: ``--raw``.
        converter: Whose conversion a folder in another layout than transformers' stands for.

    Raises:
        PlanError: There is nothing there that is understood.
        FormatError: A file in it is damaged or no file of weights.
    """
    from weightkit.checkpoints import meta, tencentpretrain

    if not path.exists():
        raise PlanError(f"{role}: {path} does not exist")
    converter = converter or converter_named(DEFAULT_CONVERTER)
    if meta.is_meta(path):
        return meta.open_meta(path, role, converter)
    files = [path] if path.is_file() else sorted(path.glob("*.bin"))
    if len(files) == 1 and (path.is_file() or not (path / "config.json").exists()):
        from weightkit.containers import open_file

        container = open_file(files[0])
        if tencentpretrain.is_tencentpretrain(container):
            return tencentpretrain.open_tencentpretrain(container, role, converter)
    return open_huggingface(path, role)
