"""Writes the ``data.pkl`` of a torch checkpoint as CPython's pickler does for ``torch.save``: protocol 2, memo and all.

Source: torch-golden, section 5, checked against files of torch 1.9 to 2.15. The memo number of an object is the count of
objects memoized before it; strings that are one object in torch (``storage``, ``cpu``) are written once and then referred
to, names read from a file are always new objects.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from weightkit.containers.layout import Item, Layout

__all__ = ["Metadata", "encode_state_dict"]

Metadata = tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
"""The ``_metadata`` of a state dict: for each module, its name and what it holds, as ``(("version", 1),)``."""

BATCH = 1000


class Writer:
    """The pickle so far, and its memo."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memoized = 0
        self.shared: dict[tuple[str, str], int] = {}

    def put(self) -> int:
        """Memoize what was just written."""
        number = self.memoized
        self.out += b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)
        self.memoized += 1
        return number

    def get(self, number: int) -> None:
        self.out += b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number)

    def string(self, text: str) -> None:
        """A string that is an object of its own."""
        raw = text.encode("utf-8", "surrogatepass")
        self.out += b"X" + struct.pack("<I", len(raw)) + raw
        self.put()

    def once(self, kind: str, text: str, write: Callable[[str], None]) -> None:
        """An object that is one and the same wherever it occurs: written the first time, then referred to."""
        if (kind, text) in self.shared:
            self.get(self.shared[kind, text])
        else:
            write(text)
            self.shared[kind, text] = self.memoized - 1

    def literal(self, text: str) -> None:
        """A string that is a literal in torch's source, hence one object."""
        self.once("literal", text, self.string)

    def name(self, module_and_name: str) -> None:
        """A global, as ``torch HalfStorage``."""

        def write(text: str) -> None:
            self.out += b"c" + text.replace(" ", "\n").encode() + b"\n"
            self.put()

        self.once("global", module_and_name, write)

    def integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes([value])
        elif 0 <= value < 65536:
            self.out += b"M" + struct.pack("<H", value)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a" + bytes([len(raw)]) + raw

    def integers(self, values: Sequence[int]) -> None:
        """A tuple of integers."""
        if len(values) > 3:
            self.out += b"("
        for value in values:
            self.integer(value)
        if values:
            self.out += {1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(values), b"t")
            self.put()
        else:
            self.out += b")"

    def items(self, count: int, write: Callable[[int], None], ordered: bool) -> None:
        """The items of a dict in batches of 1000.

        The pickler walks an OrderedDict through an iterator, a dict through its table, and the two end differently: a
        last batch of one item stands alone in an OrderedDict; a full last batch is followed by an empty one in a dict.
        """
        for start in range(0, count, BATCH):
            stop = min(start + BATCH, count)
            if stop - start == 1 and (ordered or count == 1):
                write(start)
                self.out += b"s"
                continue
            self.out += b"("
            for index in range(start, stop):
                write(index)
            self.out += b"u"
        if count and count % BATCH == 0 and not ordered:
            self.out += b"(u"

    def ordered_dict(self) -> None:
        self.name("collections OrderedDict")
        self.out += b")R"

    def tensor(self, item: Item, layout: Layout, location: str) -> None:
        run = layout.runs[item.run].spec
        dtype = item.spec.dtype
        typed = dtype.storage is not None
        self.name(f"torch._utils _rebuild_tensor_{'v2' if typed else 'v3'}")
        self.out += b"(("
        self.literal("storage")
        self.name(f"torch {dtype.storage}" if typed else "torch.storage UntypedStorage")
        self.once("key", str(item.run), self.string)
        if location == "cpu":
            self.literal(location)
        else:  # torch puts the name of a GPU together anew each time
            self.string(location)
        self.integer(run.numel if typed else run.nbytes)
        self.out += b"t"
        self.put()
        self.out += b"Q"
        self.integer(item.offset)
        self.integers(item.spec.shape)
        self.integers(item.spec.strides())
        self.out += b"\x89"
        self.ordered_dict()
        self.put()
        if not typed:
            self.name(f"torch {dtype.name}")
        self.out += b"t"
        self.put()
        self.out += b"R"


def encode_state_dict(layout: Layout, kind: str, metadata: Metadata | None, location: str = "cpu") -> bytes:
    """The pickle of a dict of plain tensors.

    Args:
        layout: The tensors and the runs they lie in; run ``n`` is the storage with key ``n``.
        kind: ``dict`` or ``OrderedDict``.
        metadata: The ``_metadata`` of an OrderedDict; None for none.
        location: Where the tensors are said to have been: ``cpu``, ``cuda:0``.
    """
    writer = Writer()
    places: dict[int, int] = {}

    def item(index: int) -> None:
        one = layout.items[index]
        writer.string(one.name)
        if one.same_as is not None:
            writer.get(places[one.same_as])
            return
        writer.tensor(one, layout, location)
        places[index] = writer.put()

    ordered = kind == "OrderedDict"
    if ordered:
        writer.ordered_dict()
    else:
        writer.out += b"}"
    writer.put()
    writer.items(len(layout.items), item, ordered)
    if ordered and metadata is not None:
        write_metadata(writer, metadata)
    return bytes(writer.out + b".")


def write_metadata(writer: Writer, metadata: Metadata) -> None:
    """The attribute ``_metadata``: an OrderedDict of one small dict a module."""

    def module(index: int) -> None:
        name, held = metadata[index]
        writer.string(name)
        writer.out += b"}"
        writer.put()
        writer.items(len(held), lambda number: pair(*held[number]), ordered=False)

    def pair(key: str, value: int) -> None:
        writer.literal(key)
        if isinstance(value, bool):
            writer.out += b"\x88" if value else b"\x89"
        else:
            writer.integer(value)

    writer.out += b"}"
    writer.put()
    writer.literal("_metadata")
    writer.ordered_dict()
    writer.put()
    writer.items(len(metadata), module, ordered=True)
    writer.out += b"sb"
