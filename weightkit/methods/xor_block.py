"""Byte XOR of each file with that of the same name in the base, as of Open-Assistant, Pygmalion and Metharme.

A file is ``Padded``: what it has more than the base's stays as it is. Some releases compress each file with gzip besides. The
base may be Meta's: its files are then those of a conversion, computed as they are read.

Source: releases, section 8; Open-Assistant ``xor_codec.py``, run; peer-numerics, section 9.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from weightkit.checkpoints import layout_named
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.huggingface import HUGGINGFACE
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.shards import numbered
from weightkit.containers import formats, suffixes
from weightkit.core.blob import Blob, Folder
from weightkit.core.errors import PlanError
from weightkit.methods import Evidence
from weightkit.methods.base import opened
from weightkit.methods.xor_files import (
    ENC,
    WHAT,
    Coded,
    Options,
    check_small,
    first_few,
    head,
    implausible,
    is_json,
    is_weights,
    listing,
    payload_files,
    refuse_pointers,
    untouched,
)
from weightkit.run.plan import Plan, Planned, StreamFile
from weightkit.streams import FileBytes, Known, Stream, whole
from weightkit.streams.gzip import MAGIC as GZIP_MAGIC
from weightkit.streams.gzip import Gunzip, Gzip
from weightkit.streams.xor import Padded

__all__ = ["METHOD", "XorBlock", "decoded", "encoded"]

SAMPLES, SAMPLE_NBYTES = 64, 4096

PLAIN = "added_tokens.json"
"""What Open-Assistant's script copies: the base has no such file."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The files of a base.

    Attributes:
        name: Of the base.
        streams: Its files by their names.
        converted: Whose conversion they stand for; None where they lie there.
    """

    name: str
    streams: Mapping[str, Stream]
    converted: str | None = None

    def blobs(self, names: Iterable[str]) -> dict[str, Blob]:
        """Those of these files that lie in the base's folder."""
        lying = {name: self.streams.get(name) for name in names}
        return {name: stream.blob for name, stream in lying.items() if isinstance(stream, FileBytes)}


def keys_in(base: Model, max_shard_bytes: int | None) -> Keys:
    """The files of a base; those of Meta's folder as they would be converted, computed as they are read.

    Raises:
        PlanError: There are none, or Meta's files cannot be converted.
        FormatError: One of Meta's files is damaged.
    """
    if not layout_named("meta").recognise(base.source):
        files = listing(base.source, base.role)
        return Keys(base.source.name, {name: whole(blob) for name, blob in files.items()})
    try:
        written = HUGGINGFACE.write(replace(opened(base), patch=False), Form(max_shard_bytes=max_shard_bytes))
    except ValueError as error:
        raise PlanError(f"{base.source.name}: {error}") from error
    streams: dict[str, Stream] = {file.path: Planned(file) for file in written.files}
    streams |= {file.path: Known(file.content) for file in written.small}
    return Keys(base.source.name, streams, f"transformers-{base.converter.version}")


def decoded(payload: Folder, base: Model, role: str, max_shard_bytes: int | None = None) -> Coded:
    """The files of a folder of files XORed with the base's.

    Args:
        payload: The published folder or file.
        base: Whose files they were XORed with.
        role: What the payload is to the caller, for messages.
        max_shard_bytes: Limit of the shards, where the base is converted; None for that of 2023.

    Raises:
        PlanError: The base is another, or Git-LFS pointers lie among the files.
    """
    found = payload_files(payload)
    refuse_pointers(role, found)
    keys = keys_in(base, max_shard_bytes)
    refuse_pointers(base.role, keys.blobs(found))
    zeros = never_filled(found)
    if bare := [f"{name}: zeros wherever it was looked at" for name in zeros if name not in keys.streams]:
        raise PlanError(f"{role}: not all files were fetched; download these again:", bare)
    files = []
    problems = []
    copied = []
    for name, blob in found.items():
        stream = unpacked(blob)
        if name in keys.streams:
            files.append(StreamFile(name, Padded(stream, keys.streams[name])))
        elif implausible(name, stream, blob.nbytes) or (name.endswith(".json") and not is_json(stream)):
            problems.append(f"{name}: was XORed with a file of that name, which the base does not have")
        else:
            copied.append(name)
            files.append(StreamFile(name, whole(blob)))
    if problems:
        advice = ""
        if keys.converted:
            shards = sum(is_weights(name) for name in keys.streams)
            advice = f" (converted on the way, it has {shards} files of weights; --max-shard-size cuts it otherwise)"
        raise PlanError(f"{base.role}: {keys.name} is not the base of this release, or incomplete{advice}:", problems)
    notes = [f"{', '.join(copied)}: not in the base, copied"] if copied else []
    if zeros:
        notes.append(
            f"{first_few(zeros)}: zeros wherever it was looked at, so the base's own file comes out, unchanged; that is what a "
            "download that was never filled gives: verify the payload with the publisher's list"
        )
    if keys.converted:
        notes.append(f"the base is converted on the way as {keys.converted} would (--as); other conversions give other bytes")
    files.sort(key=lambda file: file.path)
    check_small(files, keys.name)
    return Coded(tuple(files), (f"XOR of {len(files)} files with those of the base",), tuple(notes))


