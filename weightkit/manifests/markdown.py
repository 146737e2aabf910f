r"""Digests in prose: README tables and model cards.

    | pytorch_model.bin | 9f86d081... |        a row of a table, its cells in any order, code marks and links around them
    9f86d081...  ./config.json                 a line of md5sum or sha256sum between other lines, indented or not

Seen on the real ones, and read: NUL bytes before a digest, ``./`` before some names and not before others, Windows line ends
(BELLE's cards); digests of several algorithms in one row; cells like ``TBA`` where there is none.
"""

from __future__ import annotations

import re
from pathlib import Path

from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError
from weightkit.manifests.sums import BY_LENGTH, Entry, inside, parse_line

__all__ = ["looks_like", "parse"]

DIGITS = re.compile(r"(?<![0-9A-Za-z])(" + "|".join(f"[0-9A-Fa-f]{{{n}}}" for n in BY_LENGTH) + r")(?![0-9A-Za-z])")
NAME = re.compile(r"[\w./ +()-]*\w\.[A-Za-z][\w.-]*")
HEX = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{16,}(?![0-9A-Za-z])")
"""What somebody meant for a digest, of whatever length; sizes and short names of commits have fewer digits."""

MEANT = re.compile(HEX.pattern + r"[ \t]+\*?(" + NAME.pattern + r")")
MARKS = re.compile(r"`|\*\*|<[^>]*>")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def looks_like(path: Path, text: str) -> bool:
    """Whether a text is prose with digests rather than a list of them."""
    return path.suffix.lower() in (".md", ".markdown", ".html") or bool(re.search(r"^\s*\|.*\|\s*\r?$", text, re.MULTILINE))


def parse(text: str, origin: Path) -> list[Entry]:
    """The digests in a text, each with the file that its row or line names.

    Raises:
        FormatError: There are none, or one file has two different ones.
    """
    found: dict[tuple[str, str], Entry] = {}
    for number, raw in enumerate(text.replace("\0", "").splitlines(), 1):
        try:
            read = row(raw) if "|" in raw else line(raw)
        except ValueError as error:
            raise FormatError(
                origin, f"line {number}: {error}; mend the line, or copy those that are whole into a file"
            ) from error
        for entry in read:
            known = found.setdefault((entry.path, entry.digest.algorithm), entry)
            if known != entry:
                raise FormatError(
                    origin,
                    f"line {number}: {entry.path} has another digest further up; the text lists several releases: copy the "
                    "rows of one into a file",
                )
    if not found:
        raise FormatError(origin, "holds no digest beside a file's name")
    return list(found.values())


def row(raw: str) -> list[Entry]:
    """The digests of a table's row: of the one file that it names.

    Raises:
        ValueError: It names several, or what stands beside the name has not the digits of a digest.
    """
    cells = [MARKS.sub("", LINK.sub(r"\1", cell)).strip() for cell in raw.strip().strip("|").split("|")]
    digests = [match[1] for cell in cells for match in DIGITS.finditer(cell)]
    names = list(dict.fromkeys(cell for cell in cells if NAME.fullmatch(cell) and not DIGITS.fullmatch(cell)))
    odd = [match[0] for cell in cells for match in HEX.finditer(cell) if len(match[0]) not in BY_LENGTH]
    if odd and names:
        raise ValueError(wrong_length(odd[0], names[0]))
    if digests and len(names) > 1:
        raise ValueError(f"a digest stands beside several names, {names[0]} and {names[1]}: of which it is, is not told")
    return entries(names[0], digests) if names else []


def line(raw: str) -> list[Entry]:
    """The digest of a line, if it is one as md5sum writes it.

    Raises:
        ValueError: It would be one, but for the number of digits.
    """
    text = raw.strip().strip("`")
    try:
        return [parse_line(text)]
    except ValueError:
        digits = HEX.match(text)
        if digits and len(digits[0]) not in BY_LENGTH and (meant := MEANT.fullmatch(text)):
            raise ValueError(wrong_length(digits[0], meant[1])) from None
        return []


def wrong_length(digits: str, name: str) -> str:
    """What is said of digits that are no digest."""
    return f"{digits[:16]}... beside {name} has {len(digits)} digits, which no digest has"


def entries(name: str, digests: list[str]) -> list[Entry]:
    """A file with its digests; without placeholders and the digest of nothing, which prove nothing."""
    found = []
    for digits in digests:
        try:
            digest = Digest(BY_LENGTH[len(digits)], digits.lower())
            if not digest.of_nothing:
                found.append(Entry(inside(name), digest))
        except ValueError:
            continue
    return found
