"""From named lazy tensors to files: which tensor goes where, in which container, beside which small files."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Literal

from weightkit.checkpoints.huggingface import STEMS, Checkpoint, encode_index, shard, shard_names
from weightkit.containers import Container
from weightkit.containers.layout import Encoding, Item, Layout, Run
from weightkit.containers.safetensors import Safetensors
from weightkit.containers.torch_file import TorchFile
from weightkit.containers.torch_zip_writer import PROFILES, TorchZip, profile_for_version, root_for
from weightkit.core.lazy import LazyTensor, Stored
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.run.plan import OutputFile, SmallFile

__all__ = ["DEFAULT_PROFILE", "Form", "has_tokenizer", "output_files", "small_files", "together"]

DEFAULT_PROFILE = "zip-1.13"
"""Where nothing says which torch: the profile of the releases of 2023 (torch 1.13 and 2.0)."""

CONFIGS = ("config.json", "generation_config.json")


@dataclass(frozen=True, slots=True)
class Form:
    """What the user said about the files to be written; None stands for "as the diff has it".

    Attributes:
        format: ``bin`` or ``safetensors``.
        torch_compat: The torch version whose file bytes are written.
        max_shard_bytes: Cut anew into shards of at most so many bytes.
        config_from: For ``recover``: whose config.json and generation_config.json go along.
        tokenizer_from: For ``recover``: whose tokenizer files go along; None for the diff's, or the base's if it has none.
    """

    format: Literal["bin", "safetensors"] | None = None
    torch_compat: str | None = None
    max_shard_bytes: int | None = None
    config_from: Literal["base", "diff"] = "diff"
    tokenizer_from: Literal["base", "diff"] | None = None


def output_files(model: Checkpoint, release: Mapping[str, LazyTensor], form: Form, notes: list[str]) -> tuple[OutputFile, ...]:
    """The files of tensors, by default shaped exactly as those of ``model`` (the diff, the tuned model).

    Args:
        model: Whose files are followed.
        release: Name -> what to write, in the model's order.
        form: What the user said.
        notes: Takes what was decided.

    Raises:
        ValueError: The container asked for cannot hold the tensors.
    """
    chosen = form.format or model.format
    if form.max_shard_bytes is None:
        groups = {renamed(name, model.format, chosen): list(file.specs) for name, file in model.files.items()}
    else:
        names = list(release) if model.format == "bin" else llama.in_state_dict_order(release)
        shards = shard([(name, release[name].spec) for name in names], form.max_shard_bytes)
        groups = dict(zip(shard_names(chosen, len(shards)), shards, strict=True))
    files = []
    for path, names in groups.items():
        same = (file for file in model.files.values() if chosen == model.format and list(file.specs) == names)
        followed = next(same, None)
        encoding = encoding_for(path, chosen, followed, model, form, notes)
        layout, tensors = lay_out(names, release, model, chosen, followed, notes)
        encoding.order(layout)  # refuses now what it cannot hold
        files.append(OutputFile(path, encoding, layout, tensors))
    return tuple(files)


def renamed(name: str, old: str, new: str) -> str:
    """A file's name in another format: ``pytorch_model-00001-of-00002.bin`` -> ``model-00001-of-00002.safetensors``."""
    if old == new:
        return name
    path = PurePosixPath(name)
    stem = path.stem
    if stem.startswith(STEMS[old]):
        stem = STEMS[new] + stem.removeprefix(STEMS[old])
    return f"{stem}.{new}"


