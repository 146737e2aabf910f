"""What a torch checkpoint is once its pickle has been read: views of storages that lie in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from weightkit.containers.layout import Item, Layout, Run
from weightkit.containers.pickle_reader import PickledDict, TensorRef, named_tensors
from weightkit.containers.strided import gather_rows
from weightkit.core.buffers import Buffer, read_extent
from weightkit.core.errors import FormatError
from weightkit.core.spec import TensorSpec

__all__ = ["Metadata", "Storage", "TorchFile", "torch_file"]

Metadata = tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
"""The ``_metadata`` of a state dict: for each module, its name and what it holds, as ``(("version", 1),)``."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes ``[start, start + nbytes)`` of the file; ``crc32`` is None where the file records none."""

    start: int
    nbytes: int
    crc32: int | None


@dataclass(frozen=True, slots=True, eq=False)
class TorchFile:
    """A ``TensorSource`` over a file written by ``torch.save``.

    Attributes:
        path: The file.
        specs: Name -> dtype and shape, in the pickle's order.
        profile: How it was written: ``zip-1.6``, ``zip-1.9``, ``zip-1.13``, ``zip-2.1``, ``zip-2.7`` or ``legacy``.
        root: Name of the folder in the zip; empty for the legacy format.
        kind: ``dict`` or ``OrderedDict`` where the pickle holds one with nothing in it but tensors, else ``other``.
        metadata: Its ``_metadata``, if it has one.
        tensors: Name -> the view that the pickle describes.
        storages: Key -> where its bytes are.
    """

    path: Path
    specs: Mapping[str, TensorSpec]
    profile: str
    root: str
    kind: str
    metadata: Metadata | None
    tensors: Mapping[str, TensorRef]
    storages: Mapping[str, Storage]

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (dict(self.specs), self.profile, self.root, self.kind, self.metadata)
        return TorchFile, (self.path, *fields, dict(self.tensors), dict(self.storages))

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """Rows ``[start, stop)`` of a tensor, row-major; views that are not contiguous are gathered."""
        ref = self.tensors[name]
        storage = self.storages[ref.storage.key]
        spec = ref.spec
        if ref.contiguous:
            first = ref.offset * spec.dtype.itemsize + start * spec.row_nbytes
            return read_extent(self.path, storage.start + first, (stop - start) * spec.row_nbytes)
        return gather_rows(
            lambda first, nbytes: read_extent(self.path, storage.start + first, nbytes),
            spec,
            ref.offset,
            ref.strides,
            start,
            stop,
        )

    def start_of(self, name: str) -> int | None:
        """The tensor's first byte in the file, where it lies in it as one run."""
        ref = self.tensors[name]
        if not ref.contiguous:
            return None
        return self.storages[ref.storage.key].start + ref.offset * ref.spec.dtype.itemsize

    def crc32(self, name: str) -> int | None:
        """The CRC-32 of the tensor's bytes, where it is the whole of its storage and the file records one."""
        ref = self.tensors[name]
        return self.storages[ref.storage.key].crc32 if ref.whole else None

    def layout(self) -> Layout:
        """The file's own layout, for an output that follows it: ties and exactly tiled storages are kept.

        From a storage that its tensors do not tile (gaps, overlaps, transposes) each tensor gets a run of its own, as it
        would after ``load_state_dict`` and ``torch.save``.
        """
        sharing: dict[str, list[TensorRef]] = {}
        for ref in self.tensors.values():
            sharing.setdefault(ref.storage.key, []).append(ref)
        tiled = {key for key, group in sharing.items() if tiles(group)}
        runs: dict[str, int] = {}
        whole: list[Run] = []
        items: list[Item] = []
        seen: dict[int, int] = {}
        for index, (name, ref) in enumerate(self.tensors.items()):
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


def torch_file(path: Path, profile: str, root: str, value: Any, storages: Mapping[str, Storage]) -> TorchFile:
    """Build the source from what the pickle held and where the storages are.

    Raises:
        FormatError: A storage is missing or has another size than the pickle says.
    """
    tensors = named_tensors(value, path)
    for name, ref in tensors.items():
        storage = storages.get(ref.storage.key)
        if storage is None:
            raise FormatError(path, f"{name}: its data, storage {ref.storage.key}, is not in the file")
        if storage.nbytes != ref.storage.nbytes:
            wanted = ref.storage.nbytes
            raise FormatError(path, f"{name}: storage {ref.storage.key} has {storage.nbytes} bytes, wanted {wanted}")
    flat = isinstance(value, PickledDict) and all(isinstance(one, TensorRef) for one in value.values())
    return TorchFile(
        path,
        MappingProxyType({name: ref.spec for name, ref in tensors.items()}),
        profile,
        root,
        value.kind if flat else "other",
        metadata(value) if flat else None,
        MappingProxyType(tensors),
        MappingProxyType(dict(storages)),
    )


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
