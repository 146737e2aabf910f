"""The key of ``.enc`` files: Meta's ``consolidated.00.pth``, or the same bytes computed of a copy of it, as they are read.

A copy is any float16 conversion of the original: in transformers' or TencentPretrain's layout, in any container and sharding,
with or without rotary buffers. Meta's layout, see ``checkpoints.meta_layout``, makes its bytes; the digests of what is decoded
prove them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from weightkit import catalog, manifests
from weightkit.checkpoints import layout_named
from weightkit.checkpoints.checkpoint import lone_file
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.meta_told import is_metas, is_part
from weightkit.checkpoints.model import Model
from weightkit.containers import open_file
from weightkit.containers.bin import DEFAULT_PROFILE
from weightkit.containers.layout import one_each
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.core.blob import Blob, Folder
from weightkit.core.dtypes import FLOAT16
from weightkit.core.errors import FormatError, PlanError, WeightkitError
from weightkit.core.lazy import derive
from weightkit.families import llama
from weightkit.methods.base import opened, refuse_quantized
from weightkit.methods.xor_copy import refuse_changed, refuse_grown, refuse_shard
from weightkit.ops.add import Cast
from weightkit.run.plan import Output, Planned, StreamFile
from weightkit.streams import FileBytes, Nested, Stream, beginning, whole
from weightkit.streams.xor import Wrapped

__all__ = ["Key", "is_computed", "is_copy", "key_in", "wanted_root"]

KEY = "consolidated.00.pth"
CHECKLIST = "checklist.chk"
SIZES = {"llama-7b": 13476939516, "llama-13b": 13016334699, "llama-30b": 16265763099, "llama-65b": 16323959449}
"""Entry of the catalog -> size of its consolidated.00.pth. Source: releases, section 1; meta-layout."""

NO_TEXT = frozenset(range(32)) - frozenset(b"\t\n\r")

HEAD_NBYTES = 64
"""Up to where a torch zip says nothing but its root."""


@dataclass(frozen=True, slots=True)
class Key:
    """The file that all others are XORed with.

    Attributes:
        folder: Where it was found, or of what it is computed.
        name: What it is called.
        stream: Its bytes.
        blob: The file; None where it is computed.
        notes: What the user should know of it.
        instead: The model that the key can be computed of, where the file holds it in other bytes than Meta's; see ``relaid``.
    """

    folder: Folder
    name: str
    stream: Stream
    blob: Blob | None = None
    notes: tuple[str, ...] = ()
    instead: Model | None = None

    @property
    def told(self) -> str:
        """The key, for messages."""
        return f"{self.name}, computed of {self.folder.name}," if self.blob is None else self.blob.name

    def known(self) -> tuple[str, str] | None:
        """Which published file it is, as far as Meta's checklist beside it and its size tell: entry of the catalog, file."""
        if self.blob is not None and self.folder.holds(CHECKLIST):
            listed = self.folder.blob(CHECKLIST)
            text = bytes(listed.read(0, listed.nbytes)).decode("utf-8", "replace")
            for entry in manifests.parse(text, Path(listed.name)):
                if entry.path.rpartition("/")[2] == self.name and (known := catalog.by_digest().get(entry.digest)):
                    return known[0]
        sizes = SIZES if self.blob is None else {"llama-7b": SIZES["llama-7b"]}  # other models' parts are all of one size
        return next(((entry, KEY) for entry, nbytes in sizes.items() if nbytes == self.stream.nbytes), None)

    def check(self, published: str) -> None:
        """Refuse a key that is known to be another than the one that a release was published with.

        Args:
            published: Entry of the catalog, a blank, the file.

        Raises:
            PlanError: It is.
        """
        known = self.known()
        if known is not None and " ".join(known) != published:
            raise PlanError(f"{self.told} is {known[1]} of {known[0]}, by its checklist or size; the release takes {published}")

    def wrong(self, files: Iterable[StreamFile]) -> str:
        """What is wrong with it, as the files say that it does not decode."""
        what = f"{self.folder.name} is not the key"
        if self.blob is None:
            what = f"the key computed of {self.folder.name} is not the publisher's: "
            what += "it is another model, or a tuned one, or was rounded"
        own, wanted = self.root(), wanted_root(files, self.root())
        if wanted:
            whose = "LLaMA-7B" if wanted == "consolidated" else "the parts of 13B, 30B and 65B"
            right = f"the right one is a torch zip with root {wanted}, as in {whose}; this one is none"
            what += f" (the right one's root is {wanted}, as in {whose}; this one's is {own})" if own else f" ({right})"
        return what

    def root(self) -> str:
        """Its root; empty where it is no torch zip."""
        return root_in(beginning(self.stream, HEAD_NBYTES))

    def relaid(self) -> Key | None:
        """The key that is computed of the file's tensors, where they are Meta's in other bytes: saved again, or converted.

        A publisher may have used such a file itself, so it is taken as it is first.

        Raises:
            PlanError: The tensors cannot give one.
        """
        return None if self.instead is None else computed(self.instead)

    def about(self) -> Iterator[str]:
        """What it is, in notes."""
        known = self.known()
        which = f", {known[1]} of {known[0]} by its checklist or size" if known else ""
        on_the_way = " on the way" if self.blob is None else ""
        yield f"key: {self.told.removesuffix(',')}{on_the_way}, {self.stream.nbytes} bytes{which}"
        yield from self.notes


