"""One folder <-> named tensors. Whatever its layout, tensors are handed out under transformers' names and in its shapes.

layouts()               all folder layouts, a module each
layout_named(name)      one of them, by the word of ``--to``
open_checkpoint(place)  a folder (or a single file) of weights as an index of its tensors: a ``Checkpoint``
"""

from __future__ import annotations

from weightkit.blobs import Place, folder_at
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.layout import FolderLayout
from weightkit.core.errors import PlanError
from weightkit.families.converters import DEFAULT_CONVERTER, Converter, converter_named

__all__ = ["Checkpoint", "FolderLayout", "converter_for", "layout_named", "layouts", "open_checkpoint", "writer"]


def layouts() -> tuple[FolderLayout, ...]:
    """All layouts, in the order in which they are asked; transformers' comes last: it says what a folder lacks."""
    from weightkit.checkpoints.gguf import GGUF
    from weightkit.checkpoints.huggingface import HUGGINGFACE
    from weightkit.checkpoints.meta import META
    from weightkit.checkpoints.tencentpretrain import TENCENTPRETRAIN

    return META, TENCENTPRETRAIN, GGUF, HUGGINGFACE


def layout_named(name: str) -> FolderLayout:
    """The layout of this name.

    Raises:
        ValueError: None has it.
    """
    for one in layouts():
        if one.name == name:
            return one
    raise ValueError(f"{name!r} is no layout; known: {', '.join(one.name for one in layouts())}")


def writer(to: str | None, form: Form) -> FolderLayout:
    """The layout that is written: transformers' where nothing says.

    Raises:
        PlanError: What was said of the files means nothing to it.
        ValueError: None is called so.
    """
    chosen = layout_named(to or "hf")
    if chosen.name != "gguf" and form.type is not None:
        raise PlanError(f"--type {form.type}: is said of GGUF files alone", hint="say --to gguf, too, or leave it out")
    named = {"--format": form.format, "--torch-compat": form.torch_compat, "--max-shard-size": form.max_shard_bytes}
    said = next((option for option, value in named.items() if value is not None), None)
    if chosen.name == "gguf" and said is not None:
        raise PlanError(f"{said}: means nothing to a GGUF file, which is one file in a format of its own", hint="leave it out")
    return chosen


def converter_for(name: str) -> Converter:
    """The converter that ``--as`` names.

    Raises:
        PlanError: None of that name is known.
    """
    try:
        return converter_named(name)
    except ValueError as error:
        raise PlanError(f"--as: {error}") from error


def open_checkpoint(place: Place, role: str, converter: Converter | None = None) -> Checkpoint:
    """Index a folder (or one file) of weights.

    Args:
        place: Where it is.
        role: What it is to the caller, for messages: ``--raw``.
        converter: Whose conversion a folder in another layout than transformers' stands for.

    Raises:
        PlanError: There is nothing there that is understood.
        FormatError: A file in it is damaged or no file of weights.
    """
    folder = folder_at(place, role)
    *others, last = layouts()
    layout = next((one for one in others if one.recognise(folder)), last)
    return layout.open(folder, role, converter or converter_named(DEFAULT_CONVERTER))
