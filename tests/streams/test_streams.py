"""XOR and gzip as laws: the published rule written out byte by byte, any relation of lengths, any block size."""

from __future__ import annotations

import gzip
import io
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightkit.blobs import MemoryBlob, open_local
from weightkit.core.buffers import Buffer
from weightkit.core.errors import FormatError
from weightkit.core.needs import Needs
from weightkit.streams import Headed, Known, Reader, whole
from weightkit.streams.beside import beside
from weightkit.streams.computed import anywhere, computed
from weightkit.streams.gzip import STATE_NBYTES, Gunzip, Gzip
from weightkit.streams.xor import CHUNK, Padded, Wrapped, xor


def joined(chunks: Iterator[Buffer]) -> bytes:
    found = [bytes(chunk) for chunk in chunks]
    assert all(found), "no chunk is empty"
    return b"".join(found)


def drawn(nbytes: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(nbytes)


def by_the_rule(payload: bytes, key: bytes) -> bytes:
    """``X[j*C + i] = P[j*C + i] xor K_m[i mod len(K_m)]``, m = j mod n, as peers-measured has it."""
    pieces = [np.frombuffer(key[at : at + CHUNK], np.uint8) for at in range(0, len(key), CHUNK)]
    result = b""
    for j in range(-(-len(payload) // CHUNK)):
        data = np.frombuffer(payload[j * CHUNK : (j + 1) * CHUNK], np.uint8)
        piece = pieces[j % len(pieces)]
        result += (data ^ piece[np.arange(len(data)) % len(piece)]).tobytes()
    return result


MIB = 1 << 20
LENGTHS = [
    (0, 5),
    (1, 1),
    (100, 7),
    (100, 99),
    (100, 100),
    (100, 101),
    (CHUNK - 1, CHUNK),
    (CHUNK, CHUNK - 1),
    (CHUNK, CHUNK),
    (CHUNK + 1, CHUNK),
    (CHUNK + 1, CHUNK + 1),
    (CHUNK, CHUNK + 1),
    (2 * CHUNK + 5, 3),
    (2 * CHUNK + 5, CHUNK - 1),
    (3 * CHUNK + 77, CHUNK + 13),
    (3 * CHUNK + 77, 2 * CHUNK),
    (35 * MIB, 13 * MIB + 1),
    (35 * MIB, 31 * MIB),
]


@pytest.mark.parametrize(("payload", "key"), LENGTHS)
def test_the_key_starts_again_as_published(tmp_path: Path, payload: int, key: int) -> None:
    (tmp_path / "p").write_bytes(drawn(payload, 1))
    (tmp_path / "k").write_bytes(drawn(key, 2))
    stream = Wrapped(whole(open_local(tmp_path / "p")), whole(open_local(tmp_path / "k")))
    wanted = by_the_rule(drawn(payload, 1), drawn(key, 2))
    assert stream.nbytes == payload
    for block in (1 << 20, 999_983):
        assert joined(stream.chunks(block)) == wanted


@pytest.mark.parametrize(("payload", "key"), LENGTHS)
def test_it_can_be_read_anywhere(tmp_path: Path, payload: int, key: int) -> None:
    (tmp_path / "p").write_bytes(drawn(payload, 1))
    (tmp_path / "k").write_bytes(drawn(key, 2))
    parts = whole(open_local(tmp_path / "p")), whole(open_local(tmp_path / "k"))
    edges = [at + off for at in (0, CHUNK, 2 * CHUNK, key, payload, 3 * CHUNK + key % CHUNK) for off in (-70, -1, 0, 1)]
    for stream, wanted in ((Wrapped(*parts), by_the_rule(drawn(payload, 1), drawn(key, 2))), (Padded(*parts), None)):
        known = wanted or joined(stream.chunks(1 << 20))
        assert anywhere(stream)
        for start in sorted({max(0, min(edge, payload)) for edge in edges}):
            stop = min(payload, start + 150)
            assert bytes(stream.read(start, stop)) == known[start:stop], (start, stop)


def test_what_is_compressed_cannot(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(gzip.compress(b"x"))
    packed = Gunzip(whole(open_local(tmp_path / "p")), 1)
    assert not anywhere(Padded(packed, Known(b"y")))
    with pytest.raises(TypeError, match="front to back"):
        Wrapped(packed, Known(b"y")).read(0, 1)
    blob = computed("name", Padded(Known(b"abc"), Known(b"")))
    assert bytes(blob.read(1, 3)) == b"bc"
    with pytest.raises(FormatError, match="name: ends too early"):
        blob.read(1, 4)


def test_plain_repetition_would_be_wrong(tmp_path: Path) -> None:
    payload, key = bytes(CHUNK + 100), drawn(1000, 2)
    (tmp_path / "p").write_bytes(payload)
    (tmp_path / "k").write_bytes(key)
    found = joined(Wrapped(whole(open_local(tmp_path / "p")), whole(open_local(tmp_path / "k"))).chunks(1 << 20))
    naive = (key * (len(payload) // len(key) + 1))[: len(payload)]
    assert found[:CHUNK] == naive[:CHUNK]
    assert found != naive


def test_an_empty_key_is_none(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"x")
    (tmp_path / "k").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty, and no key"):
        Wrapped(whole(open_local(tmp_path / "p")), whole(open_local(tmp_path / "k")))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 64), st.integers(1, 64))
def test_a_short_key_is_padded_and_a_long_one_cut(payload: bytes, key: bytes, block: int, other: int) -> None:
    wanted = bytes(p ^ k for p, k in zip(payload, key.ljust(len(payload), b"\0"), strict=False))
    stream = Padded(Known(payload), Known(key))
    assert joined(stream.chunks(block)) == wanted
    assert joined(Padded(stream, Known(key)).chunks(other)) == payload


def test_xor_works_in_place_only_where_it_may() -> None:
    mine, fixed = bytearray(b"\1\2\3"), b"\1\2\3"
    assert xor(mine, b"\1\1") is mine
    assert bytes(xor(fixed, b"\1\1")) == b"\0\3\3" == bytes(mine)
    assert fixed == b"\1\2\3"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=9), max_size=9), st.lists(st.integers(1, 20), max_size=20))
def test_a_reader_takes_any_number(chunks: list[bytes], sizes: list[int]) -> None:
    reader, file = Reader(iter(chunks)), io.BytesIO(b"".join(chunks))
    for size in sizes:
        assert bytes(reader.read(size)) == file.read(size)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4), st.integers(1, 5000), st.integers(0, 600))
