"""A zip archive as a folder, read where it lies: adapters came so from a drive. Nothing is unpacked, nothing is trusted.

    X.zip                                     what the folder has
      chinese_alpaca_lora_7b/                 (the one folder of all files is left out of their names)
        adapter_config.json                   adapter_config.json
        adapter_model.bin                     adapter_model.bin
      __MACOSX/chinese_alpaca_lora_7b/._...   (hidden)

The directory is held against bounds before anything of it is believed: its size, the number of members, their sizes, how much
they shrank, where they lie. A name that leads out, a second member of one name, a link, a member that is encrypted or packed
otherwise than stored or deflated is refused. ``members.py`` reads one member's bytes.

A file of torch is a zip archive, too, and is left to whom it belongs.

Source: PKWARE APPNOTE 6.3.10; the directory is read by Python's ``zipfile``.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from weightkit.blobs.local import LocalFolder, open_local
from weightkit.blobs.members import DEFLATED, STORED, ZipBlob
from weightkit.core.blob import Blob, Folder
from weightkit.core.errors import FormatError

__all__ = ["ZipFolder", "open_zip", "zip_at"]

SUFFIX = ".zip"
MOST_MEMBERS = 10_000
MOST_DIRECTORY_NBYTES = 2 << 20
"""Of the directory, which is read whole."""

SMALL_NBYTES = 16 << 20
MOST_TIMES = 100
"""How many times its packed size a member may be that is larger than the above: weights shrink by a third."""

LOCAL = struct.Struct("<4s5H3L2H")
ENCRYPTED = 0x1 | 0x40
UTF8 = 0x800
DRIVE = re.compile(r"[A-Za-z]:")
OF_TORCH = re.compile(r"[^/]+/data\.pkl")


@dataclass(frozen=True, slots=True)
class ZipFolder:
    """The files of an archive.

    Attributes:
        archive: The file.
        members: Name -> where its bytes lie.
    """

    archive: Blob
    members: Mapping[str, ZipBlob] = field(hash=False)

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.members)} files>"

    @property
    def name(self) -> str:
        """The archive's."""
        return self.archive.name

    @property
    def single(self) -> bool:
        """Never: it is a folder, whatever the number of its files."""
        return False

    def names(self) -> Sequence[str]:
        """Its files, sorted, hidden ones and what a Mac puts beside them left out."""
        return sorted(self.members)

    def holds(self, name: str) -> bool:
        """Whether a file or a folder of this name is there."""
        return name in self.members or any(one.startswith(f"{name}/") for one in self.members)

    def blob(self, name: str) -> ZipBlob:
        """A file.

        Raises:
            FormatError: It is not there.
        """
        found = self.members.get(name)
        if found is None:
            raise FormatError(f"{self.name}/{name}", "is not in the archive")
        return found

    def above(self) -> Folder | None:
        """The folder that the archive lies in."""
        return LocalFolder(Path(self.archive.name).resolve().parent)


def zip_at(path: Path) -> ZipFolder | None:
    """The archive at a path; None where it is none: not called ``.zip``, no regular file, or a file of torch's.

    Raises:
        FormatError: It is called so and cannot be read as one.
    """
    if path.suffix.lower() != SUFFIX or not path.is_file():
        return None
    return open_zip(open_local(path))


def open_zip(archive: Blob) -> ZipFolder | None:
    """An archive as a folder; None where it is a file of torch's.

    Raises:
        FormatError: It is no sound archive, or one of a kind that is not read.
    """
    entries = directory(archive)
    if any(OF_TORCH.fullmatch(one.filename) for one in entries):
        return None
    members: dict[str, ZipBlob] = {}
    end = 0
    for entry in sorted(entries, key=lambda one: one.header_offset):
        name = plain_name(archive.name, entry)
        start = payload_start(archive, entry)
        if entry.header_offset < end:
            raise FormatError(archive.name, f"{name!r} overlaps another member; no sound archive does", entry.header_offset)
        end = start + entry.compress_size
        if entry.is_dir() or hidden(name):
            continue
        refuse_odd(archive.name, name, entry)
        if name in members:
            raise FormatError(archive.name, f"holds two members called {name!r}", entry.header_offset)
        packed = entry.compress_type == zipfile.ZIP_DEFLATED
        method = DEFLATED if packed else STORED
        members[name] = ZipBlob(archive, name, entry.file_size, method, start, entry.compress_size, entry.CRC)
    if not members:
        raise FormatError(archive.name, "is a zip archive without files")
    root = root_of(archive.name, sorted(members))
    return ZipFolder(archive, {name.removeprefix(root): one for name, one in members.items() if name.startswith(root)})


