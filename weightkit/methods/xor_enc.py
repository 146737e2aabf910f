"""Byte XOR with one key file for all, as of point-alpaca, BELLE and Lawyer-LLaMA.

    <file>.<SHA-256 of it in hex>.enc    32 bytes, the same SHA-256 raw; then the file XORed with the key, ``Wrapped``

The key is LLaMA-7B's ``consolidated.00.pth``. TechGPT's files are called so, too, but have the SHA-256 of nothing in their
names, no header, and so no check of their own.

Source: peers-measured, "The .enc rule"; releases, sections 5 to 7; point-alpaca ``encrypt.py``, run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from weightkit import catalog
from weightkit.catalog.outside import about_it
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.model import Model
from weightkit.core.blob import Blob, Folder
from weightkit.core.digest import Digest
from weightkit.core.errors import DigestMismatch, PlanError
from weightkit.manifests.pointers import is_pointer
from weightkit.methods import Evidence
from weightkit.methods.xor_files import (
    ENC,
    SMALL_NBYTES,
    WHAT,
    Coded,
    Options,
    check_small,
    first_few,
    head,
    implausible,
    is_weights,
    listing,
    payload_files,
    refuse_pointers,
    untouched,
)
from weightkit.methods.xor_key import Key, key_in, wanted_root
from weightkit.run.plan import Plan, StreamFile
from weightkit.streams import FileBytes, Headed, Stream, whole
from weightkit.streams.xor import Wrapped

__all__ = ["HEADER_NBYTES", "METHOD", "NOTHING", "XorEnc", "decoded", "encoded"]

HEADER_NBYTES = 32
NOTHING = hashlib.sha256().hexdigest()


def decoded(payload: Folder, key: Key, role: str) -> Coded:
    """The files of a folder of ``.enc`` files.

    Where a key is not the publisher's, but holds the original in other bytes, that which is computed of it is taken.

    Args:
        payload: The published folder or file.
        key: What it was XORed with.
        role: What the payload is to the caller, for messages.

    Raises:
        PlanError: A file contradicts itself, or is a Git-LFS pointer.
        DigestMismatch: A small file shows that the key is another.
    """
    try:
        return decoded_with(payload, key, role)
    except (DigestMismatch, PlanError) as error:
        if (other := key.relaid()) is None:
            raise
        try:
            return decoded_with(payload, other, role)
        except (DigestMismatch, PlanError):
            raise error from None


def decoded_with(payload: Folder, key: Key, role: str) -> Coded:
    """The files of a folder of ``.enc`` files, with this key and no other. Raises like ``decoded``."""
    found = payload_files(payload)
    refuse_pointers(role, {name: blob for name, blob in found.items() if ENC.fullmatch(name) or is_weights(name)})
    refuse_pointers("the key", {} if key.blob is None else {key.name: key.blob})
    notes = list(key.about())
    named = {name: (ENC.fullmatch(name), blob) for name, blob in found.items()}
    left = [name for name, (match, _) in named.items() if match is None and name not in about_it(payload)]
    if left:
        notes.append(f"left out, no .enc files: {first_few(left)}")
    files = []
    problems = []
    for name, (match, blob) in named.items():
        if match is None:
            continue
        try:
            stream, expect = enc_payload(blob, match["name"], match["digest"].lower(), key.stream)
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        files.append(StreamFile(match["name"], stream, expect))
    if bare := [file.path for file in files if not file.expect]:
        also = " and the key, which is computed" if key.blob is None else ""
        notes.append(
            f"{first_few(bare)}: files without a header, whose names have the SHA-256 of nothing (as TechGPT's): they carry no "
            f"check of their own, so only a list of the publisher's proves them{also}; give it with --checksums"
        )
    if problems:
        raise PlanError(f"{role}: nothing was decoded:", problems)
    files.sort(key=lambda file: file.path)
    check_small(files, key.folder.name, key.wrong)
    if key.instead is not None and wanted_root(files, key.root()):
        raise PlanError(key.wrong(files))
    if key.instead is not None and not any(file.nbytes <= SMALL_NBYTES for file in files):
        notes.append(
            f"{key.told} is not laid out as Meta's own file: if the digests do not hold, name what weightkit convert --to meta "
            "makes of it"
        )
    return Coded(tuple(files), (f"XOR of {len(files)} .enc files with {key.name}",), tuple(notes))


def enc_payload(blob: Blob, name: str, named: str, key: Stream) -> tuple[Stream, tuple[Digest, ...]]:
    """What an ``.enc`` file decodes to, and the digest that it says it has.

    Args:
        blob: The file.
        name: Of the file in it.
        named: The digest in its name.
        key: What it was XORed with.

    Raises:
        ValueError: Header and name contradict each other, or are no digest.
    """
    size = blob.nbytes
    header = head(blob, HEADER_NBYTES).hex()
    if named == NOTHING and header != NOTHING:
        bare = Wrapped(whole(blob), key)
        reason = implausible(name, bare, size)
        if reason:
            start = min(HEADER_NBYTES, size)
            if not implausible(name, Wrapped(FileBytes(blob, start, size - start), key), size):
                raise ValueError(f"its header says SHA-256 {header[:16]}..., its name that of nothing: it was renamed")
            raise ValueError(f"its name has the SHA-256 of nothing, and decoded without a header it {reason}")
        return bare, ()
    if size < HEADER_NBYTES:
        raise ValueError(f"has {size} bytes: a header alone has {HEADER_NBYTES}; download it again")
    if header != named:
        raise ValueError(
            f"its header says SHA-256 {header[:16]}..., its name {named[:16]}...: it is damaged, or another file was renamed; "
            "download it again"
        )
    if named == NOTHING and size > HEADER_NBYTES:
        raise ValueError(f"header and name have the SHA-256 of nothing, but {size - HEADER_NBYTES} bytes follow")
    expect = Digest("sha256", named)  # refuses placeholders
    return Wrapped(FileBytes(blob, HEADER_NBYTES, size - HEADER_NBYTES), key), (expect,)


def encoded(source: Folder, key: Key, role: str) -> Coded:
    """``.enc`` files of all files of a folder. Each is read once now, for its digest.

    Raises:
        PlanError: Something is missing, or is one already.
    """
    files = []
    sources = listing(source, role)
    refuse_pointers(role, sources)
    refuse_pointers("the key", {} if key.blob is None else {key.name: key.blob})
    for name, blob in sources.items():
        if ENC.fullmatch(name):
            raise PlanError(f"{role}: {name} is an .enc file already")
        taken = hashlib.sha256()
        for chunk in whole(blob).chunks(1 << 20):
            taken.update(chunk)
        try:
            body = Wrapped(whole(blob), key.stream)
        except ValueError as error:
            raise PlanError(f"--key: {error}") from error
        files.append(StreamFile(f"{name}.{taken.hexdigest()}.enc", Headed(taken.digest(), body)))
    files.sort(key=lambda file: file.path)
    notes = list(key.about())
    if key.blob is None:
        notes.append(
            "nothing here proves that the computed key is Meta's file, which others decode with: weightkit convert --to meta "
            "writes it, and compares it with the published digests"
        )
    return Coded(tuple(files), (f"XOR of {len(files)} files with {key.name}",), tuple(notes))


def key_of(base: Model, options: Options) -> Key:
    """The key that was named, or else the base's."""
    base = untouched(base)
    return key_in(base if options.key is None else replace(base, source=options.key, role="--key"))


