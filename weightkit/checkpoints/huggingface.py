"""The transformers folder: one file of weights or several with an index, and small JSON and tokenizer files.

    config.json  generation_config.json  tokenizer.model  tokenizer_config.json  ...
    pytorch_model.bin   or   pytorch_model-00001-of-00002.bin ... and pytorch_model.bin.index.json
    model.safetensors   or   model-00001-of-00002.safetensors ... and model.safetensors.index.json

Source: transformers 4.28.1, ``save_pretrained``; rules proved in releases, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from weightkit.checkpoints.agreement import written_notes
from weightkit.checkpoints.checkpoint import Checkpoint, lone_file
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.layout import known_tensors
from weightkit.checkpoints.model import Model, Written
from weightkit.checkpoints.output import output_files, small_files
from weightkit.checkpoints.shards import SHARD_NBYTES, index_name, numbered, read_index, shard_names
from weightkit.containers import Format, formats, open_file
from weightkit.containers.safetensors import SAFETENSORS
from weightkit.core.blob import Folder
from weightkit.core.errors import FormatError, PlanError
from weightkit.core.lazy import LazyTensor
from weightkit.families.converters import Converter

__all__ = ["HUGGINGFACE", "HuggingFace"]


@dataclass(frozen=True, slots=True)
class HuggingFace:
    """The layout, as a ``FolderLayout``."""

    name: ClassVar[str] = "hf"

    def recognise(self, folder: Folder) -> bool:
        """Whether there are files of weights under transformers' names; a single file may have any name."""
        if lone_file(folder) is not None:
            return True
        known = [name for one in formats() for name in (index_name(one), *shard_names(one, 1))]
        names = folder.names()
        return any(folder.holds(name) for name in known) or any(numbered(one, names) for one in formats())

    def open(self, folder: Folder, role: str, converter: Converter) -> Checkpoint:
        """Index a folder, or a single file of weights with the small files beside it; no converter is of use."""
        file = lone_file(folder)
        if file is not None:
            container = open_file(folder.blob(file))
            return Checkpoint(folder, "huggingface", container.format, {file: container}, dict(container.tensors))
        refused: PlanError | None = None
        for chosen in as_transformers_looks():
            try:
                names, index = find_files(folder, chosen, role)
            except PlanError as error:
                if numbered(chosen, folder.names()):
                    raise
                refused = refused or error  # an index alone: its shards were not fetched, perhaps for another format's
                continue
            if names:
                return assemble(folder, chosen, names, index)
        if refused is not None:
            raise refused
        wanted = ", ".join(shard_names(one, 1)[0] for one in formats())
        raise PlanError(
            f"{role}: {folder.name} holds no weights{kind_instead(folder)}: wanted {wanted}, or the shards of one of them"
        )

    def write(self, model: Model, form: Form) -> Written:
        """Files shaped as those of what is followed, or cut anew by the rule of 2023 where that is in another layout."""
        follows, tensors = known_tensors(model)
        if not tensors:
            raise ValueError("it holds no tensors, so there is nothing to write")
        if follows.layout != "huggingface" and form.max_shard_bytes is None:
            form = replace(form, max_shard_bytes=SHARD_NBYTES)
        notes: list[str] = []
        files = output_files(follows, tensors, form, notes)
        small = small_files(model, files, form)
        notes += written_notes(model, {one.path for one in small})
        return Written(files, small, tuple(notes), named=True)


HUGGINGFACE = HuggingFace()


def kind_instead(folder: Folder) -> str:
    """What a folder without weights is instead, if its files' names tell; in brackets."""
    if folder.holds("adapter_config.json"):
        return " (it is a LoRA adapter: name it with --lora)"
    if any("/" not in name and name.endswith((".enc", ".wkx")) for name in folder.names()):
        return " (it is a payload: recover the model first, with weightkit recover --raw BASE --diff it)"
    return ""


def as_transformers_looks() -> list[Format]:
    """The formats in the order in which transformers looks for them; in each, one file goes before an index.

    Source: transformers 5.24.0 ``modeling_utils.py``, ``_get_resolved_checkpoint_files``; 4.28.1 ``from_pretrained`` likewise.
    """
    return sorted(formats(), key=lambda one: one.name != SAFETENSORS.name)


def find_files(folder: Folder, chosen: Format, role: str) -> tuple[list[str], dict[str, Any] | None]:
    """Names of the files of weights of one format, and the index if there is one."""
    single, index_file = shard_names(chosen, 1)[0], index_name(chosen)
    if folder.holds(single):
        return [single], None
    if folder.holds(index_file):
        blob = folder.blob(index_file)
        index = read_index(blob)
        names = sorted(set(index["weight_map"].values()))
        missing = [name for name in names if not folder.holds(name)]
        if missing:
            raise PlanError(
                f"{role}: {folder.name}: {len(missing)} of the {len(names)} files that {index_file} names are missing: "
                + ", ".join(missing[:4])
                + (" ..." if len(missing) > 4 else "")
            )
        if not names:
            raise FormatError(blob.name, "names no files: its weight_map is empty; download it again")
        return names, index
    found = numbered(chosen, folder.names())
    if not found:
        return [], None
    wanted = shard_names(chosen, max(found.values()))
    if sorted(found) != wanted:
        lacking = [name for name in wanted if name not in found]
        raise PlanError(f"{role}: {folder.name}: shards are missing or of two kinds: lacking {', '.join(lacking[:4])}")
    return wanted, None


def assemble(folder: Folder, chosen: Format, names: Sequence[str], index: Mapping[str, Any] | None) -> Checkpoint:
    """Open the files and check them against each other and the index."""
    files = {name: open_file(folder.blob(name)) for name in names}
    tensors: dict[str, LazyTensor] = {}
    for container in files.values():
        for name, tensor in container.tensors.items():
            if name in tensors:
                raise FormatError(container.blob.name, f"{name} is in another file of the folder already")
            tensors[name] = tensor
    for name, file in (index or {"weight_map": {}})["weight_map"].items():
        if name not in files[file].tensors:
            raise FormatError(files[file].blob.name, f"lacks {name}, which the index says is in it; download it again")
    return Checkpoint(folder, "huggingface", chosen, files, tensors, index)