def unpacked(blob: Blob) -> Stream:
    """A payload, decompressed where it is gzip."""
    raw = whole(blob)
    if head(blob, 3) != GZIP_MAGIC:
        return raw
    size = int.from_bytes(blob.read(max(0, raw.nbytes - 4), raw.nbytes), "little")
    while size < raw.nbytes * 9 // 10:
        size += 1 << 32
    return Gunzip(raw, size)


def encoded(source: Folder, base: Model, role: str, max_shard_bytes: int | None = None, *, packed: bool = False) -> Coded:
    """All files of a folder XORed with the base's.

    Args:
        source: The tuned model's files.
        base: Whose files they are XORed with.
        role: What ``source`` is to the caller, for messages.
        max_shard_bytes: Limit of the shards, where the base is converted; None for that of 2023.
        packed: Whether each is compressed with gzip.

    Raises:
        PlanError: Something is missing.
    """
    keys = keys_in(base, max_shard_bytes)
    files = []
    copied = []
    sources = listing(source, role)
    refuse_pointers(role, sources)
    refuse_pointers(base.role, keys.blobs(sources))
    if coded := next((name for name in sources if ENC.fullmatch(name)), None):
        raise PlanError(f"{role}: {coded} is an .enc file already")
    for name, blob in sources.items():
        if name not in keys.streams or PurePosixPath(name).name == PLAIN:
            copied.append(name)
            files.append(StreamFile(name, whole(blob)))
            continue
        payload: Stream = Padded(whole(blob), keys.streams[name])
        files.append(StreamFile(name, Gzip(payload) if packed else payload))
    notes = [f"{', '.join(copied)}: not in the base, copied as they are"] if copied else []
    others = [name for name in copied if PurePosixPath(name).name != PLAIN]
    if others:
        notes.append(
            f"{', '.join(others)}: Open-Assistant's own script leaves these out when it decodes; weightkit copies them"
        )
    files.sort(key=lambda file: file.path)
    return Coded(tuple(files), (f"XOR of {len(files)} files with those of {keys.name}",), tuple(notes))


def base_of(base: Model, options: Options) -> Model:
    """The base that was named; in its place the folder that ``--key`` names."""
    return untouched(base) if options.key is None else replace(untouched(base), source=options.key, role="--key")


def plain_beside(name: str, files: Mapping[str, Blob]) -> bool:
    """Whether another shard of the set is a file of weights as it is: then one that begins with zeros has a hole."""
    sets = (numbered(one, files) for one in formats())
    return any(plain(other, files[other]) for names in sets if name in names for other in names)


def plain(name: str, blob: Blob) -> bool:
    """Whether a file is one of weights as it is."""
    return is_weights(name) and blob.nbytes > 0 and not implausible(name, whole(blob), blob.nbytes)


def never_filled(files: Mapping[str, Blob]) -> list[str]:
    """Payloads of weights that hold zeros wherever they are looked at, as a download that was never filled does."""
    return [
        name for name, blob in files.items() if name.endswith(suffixes()) and blob.nbytes and not any(map(any, samples(blob)))
    ]


def samples(blob: Blob) -> Iterator[bytes]:
    """Some bytes from all over a file."""
    for at in range(0, blob.nbytes, max(SAMPLE_NBYTES, blob.nbytes // SAMPLES)):
        yield bytes(blob.read(at, min(at + SAMPLE_NBYTES, blob.nbytes)))


ABOUT = ("a byte XOR with files of the same names (as Open-Assistant's): weightkit recover --raw BASE --diff it",)
"""What ``identify`` says of such a folder."""


@dataclass(frozen=True, slots=True)
class XorBlock:
    """The method."""

    name: str = "xor-block"
    role: str = "--diff"
    settles: bool = True
    options: type[Options] = Options

    def recognise(self, payload: Folder) -> Evidence | None:
        """By how its files begin.

        A file of weights that was XORed begins with zeros, since both sides began alike, or with gzip's magic; a ``.json``
        then is no JSON, which counts where no file of weights is one as it is. Seen on what the authors' scripts wrote.
        """
        files = payload_files(payload)
        if any(ENC.fullmatch(name) for name in files):
            return None
        models = any(plain(name, blob) for name, blob in files.items())
        for name, blob in files.items():
            first = head(blob, 64)
            if name.endswith(suffixes()) and first[:4] == bytes(4) and not plain_beside(name, files):
                return Evidence(WHAT, f"{name} begins with zeros", tell=lambda: ABOUT)
            if name.endswith(suffixes()) and first[:3] == GZIP_MAGIC:
                return Evidence(WHAT, f"{name} is compressed with gzip", tell=lambda: ABOUT)
            if name == "config.json" and (first[:1] == b"\0" or first[:3] == GZIP_MAGIC) and not models:
                return Evidence(WHAT, f"{name} is no JSON", tell=lambda: ABOUT)
        return None

    def rebuild(self, base: Model, payload: Folder, options: Options) -> Model:
        """The files, decoded."""
        found = decoded(payload, base_of(base, options), self.role, options.max_shard_bytes)
        return found.model(base)

    def make(self, base: Model, tuned: Model, options: Options, form: Form) -> Plan:
        """The tuned model's files, encoded."""
        return encoded(tuned.source, base_of(base, options), tuned.role, options.max_shard_bytes).plan("make-diff")


METHOD: Any = XorBlock()
