"""A recovered model as tensors that are computed when they are asked for; nothing is written.

import weightkit
with weightkit.open("llama-13b", "zhixi-diff") as model:
    model.get_tensor("lm_head.weight")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from weightkit.blobs import Place, folder_at
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.huggingface import HUGGINGFACE
from weightkit.checkpoints.model import Model
from weightkit.core.arguments import as_tuple
from weightkit.core.errors import PlanError
from weightkit.core.lazy import LazyTensor
from weightkit.core.passes import BLOCK_NBYTES, blocks, open_reads, reading
from weightkit.core.sizes import format_size
from weightkit.families import llama
from weightkit.methods import recognised, with_role
from weightkit.methods.base import based, opened
from weightkit.methods.lora import Arithmetic
from weightkit.methods.pairing import Rules
from weightkit.methods.recipes import filled
from weightkit.methods.said import Said
from weightkit.proof.sizes import base_fits, counted, in_order, made_by, result_fits
from weightkit.run.plan import SmallFile

if TYPE_CHECKING:
    import torch

__all__ = ["Arithmetic", "Filled", "Opened", "Rules", "TensorSlice", "load_into", "open"]

DIFF, LORA = "--diff", "--lora"


class Opened(Mapping[str, "torch.Tensor"]):
    """A model as a mapping from names to tensors, each computed when it is asked for, bit for bit as it would be written.

    It holds no open files, may be read from several threads, and pickles to the workers of a DataLoader.

    Attributes:
        tensors: Name -> dtype, shape and how it is computed.
        small: Name -> bytes of config.json, tokenizer files and the like, as they would be written.
        steps: What is done to the tensors, one line each.
        notes: What the user should know.
    """

    def __init__(
        self,
        tensors: Mapping[str, LazyTensor],
        small: Sequence[SmallFile] = (),
        steps: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.tensors = dict(tensors)
        self.small = {one.path: one.content for one in small}
        self.steps, self.notes = tuple(steps), tuple(notes)

    def __repr__(self) -> str:
        return f"<{len(self)} tensors, {format_size(sum(one.spec.nbytes for one in self.tensors.values()))}>"

    def __getitem__(self, name: str) -> torch.Tensor:
        from weightkit.core.compute import filled_tensor, one_thread

        tensor = self.tensors[name]
        with one_thread(), reading([tensor]):
            return filled_tensor(tensor.spec, (block for (block,) in blocks([tensor])))

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:  # a Mapping's own would compute the tensor
        return name in self.tensors

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor, in memory of its own.

        Raises:
            KeyError: There is none of this name.
            FormatError: An input is damaged, or has changed since it was opened.
        """
        return self[name]

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor of which only some rows are to be computed: ``get_slice(name)[3:5]``."""
        return TensorSlice(self.tensors[name])

    def offset_keys(self) -> list[str]:
        """The names, in the order of the files."""
        return list(self.tensors)

    def metadata(self) -> dict[str, str]:
        """What a safetensors header says beside the tensors."""
        return {"format": "pt"}


class TensorSlice:
    """A tensor of which some rows are computed: ``[a:b]``, ``[a:b, c:d]`` and whatever else torch takes for an index.

    Rows are those of the first axis. A step, or numbers, are cut out of the rows between the first and the last of them.
    """

    def __init__(self, tensor: LazyTensor) -> None:
        self.tensor = tensor

    def __repr__(self) -> str:
        return f"<slice of {self.tensor!r}>"

    def get_shape(self) -> list[int]:
        """Of the whole tensor."""
        return list(self.tensor.spec.shape)

    def get_dtype(self) -> str:
        """As safetensors names it: ``F16``."""
        dtype = self.tensor.spec.dtype
        return dtype.safetensors or dtype.name

    def __getitem__(self, index: Any) -> torch.Tensor:
        from weightkit.core.compute import filled_tensor, one_thread

        spec = self.tensor.spec
        parts = index if isinstance(index, tuple) else (index,)
        first = parts[0] if parts else slice(None)
        if not isinstance(first, slice | int) or isinstance(first, bool) or not spec.shape:
            first, parts = slice(None), (slice(None), *parts) if parts and first is None else parts
            low, high, rest = 0, (spec.shape or (1,))[0], index
        elif isinstance(first, int):
            if not -spec.shape[0] <= first < spec.shape[0]:
                raise IndexError(f"row {first} of {spec.shape[0]}")
            low = first % spec.shape[0]
            high, rest = low + 1, (0, *parts[1:])
        else:
            low, high, step = first.indices(spec.shape[0])
            if step < 1:
                raise ValueError("a slice's step must be positive, as torch has it")
            high = max(low, high)
            rest = (slice(None, None, step), *parts[1:])
        shape = (high - low, *spec.shape[1:]) if spec.shape else ()
        wanted = replace(spec, shape=shape)
        each = spec.rows // spec.shape[0] if spec.shape and spec.shape[0] else 1
        with one_thread(), reading([self.tensor]):
            (read,) = open_reads([self.tensor])
            pieces = (read(low * each + start, low * each + stop) for start, stop in wanted.blocks(BLOCK_NBYTES))
            found = filled_tensor(wanted, pieces)
        return found[rest].clone() if isinstance(rest, tuple) and len(rest) > 1 else found[rest]


def open(
    base: Place,
    diff: Place | None = None,
    *,
    lora: Place | Sequence[Place] = (),
    release: str | None = None,
    converter: str | None = None,
    how: Arithmetic | None = None,
    rules: Rules | None = None,
    form: Form | None = None,
    allow_tuned_base: bool = False,
) -> Opened:
    """The model that ``recover_release`` or ``merge_lora`` would write, as tensors; nothing is written.

    Bit for bit the same, under transformers' names. Memory: that of the tensor asked for, and what its operation holds.
    Without diff and adapters a checkpoint in any layout is opened as it is. No digests of whole files are checked.

    >>> model = weightkit.open("base", "diff")
    >>> model.get_tensor("model.norm.weight").shape
    torch.Size([64])

    Args:
        base: The base: a folder in transformers' layout, or in Meta's, which is converted on the way.
        diff: The diff; None for none.
        lora: Folders of LoRA adapters, merged in this order.
        release: An entry of the catalog, which fills in what is not said.
        converter: Whose conversion a base in another layout stands for; see ``weightkit.families.converters``.
        how: How the adapters are added.
        rules: What the user says about tensors; ``Rules(dtype="float32")`` casts.
        form: Whose configs and tokenizer files go along.
        allow_tuned_base: Whether a base that looks tuned already may be used.

    Raises:
        PlanError: The inputs do not fit together, or the diff can only be read from front to back.
        FormatError: An input is damaged.
    """
    lora = as_tuple(lora)
    adapters = tuple(folder_at(one, LORA) for one in lora)
    said = Said(rules or Rules(), form or Form(), how, allow_tuned_base)
    notes: list[str] = []
    entry = None
    if release is not None:
        role, command = (LORA, "merge") if diff is None else (DIFF, "recover")
        names = tuple(one.name for one in with_role(role))
        entry, fill = filled(release, names, command, rules=rules, form=form, how=how, converter=converter)
        said, converter, notes = Said(fill.rules, fill.form, fill.how, allow_tuned_base), fill.converter, fill.notes
        if entry.recipe is not None:
            counted(release, entry.recipe, len(adapters))
    model = based(base, "--base", converter)
    if diff is not None:
        payload = folder_at(diff, DIFF)
        method, seen = recognised(payload, DIFF)
        if entry is not None:
            made_by(entry, method.name, payload, seen.what)
        if method.settles:
            raise PlanError(
                f"{DIFF} {payload.name} is {seen.what}, which gives whole files and no single tensors; recover it first, "
                "with weightkit.recover_release(base, diff, out), and open that"
            )
        model = opened(model)
        notes += base_fits(entry, model) if entry else []
        model = method.rebuild(model, payload, said.to(method, payload, seen))
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
    if diff is None and not adapters:
        cast = {name: said.rules.cast(name, tensor) for name, tensor in (model.tensors or {}).items()}
        model = replace(model, tensors=cast)
    if entry is not None:
        result_fits(entry, model)
    return shown(model, said.form, notes)


def shown(model: Model, form: Form, notes: Sequence[str]) -> Opened:
    """The tensors that the files of a model would hold, under the names that they would have there."""
    try:
        made = HUGGINGFACE.write(model, form)
    except ValueError as error:
        raise PlanError(f"{model.source.name}: {error}") from error
    known = model.tensors or {}
    names = (item.name for file in made.files for item in file.layout.items)
    return Opened({name: known[name] for name in names}, made.small, model.steps, (*model.notes, *made.notes, *notes))


class Filled(NamedTuple):
    """What ``load_into`` did not fill or use, as torch's ``load_state_dict`` says it."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load_into(model: torch.nn.Module, opened: Opened | Place, *, strict: bool = True, **how: Any) -> Filled:
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
    target: dict[str, torch.Tensor] = model.state_dict()
    common = [name for name in source if name in target]
    places: dict[tuple[str, int], list[str]] = {}
    for name in common:
        places.setdefault(place(target[name]), []).append(name)
    missing = [name for name in target if name not in source and place(target[name]) not in places]
    unexpected = [name for name in source if name not in target]
    problems = [problem for name in common if (problem := misfit(name, facts(source, name), target[name]))]
    if strict:
        problems += [f"{name}: in the model, not in the source" for name in missing if not llama.is_inv_freq(name)]
        problems += [f"{name}: in the source, not in the model" for name in unexpected if not llama.is_inv_freq(name)]
    for first, *others in places.values():
        problems += [
            f"{name}: the model ties it to {first}, and the source holds other values; set tie_word_embeddings to false"
            for name in others
            if not problems and not alike(source, first, name)
        ]
    if problems:
        raise PlanError(f"{type(model).__name__} and the source do not fit together, nothing was filled:", problems)
    for first, *_ in places.values():
        target[first].copy_(source[first])
    return Filled(missing, unexpected)


