"""Reads torch checkpoints in the format before 1.6 (later: ``_use_new_zipfile_serialization=False``).

    pickle: 0x1950A86A20F9469CFC6C        pickle: 1001 (protocol)     pickle: byte order and sizes of the machine
    pickle: the object; storages by key   pickle: list of the keys
    for each key in that order: 8 bytes number of elements, then the elements

Source: torch-golden, section 7.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from weightkit.containers.pickle_reader import StorageRef, named_tensors, read_pickle
from weightkit.containers.torch_file import Storage, TorchFile, torch_file
from weightkit.core.errors import FormatError

__all__ = ["MAGIC", "open_file"]

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = 1001


def open_file(path: Path) -> TorchFile:
    """Index a legacy torch file: reads its pickles and the counts between the storages.

    Raises:
        FormatError: It is damaged or cut short, or its pickle wants something to be run.
    """
    with path.open("rb") as file:
        magic, protocol, machine = (read_pickle(file, path) for _ in range(3))
        if magic != 0x1950A86A20F9469CFC6C or protocol != PROTOCOL:
            raise FormatError(path, f"has protocol {protocol}, not {PROTOCOL}: no file of torch.save")
        if not (isinstance(machine, dict) and machine.get("little_endian") is True):
            raise FormatError(path, "was saved on a big-endian machine; load and save it with torch on a common one")
        value, keys = read_pickle(file, path), read_pickle(file, path)
        storages = read_storages(file, path, value, keys)
    return torch_file(path, "legacy", "", value, storages)


def read_storages(file: BinaryIO, path: Path, value: Any, keys: Any) -> dict[str, Storage]:
    """Where each storage lies; seeks from count to count."""
    refs: dict[str, StorageRef] = {ref.storage.key: ref.storage for ref in named_tensors(value, path).values()}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FormatError(path, "its list of storages is damaged")
    size = path.stat().st_size
    storages: dict[str, Storage] = {}
    position = file.tell()
    for key in keys:
        if key not in refs:
            raise FormatError(path, f"holds storage {key}, which no tensor uses: its size is not known")
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        dtype = refs[key].dtype
        nbytes = count * (dtype.itemsize if dtype else 1)
        if position + 8 + nbytes > size:
            raise FormatError(path, f"is cut short in storage {key}: wanted {nbytes} bytes", position + 8)
        storages[key] = Storage(position + 8, nbytes, None)
        position += 8 + nbytes
    if position != size:
        raise FormatError(path, f"has {size - position} bytes after its last storage", position)
    return storages
