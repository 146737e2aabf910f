"""The exact difference of two runs of numbers, in a form that compresses: a lossless codec for every bit pattern.

Bits are put in the order of the numbers they stand for, subtracted modulo 2^n, folded so that small differences of either
sign are small numbers (zigzag), split into planes of bytes (all lowest bytes, then all next ones, ...), and each plane is
compressed with zstd. Unlike ``a + (b - a)`` this undoes itself exactly: NaN, infinities and -0 come back as they were.
``docs/exact-diff.md`` says it byte for byte.

Source: dependencies, section 8 (measured against XOR, gzip, blosc2); the idea of planes: ZipLLM (NSDI 2026), ZipNN.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import DType
from weightkit.core.errors import WeightkitError
from weightkit.core.installed import adding_extra

__all__ = ["cast_bits", "decode", "encode"]

Bits = Any
"""A vector of unsigned integers. numpy's own types say no more once a dtype is chosen at run time."""

RAW, ZSTD = 0, 1
RECORD = struct.Struct("<BI")
LEVEL = 3
UNSIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
SIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}


def compressor() -> tuple[Callable[[Any], bytes], Callable[[Any, int], bytes]]:
    """``compress(data)`` and ``decompress(data, nbytes)`` of zstd.

    Raises:
        WeightkitError: It is not installed.
    """
    try:
        import zstandard
    except ImportError as error:
        raise WeightkitError(f"exact diffs need zstd, from the package zstandard: {adding_extra('exact')}") from error
    pack, unpack = zstandard.ZstdCompressor(level=LEVEL), zstandard.ZstdDecompressor()

    def decompress(data: Any, nbytes: int) -> bytes:
        try:
            return unpack.decompress(data, max_output_size=nbytes)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error

    return pack.compress, decompress


def in_order(bits: Bits, width: int) -> Bits:
    """Float bits <-> unsigned numbers that, read as signed, are ordered as the floats are; its own inverse."""
    negative = (bits.view(SIGNED[width]) >> (8 * width - 1)).view(UNSIGNED[width])
    return bits ^ (negative >> 1)


def fold(new: Bits, old: Bits, width: int) -> Bits:
    """``new - old`` modulo 2^n, zigzag: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""
    difference = (new - old).view(SIGNED[width])
    return (difference << 1).view(UNSIGNED[width]) ^ (difference >> (8 * width - 1)).view(UNSIGNED[width])


def unfold(folded: Bits, old: Bits) -> Bits:
    """Undo ``fold``."""
    one = folded.dtype.type(1)
    return old + ((folded >> one) ^ (~(folded & one) + one))


def encode(data: Buffer, predicted: Buffer | None, dtype: DType | None, compress: Callable[[Any], bytes]) -> bytes:
    """A block as records, one for each plane: method (1 byte), length (4 bytes, little-endian), bytes.

    Args:
        data: The bytes, whole elements.
        predicted: As many bytes of the same dtype; None for nothing to predict from.
        dtype: Of the elements; None for plain bytes, which are one plane.
        compress: zstd's.
    """
    width = 1 if dtype is None else dtype.itemsize
    if width not in UNSIGNED:
        width = 1
    bits = np.frombuffer(data, UNSIGNED[width])
    if dtype is not None and predicted is not None:
        old = np.frombuffer(predicted, UNSIGNED[width])
        if dtype.kind == "float":
            bits, old = in_order(bits, width), in_order(old, width)
        bits = fold(bits, old, width)
    planes = np.ascontiguousarray(bits.view(np.uint8).reshape(-1, width).T)
    out = []
    for plane in planes:
        packed = compress(plane.data)
        method, stored = (ZSTD, packed) if len(packed) < plane.nbytes else (RAW, plane.tobytes())
        out += [RECORD.pack(method, len(stored)), stored]
    return b"".join(out)


def decode(
    records: memoryview,
    nbytes: int,
    predicted: Buffer | None,
    dtype: DType | None,
    decompress: Callable[[Any, int], bytes],
) -> tuple[Buffer, int]:
    """A block from its records.

    Args:
        records: From the block's first record on; what lies behind is not read.
        nbytes: Of the block.
        predicted: As for ``encode``.
        dtype: As for ``encode``.
        decompress: zstd's.

    Returns:
        The bytes, and how many bytes of records they took.

    Raises:
        ValueError: The records are damaged.
    """
    width = 1 if dtype is None else dtype.itemsize
    if width not in UNSIGNED:
        width = 1
    count = nbytes // width
    planes = np.empty((width, count), np.uint8)
    at = 0
    for plane in planes:
        if at + RECORD.size > len(records):
            raise ValueError("its records end early")
        method, length = RECORD.unpack_from(records, at)
        at += RECORD.size
        stored = records[at : at + length]
        at += length
        if len(stored) != length or method not in (RAW, ZSTD):
            raise ValueError("its records are damaged")
        content = stored if method == RAW else decompress(stored, count)
        if len(content) != count:
            raise ValueError(f"a plane has {len(content)} bytes, wanted {count}")
        plane[:] = np.frombuffer(content, np.uint8)
    bits = np.ascontiguousarray(planes.T).view(UNSIGNED[width]).reshape(-1)
    if dtype is not None and predicted is not None:
        old = np.frombuffer(predicted, UNSIGNED[width])
        floats = dtype.kind == "float"
        bits = in_order(unfold(bits, in_order(old, width)), width) if floats else unfold(bits, old)
    return bits.view(np.uint8).data, at


def cast_bits(data: Buffer, old: DType, new: DType) -> Buffer | None:
    """Numbers in another float type, rounded to nearest even, the same bits on every machine; None for types not cast.

    What is NaN becomes one and the same NaN: processors differ in which they give, and a prediction need not keep it.
    """
    if old == new:
        return data
    known = {"float16", "bfloat16", "float32", "float64"}
    if old.name not in known or new.name not in known:
        return None
    wide: Bits
    if old.name == "bfloat16":
        wide = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        wide = np.frombuffer(data, f"<f{old.itemsize}")
    with np.errstate(all="ignore"):
        wide = np.where(np.isnan(wide), wide.dtype.type(0), wide)
        if new.name != "bfloat16":
            narrow: Buffer = wide.astype(f"<f{new.itemsize}").view(np.uint8).data
            return narrow
        bits = wide.astype(np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
        brain: Buffer = rounded.astype("<u2").view(np.uint8).data
        return brain
