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
from weightkit.checkpoints.shards import BY_NUMBERS, SHARD_NBYTES, index_name, numbered, read_index, shard_names
from weightkit.containers import Format, formats, open_file
from weightkit.containers.safetensors import SAFETENSORS
from weightkit.core.blob import Folder
from weightkit.core.errors import FormatError, Incomplete, PlanError, WeightkitError
from weightkit.core.lazy import LazyTensor
from weightkit.families.converters import Converter
from weightkit.manifests.pointers import TOLD, is_pointer

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
        refused: WeightkitError | None = None
        for chosen in as_transformers_looks():
            names, index, refusal = find_files(folder, chosen, role)
            if names:
                return assemble(folder, chosen, names, index)
            refused = refused or refusal
        if refused is not None and not kind_instead(folder):
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


def find_files(folder: Folder, chosen: Format, role: str) -> tuple[list[str], dict[str, Any] | None, WeightkitError | None]:
    """The files of weights of one format, which are all there. A Git-LFS pointer is none.

    Returns:
        Their names, and the index if there is one. Where nothing is there but an index or pointers, no names: another format's
        were fetched, perhaps; and what is to be said if there are none either.

    Raises:
        Incomplete: Some are there, and others not.
        FormatError: Some are there, and pointers in the places of others; or the index is none.
        PlanError: They are of two sets.
    """
    single, index_file = shard_names(chosen, 1)[0], index_name(chosen)
    if there(folder, single):
        return [single], None, None
    found = numbered(chosen, folder.names())
    index, reason = None, BY_NUMBERS
    most = max(found.values(), default=0)
    names = shard_names(chosen, most) if most > 1 else list(found)
    if there(folder, index_file):
        blob = folder.blob(index_file)
        index, reason = read_index(blob), f"the weight_map of {index_file} names"
        names = sorted(set(index["weight_map"].values()))
        if not names:
            raise FormatError(blob.name, "names no files: its weight_map is empty; download it again")
    elif not set(found) <= set(names):
        raise PlanError(f"{role}: {folder.name}: shards of two sets: {', '.join(sorted(found)[:4])} ...; keep those of one")
    lacking = [name for name in names if not there(folder, name)]
    if names and not lacking:
        return names, index, None
    pointers = [name for name in lacking or (single, index_file) if folder.holds(name)]
    refusal: WeightkitError | None = None
    if pointers:
        refusal = FormatError(folder.blob(pointers[0]).name, TOLD)
    elif lacking:
        refusal = Incomplete(f"{role}: {folder.name}", lacking, reason)
    if refusal is not None and any(there(folder, name) for name in {*names, *found}):
        raise refusal
    return [], None, refusal


def there(folder: Folder, name: str) -> bool:
    """Whether a folder holds a file itself, and not a Git-LFS pointer to it."""
    return folder.holds(name) and not is_pointer(folder.blob(name))


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
