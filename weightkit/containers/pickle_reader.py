"""Reads the pickles in torch checkpoints without running them.

A pickle is a program for a small stack machine. This is such a machine, but it can do nothing except build dicts, lists,
tuples, strings and numbers, and note down which tensors are described: it imports nothing and calls nothing. A global
outside ``GLOBALS``, or an opcode that a checkpoint does not need, is a ``FormatError`` that names it.

Source of the shapes of the calls: torch-golden (files of torch 1.6 to 2.15), sections 5 and 7.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn

from weightkit.containers.pickled import PickledDict, StorageRef, TensorRef
from weightkit.core.dtypes import BY_NAME, BY_STORAGE, DType
from weightkit.core.errors import FormatError
from weightkit.core.spec import TensorSpec

__all__ = ["read_pickle"]

REBUILDERS = {
    f"torch._utils {name}"
    for name in (
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
    )
} | {"torch._tensor _rebuild_from_type_v2"}
CLASSES = {"torch Tensor", "torch.nn.parameter Parameter", "torch Size", "torch.storage UntypedStorage"}
GLOBALS = (
    {"collections OrderedDict", "torch device"}
    | REBUILDERS
    | CLASSES
    | {f"torch {storage}" for storage in BY_STORAGE}
    | {f"torch {name}" for name in BY_NAME}
)
"""Every global a pickle may name. They are strings here; none is imported."""

MAX_STEPS = 4_000_000


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle mentions, as ``torch HalfStorage``; inert."""

    name: str