def of_folder(folder: Folder) -> Iterator[str]:
    """What a folder of ``.enc`` files is, and the first of them."""
    yield "a byte XOR of .enc files, with Meta's consolidated.00.pth as key: weightkit recover --raw LLaMA/7B --diff it"
    here = [match for name in folder.names() if (match := ENC.fullmatch(name)) and "/" not in name]
    for match in here[:1]:
        yield from about(folder.blob(match[0]), match["name"], match["digest"].lower())


def about(file: Blob, name: str, digest: str) -> Iterator[str]:
    """What an ``.enc`` file of this name is, for people."""
    if is_pointer(file):
        yield f"a Git-LFS pointer (lfs) in the place of {name} under a byte XOR: fetch it with `git lfs pull`"
        return
    header = head(file, HEADER_NBYTES).hex()
    if digest == NOTHING and header != digest:
        yield f"{name} under a byte XOR, without a header (as TechGPT's): it carries no check of its own"
        return
    agrees = "header and name agree" if header == digest else "its header says another digest than its name: damaged or renamed"
    yield f"{name} under a byte XOR (.enc, as point-alpaca's and BELLE's); {agrees}"
    known = catalog.by_digest().get(Digest("sha256", digest), ()) if len(set(digest)) > 1 else ()
    for release, there in known:
        yield f"what it decodes to is {there} of {release}: {catalog.load(release).title}"


@dataclass(frozen=True, slots=True)
class XorEnc:
    """The method."""

    name: str = "xor-enc"
    role: str = "--diff"
    settles: bool = True
    options: type[Options] = Options

    def recognise(self, payload: Folder) -> Evidence | None:
        """The names tell: they end in a SHA-256 and ``.enc``."""
        found = next((match["name"] for name in payload_files(payload) if (match := ENC.fullmatch(name))), None)
        return (
            None
            if found is None
            else Evidence(WHAT, f"a file is called {found}.<SHA-256>.enc", tell=lambda: of_folder(payload))
        )

    def rebuild(self, base: Model, payload: Folder, options: Options) -> Model:
        """The files, decoded."""
        key = key_of(base, options)
        if options.published_key:
            key.check(options.published_key)
        found = decoded(payload, key, self.role)
        return found.model(base)

    def make(self, base: Model, tuned: Model, options: Options, form: Form) -> Plan:
        """The tuned model's files, encoded."""
        return encoded(tuned.source, key_of(base, options), tuned.role).plan("make-diff")


METHOD: Any = XorEnc()