def test_gzip_of_several_members(members: list[bytes], block: int, fill: int) -> None:
    packed = b"".join(gzip.compress(one) for one in members) + bytes(fill)
    assert joined(Gunzip(whole(MemoryBlob(packed)), 0).chunks(block)) == b"".join(members)


@pytest.mark.parametrize("size", [0, 1, 70_000, 3 * MIB])
def test_gzip_there_and_back(tmp_path: Path, size: int) -> None:
    content = drawn(size // 2, 3) + bytes(size - size // 2)
    packed = joined(Gzip(Known(content)).chunks(1 << 16))
    assert gzip.decompress(packed) == content
    assert packed[4:8] == bytes(4)  # no time
    (tmp_path / "g").write_bytes(packed)
    assert joined(Gunzip(whole(open_local(tmp_path / "g")), size).chunks(1 << 16)) == content


@pytest.mark.parametrize("way", ["cut", "flipped", "length", "no gzip"])
def test_damaged_gzip_is_said_to_be(tmp_path: Path, way: str) -> None:
    packed = bytearray(gzip.compress(drawn(50_000, 3)))
    if way == "cut":
        del packed[-100:]
    elif way == "flipped":
        packed[25_000] ^= 1
    elif way == "length":
        packed[-1] ^= 1
    else:
        packed[:3] = b"abc"
    (tmp_path / "g").write_bytes(packed)
    with pytest.raises(FormatError, match="damaged|cut off"):
        joined(Gunzip(whole(open_local(tmp_path / "g")), 50_000).chunks(1 << 14))


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    stream = whole(open_local(tmp_path / "f"))
    (tmp_path / "f").write_bytes(b"123")
    with pytest.raises(FormatError):
        joined(stream.chunks(2))
    with pytest.raises(FormatError, match="cannot be read"):
        whole(open_local(tmp_path / "nothing"))


def test_a_header_comes_first() -> None:
    assert joined(Headed(b"ab", Known(b"cde")).chunks(2)) == b"abcde"
    assert Headed(b"ab", Known(b"cde")).nbytes == 5


def test_what_nested_streams_need_adds_up() -> None:
    payload, key = MemoryBlob(b"p" * 100), MemoryBlob(b"k" * 300)
    packed = Padded(Gunzip(whole(payload), 250), whole(key))
    assert packed.needs == Needs((payload, key), 100 + 250, STATE_NBYTES)
    assert (packed.nbytes, packed.exact) == (250, False)
    twice = Headed(b"12", Padded(whole(payload), whole(payload)))
    assert twice.needs == Needs((payload,), 200)
    assert (twice.nbytes, twice.exact) == (102, True)
    assert Headed(b"12", Wrapped(whole(payload), whole(key))).needs == Needs((payload, key), 200, CHUNK)
    assert Gzip(twice).needs == Needs((payload,), 200, STATE_NBYTES)


def test_a_file_that_was_replaced_is_not_read(tmp_path: Path) -> None:
    for name in ("f", "g"):
        (tmp_path / name).write_bytes(b"same size")
    stream = whole(open_local(tmp_path / "f"))
    (tmp_path / "g").replace(tmp_path / "f")
    with pytest.raises(FormatError, match="has changed since it was opened"):
        joined(stream.chunks(4))


def test_beside_gives_the_same_chunks_errors_and_closes_what_it_runs() -> None:
    closed = []

    def numbers(fails: bool = False) -> Generator[bytes]:
        try:
            for number in range(100):
                yield bytes([number])
            if fails:
                raise ValueError("at the end")
        finally:
            closed.append(threading.current_thread().name)

    assert b"".join(beside(numbers())) == bytes(range(100))
    with pytest.raises(ValueError, match="at the end"):
        list(beside(numbers(fails=True)))
    taken = beside(numbers())
    assert next(taken) == b"\0"
    taken.close()  # the thread waits for room
    assert closed == ["weightkit-beside"] * 3
    assert not [one for one in threading.enumerate() if one.name == "weightkit-beside"]
