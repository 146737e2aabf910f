"""The tensors are the same and the files are not: what of the container differs, each fact by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.containers import Container
from weightkit.containers.safetensors import SafetensorsFile
from weightkit.containers.torch_file import TorchFile
from weightkit.proof.causes.mending import Conversion, gives_files, shard_limit
from weightkit.proof.causes.writings import version_of

__all__ = ["NO_TENSOR", "container_differs", "mended", "tied"]


NO_TENSOR = "bytes differ that hold no tensor (headers, padding, what is said of tensors)"

KINDS = {"dict": "a dict", "OrderedDict": "an OrderedDict", "other": "more than a dict of tensors"}


def container_differs(here: Checkpoint, there: Checkpoint) -> str:
    """What of the containers differs, in half a sentence."""
    return "; ".join(
        list(differences(here, there)) or ["bytes differ that hold no tensor (headers, padding, what is said of them)"]
    )


def differences(here: Checkpoint, there: Checkpoint) -> Iterator[str]:
    """What differs: format, writer, shards, order, shared storages, what was saved."""
    mine, theirs = (next(iter(one.files.values())) for one in (here, there))
    if here.layout != there.layout:
        yield f"the layout is {here.layout} here, {there.layout} there"
    if mine.profile != theirs.profile:
        yield f"written as {told(mine.profile)} here, as {told(theirs.profile)} there"
    if groups(here) != groups(there):
        yield f"other shards: {len(here.files)} file{'s' * (len(here.files) > 1)} here, {len(there.files)} there"
    elif mine.format.ordered and theirs.format.ordered and list(here.tensors) != list(there.tensors):
        yield "the order of tensors is another"
    if groups(here) == groups(there) and tied(here) != tied(there):
        for names in sorted(map(sorted, tied(there) - tied(here))):
            yield f"{' and '.join(names)} share one storage there (tied), and are written out each by itself here"
        for names in sorted(map(sorted, tied(here) - tied(there))):
            yield f"{' and '.join(names)} share one storage here (tied), and are written out each by itself there"
    if isinstance(mine, SafetensorsFile) and isinstance(theirs, SafetensorsFile) and mine.metadata != theirs.metadata:
        yield f"the header's __metadata__ is {dict(mine.metadata)} here, {dict(theirs.metadata)} there"
    if mine.profile == theirs.profile and isinstance(mine, TorchFile) and isinstance(theirs, TorchFile):
        if mine.kind != theirs.kind:
            yield f"saved as {KINDS[mine.kind]} here, as {KINDS[theirs.kind]} there"
        if mine.metadata != theirs.metadata:
            yield "the state dict's _metadata is another"
        if mine.root != theirs.root and groups(here) == groups(there):
            yield f"the zip's folder is called {mine.root} here, {theirs.root} there"


def groups(checkpoint: Checkpoint) -> list[set[str]]:
    """Which tensors lie in one file, file by file."""
    return [set(container.tensors) for container in checkpoint.files.values()]


def tied(checkpoint: Checkpoint) -> set[frozenset[str]]:
    """Names that share one storage."""
    return {names for container in checkpoint.files.values() for names in shared(container)}


def shared(container: Container) -> Iterator[frozenset[str]]:
    """Names of each run of bytes that several tensors lie in."""
    runs: dict[int, set[str]] = {}
    for item in container.layout.items:
        runs.setdefault(item.run, set()).add(item.name)
    yield from (frozenset(names) for names in runs.values() if len(names) > 1)


def mended(target: Path, here: Checkpoint, there: Checkpoint, dtype: str | None = None) -> str:
    """The conversion that writes the other's files of weights, byte for byte; empty where none does."""
    source = target if target.is_dir() else target.parent
    mine, theirs = (next(iter(one.files.values())) for one in (here, there))
    version = version_of(theirs.profile)
    made = Conversion(
        source,
        torch_compat=version if theirs.profile != mine.profile and version[0].isdigit() else None,
        format=theirs.format.name if theirs.format.name != mine.format.name else None,
        max_shard_size=shard_limit(there) if groups(here) != groups(there) else None,
        dtype=dtype,
    )
    wanted = {name: container.blob for name, container in there.files.items()}
    return made.command if gives_files(made, wanted, whole=target.is_dir()) else ""


def told(profile: str) -> str:
    """A profile, for people."""
    version = version_of(profile)
    return f"torch {version} writes" if version[0].isdigit() else version
