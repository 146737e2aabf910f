"""What a torch checkpoint's pickle holds once it has been read: dicts, and tensors as views of storages that lie elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from weightkit.core.dtypes import DType
from weightkit.core.errors import FormatError
from weightkit.core.spec import TensorSpec

__all__ = ["Beside", "PickledDict", "StorageRef", "TensorRef", "named_tensors"]

MAX_DEPTH = 64
MAX_VALUES = 1_000_000

MAX_TEXT = 40
MAX_BITS = 128
"""Of a value that is shown."""


class PickledDict(dict[Any, Any]):
    """A dict or OrderedDict as a pickle built it.

    Attributes:
        kind: ``dict`` or ``OrderedDict``.
        attributes: What BUILD set on it, as ``{"_metadata": ...}``.
    """

    def __init__(self, kind: str = "dict") -> None:
        super().__init__()
        self.kind = kind
        self.attributes: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage that a pickle names: ``nbytes`` bytes under ``key``, elsewhere in the file.

    Files of before 1.6 may name a part of one, a view: bytes ``[start, stop)`` of it.
    """

    key: str
    dtype: DType | None  # None: untyped, counted in bytes
    location: str
    nbytes: int
    view: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """A view of a storage. Offset and strides count elements; ``lazy`` says what torch still has to do to the values."""

    storage: StorageRef
    spec: TensorSpec
    offset: int
    strides: tuple[int, ...]
    lazy: tuple[str, ...] = ()

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie row-major and without gaps."""
        wanted = self.spec.strides()
        return self.spec.numel == 0 or all(
            stride == step or size == 1 for size, stride, step in zip(self.spec.shape, self.strides, wanted, strict=True)
        )

    @property
    def whole(self) -> bool:
        """Whether the tensor is its storage: contiguous, from the first byte to the last."""
        return self.contiguous and self.offset == 0 and self.spec.nbytes == self.storage.nbytes


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies beside the tensors under one key: a number, a text, a dict without a tensor in it.

    Attributes:
        text: The value for people, short and printable.
        count: How many values it has in it.
    """

    text: str
    count: int

    def __str__(self) -> str:
        return self.text


def named_tensors(value: Any, file_name: str, beside: dict[str, Beside] | None = None) -> dict[str, TensorRef]:
    """The tensors in what a pickle built, by name, in its order.

    Names of nested dicts and lists are joined by dots; a bare tensor has the empty name. Equal names are one object, as equal
    specs are: what is computed from several files pickles each once.

    Args:
        value: What was built.
        file_name: For messages.
        beside: Takes all else, the largest parts without a tensor in them, under their names.
    """
    found: dict[str, TensorRef] = {}
    visited = 0

    def visit(name: str, one: Any, depth: int) -> int | None:
        """How many values there are in a part without tensors; None where it has some."""
        nonlocal visited
        visited += 1
        if visited > MAX_VALUES:
            raise FormatError(file_name, f"its pickle holds more than {MAX_VALUES} values, which no checkpoint needs")
        if depth > MAX_DEPTH:
            raise FormatError(file_name, f"its pickle is nested more than {MAX_DEPTH} deep")
        if isinstance(one, TensorRef):
            if name in found:
                raise FormatError(file_name, f"two tensors have the name {name!r}")
            found[sys.intern(name)] = one
            return None
        if not isinstance(one, dict | list | tuple):
            return 1
        plain: list[tuple[str, Any, int]] = []
        tensors = False
        for key, inner in one.items() if isinstance(one, dict) else enumerate(one):
            own = f"{name}.{key}" if name else str(key)
            count = visit(own, inner, depth + 1)
            if count is None:
                tensors = True
            else:
                plain.append((own, inner, count))
        if not tensors and depth:
            return sum(count for *_, count in plain) or 1
        for own, inner, count in plain if beside is not None else ():
            beside[own] = Beside(in_short(inner, count), count)  # type: ignore[index]
        return None

    if visit("", value, 0) is not None and beside is not None:
        beside[""] = Beside(in_short(value, 1), 1)
    return found


def in_short(value: Any, count: int) -> str:
    """A value that is no tensor, in a few words that print."""
    if isinstance(value, dict | list | tuple):
        kind = "a dict" if isinstance(value, dict) else f"a {type(value).__name__}"
        return f"{kind} of {count} values" if value else f"an empty {kind[2:]}"
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, StorageRef):
        return f"a bare storage of {value.nbytes} bytes"
    if not isinstance(value, str | bytes | int | float | None):
        return f"a {type(value).__name__.lower()}"
    text = ascii(value[:MAX_TEXT] if isinstance(value, str | bytes) else value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