def directory(archive: Blob) -> list[zipfile.ZipInfo]:
    """The entries of an archive's directory, within the bounds.

    Raises:
        FormatError: There is none, it is damaged, or larger than any that is read.
    """
    try:
        with zipfile.ZipFile(Bounded(archive)) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, IndexError, struct.error, OSError) as error:
        raise FormatError(
            archive.name, f"cannot be read as a zip archive: {error}; if it was downloaded, download it again"
        ) from error
    if len(entries) > MOST_MEMBERS:
        raise FormatError(archive.name, f"holds {len(entries)} members; at most {MOST_MEMBERS} are read")
    return entries


class Bounded(io.RawIOBase):
    """An archive as a file of which nobody takes more at once than a directory may have."""

    def __init__(self, archive: Blob) -> None:
        self.archive = archive
        self.at: int = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self.at = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.archive.nbytes}[whence] + offset
        if self.at < 0:
            raise OSError("its directory does not lie in the file")
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, nbytes: int = -1, /) -> bytes:
        stop = self.archive.nbytes if nbytes < 0 else min(self.archive.nbytes, self.at + nbytes)
        if stop - self.at > MOST_DIRECTORY_NBYTES:
            raise ValueError(f"its directory has more than {MOST_DIRECTORY_NBYTES} bytes")
        found = bytes(self.archive.read(self.at, max(self.at, stop)))
        self.at += len(found)
        return found


def plain_name(archive: str, entry: zipfile.ZipInfo) -> str:
    """A member's name, with ``/`` between its parts, as a name below a folder.

    Raises:
        FormatError: It leads elsewhere, or is none.
    """
    name = entry.orig_filename.replace("\\", "/")
    parts = name.rstrip("/").split("/")
    if DRIVE.match(name) or not name.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise FormatError(
            archive, f"the name {name[:80]!a} of a member leads out of the archive or is none: it is not to be trusted"
        )
    return name.rstrip("/")


def payload_start(archive: Blob, entry: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its own header, which must say what the directory says.

    Raises:
        FormatError: It does not, or the bytes do not lie in the file.
    """
    where = f"{entry.orig_filename[:80]!a}"
    stop = entry.header_offset + LOCAL.size
    if entry.header_offset < 0 or stop > archive.nbytes:
        raise FormatError(archive.name, f"{where} does not lie in the archive: it is cut short or damaged")
    signature, *_, name_nbytes, extra_nbytes = LOCAL.unpack(bytes(archive.read(entry.header_offset, stop)))
    start = int(stop + name_nbytes + extra_nbytes)
    if signature != b"PK\3\4" or start + entry.compress_size > archive.nbytes:
        raise FormatError(archive.name, f"{where} has no sound header: the archive is damaged", entry.header_offset)
    own = bytes(archive.read(stop, stop + name_nbytes)).decode("utf-8" if entry.flag_bits & UTF8 else "cp437", "replace")
    if own != entry.orig_filename:
        raise FormatError(archive.name, f"{where} is called {own[:80]!a} in its own header", entry.header_offset)
    return start


def hidden(name: str) -> bool:
    """Whether a member is left out as a hidden file is, or is what a Mac puts beside each."""
    parts = PurePosixPath(name).parts
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)


def refuse_odd(archive: str, name: str, entry: zipfile.ZipInfo) -> None:
    """Refuse a member that is no plain file, or cannot be what it says.

    Raises:
        FormatError: It is.
    """
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise FormatError(archive, f"{name!r} is a link or no plain file; unpack the archive yourself, and look at it")
    if entry.flag_bits & ENCRYPTED:
        raise FormatError(archive, f"{name!r} is encrypted; unpack the archive with its password, and name the folder")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        how = f"is packed by method {entry.compress_type}"
        raise FormatError(archive, f"{name!r} {how}; only stored and deflated members are read: unpack it first")
    if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
        raise FormatError(archive, f"{name!r} is stored, and has {entry.compress_size} bytes where {entry.file_size} are said")
    if entry.file_size > max(SMALL_NBYTES, MOST_TIMES * entry.compress_size):
        raise FormatError(
            archive,
            f"{name!r} has {entry.compress_size} bytes and says that {entry.file_size} come out: no weights shrink so; it is "
            "not read",
        )


def root_of(archive: str, names: Sequence[str]) -> str:
    """The folder in an archive that the files are in, with ``/`` at its end: of all, or of the only ones with JSON beside.

    Raises:
        FormatError: Several folders have such files, and none is above the others.
    """
    folders = [name.rpartition("/")[0] for name in names]
    common = os.path.commonpath(folders) if all(folders) else ""
    told = sorted({folder for name, folder in zip(names, folders, strict=True) if name.endswith(".json")})
    if common in told or not told:
        root = common
    elif len(told) == 1 or all(one.startswith(f"{told[0]}/") for one in told[1:]):
        root = told[0]
    else:
        several = ", ".join(told[:4])
        raise FormatError(archive, f"holds several folders with files of a model: {several}; unpack it, and name one of them")
    return f"{root}/" if root else ""