def place(tensor: torch.Tensor) -> tuple[str, int]:
    """What two names of one tensor have in common; without elements each is its own."""
    return (str(tensor.device), tensor.data_ptr() if tensor.numel() and not tensor.is_meta else -id(tensor))


def facts(source: Mapping[str, Any], name: str) -> tuple[list[int], str]:
    """Shape and dtype of a tensor, which is not computed for it."""
    if isinstance(source, Opened):
        spec = source.tensors[name].spec
        return list(spec.shape), spec.dtype.name
    return list(source[name].shape), str(source[name].dtype).removeprefix("torch.")


def misfit(name: str, have: tuple[list[int], str], target: torch.Tensor) -> str:
    """Why a tensor cannot be copied into the model's; empty where it can."""
    wanted = list(target.shape), str(target.dtype).removeprefix("torch.")
    if have != wanted:
        cast = f'; open it with rules=Rules(dtype="{wanted[1]}")' if have[0] == wanted[0] else ""
        return f"{name}: the source has {have[1]} {have[0]}, the model {wanted[1]} {wanted[0]}{cast}"
    if target.is_meta:
        return f'{name}: the model\'s is on the meta device, and has no memory; call model.to_empty(device="cpu") first'
    return ""


def alike(source: Mapping[str, Any], one: str, other: str) -> bool:
    """Whether two tensors are the same: by how they are made, or else by their values."""
    if isinstance(source, Opened) and source.tensors[one] == source.tensors[other]:
        return True
    return bool(source[one].equal(source[other]))