def encoding_for(
    path: str, chosen: str, followed: Container | None, model: Checkpoint, form: Form, notes: list[str]
) -> Encoding:
    """What turns the tensors of one file into bytes."""
    if chosen == "safetensors":
        if (
            form.torch_compat is not None
            and (note := "--torch-compat: safetensors files are the same with any torch") not in notes
        ):
            notes.append(note)
        metadata = followed.metadata if followed is not None and not isinstance(followed, TorchFile) else None
        return Safetensors(metadata or (("format", "pt"),))
    first = next(iter(model.files.values()))
    if form.torch_compat is not None:
        profile = profile_for_version(form.torch_compat)
    elif first.profile in PROFILES:
        profile = first.profile
    else:
        profile = DEFAULT_PROFILE if first.profile == "safetensors" else "zip-1.9"
        note = (
            f"written as torch {profile.removeprefix('zip-')} does: {first.profile} files cannot be followed (--torch-compat)"
        )
        if note not in notes:
            notes.append(note)
    if isinstance(followed, TorchFile) and followed.kind != "other":
        return TorchZip(profile, root_for(path, profile), followed.kind, followed.metadata)
    return TorchZip(profile, root_for(path, profile))


def lay_out(
    names: Sequence[str],
    release: Mapping[str, LazyTensor],
    model: Checkpoint,
    chosen: str,
    followed: Container | None,
    notes: list[str],
) -> tuple[Layout, tuple[tuple[LazyTensor, ...], ...]]:
    """How the tensors of one file lie in it, and what fills each run."""
    if isinstance(followed, TorchFile):
        if (kept := follow(followed.layout(), release)) is not None:
            return kept
        notes.append(f"{followed.path.name}: tensors that share a storage there are written apart; in the release they differ")
        return together([(name, release[name], name) for name in names])
    if chosen == "safetensors":
        tied = {identity(release[name]): name for name in reversed(names)}
        dropped = {name: None for name in names if tied[identity(release[name])] != name}
        if dropped:
            notes.append(f"{', '.join(dropped)}: tied to another tensor, not stored twice in safetensors")
        return together([(name, release[name], name) for name in names if name not in dropped])
    ordered = names if model.format == "bin" else llama.in_state_dict_order(names)
    return together([(name, release[name], identity(release[name])) for name in ordered])


def follow(layout: Layout, release: Mapping[str, LazyTensor]) -> tuple[Layout, tuple[tuple[LazyTensor, ...], ...]] | None:
    """A file's own layout filled with other tensors.

    None where two that lie on one place are not the same, or two that share a run are of different dtypes now.
    """
    placed: dict[int, dict[int, LazyTensor]] = {run: {} for run in range(len(layout.runs))}
    for item in layout.items:
        tensor = placed[item.run].setdefault(item.offset, release[item.name])
        if identity(tensor) != identity(release[item.name]):
            return None
    if any(len({tensor.spec.dtype for tensor in parts.values()}) > 1 for parts in placed.values()):
        return None
    tensors = tuple(tuple(parts[offset] for offset in sorted(parts)) for parts in placed.values())
    moved: dict[tuple[int, int], int] = {}  # a vocabulary that grew moves what lies behind it
    for run, parts in placed.items():
        starts = accumulate((parts[offset].spec.numel for offset in sorted(parts)), initial=0)
        moved |= {(run, offset): start for offset, start in zip(sorted(parts), starts, strict=False)}
    items = tuple(replace(item, spec=release[item.name].spec, offset=moved[item.run, item.offset]) for item in layout.items)
    runs = tuple(
        Run(parts[0].spec if len(parts) == 1 and run.spec.shape == layout_of[0].spec.shape else flat(parts))
        for run, parts, layout_of in zip(layout.runs, tensors, in_runs(layout), strict=True)
    )
    return Layout(items, runs), tensors


def flat(parts: Sequence[LazyTensor]) -> TensorSpec:
    """A run of several tensors one after another."""
    return TensorSpec(parts[0].spec.dtype, (sum(part.spec.numel for part in parts),))


def in_runs(layout: Layout) -> list[list[Item]]:
    """The items of each run."""
    found: list[list[Item]] = [[] for _ in layout.runs]
    for item in layout.items:
        found[item.run].append(item)
    return found


