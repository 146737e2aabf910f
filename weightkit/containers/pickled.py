"""What a torch checkpoint's pickle holds once it has been read: dicts, and tensors as views of storages that lie elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from weightkit.core.dtypes import DType
from weightkit.core.errors import FormatError
from weightkit.core.spec import TensorSpec

__all__ = ["PickledDict", "StorageRef", "TensorRef", "named_tensors"]

MAX_DEPTH = 64
MAX_VALUES = 1_000_000


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


def named_tensors(value: Any, file_name: str) -> dict[str, TensorRef]:
    """The tensors in what a pickle built, by name, in its order.

    Names of nested dicts and lists are joined by dots; a bare tensor has the empty name. Other values are passed over. Equal
    names are one object, as equal specs are: what is computed from several files pickles each once.
    """
    found: dict[str, TensorRef] = {}
    visited = 0

    def visit(name: str, one: Any, depth: int) -> None:
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
        elif isinstance(one, dict | list | tuple):
            for key, inner in one.items() if isinstance(one, dict) else enumerate(one):
                visit(f"{name}.{key}" if name else str(key), inner, depth + 1)

    visit("", value, 0)
    return found
