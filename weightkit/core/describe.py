"""What tells a value from others: a digest of frozen dataclasses, whatever they nest, that is the same in every process.

An object's bytes are described by their version, not by their name, so that an input may move between two runs. Fields that
do not count for equality do not count here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from weightkit.core.dtypes import DType

__all__ = ["fingerprint"]


def fingerprint(*values: Any) -> str:
    """A digest, in hexadecimal, of plain values, sequences, mappings and frozen dataclasses of such.

    Raises:
        TypeError: One is something else, of which nothing is known that would tell it from others.
    """
    digest, words = hashlib.sha256(), Words()
    for value in values:
        for part in words.pieces(value):
            digest.update(part.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class Words:
    """Values in words, unambiguous. What many values hold, objects and dtypes, is put into words once."""

    def __init__(self) -> None:
        self.known: dict[int, str] = {}
        self.shapes: dict[type, tuple[str, tuple[str, ...]]] = {}

    def pieces(self, value: Any) -> Iterator[str]:
        """A value, in several pieces where it holds sequences: a hundred thousand tensors are never one text."""
        if isinstance(value, tuple | list):
            yield "("
            yield from map(self.of, value)
            yield ")"
        elif is_dataclass(value) and (shape := self.shape(type(value)))[0] != OBJECT:
            yield f"{shape[0]}["
            for name in shape[1]:
                yield from self.pieces(getattr(value, name))
            yield "]"
        else:
            yield self.of(value)

    def shape(self, kind: type) -> tuple[str, tuple[str, ...]]:
        """What ``shape_of`` says, once for each type."""
        if kind not in self.shapes:
            self.shapes[kind] = shape_of(kind)
        return self.shapes[kind]

    def of(self, value: Any) -> str:
        """A value."""
        if value is None or isinstance(value, bool | int | float | str):
            return f"{value!r};"
        if isinstance(value, bytes):  # an index may have megabytes
            return f"bytes {hashlib.sha256(value).hexdigest()};"
        if isinstance(value, tuple | list):
            return f"({''.join(map(self.of, value))})"
        if isinstance(value, Mapping):
            return f"{{{''.join(self.of(key) + self.of(one) for key, one in value.items())}}}"
        if id(value) in self.known:
            return self.known[id(value)]
        kind = type(value)
        head, names = self.shape(kind)
        text = f"{head}[{''.join([self.of(getattr(value, name)) for name in names])}]"
        if head == OBJECT or kind is DType:
            self.known[id(value)] = text
        return text


OBJECT = "object"
"""What stands for every kind of ``Blob``: its version is all that counts."""


def shape_of(kind: type) -> tuple[str, tuple[str, ...]]:
    """How values of a type begin, and the names of what counts in them."""
    counted = tuple(one.name for one in fields(kind) if one.compare) if is_dataclass(kind) else ()
    if all(name in counted or hasattr(kind, name) for name in ("version", "stated")):
        return OBJECT, ("version",)
    if is_dataclass(kind):
        return f"{kind.__module__}.{kind.__qualname__}", counted
    raise TypeError(f"{kind.__name__} has no fingerprint")
