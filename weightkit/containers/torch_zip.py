"""Reads torch checkpoints in the zip format, as ``torch.save`` writes them since 1.6.

    <root>/data.pkl                the pickle: names, dtypes, shapes, strides; tensors as references to storages
    <root>/.format_version         from 2.7 on
    <root>/.storage_alignment      from 2.7 on
    <root>/byteorder               from 2.1 on
    <root>/data/<key>              one whole storage each, stored, at a multiple of 64 bytes
    <root>/version
    <root>/.data/serialization_id  from 2.1 on

The CRC-32 of each record stands in the directory, or with ``torch.serialization.set_crc32_options(False)`` (2.6 on) 0 in
all of them, small records included: measured with torch 2.13. So where one is not 0, a 0 is a CRC like another.

Source: torch-golden (files of torch 1.6 to 2.15), sections 1, 2 and 10.
"""

from __future__ import annotations

import io

from isal.isal_zlib import crc32

from weightkit.containers.format import Format
from weightkit.containers.pickle_reader import read_pickle
from weightkit.containers.torch_file import Storage, TorchFile, torch_file
from weightkit.containers.zip_index import Record, read_index
from weightkit.core.blob import Blob
from weightkit.core.errors import FormatError

__all__ = ["MAGIC", "open_file"]

MAGIC = b"PK\3\4"
MAX_PICKLE = 64 << 20
ADDRESS_DIGITS = 9
"""Storage keys of this many digits are memory addresses (torch 1.6 to 1.8); counters never get so long."""


def open_file(blob: Blob, format: Format) -> TorchFile:
    """Index a torch zip file: reads its directory and its pickle, nothing else.

    Raises:
        FormatError: It is damaged, is no checkpoint of tensors, or its pickle wants something to be run.
    """
    records = read_index(blob)
    pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise FormatError(blob.name, f"is a zip file with {len(pickles)} data.pkl in it: not a checkpoint of torch")
    root = pickles[0].removesuffix("/data.pkl")
    if f"{root}/constants.pkl" in records:
        raise FormatError(blob.name, "is a TorchScript program, not a checkpoint; save its state_dict() with torch.save")
    order = records.get(f"{root}/byteorder")
    if order and bytes(blob.read(order.start, order.start + min(order.nbytes, 16))) != b"little":
        raise FormatError(blob.name, "was saved on a big-endian machine; load and save it with torch on a common one")
    crcs = any(record.crc32 for record in records.values())  # the pickle is never empty: its CRC is 0 in files without
    pickled = records[pickles[0]]
    if pickled.nbytes > MAX_PICKLE:
        raise FormatError(blob.name, f"its pickle has {pickled.nbytes} bytes; more than {MAX_PICKLE} are not read")
    content = blob.read(pickled.start, pickled.start + pickled.nbytes)
    if crcs and crc32(content) != pickled.crc32:
        raise FormatError(
            blob.name,
            f"its pickle is damaged: it has CRC-32 {crc32(content):08x}, the file itself records {pickled.crc32:08x}; "
            "download the file again",
        )
    value = read_pickle(io.BytesIO(content), blob.name)
    prefix = f"{root}/data/"
    storages = {
        name.removeprefix(prefix): Storage(record.start, record.nbytes, record.crc32 if crcs else None)
        for name, record in records.items()
        if name.startswith(prefix)
    }
    return torch_file(blob, format, profile_of(root, records), root, value, storages)


def profile_of(root: str, records: dict[str, Record]) -> str:
    """Which releases of torch write such a file, told from the names of its records."""
    if f"{root}/.format_version" in records:
        return "zip-2.7"
    if f"{root}/.data/serialization_id" in records:
        return "zip-2.1"
    keys = [name.rpartition("/")[2] for name in records if name.startswith(f"{root}/data/")]
    if any(len(key) >= ADDRESS_DIGITS for key in keys):
        return "zip-1.6"
    return "zip-1.9" if root == "archive" else "zip-1.13"
