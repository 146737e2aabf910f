"""A recovered model as tensors that are computed when they are asked for; nothing is written.

import weightkit
with weightkit.open("llama-13b", "zhixi-diff") as model:
    model.get_tensor("lm_head.weight")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from weightkit.blobs import Place, folder_at
from weightkit.checkpoints.filling import Filled, filled_from
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.huggingface import HUGGINGFACE
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.view import Opened, TensorSlice
from weightkit.core.arguments import as_tuple
from weightkit.core.blob import Blob, Folder
from weightkit.core.errors import PlanError
from weightkit.methods import recognised, with_role
from weightkit.methods.base import based, opened
from weightkit.methods.lora import Arithmetic
from weightkit.methods.pairing import Rules
from weightkit.methods.recipes import filled
from weightkit.methods.said import Said
from weightkit.proof.sizes import base_fits, counted, in_order, made_by, result_fits
from weightkit.run.plan import StreamFile
from weightkit.streams import Known, Stream
from weightkit.streams.computed import ComputedFolder, anywhere, computed

if TYPE_CHECKING:
    import torch

__all__ = ["Arithmetic", "Filled", "Opened", "Rules", "TensorSlice", "load_into", "open"]

DIFF, LORA, KEY = "--diff", "--lora", "--key"


def open(
    base: Place,
    diff: Place | None = None,
    *,
    key: Place | None = None,
    lora: Place | Sequence[Place] = (),
    release: str | None = None,
    converter: str | None = None,
    how: Arithmetic | None = None,
    rules: Rules | None = None,
    form: Form | None = None,
    allow_tuned_base: bool = False,
) -> Opened:
    """The model that ``recover_release`` or ``merge_lora`` would write, as tensors; nothing is written.

    Bit for bit the same, under transformers' names, whatever the diff is: a sum, a byte XOR, an exact difference. Memory: that
    of the tensor asked for, and what its operation holds. Without diff and adapters a checkpoint in any layout is opened as it
    is.

    No file is proved: no digest of a whole file is taken, so none that was published (of the release, of its inputs, in an
    ``.enc`` file's name) is compared. What is checked:

    - on opening: headers, that base and diff fit together, and with ``release`` sizes, names and order against its recipe;
    - with each tensor that is read: the CRC-32 that its file keeps of it (torch's zip files do, safetensors and files of torch
      before 1.6 do not), for an exact difference the SHA-256 of the base's tensor, and that no input has changed since.

    Where it must be proved, write it: ``recover_release(..., release=NAME)``.

    >>> model = weightkit.open("base", "diff")
    >>> model.get_tensor("model.norm.weight").shape
    torch.Size([64])

    Args:
        base: The base: a folder in transformers' layout, or in Meta's, which is converted on the way.
        diff: The diff; None for none.
        key: For ``.enc`` payloads, the key file; None for ``consolidated.00.pth`` of the base.
        lora: Folders of LoRA adapters, merged in this order.
        release: An entry of the catalog, which fills in what is not said.
        converter: Whose conversion a base in another layout stands for; see ``weightkit.families.converters``.
        how: How the adapters are added.
        rules: What the user says about tensors; ``Rules(dtype="float32")`` casts.
        form: Whose configs and tokenizer files go along.
        allow_tuned_base: Whether a base that looks tuned already may be used.

    Raises:
        PlanError: The inputs do not fit together, or the diff can only be read from front to back (gzip does).
        FormatError: An input is damaged.
    """
    lora = as_tuple(lora)
    if key is not None and diff is None:
        raise PlanError("--key is for an XOR payload, and no --diff is named")
    adapters = tuple(folder_at(one, LORA) for one in lora)
    said = Said(rules or Rules(), form or Form(), how, allow_tuned_base)
    notes: list[str] = []
    entry = published_key = None
    if release is not None:
        role, command = (LORA, "merge") if diff is None else (DIFF, "recover")
        names = tuple(one.name for one in with_role(role))
        entry, fill = filled(release, names, command, rules=rules, form=form, how=how, converter=converter)
        said, converter, notes = Said(fill.rules, fill.form, fill.how, allow_tuned_base), fill.converter, fill.notes
        if entry.recipe is not None:
            published_key = entry.recipe.key
            counted(release, entry.recipe, len(adapters))
    model = based(base, "--base", converter)
    if diff is not None:
        payload = folder_at(diff, DIFF)
        method, seen = recognised(payload, DIFF)
        if entry is not None:
            made_by(entry, method.name, payload, seen.what)
        opening = said if not method.settles else Said()
        key_folder = None if key is None else folder_at(key, KEY)
        options = opening.to(method, payload, seen, key=key_folder, published_key=published_key)
        if method.settles:
            model = read_anywhere(method.rebuild(model, payload, options), payload)
            said = replace(said, dtype=said.rules.dtype)
        else:
            model = opened(model)
            notes += base_fits(entry, model) if entry else []
            model = method.rebuild(model, payload, options)
    else:
        model = opened(model)
        if entry is not None:
            notes += base_fits(entry, model)
            in_order(entry, model, adapters)
        said = replace(said, dtype=said.rules.dtype)
    summed = model
    model = said.merged(summed, adapters)
    if diff is not None and said.form.tokenizer_from and adapters:
        model = replace(model, tokenizers=summed.tokenizers)
    if not adapters and said.dtype is not None:
        cast = {name: said.rules.cast(name, tensor) for name, tensor in (model.tensors or {}).items()}
        model = replace(model, tensors=cast)
    if entry is not None:
        result_fits(entry, model)
    found = shown(model, said.form, notes)
    if isinstance(model.source, ComputedFolder) and not adapters and said.dtype is None:
        found.small = small_files(model)  # as they were published
    return found


def read_anywhere(model: Model, payload: Folder) -> Model:
    """A model of which only files are known, as the checkpoint that these files are: they are computed where they are read.

    Raises:
        PlanError: They can only be read from front to back.
        FormatError: What comes out is no checkpoint.
    """
    streams: dict[str, Stream] = {file.path: file.stream for file in model.files or () if isinstance(file, StreamFile)}
    streams |= {file.path: Known(file.content) for file in model.small}
    found: dict[str, Blob] = {}
    for name, stream in streams.items():
        if not anywhere(stream):
            raise PlanError(
                f"{DIFF} {payload.name}: {name} can only be read from front to back (it is gzip, or the base is converted on "
                "the way); recover it first, with weightkit.recover_release(base, diff, out), and open that"
            )
        found[name] = computed(f"{payload.name}/{name}", stream)
    folder = ComputedFolder(payload.name, found)
    return opened(replace(model, source=folder, role=DIFF, files=None, small=()))


def small_files(model: Model) -> dict[str, bytes]:
    """All files of a model's folder that hold no weights."""
    weights = model.follows.files if model.follows is not None else {}
    blobs = {name: model.source.blob(name) for name in model.source.names() if name not in weights}
    return {name: bytes(blob.read(0, blob.nbytes)) for name, blob in blobs.items()}


def shown(model: Model, form: Form, notes: Sequence[str]) -> Opened:
    """The tensors that the files of a model would hold, under the names that they would have there."""
    try:
        made = HUGGINGFACE.write(model, form)
    except ValueError as error:
        raise PlanError(f"{model.source.name}: {error}") from error
    known = model.tensors or {}
    names = (item.name for file in made.files for item in file.layout.items)
    return Opened({name: known[name] for name in names}, made.small, model.steps, (*model.notes, *made.notes, *notes))


def load_into(model: torch.nn.Module, opened: Mapping[str, Any] | Place, *, strict: bool = True, **how: Any) -> Filled:
    """Fill a module (a model of transformers, or any other) tensor by tensor, in place.

    Dtypes and shapes must be the module's. Rotary frequencies, which newer models compute, and a head that the module ties to
    its embedding may be absent. Nothing is filled unless all of it fits.

    >>> import torch
    >>> module = torch.nn.Module()
    >>> module.weight = torch.nn.Parameter(torch.empty(64, dtype=torch.float16))
    >>> weightkit.load_into(module, {"weight": weightkit.open("base")["model.norm.weight"]})
    Filled(missing_keys=[], unexpected_keys=[])

    Args:
        model: What is filled.
        opened: What ``open`` gave, another mapping from names to tensors, or the place of a base, which is opened.
        strict: Whether missing and unexpected names are errors.
        how: For a place: the arguments of ``open``.

    Returns:
        Names that the module has and the source lacks, and the other way round.

    Raises:
        PlanError: Names, shapes or dtypes do not fit; every misfit is in it.
        FormatError: An input is damaged.
    """
    source: Mapping[str, Any] = opened if isinstance(opened, Mapping) else open(opened, **how)
    return filled_from(model, source, strict=strict)
