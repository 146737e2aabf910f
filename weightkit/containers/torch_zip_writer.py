"""Writes torch checkpoints in the zip format, byte for byte as ``torch.save`` of a given version does.

Every byte follows from the layout, the names and the profile; nothing is sought back to: CRCs and sizes come after the
data they belong to. Profiles 1.6 and legacy put memory addresses into the file and so cannot be written.

Source: torch-golden, sections 2 to 4, measured on torch 1.9 to 2.15 (files above 4 GiB included).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from isal.isal_zlib import crc32

from weightkit.containers.layout import Layout
from weightkit.containers.pickle_writer import Metadata, encode_state_dict
from weightkit.containers.serialization_id import combine, hash_names
from weightkit.core.buffers import Buffer

__all__ = ["PROFILES", "TorchZip", "profile_for_version", "root_for"]

LIMIT = 0xFFFFFFFF
ALIGNMENT = 64
DESCRIPTOR = b"PK\x07\x08"

PROFILES: dict[str, tuple[int, int]] = {"zip-1.9": (1, 9), "zip-1.13": (1, 13), "zip-2.1": (2, 1), "zip-2.7": (2, 7)}
"""Profile -> the first torch release that writes it; each holds until the next."""


def profile_for_version(version: str) -> str:
    """The profile that a torch version writes: ``"2.0.1"`` -> ``zip-1.13``.

    Raises:
        ValueError: The text is no version, or that version's files hold memory addresses.
    """
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:[.+][\w.+]*)?", version.removeprefix("zip-"))
    if not match:
        raise ValueError(f"{version!r} is no torch version; write 1.13 or 2.0.1")
    wanted = int(match[1]), int(match[2])
    fitting = [profile for profile, first in PROFILES.items() if first <= wanted]
    if not fitting:
        raise ValueError(
            f"torch {version} puts memory addresses into its files, so no two runs agree; the first version whose files can "
            "be written is 1.9"
        )
    return fitting[-1]


def root_for(filename: str, profile: str) -> str:
    """Name of the folder in the zip when ``torch.save`` is given a path ending in ``filename``.

    Raises:
        ValueError: torch refuses to save under this name.
    """
    if PROFILES[profile] < (1, 13):
        return "archive"
    if PROFILES[profile] >= (2, 1) and not filename.isascii():
        return "archive"
    name = re.split(r"[/\\]", filename)[-1]
    root = name[: name.rindex(".")] if "." in name else name
    if not root:
        raise ValueError(f"torch saves no file named {filename!r}")
    return root


@dataclass(slots=True)
class Written:
    """A record as the central directory describes it."""

    name: bytes
    crc32: int
    nbytes: int
    start: int

    @property
    def big(self) -> bool:
        return self.nbytes >= LIMIT

    @property
    def far(self) -> bool:
        return self.start >= LIMIT

    def zip64(self, packed: int) -> bytes:
        """The zip64 extra field, if the record needs one; ``packed`` is what stands for the compressed size."""
        data = (struct.pack("<QQ", self.nbytes, packed) if self.big else b"") + (
            struct.pack("<Q", self.start) if self.far else b""
        )
        return struct.pack("<HH", 1, len(data)) + data if data else b""

    def local_header(self, alignment: int) -> bytes:
        """Header, name and extra field, so long that the payload starts at a multiple of ``alignment``."""
        wide = self.zip64(0)
        fixed = self.start + 30 + len(self.name) + 4 + len(wide)
        fill = -fixed % alignment
        extra = wide + b"FB" + struct.pack("<H", fill) + b"Z" * fill
        flags = 0x0808 if self.nbytes else 0x0800
        head = struct.pack("<4s5H3L2H", b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(self.name), len(extra))
        return head + self.name + extra

    def descriptor(self) -> bytes:
        """What follows the payload; nothing after an empty one."""
        if not self.nbytes:
            return b""
        sizes = "<4sLQQ" if self.big or self.far else "<4sLLL"
        return struct.pack(sizes, DESCRIPTOR, self.crc32, self.nbytes, self.nbytes)

    def directory_entry(self) -> bytes:
        extra = self.zip64(self.nbytes)
        flags = 0x0808 if self.nbytes else 0x0800
        nbytes = min(self.nbytes, LIMIT)
        head = struct.pack("<4s6H3L", b"PK\1\2", 0, 0, flags, 0, 0, 0, self.crc32, nbytes, nbytes)
        tail = struct.pack("<5H2L", len(self.name), len(extra), 0, 0, 0, 0, min(self.start, LIMIT))
        return head + tail + self.name + extra


class Archive:
    """The zip file so far: position, directory, and the running hash of CRCs."""

    def __init__(self, root: str, alignment: int) -> None:
        self.root, self.alignment = root, alignment
        self.position = 0
        self.records: list[Written] = []
        self.names: list[str] = []
        self.crc_hash = 0

    def record(self, name: str, nbytes: int, payload: Iterable[Buffer]) -> Iterator[Buffer]:
        """One record; ``payload`` has ``nbytes`` bytes in all."""
        one = Written(f"{self.root}/{name}".encode(), 0, nbytes, self.position)
        header = one.local_header(self.alignment)
        yield header
        crc, first = 0, b""
        for chunk in payload:
            if len(first) < 8:
                first += bytes(chunk[:8])
            crc = crc32(chunk, crc)
            yield chunk
        one.crc32 = crc
        if nbytes:
            if len(first) >= 8 and first.startswith(DESCRIPTOR):  # torch takes such a payload for a descriptor, too
                self.crc_hash = combine(self.crc_hash, int.from_bytes(first[4:8], "little"))
            self.crc_hash = combine(self.crc_hash, crc)
        descriptor = one.descriptor()
        if descriptor:
            yield descriptor
        self.position += len(header) + nbytes + len(descriptor)
        self.records.append(one)
        self.names.append(name)

    def text(self, name: str, content: bytes) -> Iterator[Buffer]:
        return self.record(name, len(content), [content])

    def serialization_id(self) -> bytes:
        return f"{hash_names(self.names):020d}{self.crc_hash:020d}".encode()

    def end(self) -> bytes:
        """Central directory and end records; the zip64 ones are always there."""
        directory = b"".join(one.directory_entry() for one in self.records)
        count, length, start = len(self.records), len(directory), self.position
        few = min(count, 0xFFFF)
        return (
            directory
            + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0x031E, 0x002D, 0, 0, count, count, length, start)
            + struct.pack("<4sLQL", b"PK\6\7", 0, start + length, 1)
            + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, few, few, min(length, LIMIT), min(start, LIMIT), 0)
        )


@dataclass(frozen=True, slots=True)
class TorchZip:
    """Encodes as ``torch.save`` does.

    Attributes:
        profile: A key of ``PROFILES``.
        root: Name of the folder in the zip.
        kind: What was saved: a ``dict`` or an ``OrderedDict``.
        metadata: The ``_metadata`` of an OrderedDict that ``Module.state_dict`` made.
        location: Where the tensors were: ``cpu``, ``cuda:0``.
    """

    profile: str
    root: str
    kind: str = "dict"
    metadata: Metadata | None = None
    location: str = "cpu"

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"profile {self.profile} cannot be written; known: {', '.join(PROFILES)}")

    @property
    def written_by(self) -> str:
        """The first release of torch that writes so."""
        return f"torch {self.profile.removeprefix('zip-')}"

    def order(self, layout: Layout) -> Sequence[int]:
        """Records sorted by the text of their keys (0, 1, 10, 11, 2); in the order of the keys from 2.7 on."""
        runs = range(len(layout.runs))
        return runs if self.profile == "zip-2.7" else sorted(runs, key=str)

    def encode(self, layout: Layout, payloads: Iterable[Iterable[Buffer]]) -> Iterator[Buffer]:
        """The file from front to back."""
        archive = Archive(self.root, ALIGNMENT)
        yield from archive.text("data.pkl", encode_state_dict(layout, self.kind, self.metadata, self.location))
        if self.profile == "zip-2.7":
            yield from archive.text(".format_version", b"1")
            yield from archive.text(".storage_alignment", str(ALIGNMENT).encode())
        if self.profile in ("zip-2.1", "zip-2.7"):
            yield from archive.text("byteorder", b"little")
        for run, payload in zip(self.order(layout), payloads, strict=True):
            yield from archive.record(f"data/{run}", layout.runs[run].spec.nbytes, payload)
        yield from archive.text("version", b"3\n")
        if self.profile in ("zip-2.1", "zip-2.7"):
            yield from archive.text(".data/serialization_id", archive.serialization_id())
        yield archive.end()

    def nbytes(self, layout: Layout) -> int:
        """Exact size of the file, from the very encoder, run without the payloads."""
        skipped = sum(run.spec.nbytes for run in layout.runs)
        nothing: list[list[Buffer]] = [[] for _ in layout.runs]
        return skipped + sum(len(chunk) for chunk in self.encode(layout, nothing))
