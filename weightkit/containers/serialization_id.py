"""The record ``.data/serialization_id`` that torch writes from 2.1 on: 40 digits, a hash of names and one of CRCs.

Source: torch-golden, section 4. The first half depends on the order in which GNU libstdc++ (of GCC 10 to 16, tried) walks
an ``unordered_set`` of the record names; files saved on other systems may differ in these 20 digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["combine", "hash_names"]

MASK = (1 << 64) - 1
MULTIPLIER = 0xC6A4A7935BD1E995
BUCKETS = (1, 13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753, 42043, 85229, 172933)


def combine(seed: int, value: int) -> int:
    """c10's ``hash_combine``, modulo 2**64; the second half is the CRCs combined in file order, from 0."""
    return seed ^ ((value + 0x9E3779B9 + (seed << 6) + (seed >> 2)) & MASK)


def hash_bytes(data: bytes) -> int:
    """libstdc++'s ``_Hash_bytes`` (Murmur 2, 64 bits) with its seed 0xC70F6907."""
    value = 0xC70F6907 ^ (len(data) * MULTIPLIER & MASK)
    whole = len(data) & ~7
    for at in range(0, whole, 8):
        part = int.from_bytes(data[at : at + 8], "little") * MULTIPLIER & MASK
        part = (part ^ part >> 47) * MULTIPLIER & MASK
        value = (value ^ part) * MULTIPLIER & MASK
    if len(data) & 7:
        value = (value ^ int.from_bytes(data[whole:], "little")) * MULTIPLIER & MASK
    value = (value ^ value >> 47) * MULTIPLIER & MASK
    return value ^ value >> 47


def walk(hashes: Sequence[int], buckets: int) -> list[int]:
    """The order in which a table of so many buckets is walked after these insertions.

    A new element goes before the first of its bucket, or to the front of all where its bucket is empty.
    """
    following: dict[int | None, int | None] = {None: None}
    before: dict[int, int | None] = {}
    for index, value in enumerate(hashes):
        bucket = value % buckets
        if bucket in before:
            place = before[bucket]
        else:
            place = None
            head = following[None]
            if head is not None:
                before[hashes[head] % buckets] = index
            before[bucket] = None
        following[index], following[place] = following[place], index
    order: list[int] = []
    at = following[None]
    while at is not None:
        order.append(at)
        at = following[at]
    return order


def hash_names(names: Iterable[str]) -> int:
    """First half: the record names (without root, without the id record) in the order of the set."""
    inserted: list[int] = []
    size = 0
    for name in names:
        if len(inserted) >= (BUCKETS[size] if size else 0):
            size += 1
            inserted = [inserted[index] for index in walk(inserted, BUCKETS[size - 1])] if inserted else inserted
        inserted.append(hash_bytes(name.encode("utf-8")))
    seed = 0
    for index in walk(inserted, BUCKETS[size]):
        seed = combine(seed, inserted[index])
    return seed