def is_computed(files: Iterable[Output]) -> bool:
    """Whether the key of decoded files is computed of a copy, and is no file that may be hashed."""
    for file in files:
        stream = file.stream if isinstance(file, StreamFile) else None
        while isinstance(stream, Nested) and not isinstance(stream, Wrapped):
            stream = stream.body
        if isinstance(stream, Wrapped):
            return not isinstance(stream.key, FileBytes)
    return False


def is_copy(folder: Folder) -> bool:
    """Whether what is named as a key is no key file, nor holds one, but a copy of the model that one can be computed of."""
    name = lone_file(folder)
    if name is None:
        return not folder.holds(KEY) and not layout_named("meta").recognise(folder)
    try:
        names = open_file(folder.blob(name)).tensors
    except FormatError:
        return False
    return any(one.startswith(("model.layers.", "model.embed_tokens.", "embedding.word.")) for one in names)


def key_in(base: Model) -> Key:
    """The key of ``.enc`` files: the file named, ``consolidated.00.pth`` of Meta's folder, or what is computed of a copy.

    Raises:
        PlanError: There is none, or the copy cannot give one.
        FormatError: A file of the copy is damaged.
    """
    folder = base.source
    if is_copy(folder):
        return computed(base)
    name = lone_file(folder) or KEY
    if not folder.holds(name):
        raise PlanError(
            f"{base.role}: {folder.name} has no {KEY}: .enc files are decoded with the file that Meta released, of LLaMA-7B "
            "for point-alpaca and BELLE, or with a float16 copy of that model; name it, or its folder"
        )
    blob = folder.blob(name)
    return Key(folder, name, whole(blob), blob, instead=otherwise(base, blob))


def otherwise(base: Model, blob: Blob) -> Model | None:
    """The model in Meta's layout that a file is a part of, if it is laid out otherwise than Meta's files are; else None."""
    folder = base.source.above() if lone_file(base.source) is not None else base.source
    try:
        part = open_file(blob)
        if folder is None or not is_part(part) or is_metas(part) or not layout_named("meta").recognise(folder):
            return None
    except WeightkitError:
        return None
    return replace(base, source=folder)


def computed(base: Model) -> Key:
    """The key that a copy gives, in Meta's bytes.

    Raises:
        PlanError: It was rounded on the way, or is another model than Meta's.
    """
    model = opened(base)
    checkpoint = model.follows
    assert checkpoint is not None  # an opened model has one
    what = f"{base.role}: {checkpoint.name}"
    refuse_shard(checkpoint, what)
    refuse_quantized(checkpoint, base.role)
    refuse_changed(checkpoint, what)
    tensors = {
        name: one if one.spec.dtype == FLOAT16 else derive(Cast(FLOAT16), one) for name, one in checkpoint.tensors.items()
    }
    try:
        written = layout_named("meta").write(replace(model, tensors=tensors), Form(order="meta"))
    except ValueError as error:
        raise PlanError(f"{what}: no key can be computed of it: {error}") from error
    refuse_grown(checkpoint, what)
    stored = {one.spec.dtype.name for name, one in checkpoint.tensors.items() if not llama.is_inv_freq(name)} - {"float16"}
    cast = [f"{checkpoint.name}: {', '.join(sorted(stored))} is cast to float16 for the key"] if stored else []
    return Key(base.source, KEY, Planned(written.files[0]), None, (*cast, *written.notes))


def heads() -> dict[str, bytes]:
    """Roots of Meta's files, and how a file of each begins."""
    roots = ("consolidated", *(f"consolidated.{number:02d}" for number in range(8)))
    return {root: b"".join(TorchZip(DEFAULT_PROFILE, root).encode(one_each(()), ()))[:HEAD_NBYTES] for root in roots}


def root_in(head: bytes) -> str:
    """The root in the beginning of a torch zip; empty where it is none."""
    if head[:4] != b"PK\3\4":
        return ""
    length = int.from_bytes(head[26:28], "little")
    return repr(head[30 : 30 + length].partition(b"/")[0].decode("latin-1"))[1:-1]


def wanted_root(files: Iterable[StreamFile], own: str) -> str:
    """The root of the key that files were XORed with, where it is one of Meta's: only with its beginning they make sense.

    Empty where it is none of Meta's, may be the key's own, or is not told: all files begin alike, so a short one tells nothing.

    Args:
        files: What comes of a payload.
        own: The root of the key.
    """
    likely = heads()
    told = False
    for file in files:
        if not isinstance(file.stream, Wrapped):
            continue
        coded = beginning(file.stream.body, HEAD_NBYTES)
        plain = {root: bytes(one ^ other for one, other in zip(coded, head, strict=False)) for root, head in likely.items()}
        if fitting := {root for root, one in plain.items() if makes_sense(file.path, one)}:
            told, likely = True, {root: head for root, head in likely.items() if root in fitting}
    settled = len(likely) == 1 or "consolidated" not in likely
    return next(iter(likely)) if told and settled and own not in likely else ""


def makes_sense(name: str, head: bytes) -> bool:
    """Whether a file may begin so: a JSON with text, a torch zip with the name of its first record."""
    if name.endswith(".json"):
        return head[:1] in (b"{", b"[") and head.isascii() and not set(head) & NO_TEXT
    record = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return head[:4] == b"PK\3\4" and bool(record) and record.isascii() and record.decode().isprintable()
