"""A stream computed in a thread beside whoever takes its chunks, a few of them ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator

from weightkit.core.buffers import Buffer

__all__ = ["AHEAD", "beside"]

AHEAD = 4
"""Chunks that may wait."""


def beside(chunks: Generator[Buffer]) -> Generator[Buffer]:
    """The same chunks in the same order; what computing them raises is raised where the next one is taken."""
    waiting: deque[Buffer] = deque()
    changed = threading.Condition()
    failure: list[BaseException] = []
    ended = stopped = False

    def work() -> None:
        nonlocal ended
        try:
            for chunk in chunks:
                with changed:
                    while len(waiting) >= AHEAD and not stopped:
                        changed.wait()
                    if stopped:
                        return
                    waiting.append(chunk)
                    changed.notify_all()
        except BaseException as error:
            failure.append(error)
        finally:
            chunks.close()
            with changed:
                ended = True
                changed.notify_all()

    thread = threading.Thread(target=work, name="weightkit-beside", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                while not waiting and not ended:
                    changed.wait()
                if not waiting:
                    break
                chunk = waiting.popleft()
                changed.notify_all()
            yield chunk
        if failure:
            raise failure[0]
    finally:
        with changed:
            stopped = True
            changed.notify_all()
        thread.join()
