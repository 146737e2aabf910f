r"""Lists of digests as coreutils write and read them.

    9f86d081...  name              sha256sum, text mode        the algorithm follows from the number of digits
    9f86d081... *name              binary mode
    SHA256 (name) = 9f86d081...    --tag, and BSD's tools
    \9f86d081...  a\nb             a name with a line feed, a carriage return or a backslash in it, escaped
    # ...                          a comment

Source: coreutils 9.1, ``src/digest.c``: upper-case digits, one blank instead of two and Windows line ends are read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weightkit.core.digest import ALGORITHMS, Digest
from weightkit.core.errors import FormatError

__all__ = ["BY_LENGTH", "Entry", "encode", "escaped", "inside", "parse", "parse_line", "unescaped"]

LINE = re.compile(r"([0-9A-Fa-f]+)[ \t](?:[ *])?(.+)", re.DOTALL)
TAGGED = re.compile(r"(MD5|SHA1|SHA256|SHA512|BLAKE2b|BLAKE3) ?\((.+)\) ?= ?([0-9A-Fa-f]+)", re.DOTALL)
BY_LENGTH = {length: name for name, length in reversed(ALGORITHMS.items()) if name not in ("blake3", "gitsha1")}
NAMED = {"b2sum": "blake2b", "blake2": "blake2b", "b3sum": "blake3", "blake3": "blake3"}
"""In the name of a list -> the algorithm of digests that are as long as SHA-512's or SHA-256's."""
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
BACK = {written: plain for plain, written in ESCAPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file's digest. ``path`` is relative, with forward slashes, and stays inside the folder.

    Attributes:
        path: The file.
        digest: Its digest.
        nbytes: Its size, where that is known, too.
    """

    path: str
    digest: Digest
    nbytes: int | None = None


def parse(text: str, origin: Path) -> list[Entry]:
    """The entries of a list, in its order.

    Args:
        text: The list.
        origin: Where it was read, for messages.

    Raises:
        FormatError: A line is no entry, a path leaves the folder, a digest is a placeholder or that of an empty file, or
            a file has two different digests.
    """
    entries: dict[tuple[str, str], Entry] = {}
    by_length = {**BY_LENGTH, **{ALGORITHMS[name]: name for part, name in NAMED.items() if part in origin.name.lower()}}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip("\r").lstrip("\ufeff")
        if not line.strip() or line.startswith("#"):
            continue
        try:
            entry = parse_line(line, by_length)
        except ValueError as error:
            raise FormatError(origin, f"line {number}: {error}") from error
        known = entries.setdefault((entry.path, entry.digest.algorithm), entry)
        if known != entry:
            raise FormatError(origin, f"line {number}: {entry.path} has another digest further up")
    if not entries:
        raise FormatError(origin, "holds no digest; wanted lines as `sha256sum` or `md5sum` write them")
    return list(entries.values())


def parse_line(line: str, by_length: Mapping[int, str] = BY_LENGTH) -> Entry:
    """One line of a list; ``ValueError`` where it is none. ``by_length`` says which algorithm has digests of a length."""
    marked = line.startswith("\\")
    body = line[1:] if marked else line
    if match := TAGGED.fullmatch(body):
        algorithm, name, digits = match[1].lower(), match[2], match[3].lower()
    elif match := LINE.fullmatch(body):
        digits, name = match[1].lower(), match[2]
        if len(digits) not in by_length:
            raise ValueError(f"a digest of {len(digits)} digits is none of " + ", ".join(ALGORITHMS))
        algorithm = by_length[len(digits)]
    else:
        raise ValueError(f"{line[:60]!r} is no line of a list of digests")
    if marked:
        name = unescaped(name)
    digest = Digest(algorithm, digits)
    if digest.of_nothing:
        raise ValueError(f"the digest of {name} is that of an empty file: whoever made the list hashed nothing")
    return Entry(inside(name), digest)


def inside(name: str) -> str:
    """A path made plain; ``ValueError`` where it leaves the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in re.split(r"[\\/]", name) or not path.parts or re.match(r"[A-Za-z]:", name):
        raise ValueError(f"{name!r} is not inside the folder")
    return str(path)


def escaped(name: str) -> str:
    """A name on one line: a backslash, line feed or carriage return in it is written as two characters."""
    return re.sub(r"[\\\n\r]", lambda match: ESCAPES[match[0]], name)


def unescaped(text: str) -> str:
    """Undo ``escaped``."""
    return re.sub(r"\\[\\nr]", lambda match: BACK[match[0]], text)


def encode(entries: Iterable[Entry]) -> bytes:
    """A list as ``sha256sum`` writes it, sorted by path; all of one algorithm."""
    lines = []
    for entry in sorted(entries, key=lambda entry: entry.path):
        name = escaped(entry.path)
        lines.append(f"{chr(92) if name != entry.path else ''}{entry.digest.hex}  {name}\n")
    return "".join(lines).encode()
