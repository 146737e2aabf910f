"""Reads torch checkpoints in the format before 1.6 (later: ``_use_new_zipfile_serialization=False``).

    pickle: 0x1950A86A20F9469CFC6C        pickle: 1001 (protocol)     pickle: byte order and sizes of the machine
    pickle: the object; storages by key   pickle: list of the keys
    for each key in that order: 8 bytes number of elements, then the elements

Source: torch-golden, section 7.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from weightkit.containers.format import Format
from weightkit.containers.pickle_reader import read_pickle
from weightkit.containers.pickled import StorageRef, named_tensors
from weightkit.containers.seekable import seekable
from weightkit.containers.torch_file import Storage, TorchFile, torch_file
from weightkit.core.blob import Blob
from weightkit.core.errors import FormatError

__all__ = ["MAGIC", "open_file"]

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = 1001

AT_ONCE_NBYTES = 1 << 16
"""The pickles are read in pieces of this size, and so many bytes where a count is wanted."""


def open_file(blob: Blob, format: Format) -> TorchFile:
    """Index a legacy torch file: reads its pickles and the counts between the storages.

    Raises:
        FormatError: It is damaged or cut short, or its pickle wants something to be run.
    """
    file = seekable(blob, AT_ONCE_NBYTES)
    magic, protocol, machine = (read_pickle(file, blob.name) for _ in range(3))
    if magic != 0x1950A86A20F9469CFC6C or protocol != PROTOCOL:
        raise FormatError(blob.name, f"has protocol {protocol}, not {PROTOCOL}: no file of torch.save")
    if not (isinstance(machine, dict) and machine.get("little_endian") is True):
        raise FormatError(blob.name, "was saved on a big-endian machine; load and save it with torch on a common one")
    value, keys = read_pickle(file, blob.name), read_pickle(file, blob.name)
    return torch_file(blob, format, "legacy", "", value, read_storages(file, blob, value, keys))


def read_storages(file: BinaryIO, blob: Blob, value: Any, keys: Any) -> dict[str, Storage]:
    """Where each storage lies; seeks from count to count."""
    refs: dict[str, StorageRef] = {ref.storage.key: ref.storage for ref in named_tensors(value, blob.name).values()}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FormatError(blob.name, "its list of storages is damaged")
    storages: dict[str, Storage] = {}
    position = file.tell()
    for key in keys:
        if key not in refs:
            raise FormatError(blob.name, f"holds storage {key}, which no tensor uses: its size is not known")
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        dtype = refs[key].dtype
        nbytes = count * (dtype.itemsize if dtype else 1)
        if position + 8 + nbytes > blob.nbytes:
            raise FormatError(blob.name, f"is cut short in storage {key}: wanted {nbytes} bytes", position + 8)
        storages[key] = Storage(position + 8, nbytes, None)
        position += 8 + nbytes
    if position != blob.nbytes:
        raise FormatError(blob.name, f"has {blob.nbytes - position} bytes after its last storage", position)
    return storages
