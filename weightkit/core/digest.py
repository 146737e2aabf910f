"""Digests: a value that cannot be wrong, and a hasher that takes several in one pass."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from weightkit.core.buffers import Buffer
from weightkit.core.errors import WeightkitError
from weightkit.core.installed import adding_extra

__all__ = ["ALGORITHMS", "Digest", "Hasher", "hash_file"]

ALGORITHMS: dict[str, int] = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128, "blake2b": 128, "blake3": 64, "gitsha1": 40}
"""Algorithms known, with the length of their digests in hexadecimal digits. ``gitsha1`` is git's of a blob: SHA-1 of
``blob``, the size and a NUL before the content."""

CHUNK = 1 << 20

OF_NOTHING = frozenset(
    [
        *(hashlib.new(name, usedforsecurity=False).hexdigest() for name in ("md5", "sha1", "sha256", "sha512", "blake2b")),
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",  # blake3
        "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",  # gitsha1
    ]
)
"""Digests of an empty file: what a script prints that hashed nothing."""


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest in lower-case hexadecimal.

    Raises:
        ValueError: It has not the length of its algorithm or is a placeholder (one digit repeated).
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        length = ALGORITHMS.get(self.algorithm)
        if length is None:
            raise ValueError(f"{self.algorithm!r} is no digest algorithm; known: {', '.join(ALGORITHMS)}")
        if not re.fullmatch(f"[0-9a-f]{{{length}}}", self.hex):
            raise ValueError(f"{self.hex!r} is no {self.algorithm} digest of {length} hexadecimal digits")
        if len(set(self.hex)) == 1:
            raise ValueError(f"{self.hex[:8]}... is a placeholder, not a digest")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @property
    def of_nothing(self) -> bool:
        """Whether this is the digest of an empty file: what a script prints that hashed nothing."""
        return self.hex in OF_NOTHING


def new_hash(algorithm: str, nbytes: int | None) -> Any:
    """A hash to be updated. ``gitsha1`` must know beforehand how many bytes there will be.

    Raises:
        WeightkitError: It is BLAKE3, which is an extra, and not installed.
    """
    if algorithm == "gitsha1":
        if nbytes is None:
            raise ValueError("gitsha1 must know the size beforehand")
        return hashlib.sha1(b"blob %d\0" % nbytes, usedforsecurity=False)
    if algorithm != "blake3":
        return hashlib.new(algorithm, usedforsecurity=False)
    try:
        return import_module("blake3").blake3()
    except ImportError as error:
        raise WeightkitError(f"BLAKE3 digests need the package blake3: {adding_extra('blake3')}") from error


class Hasher:
    """Several digests of one stream, in one pass over it."""

    def __init__(self, algorithms: Iterable[str], nbytes: int | None = None) -> None:
        self.hashes = {name: new_hash(name, nbytes) for name in sorted(set(algorithms))}
        self.nbytes = 0

    def update(self, data: Buffer) -> None:
        """Take in more of the stream."""
        for one in self.hashes.values():
            one.update(data)
        self.nbytes += len(data)

    def digests(self) -> dict[str, Digest]:
        """The digests so far, by algorithm."""
        return {name: Digest(name, one.hexdigest()) for name, one in self.hashes.items()}


def hash_file(path: Path, algorithms: Iterable[str]) -> dict[str, Digest]:
    """Digests of a whole file, by algorithm, in one pass and with one small buffer."""
    hasher = Hasher(algorithms, path.stat().st_size)
    buffer = memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            hasher.update(buffer[:got])
    return hasher.digests()