@dataclass(slots=True)
class Machine:
    """The stack machine; one run reads one pickle."""

    name: str
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    specs: dict[TensorSpec, TensorSpec] = field(default_factory=dict)

    def fail(self, problem: str) -> NoReturn:
        raise FormatError(self.name, f"its pickle {problem}")

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def run(self, opcodes: Iterator[tuple[Any, Any, Any]]) -> Any:
        for count, (opcode, argument, position) in enumerate(opcodes):
            if count > MAX_STEPS:
                self.fail(f"has more than {MAX_STEPS} steps, which no checkpoint needs")
            try:
                if opcode.name == "STOP":
                    return self.stack.pop()
                self.step(opcode.name, argument)
            except (IndexError, KeyError, TypeError, AttributeError, ValueError) as error:
                raise FormatError(self.name, f"its pickle is malformed at {opcode.name}", position) from error
        self.fail("has no end")

    def step(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(self.stack)
                self.stack = []
            case "NONE":
                self.stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self.stack.append(name == "NEWTRUE")
            case (
                "BININT"
                | "BININT1"
                | "BININT2"
                | "LONG1"
                | "INT"
                | "LONG"
                | "BINFLOAT"
                | "BINUNICODE"
                | "SHORT_BINUNICODE"
                | "BINUNICODE8"
                | "BINBYTES"
                | "SHORT_BINBYTES"
            ):
                self.stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "EMPTY_DICT":
                self.stack.append(PickledDict())
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                self.stack[-count:] = [tuple(self.stack[-count:])]
            case "TUPLE":
                items = tuple(self.pop_to_mark())
                self.stack.append(items)
            case "APPEND":
                item = self.stack.pop()
                self.stack[-1].append(item)
            case "APPENDS":
                items_ = self.pop_to_mark()
                self.stack[-1].extend(items_)
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "GLOBAL":
                self.stack.append(self.known(argument))
            case "STACK_GLOBAL":
                attribute, module = self.stack.pop(), self.stack.pop()
                self.stack.append(self.known(f"{module} {attribute}"))
            case "BINPERSID":
                self.stack.append(self.storage(self.stack.pop()))
            case "REDUCE":
                arguments, function = self.stack.pop(), self.stack.pop()
                self.stack.append(self.call(function, arguments))
            case "BUILD":
                state = self.stack.pop()
                if not isinstance(self.stack[-1], PickledDict) or not isinstance(state, dict):
                    self.fail("sets the state of something that is no OrderedDict")
                self.stack[-1].attributes.update(state)
            case _:
                self.fail(f"uses {name}, which no checkpoint needs")

    def set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, PickledDict) or len(flat) % 2:
            self.fail("stores an item into something that is no dict")
        if not all(isinstance(key, str | int) for key in flat[::2]):
            self.fail("has a dict whose keys are neither text nor numbers")
        target.update(zip(flat[::2], flat[1::2], strict=True))

    def known(self, name: str) -> Global:
        if name not in GLOBALS:
            self.fail(f"calls for {name.replace(' ', '.')}, which no checkpoint of tensors needs: not read, not run")
        return Global(name)

    def storage(self, value: Any) -> StorageRef:
        match value:
            case ("storage", Global(name), str(key), str(location), int(count), *more) if count >= 0:
                dtype = None if name == "torch.storage UntypedStorage" else BY_STORAGE[name.removeprefix("torch ")]
                width = dtype.itemsize if dtype else 1
                return StorageRef(key, dtype, location, count * width, self.view(more, count, width))
        self.fail("names a storage in a form that torch does not write")

    def view(self, more: list[Any], count: int, width: int) -> tuple[int, int] | None:
        """Bytes of a storage that are meant, where not all are: ``(key of the view, first element, elements)``.

        Source: torch 2.13, ``torch.serialization._legacy_load``, ``view_metadata``.
        """
        match more:
            case [] | [None]:
                return None
            case [(str(), int(first), int(size))] if 0 <= first <= first + size <= count:
                return first * width, (first + size) * width
        self.fail("names a view of a storage in a form that torch does not write")

    def call(self, function: Any, arguments: Any) -> Any:
        match function, arguments:
            case Global("collections OrderedDict"), ():
                return PickledDict("OrderedDict")
            case Global("collections OrderedDict"), (list(pairs),):
                ordered = PickledDict("OrderedDict")
                if not all(isinstance(one, tuple | list) and len(one) == 2 and isinstance(one[0], str | int) for one in pairs):
                    self.fail("has an OrderedDict of something else than named values")
                ordered.update(pairs)
                return ordered
            case Global("torch Size"), (tuple() | list() as sizes,):
                return tuple(sizes)
            case Global("torch device"), (str(name), *_):
                return name
            case Global("torch._utils _rebuild_tensor_v3"), (storage, offset, shape, strides, _, _, Global(name), *more):
                return self.tensor(storage, BY_NAME[name.removeprefix("torch ")], offset, shape, strides, more)
            case Global("torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor"), (
                StorageRef(dtype=DType() as dtype) as storage,
                offset,
                shape,
                strides,
                *more,
            ):
                return self.tensor(storage, dtype, offset, shape, strides, more[2:])
            case Global("torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state"), (
                TensorRef() as tensor,
                *_,
            ):
                return tensor
            case Global("torch._tensor _rebuild_from_type_v2"), (Global() as inner, Global(name), tuple() as args, _) if (
                name in CLASSES and inner.name in REBUILDERS and inner != function
            ):
                return self.call(inner, args)
            case Global(name), _:
                self.fail(f"calls {name.replace(' ', '.')} in a form that torch does not write")
        self.fail("calls something that is no function")

    def tensor(self, storage: Any, dtype: DType, offset: Any, shape: Any, strides: Any, more: list[Any]) -> TensorRef:
        """A tensor; ``more`` may hold its metadata: what is still to be done to it, as ``{"conj": True}``."""
        if not isinstance(storage, StorageRef) or len(shape) != len(strides):
            self.fail("describes a tensor in a form that torch does not write")
        if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
            self.fail("describes a tensor with an offset, a size or a stride that is no natural number")
        spec = TensorSpec(dtype, tuple(shape))
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        start, stop = storage.view or (0, storage.nbytes)
        if spec.numel and (last + 1) * dtype.itemsize > stop - start:
            self.fail(f"describes a tensor {spec} that reaches past the end of its storage of {stop - start} bytes")
        if start % dtype.itemsize:
            self.fail(f"describes a tensor {spec} in a view of a storage that begins in the middle of an element")
        first = start // dtype.itemsize + offset
        return TensorRef(storage, self.specs.setdefault(spec, spec), first, tuple(strides), self.lazy(more))

    def lazy(self, more: list[Any]) -> tuple[str, ...]:
        """What torch would still do to a tensor's values, by name.

        Source: torch 2.13, ``torch._utils.get_tensor_metadata``: the last argument where it is not empty.
        """
        match more:
            case [] | [None]:
                return ()
            case [dict(metadata)]:
                return tuple(str(name) for name, holds in metadata.items() if holds)
        self.fail("describes a tensor in a form that torch does not write")


def read_pickle(file: BinaryIO, file_name: str) -> Any:
    """Read one pickle and leave the file behind its last byte.

    Returns what it builds, with ``PickledDict`` for dicts and ``TensorRef`` for tensors.

    Raises:
        FormatError: It is malformed, or names something that a checkpoint does not need.
    """
    try:
        return Machine(file_name).run(iter(pickletools.genops(file)))
    except FormatError:
        raise
    except (ValueError, UnicodeDecodeError, IndexError, OverflowError, MemoryError) as error:
        raise FormatError(file_name, f"its pickle is malformed: {error}") from error
