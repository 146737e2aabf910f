"""What a torch checkpoint is once its pickle has been read: views of storages that lie in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from weightkit.containers.format import Format
from weightkit.containers.layout import Item, Layout, Run
from weightkit.containers.pickle_writer import Metadata
from weightkit.containers.pickled import Beside, PickledDict, TensorRef, named_tensors
from weightkit.containers.torch_zip_writer import PROFILES, TorchZip
from weightkit.core.blob import Blob
from weightkit.core.errors import FormatError
from weightkit.core.records import Found, Record
from weightkit.core.spec import TensorSpec
from weightkit.core.stored import Stored

__all__ = ["WRITTEN_BY", "TorchFile", "torch_file"]

WRITTEN_BY = {
    "zip-1.6": "torch 1.6 to 1.8",
    "zip-1.9": "torch 1.9 to 1.12 (or later, into a file object)",
    "zip-1.13": "torch 1.13 to 2.0",
    "zip-2.1": "torch 2.1 to 2.6",
    "zip-2.7": "torch 2.7 or later",
    "legacy": "torch before 1.6 (or later, legacy format)",
}
"""Profile -> which releases write it. Source: torch-golden, section 1."""


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A file written by ``torch.save``, as a ``Container``.

    Attributes:
        blob: The file.
        format: The format ``bin``.
        profile: How it was written: a key of ``WRITTEN_BY``.
        root: Name of the folder in the zip; empty for the legacy format.
        kind: ``dict`` or ``OrderedDict`` where the pickle holds one with nothing in it but tensors, else ``other``.
        metadata: Its ``_metadata``, if it has one.
        tensors: Name -> where it lies, in the pickle's order.
        layout: How they lie. Ties and exactly tiled storages are kept; from a storage that its tensors do not tile (gaps,
            overlaps, transposes) each has a run of its own, as it would after ``load_state_dict`` and ``torch.save``.
        beside: Name -> what the pickle holds that is no tensor.
        location: Where the first tensor was when it was saved: ``cpu``, ``cuda:0``.
    """

    blob: Blob
    format: Format
    profile: str
    root: str
    kind: str
    metadata: Metadata | None
    tensors: Mapping[str, Stored] = field(hash=False)
    layout: Layout
    beside: Mapping[str, Beside] = field(default_factory=dict, hash=False, compare=False)
    location: str = field(default="cpu", compare=False)

    def __repr__(self) -> str:
        return f"<{self.blob.name}: {len(self.tensors)} tensors, {self.profile}>"

    def __reduce__(self) -> tuple[Any, ...]:
        head = (self.blob, self.format, self.profile, self.root, self.kind, self.metadata)
        return TorchFile, (*head, dict(self.tensors), self.layout, dict(self.beside), self.location)

    @property
    def written_by(self) -> str:
        """Which releases of torch write such files."""
        return WRITTEN_BY[self.profile]

    @property
    def encoding(self) -> TorchZip | None:
        """What writes such a file again."""
        if self.profile not in PROFILES or self.kind == "other":
            return None
        return TorchZip(self.profile, self.root, self.kind, self.metadata)


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes ``[start, start + nbytes)`` of the file; ``crc32`` is None where the file records none."""

    start: int
    nbytes: int
    crc32: int | None

    def record(self, found: Found) -> Record | None:
        """The same as what a CRC covers."""
        return None if self.crc32 is None else Record(self.start, self.nbytes, self.crc32, found)


def torch_file(blob: Blob, format: Format, profile: str, root: str, value: Any, storages: Mapping[str, Storage]) -> TorchFile:
    """Build the container from what the pickle held and where the storages are.

    Raises:
        FormatError: A storage is missing or has another size than the pickle says.
    """
    beside: dict[str, Beside] = {}
    refs = named_tensors(value, blob.name, beside)
    for name, ref in refs.items():
        if ref.lazy:
            raise FormatError(
                blob.name,
                f"{name}: is kept lazily ({', '.join(ref.lazy)}), its values are not those in the file; save it anew, as "
                "tensor.resolve_conj().resolve_neg()",
            )
        if ref.storage.view and profile != "legacy":
            raise FormatError(blob.name, f"{name}: lies in a view of a storage, which only files of before torch 1.6 have")
        storage = storages.get(ref.storage.key)
        if storage is None:
            raise FormatError(blob.name, f"{name}: its data, storage {ref.storage.key}, is not in the file")
        if storage.nbytes != ref.storage.nbytes:
            wanted = ref.storage.nbytes
            raise FormatError(blob.name, f"{name}: storage {ref.storage.key} has {storage.nbytes} bytes, wanted {wanted}")
    found = Found()
    records = {key: storage.record(found) for key, storage in storages.items()}
    flat = isinstance(value, PickledDict) and all(isinstance(one, TensorRef) for one in value.values())
    return TorchFile(
        blob,
        format,
        profile,
        root,
        value.kind if flat else "other",
        metadata(value) if flat else None,
        MappingProxyType(
            {name: stored(blob, name, ref, storages[ref.storage.key], records[ref.storage.key]) for name, ref in refs.items()}
        ),
        lay_out(refs),
        beside,
        next((ref.storage.location for ref in refs.values()), "cpu"),
    )


def stored(blob: Blob, name: str, ref: TensorRef, storage: Storage, record: Record | None) -> Stored:
    """Where a view of a storage lies in the file."""
    start = storage.start + ref.offset * ref.spec.dtype.itemsize
    return Stored(blob, name, ref.spec, start, None if ref.contiguous else ref.strides, record)


def lay_out(refs: Mapping[str, TensorRef]) -> Layout:
    """How the tensors lie in the file; see ``TorchFile.layout``."""
    sharing: dict[str, list[TensorRef]] = {}
    for ref in refs.values():
        sharing.setdefault(ref.storage.key, []).append(ref)
    tiled = {key for key, group in sharing.items() if tiles(group)}
    runs: dict[str, int] = {}
    whole: list[Run] = []
    items: list[Item] = []
    seen: dict[int, int] = {}
    for index, (name, ref) in enumerate(refs.items()):
        shared = ref.storage.key in tiled
        key = ref.storage.key if shared else f"own {index}"
        if key not in runs:
            runs[key] = len(whole)
            whole.append(run_of(ref) if shared else Run(ref.spec))
        same_as = seen.get(id(ref)) if shared else None
        items.append(Item(name, ref.spec, runs[key], ref.offset if shared else 0, same_as))
        seen.setdefault(id(ref), index)
    return Layout(tuple(items), tuple(whole))


def tiles(refs: list[TensorRef]) -> bool:
    """Whether these views of one storage are contiguous and cover it without gaps; equal views count once."""
    if not all(ref.contiguous and ref.spec.dtype == refs[0].spec.dtype for ref in refs):
        return False
    end = 0
    for offset, numel in sorted({(ref.offset, ref.spec.numel) for ref in refs}):
        if offset != end:
            return False
        end += numel
    return end * refs[0].spec.dtype.itemsize == refs[0].storage.nbytes


def run_of(ref: TensorRef) -> Run:
    """The run that is the whole of a tensor's storage."""
    dtype = ref.spec.dtype
    return Run(ref.spec if ref.whole else TensorSpec(dtype, (ref.storage.nbytes // dtype.itemsize,)))


def metadata(value: PickledDict) -> Metadata | None:
    """The ``_metadata`` attribute, if it has the form that ``Module.state_dict`` gives it."""
    found = value.attributes.get("_metadata")
    if not isinstance(found, PickledDict):
        return None
    entries = []
    for module, held in found.items():
        if not isinstance(module, str) or not isinstance(held, dict):
            return None
        if not all(isinstance(key, str) and isinstance(number, int) for key, number in held.items()):
            return None
        entries.append((module, tuple(held.items())))
    return tuple(entries)