def together(
    placed: Sequence[tuple[str, LazyTensor, Hashable]],
) -> tuple[Layout, tuple[tuple[LazyTensor, ...], ...]]:
    """A layout in which tensors share a run where their keys are equal, and have one of their own elsewhere."""
    runs: dict[Hashable, int] = {}
    tensors: list[tuple[LazyTensor, ...]] = []
    items = []
    for name, tensor, key in placed:
        if key not in runs:
            runs[key] = len(runs)
            tensors.append((tensor,))
        items.append(Item(name, tensor.spec, runs[key]))
    return Layout(tuple(items), tuple(Run(run[0].spec) for run in tensors)), tuple(tensors)


def identity(tensor: LazyTensor) -> Hashable:
    """Equal for tensors that are the same bytes by construction: the same place in the same file, the same operations."""
    if isinstance(tensor, Stored):
        if isinstance(tensor.source, TorchFile):
            ref = tensor.source.tensors[tensor.name]
            return tensor.source.path, ref.storage.key, ref.offset, ref.strides, ref.spec
        return tensor.source.path, tensor.name
    return tensor.op, *(identity(one) for one in tensor.inputs)


def small_files(
    followed: Checkpoint,
    configs: Checkpoint,
    tokenizers: Checkpoint,
    files: Sequence[OutputFile],
    release: Mapping[str, LazyTensor],
    form: Form,
    *,
    patch: bool = True,
    pad_token: int | None = None,
) -> tuple[SmallFile, ...]:
    """Index, config and tokenizer files that go along.

    With ``patch`` a config's dtype and vocabulary size follow the tensors; nothing else in it is touched.

    Args:
        followed: Whose files of weights are followed; its index's metadata goes along.
        configs: Whose config.json and generation_config.json go along.
        tokenizers: Whose tokenizer files.
        files: The files of tensors.
        release: Name -> what is written.
        form: What the user said.
        patch: Whether config.json follows the tensors.
        pad_token: What config.json's pad_token_id becomes, if it has one; None for as it is.
    """
    small = []
    if len(files) > 1 or (followed.index is not None and form.max_shard_bytes is None):
        known = (followed.index or {}).get("metadata")
        extra = {key: value for key, value in known.items() if key != "total_size"} if isinstance(known, dict) else {}
        listing = {file.path: [(item.name, item.spec) for item in file.layout.items] for file in files}
        stem = STEMS[chosen_format(files)]
        name = f"{stem}.{chosen_format(files)}.index.json"
        small.append(SmallFile(name, encode_index(listing, extra)))
    for source, wanted in ((configs, True), (tokenizers, False)):
        for name in source.small_files():
            if (name in CONFIGS) == wanted:
                content = source.small(name) or b""
                if name == "config.json" and patch:
                    content = patch_config(content, release, pad_token)
                small.append(SmallFile(name, content))
    return tuple(sorted(small, key=lambda file: file.path))


def has_tokenizer(folder: Checkpoint) -> bool:
    """Whether a folder has tokenizer files."""
    return any(name not in CONFIGS for name in folder.small_files())


def chosen_format(files: Sequence[OutputFile]) -> str:
    return "safetensors" if isinstance(files[0].encoding, Safetensors) else "bin"


def patch_config(content: bytes, release: Mapping[str, LazyTensor], pad_token: int | None = None) -> bytes:
    """config.json with the dtype and vocabulary size of the tensors written; every other byte as it was."""
    embedding = next((tensor.spec for name, tensor in release.items() if llama.is_vocabulary(name)), None)
    if embedding is None or not embedding.shape:
        return content
    dtype, rows = embedding.dtype.name.encode(), str(embedding.shape[0]).encode()
    content = re.sub(rb'("(?:torch_)?dtype":\s*)"\w+"', rb'\1"' + dtype + rb'"', content)
    if pad_token is not None:
        number = str(pad_token).encode()
        content = re.sub(rb'("pad_token_id":\s*)(?:-?\d+|null)', lambda match: match[1] + number, content)
    return re.sub(rb'("vocab_size":\s*)\d+', lambda match: match[1] + rows, content)
