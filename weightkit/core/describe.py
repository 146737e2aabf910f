"""What tells a value from others: a digest of frozen dataclasses, whatever they nest, that is the same in every process.

An object's bytes are described by their version, not by their name, so that an input may move between two runs. Fields that
do not count for equality do not count here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["fingerprint"]


def fingerprint(*values: Any) -> str:
    """A digest, in hexadecimal, of plain values, sequences, mappings and frozen dataclasses of such.

    Raises:
        TypeError: One is something else, of which nothing is known that would tell it from others.
    """
    digest = hashlib.sha256()
    known: dict[int, str] = {}
    for value in values:
        for part in described(value, known):
            digest.update(part.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def described(value: Any, known: dict[int, str]) -> Iterator[str]:
    """A value in words, unambiguous."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        yield f"{value!r};"
    elif isinstance(value, Mapping):
        yield "{"
        for key, one in value.items():
            yield from described(key, known)
            yield from described(one, known)
        yield "}"
    elif isinstance(value, tuple | list):
        yield "("
        for one in value:
            yield from described(one, known)
        yield ")"
    elif hasattr(value, "version") and hasattr(value, "stated"):
        if id(value) not in known:
            known[id(value)] = value.version
        yield f"<{known[id(value)]}>"
    elif is_dataclass(value) and not isinstance(value, type):
        yield f"{type(value).__module__}.{type(value).__qualname__}["
        for one in fields(value):
            if one.compare:
                yield from described(getattr(value, one.name), known)
        yield "]"
    else:
        raise TypeError(f"{type(value).__name__} has no fingerprint")
