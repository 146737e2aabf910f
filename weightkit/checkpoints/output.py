"""From a model's tensors to the files of a transformers folder: files of weights, and the small files beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from weightkit.checkpoints.arrangement import Arranged, follow, together, without_ties
from weightkit.checkpoints.checkpoint import CONFIGS, Checkpoint
from weightkit.checkpoints.config_text import set_values
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.layout import known_tensors
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.shards import encode_index, index_name, renamed, shard, shard_names
from weightkit.containers import Container, Format, format_named
from weightkit.containers.layout import Encoding
from weightkit.core.lazy import LazyTensor
from weightkit.families import llama
from weightkit.run.plan import OutputFile, SmallFile

__all__ = ["has_tokenizer", "output_files", "small_files"]


def output_files(
    follows: Checkpoint, release: Mapping[str, LazyTensor], form: Form, notes: list[str]
) -> tuple[OutputFile, ...]:
    """The files of tensors, by default shaped exactly as those of ``follows`` (the diff, the tuned model).

    Args:
        follows: Whose files are followed.
        release: Name -> what to write, in its order.
        form: What the user said.
        notes: Takes what was decided.

    Raises:
        ValueError: The container asked for cannot hold the tensors.
    """
    chosen = format_of(follows, form)
    files = []
    for path, names in groups(follows, release, chosen, form).items():
        same = (one for one in follows.files.values() if chosen.name == follows.format.name and list(one.tensors) == names)
        followed = next(same, None)
        encoding = encoding_for(path, chosen, followed, follows, form, notes)
        layout, tensors = arranged(names, release, follows, chosen, followed, notes)
        encoding.order(layout)  # refuses now what it cannot hold
        files.append(OutputFile(path, encoding, layout, tensors))
    return tuple(files)


def format_of(follows: Checkpoint, form: Form) -> Format:
    """The format that is written."""
    return follows.format if form.format is None else format_named(form.format)


def groups(follows: Checkpoint, release: Mapping[str, LazyTensor], chosen: Format, form: Form) -> dict[str, list[str]]:
    """File name -> names of the tensors in it, as they are followed, or cut anew."""
    if form.max_shard_bytes is None:
        found = {renamed(name, follows.format, chosen): list(one.tensors) for name, one in follows.files.items()}
        known = {name for one in follows.files.values() for name in one.tensors}
        next(reversed(found.values())).extend(name for name in release if name not in known)  # a head that was untied
        return found
    names = list(release) if follows.format.ordered else llama.in_state_dict_order(release)
    shards = shard([(name, release[name].spec) for name in names], form.max_shard_bytes)
    return dict(zip(shard_names(chosen, len(shards)), shards, strict=True))


def encoding_for(
    path: str, chosen: Format, followed: Container | None, follows: Checkpoint, form: Form, notes: list[str]
) -> Encoding:
    """What turns the tensors of one file into bytes: whoever wrote the first of the files that are followed."""
    first = next(iter(follows.files.values()))
    encoding = chosen.encoding(path, first, form.torch_compat, same=False)
    several = len(chosen.variants(path, encoding, all_kinds=False)) > 1
    note = ""
    if form.torch_compat is not None and not several:
        note = f"--torch-compat: {chosen.name} files are the same with any torch"
    elif form.torch_compat is None and several and first.profile != encoding.profile:
        note = f"written as {encoding.written_by} does: {first.profile} files cannot be followed (--torch-compat)"
    if note and note not in notes:
        notes.append(note)
    return encoding if followed is None else chosen.encoding(path, followed, encoding.profile, same=True)


def arranged(
    names: Sequence[str],
    release: Mapping[str, LazyTensor],
    follows: Checkpoint,
    chosen: Format,
    followed: Container | None,
    notes: list[str],
) -> Arranged:
    """How the tensors of one file lie in it, and what fills each run."""
    if followed is not None and followed.format.ties:
        if (kept := follow(followed.layout, release)) is not None:
            return kept
        file = PurePosixPath(followed.blob.name).name
        notes.append(f"{file}: tensors that share a storage there are written apart; in the release they differ")
        return together([(name, release[name], name) for name in names])
    tied = follows.format.ties  # where there are none, empty tensors of one shape may still lie on one place
    if chosen.ties:
        ordered = names if follows.format.ordered else llama.in_state_dict_order(names)
        return together([(name, release[name], release[name] if tied else name) for name in ordered])
    stored = without_ties(names, release) if tied else names
    if len(stored) < len(names):
        dropped = ", ".join(name for name in names if name not in set(stored))
        notes.append(f"{dropped}: tied to another tensor, not stored twice in {chosen.name}")
    return together([(name, release[name], name) for name in stored])


def small_files(model: Model, files: Sequence[OutputFile], form: Form) -> tuple[SmallFile, ...]:
    """Index, config and tokenizer files that go along.

    Args:
        model: What is written: its index's metadata, configs and tokenizer files.
        files: Its files of tensors.
        form: What the user said.

    Raises:
        ValueError: Its tensors are not known.
    """
    follows, tensors = known_tensors(model)
    small = []
    if len(files) > 1 or (follows.index is not None and form.max_shard_bytes is None):
        metadata = (follows.index or {}).get("metadata")
        extra = {key: one for key, one in metadata.items() if key != "total_size"} if isinstance(metadata, dict) else {}
        listing = {file.path: [(item.name, item.spec) for item in file.layout.items] for file in files}
        small.append(SmallFile(index_name(format_of(follows, form)), encode_index(listing, extra)))
    for source, wanted in ((model.configs or follows, True), (model.tokenizers or follows, False)):
        for name in source.small_files():
            if (name in CONFIGS) == wanted:
                content = source.small(name) or b""
                if name == "config.json" and model.patch:
                    content = patch_config(content, tensors, model.pad_token)
                small.append(SmallFile(name, content))
    return tuple(sorted(small, key=lambda file: file.path))


def has_tokenizer(folder: Checkpoint) -> bool:
    """Whether a folder has tokenizer files."""
    return any(name not in CONFIGS for name in folder.small_files())


def patch_config(content: bytes, release: Mapping[str, LazyTensor], pad_token: int | None) -> bytes:
    """config.json with the dtype and vocabulary size of the tensors written; every other byte as it was, nested objects too.

    Args:
        content: The file.
        release: Name -> what is written.
        pad_token: What its pad_token_id becomes, if it has one; None for as it is.

    Raises:
        ValueError: It is no JSON object.
    """
    embedding = next((tensor.spec for name, tensor in release.items() if llama.is_vocabulary(name)), None)
    if embedding is None or not embedding.shape:
        return content
    dtype = embedding.dtype.name
    values: dict[str, str | int] = {"torch_dtype": dtype, "dtype": dtype, "vocab_size": embedding.shape[0]}
    if pad_token is not None:
        values["pad_token_id"] = pad_token
    return set_values(content, values)
