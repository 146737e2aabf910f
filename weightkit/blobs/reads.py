"""Reading over HTTP: ranges that go on where a connection broke."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

from weightkit.core.errors import FormatError

__all__ = ["BLOCK", "fetched_range", "flowing", "looked_at", "of_the_network"]

TRIES = 5
"""Connections in a row that brought nothing, after which a range is given up."""

PAUSE_SECONDS = 0.25
"""Before the second of them; then twice as long each time."""

REDIRECTS = 5

BLOCK = 1 << 20
"""Bytes that are handed on at once."""

LATER = (408, 429, 500, 502, 503, 504)
"""Answers of a server that has no time now."""


def session() -> Any:
    """The Hub client's own session: its proxies and its settings."""
    return utilities().get_session()


def utilities() -> Any:
    """The Hub client's own tools."""
    return importlib.import_module("huggingface_hub.utils")


def seconds() -> float:
    """How long the Hub's client waits for bytes."""
    return float(importlib.import_module("huggingface_hub.constants").HF_HUB_DOWNLOAD_TIMEOUT)


def of_the_network(error: BaseException) -> bool:
    """Whether an error is one of transfer, after which it may be tried again."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in (
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
    )


def fetched_range(url: str, headers: dict[str, str], start: int, stop: int, name: str) -> bytearray:
    """Bytes ``[start, stop)`` of an address, at once. Raises like ``flowing``."""
    blocks = list(flowing(url, headers, start, stop, name))
    return blocks[0] if len(blocks) == 1 else bytearray().join(blocks)


def flowing(url: str, headers: dict[str, str], start: int, stop: int, name: str) -> Iterator[bytearray]:
    """Bytes ``[start, stop)`` of an address, ``BLOCK`` at a time, in memory that is the caller's own.

    A connection that breaks is taken up where it broke. A redirect to another host does not get the token.

    Raises:
        FormatError: They cannot be had.
    """
    at, failed, block, filled = start, 0, bytearray(min(BLOCK, stop - start)), 0
    while at < stop:
        before = at
        try:
            for chunk in request(url, headers, at, stop, name):  # to its end, so that the connection serves the next
                view = memoryview(chunk)[: stop - at]
                more = len(chunk) > len(view)
                at += len(view)
                while view:
                    part = view[: len(block) - filled]
                    block[filled : filled + len(part)] = part
                    filled, view = filled + len(part), view[len(part) :]
                    if filled == len(block):
                        yield block
                        block, filled = bytearray(min(BLOCK, stop - at + len(view))), 0
                if more:
                    break
        except Exception as error:
            if not of_the_network(error) or (failed := failed + 1 if at == before else 0) >= TRIES:
                raise
        else:
            if (failed := failed + 1 if at == before else 0) >= TRIES:
                raise FormatError(name, f"ends too early: wanted {stop - start} bytes, found {at - start}", start)
        if failed:
            time.sleep(PAUSE_SECONDS * 2 ** (failed - 1))


def request(url: str, headers: dict[str, str], start: int, stop: int, name: str) -> Iterator[bytes]:
    """One request for bytes from ``start`` to ``stop``; fewer come where the connection ends."""
    origin = urlsplit(url)
    headers = {"Accept-Encoding": "identity", **headers, "Range": f"bytes={start}-{stop - 1}"}
    for _ in range(REDIRECTS):
        with session().stream("GET", url, headers=headers, follow_redirects=False, timeout=seconds()) as response:
            status = response.status_code
            if status in (301, 302, 303, 307, 308):
                url = urljoin(url, response.headers.get("Location", ""))
                if (urlsplit(url).scheme, urlsplit(url).netloc) != (origin.scheme, origin.netloc):
                    headers = {key: one for key, one in headers.items() if key.lower() not in ("authorization", "cookie")}
                continue
            if status in LATER:
                raise OSError(f"the server answers {status}")
            if status == 412:
                raise FormatError(name, "has changed since it was opened; start again")
            if status >= 400:
                utilities().hf_raise_for_status(response)
            given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if not (status == 206 and given and int(given[1]) == start) and not (status == 200 and start == 0):
                raise FormatError(name, f"the server gives no ranges of it (status {status}); download it first")
            yield from response.iter_bytes()
            return
    raise FormatError(name, "is redirected again and again")


def looked_at(url: str, name: str) -> tuple[int, str]:
    """Size of a file at an address, and what the server says changes with its bytes.

    Raises:
        FormatError: It gives no ranges, or no size.
    """
    headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
    with session().stream("GET", url, headers=headers, follow_redirects=True, timeout=seconds()) as response:
        utilities().hf_raise_for_status(response)
        found = re.fullmatch(r"bytes 0-0/(\d+)", response.headers.get("Content-Range", ""))
        if response.status_code != 206 or found is None:
            raise FormatError(name, "the server gives no ranges of it; download it first")
        etag = str(response.headers.get("ETag", ""))
    return int(found[1]), "" if etag.startswith("W/") else etag
