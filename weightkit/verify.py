"""Checks files against published digests, and names each: ok, FAILED, missing, extra. Needs no torch.

import weightkit.verify
weightkit.verify.verify_files("llama-13b", "llama-13b.sha256").ok
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from weightkit import manifests
from weightkit.blobs import ZipFolder, local_copy, zip_at
from weightkit.blobs.local import unreadable
from weightkit.catalog.outside import SIGNATURE
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.beside import unread
from weightkit.core.arguments import OneOrMore, as_paths, as_tuple, raise_first, telling
from weightkit.core.digest import CHUNK, Digest, Hasher, hash_file
from weightkit.core.errors import BadSignature, DigestMismatch, FormatError, Incomplete, PlanError
from weightkit.core.events import BytesWritten, Notify, Started, ignore
from weightkit.families import llama
from weightkit.manifests import Entry, pointers
from weightkit.manifests import tensors as tensor_lists
from weightkit.methods.wkx import SUFFIX
from weightkit.methods.xor_files import ENC
from weightkit.proof.archives import inside, seen
from weightkit.proof.completeness import INDEX, INDEX_NBYTES, missing_of
from weightkit.proof.contents import tensor_digests
from weightkit.proof.glance import at_a_glance, hint
from weightkit.proof.lists import LIST_ENDINGS, LIST_NAMES, entries_of
from weightkit.proof.signature import Signed, read
from weightkit.proof.signers import Signer, is_link, signer, unsigned

__all__ = ["LIST_NAMES", "Checked", "Verification", "verify", "verify_files"]

SMALL = 1 << 20
"""Files up to this size are always hashed; of larger ones what is cheap to see is looked at first."""

UNSIGNED, LINK = "is not among the files that were signed", "is a symbolic link, and the signature allows none"

Status = Literal["ok", "FAILED", "missing", "extra"]


@dataclass(frozen=True, slots=True)
class Checked:
    """One file and one digest.

    Attributes:
        path: Relative to the folder.
        status: ``ok``, ``FAILED`` (another digest), ``missing`` (listed, not there), ``extra`` (there, not listed).
        expected: The digest in the list; None for ``extra``.
        actual: The digest found; None where there is none.
        hint: What a file that FAILED is instead, where its first bytes tell.
    """

    path: str
    status: Status
    expected: Digest | None = None
    actual: Digest | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Verification:
    """What was found, in the order of the lists, extra files last.

    Attributes:
        checked: Each file and digest.
        signed: The signature that was found to be of the key that was given; None where none was asked for.
    """

    checked: tuple[Checked, ...]
    signed: Signed | None = None

    def __repr__(self) -> str:
        counts = [f"{n} {status}" for status in ("ok", "FAILED", "missing", "extra") if (n := self.count(status))]
        bad = [one.path for one in self.checked if one.status in ("FAILED", "missing")]
        more = f", ... {len(bad) - 4} more" if len(bad) > 4 else ""
        return f"<{', '.join(counts) or 'nothing checked'}{': ' if bad else ''}{', '.join(bad[:4])}{more}>"

    def count(self, status: Status) -> int:
        """How many files have this status."""
        return sum(one.status == status for one in self.checked)

    @property
    def ok(self) -> bool:
        """Whether every listed file is there and has its digest; extra files matter where a signature was checked."""
        return self.passes()

    def passes(self, *, missing: bool = True, extra: bool | None = None) -> bool:
        """Whether a file was checked and none FAILED; with ``missing``, none is missing; with ``extra``, none is extra.

        ``extra`` is said by the signature where it is None: with one, a file that is not signed does not pass.
        """
        extra = self.signed is not None if extra is None else extra
        return self.count("ok") > 0 and not (
            self.count("FAILED") or (missing and self.count("missing")) or (extra and self.count("extra"))
        )


def verify_files(
    path: str | os.PathLike[str],
    lists: OneOrMore = (),
    *,
    releases: str | Sequence[str] = (),
    signature: str | os.PathLike[str] | None = None,
    public_key: str | os.PathLike[str] | None = None,
    jobs: int = 2,
    progress: bool = False,
    raise_on_mismatch: bool = False,
    notify: Notify = ignore,
) -> Verification:
    """Check a folder or a file against digests.

    They may be content digests of tensors, coreutils' lists, Meta's checklist, tables in a README or model card, Git-LFS
    pointers, the Hub's own notes, or those of the catalog. Of a large file, size and what it begins and ends with are looked
    at before it is hashed: a pointer, a web page or a download that was cut off is named at once.

    >>> weightkit.verify_files("release").ok
    True

    Args:
        path: The folder; or one file, which is looked up by its name, or of a release by its digest; or a ``.zip`` archive,
            whose files are read where they lie and checked by its own CRC-32, too.
        lists: Files that hold digests; by default those of ``LIST_NAMES`` that are in the folder, or the Hub's notes in it.
        releases: Entries of the catalog.
        signature: A signature by OpenSSF Model Signing; with a ``public_key`` alone it is ``model.sig`` in the folder. It must
            be of that key, each file as it was signed, and no other file there. Needs cryptography (``weightkit[sign]``).
        public_key: The signer's public key in PEM, from somewhere else than the files: without it a signature proves nothing.
        jobs: Files at a time.
        progress: Whether a bar is drawn, in a terminal or a notebook.
        raise_on_mismatch: Whether files that FAILED or are missing are raised, the others as notes of the first.
        notify: Told of bytes read.

    Raises:
        PlanError: There is nothing to check, or nothing to check it against.
        FormatError: A list is malformed.
        BadSignature: The signature is of another key, or was changed.
        DigestMismatch: A file FAILED or is missing, and ``raise_on_mismatch`` was said.
    """
    who = signer(signature, public_key)
    with telling("verifying", notify, progress) as notify:
        found = look(path, as_paths(lists), as_tuple(releases), jobs, notify, who)
    if raise_on_mismatch and not found.ok:
        unsigned = ("extra",) if found.signed else ()
        raise_first([mismatch(one) for one in found.checked if one.status in ("FAILED", "missing", *unsigned)])
    return found


verify = verify_files


def mismatch(one: Checked) -> DigestMismatch:
    """A file that FAILED, is missing or not signed, as an error."""
    if one.status == "extra":
        return BadSignature(one.path, UNSIGNED)
    if one.status == "missing" or one.expected is None:
        return Incomplete(one.path, [one.path], one.hint or "a list names")
    actual = one.actual.hex if one.actual else "not taken"
    return DigestMismatch(one.path, one.expected.algorithm, one.expected.hex, actual, one.hint)


def look(
    path: str | os.PathLike[str],
    chosen: Sequence[Path],
    releases: Sequence[str],
    jobs: int,
    notify: Notify,
    who: Signer | None = None,
) -> Verification:
    """The work of ``verify_files``."""
    target = local_copy(path, "PATH")
    if who is None and (archive := zip_at(target)) is not None:
        return in_archive(target, archive, chosen, releases, notify)
    folder = target if target.is_dir() else target.parent
    signed = None if who is None else read(who.signature or folder / SIGNATURE, who.key)
    if not chosen and not releases and signed is None:
        chosen = [folder / name for name in LIST_NAMES if (folder / name).is_file()]
    wanted: dict[str, list[Entry]] = {}
    of_tensors = [one for one in chosen if one.is_file() and tensor_lists.is_list(one)]
    tensors = [one for path in of_tensors for one in check_tensors(target, tensor_lists.parse(path), notify)]
    if tensors and len(of_tensors) == len(chosen) and not releases and signed is None:
        return Verification(tuple(tensors))
    found = [(str(one), manifests.read(one)) for one in chosen if one not in of_tensors]
    found += [(f"--release {name}", entries_of(name)) for name in releases]
    found += [] if signed is None else [(str(signed.path), list(signed.of(target)))]
    if not found and (notes := pointers.hub(folder)):
        found = [(str(folder / pointers.HUB_NOTES), notes)]
    if not found and (named := pointers.cache(folder)):
        found = [(f"{folder}: the names of its blobs", named)]
    if not found:
        raise PlanError(
            f"{target}: no list of digests there ({', '.join(LIST_NAMES)}); name one with --checksums FILE, or --release NAME"
        )
    for _, entries in found:
        for entry in entries:
            known = wanted.setdefault(entry.path, [])
            if entry not in known:
                known.append(entry)
    if not target.is_dir():
        wanted = {target.name: of_one_file(target, wanted, [name for name, _ in found], by_digest=bool(releases))}
    notify(Started(sum(size_of(folder / name) for name in wanted)))
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        checked = list(pool.map(lambda name: check(folder, name, wanted[name], notify), wanted))
    extra: list[Checked] = []
    if target.is_dir():
        extra = (
            extras(folder, set(wanted), chosen)
            if signed is None
            else [Checked(one, "extra", hint=UNSIGNED) for one in unsigned(folder, signed)]
        )
    lacking = unlisted(folder, wanted, {one.path for one in extra}) if target.is_dir() else []
    every = [one for group in checked for one in group]
    if signed is not None and not signed.links:
        every = [replace(one, status="FAILED", hint=LINK) if is_link(folder, one.path) else one for one in every]
    return Verification((*every, *tensors, *lacking, *extra), signed)


def in_archive(
    target: Path, archive: ZipFolder, chosen: Sequence[Path], releases: Sequence[str], notify: Notify
) -> Verification:
    """Check a ``.zip`` archive where it lies: its files by its own CRC-32, and by lists, in it, beside it, or named.

    Raises:
        PlanError: Lists were named, and none of them has the archive or a file in it.
        FormatError: The archive is no sound one, or a list is malformed.
    """
    own = inside(archive)
    beside = [] if chosen or releases else [target.parent / name for name in LIST_NAMES if (target.parent / name).is_file()]
    of_tensors = [one for one in chosen if one.is_file() and tensor_lists.is_list(one)]
    named = [(str(one), manifests.read(one)) for one in chosen if one not in of_tensors]
    named += [(f"--release {name}", entries_of(name)) for name in releases]
    around = [entry for one in beside for entry in manifests.read(one) if entry.path == target.name]
    entries = list(dict.fromkeys([*own, *around, *(entry for _, group in named for entry in group)]))
    notify(Started(sum(archive.blob(name).nbytes for name in archive.names())))
    found = list(seen(archive, target.name, entries, notify, by_digest=bool(releases)))
    if named and not any(one.expected for one in found):
        raise PlanError(f"{target.name} and its files are in none of the lists ({', '.join(name for name, _ in named)})")
    checked = [Checked(one.path, "ok" if one.ok else "FAILED", one.expected, one.actual, one.hint) for one in found]
    checked += [Checked(one.path, "missing", one.digest) for one in own if not archive.holds(one.path)]
    for path in of_tensors:
        checked += check_tensors(target, tensor_lists.parse(path), notify)
    return Verification(tuple(checked))


def unlisted(folder: Path, wanted: Mapping[str, Sequence[Entry]], extra: set[str]) -> list[Checked]:
    """Files that are neither there nor in a list, and belong to those that are, by an index or the numbers in their names."""
    names = {stands_for(one) for one in (*wanted, *extra)}
    indexes = {name: small(folder / name) for name in sorted(names) if name.endswith(INDEX)}
    missing, reason = missing_of(names, indexes)
    return [Checked(name, "missing", hint=f"no list has it, and {reason} it") for name in missing]


def stands_for(name: str) -> str:
    """The file that comes out of a published one, which belongs to the others by its own name."""
    match = ENC.fullmatch(name)
    return match["name"] if match else name.removesuffix(SUFFIX)


def small(file: Path) -> bytes:
    """The bytes of an index; nothing where it is none, or cannot be read: whether it is damaged, its own digest tells."""
    try:
        return file.read_bytes() if file.is_file() and file.stat().st_size <= INDEX_NBYTES else b""
    except OSError:
        return b""


def size_of(file: Path) -> int:
    """How many bytes a file has; none where it is not there."""
    return file.stat().st_size if file.is_file() else 0


def check_tensors(target: Path, wanted: Mapping[str, Digest], notify: Notify) -> list[Checked]:
    """Check the tensors of a checkpoint, whatever its containers and shards; buffers of frequencies may be missing."""
    checkpoint = open_checkpoint(target, "PATH")
    have = checkpoint.tensors
    digests = tensor_digests({name: have[name] for name in wanted if name in have}, notify)
    found = []
    for name, digest in wanted.items():
        if name in have:
            found.append(Checked(name, "ok" if digests[name] == digest else "FAILED", digest, digests[name]))
        elif not llama.is_inv_freq(name):
            found.append(Checked(name, "missing", digest))
    extra = [name for name in have if name not in wanted and not llama.is_inv_freq(name)]
    read = f"not read: {next(iter(checkpoint.files))} is, as transformers chooses"
    return [
        *found,
        *(Checked(name, "extra") for name in extra),
        *(Checked(name, "extra", hint=read) for name in unread(checkpoint)),
    ]


def of_one_file(target: Path, wanted: dict[str, list[Entry]], origins: list[str], *, by_digest: bool) -> list[Entry]:
    """The entries that a single file is checked against: those of its name; in a release, else those of its digest.

    Raises:
        PlanError: There are none.
    """
    here = "/" + target.resolve().as_posix().lstrip("/")
    found = {name: entries for name, entries in wanted.items() if "/" in name and here.endswith(f"/{name}")}
    found = found or {name: entries for name, entries in wanted.items() if name.rpartition("/")[2] == target.name}
    if len(found) > 1:
        raise PlanError(f"{target.name} is in the list as {' and as '.join(sorted(found))}; check the folder instead")
    if not found and by_digest:
        digests = hash_file(target, {entry.digest.algorithm for entries in wanted.values() for entry in entries}).values()
        found = {
            name: same for name, entries in wanted.items() if (same := [entry for entry in entries if entry.digest in digests])
        }
    if not found:
        raise PlanError(f"{target.name} is in none of the lists ({', '.join(origins)})")
    return [entry for entries in found.values() for entry in entries]


def check(folder: Path, name: str, wanted: Sequence[Entry], notify: Notify) -> list[Checked]:
    """Check one file, in one pass whatever the number of its digests; none where it is plainly another file."""
    file = folder / name
    if not file.is_file():
        return [Checked(name, "missing", entry.digest) for entry in wanted]
    try:
        size = file.stat().st_size
        if size > SMALL and (problem := at_a_glance(file, size, wanted)):
            notify(BytesWritten(name, size))
            return [Checked(name, "FAILED", entry.digest, None, problem) for entry in wanted]
        hasher = Hasher((entry.digest.algorithm for entry in wanted), size)
        buffer = memoryview(bytearray(CHUNK))
        head = b""
        with file.open("rb", buffering=0) as stream:
            while got := stream.readinto(buffer):
                head = head or bytes(buffer[:64])[:got]
                hasher.update(buffer[:got])
                notify(BytesWritten(name, got))
    except OSError as error:
        raise FormatError(file, f"cannot be read: {error.strerror}") from error
    actual = hasher.digests()
    return [
        Checked(name, "ok", entry.digest, actual[entry.digest.algorithm])
        if actual[entry.digest.algorithm] == entry.digest
        else Checked(name, "FAILED", entry.digest, actual[entry.digest.algorithm], hint(file, head, wanted))
        for entry in wanted
    ]


def extras(folder: Path, listed: set[str], lists: Sequence[Path]) -> list[Checked]:
    """Files in the folder that no list names, the lists themselves and hidden files left aside."""
    aside = {one.resolve() for one in lists}
    found = []
    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(root) / name
            relative = file.relative_to(folder).as_posix()
            if (
                relative not in listed
                and not name.startswith(".")
                and not name.endswith(LIST_ENDINGS)
                and file.resolve() not in aside
            ):
                found.append(Checked(relative, "extra"))
    return found
