"""The stream that runs ahead of a pass, alone: readers of all habits, in threads, and what breaks meanwhile."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from weightkit.blobs.reads import BLOCK
from weightkit.blobs.window import Window, Windows
from weightkit.blobs.witness import Piece
from weightkit.core.digest import Digest
from weightkit.core.errors import DigestMismatch, FormatError, WeightkitError
from weightkit.core.events import hearing

pytestmark = pytest.mark.timeout(60)

SIZE = 12 * BLOCK + 12_345
TRUTH = random.Random(14).randbytes(SIZE)
DIGEST = Digest("sha256", hashlib.sha256(TRUTH).hexdigest())


COUNT = itertools.count()


class Far:
    """An object elsewhere; ``change`` may spoil what is sent."""

    def __init__(self) -> None:
        self.windows, self.version = Windows(), str(next(COUNT))
        self.witness = self.windows.witness(self.version)
        self.sent = 0
        self.streams = 0
        self.change: Callable[[int, bytes, bool], bytes] = lambda at, part, streamed: part
        self.digest: Digest | None = DIGEST
        self.source = Piece("far", SIZE, self.fetch, self.flow)

    def fetch(self, start: int, stop: int) -> bytearray:
        self.sent += stop - start
        return bytearray(self.change(start, TRUTH[start:stop], False))

    def flow(self, start: int, stop: int) -> Iterator[bytearray]:
        self.streams += 1
        for at in range(start, stop, BLOCK):
            part = TRUTH[at : min(at + BLOCK, stop)]
            self.sent += len(part)
            yield bytearray(self.change(at, part, True))

    def read(self, start: int, stop: int) -> bytes:
        window = self.windows.get(self.version)
        found = None if window is None else window.read(start, stop)
        return bytes(self.witness.read(self.source, start, stop) if found is None else found)

    def pass_over(self, ranges: list[tuple[int, int]], *, true: bool = True) -> None:
        """One pass; every read is compared with the truth, unless a lie is expected."""
        own = Window(self.source, self.digest, self.witness, 2 * BLOCK, SIZE)
        with self.windows.reading(self.version, ranges[0][0], own):
            for start, stop in ranges:
                assert self.read(start, stop) == TRUTH[start:stop] or not true, "other bytes than were sent"


def in_order(step: int = 700_001, first: int = 0) -> list[tuple[int, int]]:
    return [(at, min(at + step, SIZE)) for at in range(first, SIZE, step)]


def ended(far: Far) -> bool:
    """Whether no stream goes on."""
    for _ in range(200):
        if not any(one.name == "weightkit-ahead" for one in threading.enumerate()):
            return not far.windows.open
        time.sleep(0.01)
    return False


def test_in_order_each_byte_comes_once() -> None:
    far = Far()
    far.pass_over(in_order())
    assert (far.sent, far.streams) == (SIZE, 1)
    assert ended(far)


@pytest.mark.parametrize("seed", range(12))
def test_readers_of_all_habits(seed: int) -> None:
    rng = random.Random(seed)
    far = Far()
    habits = []
    for _ in range(rng.randrange(1, 5)):
        ranges = in_order(rng.randrange(1000, 3 * BLOCK), rng.choice([0, 0, SIZE // 2]))[:60]
        kind = rng.randrange(5)
        if kind == 1:
            ranges.reverse()
        elif kind == 2:
            rng.shuffle(ranges)
        elif kind == 3:
            ranges = ranges[: len(ranges) // 2 + 1] + ranges[:2]
        habits.append(ranges)
    with ThreadPoolExecutor(len(habits)) as pool:
        for one in [pool.submit(far.pass_over, ranges) for ranges in habits]:
            one.result(50)
    assert ended(far)
    assert far.witness.settled


@pytest.mark.parametrize("at", [0, 5, BLOCK, 3 * BLOCK + 7, SIZE - 1])
@pytest.mark.parametrize("beside", [False, True])
def test_one_wrong_byte(at: int, beside: bool) -> None:
    """On the stream, or in what comes beside it: a pass does not end well."""
    far = Far()
    left = [1]

    def change(start: int, part: bytes, streamed: bool) -> bytes:
        if streamed != beside and left[0] and start <= at < start + len(part):
            left[0] -= 1
            return part[: at - start] + bytes([part[at - start] ^ 1]) + part[at - start + 1 :]
        return part

    far.change = change
    ranges = in_order()
    if beside:
        ranges.reverse()
    with pytest.raises(DigestMismatch):
        far.pass_over(ranges, true=False)
    assert ended(far)


def test_a_header_that_was_wrong_before_the_pass() -> None:
    far = Far()
    far.change = lambda at, part, streamed: part if streamed else b"x" + part[1:]
    far.read(0, 100)
    far.change = lambda at, part, streamed: part
    with pytest.raises(DigestMismatch, match="twice"):
        far.pass_over(in_order())


def test_a_network_that_fails() -> None:
    far = Far()

    def change(at: int, part: bytes, streamed: bool) -> bytes:
        if at >= 4 * BLOCK:
            raise FormatError("far", "cannot be fetched")
        return part

    far.change = change
    with ThreadPoolExecutor(3) as pool:
        for one in [pool.submit(far.pass_over, in_order(step)) for step in (1000_000, 300_000, 2_000_000)]:
            with pytest.raises(WeightkitError, match="cannot be fetched"):
                one.result(30)
    assert ended(far)


def test_who_fails_beside_one_that_waits() -> None:
    """The digest is waited for by one reader; another fails, as the last that reads: the first is not let off."""
    far = Far()
    far.digest = Digest("sha256", "ab" * 32)
    begun, over = threading.Event(), threading.Event()

    def failing() -> None:
        own = Window(far.source, far.digest, far.witness, 2 * BLOCK, SIZE)
        with suppress(RuntimeError), far.windows.reading(far.version, 0, own):
            begun.set()
            over.wait(20)
            raise RuntimeError

    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(failing)
        begun.wait(20)
        first = pool.submit(far.pass_over, [(0, 1000)])
        time.sleep(0.3)
        over.set()
        with pytest.raises(DigestMismatch):
            first.result(30)
        second.result(30)
    assert ended(far)


def test_a_run_that_ends_while_bytes_are_waited_for() -> None:
    far = Far()
    gate = threading.Event()

    class Stopped(Exception):
        pass

    def stop(event: object) -> None:
        raise Stopped

    def change(at: int, part: bytes, streamed: bool) -> bytes:
        if at >= BLOCK:
            gate.wait(2)
        return part

    far.change = change
    start = time.monotonic()
    with hearing(stop), pytest.raises(Stopped):
        far.pass_over(in_order())
    assert time.monotonic() - start < 10
    gate.set()
    assert ended(far)


def test_without_a_digest_only_what_is_wanted_comes() -> None:
    far = Far()
    far.digest = None
    own = Window(far.source, None, far.witness, 2 * BLOCK, 6 * BLOCK)
    with far.windows.reading(far.version, 4 * BLOCK + 5, own):
        for at in range(4 * BLOCK + 5, 6 * BLOCK - 1000, 1000):
            assert far.read(at, at + 1000) == TRUTH[at : at + 1000]
    assert far.sent == 2 * BLOCK
    assert ended(far)
