"""Downloads are dropped as the run goes on, once all that is made of them stands."""

from __future__ import annotations

import threading
from collections import Counter

from weightkit.core.blob import Blob
from weightkit.core.events import Event, FileFinished, FileKept, FileProved, Notify
from weightkit.run.plan import Plan

__all__ = ["Reclaim"]


class Reclaim:
    """A ``Notify`` that hands on what it is told, and drops downloads that no further file of the plan is made of.

    Dropped is what this process downloaded: never a file of this machine, nor what the cache held before.
    """

    def __init__(self, plan: Plan, notify: Notify) -> None:
        self.notify, self.lock = notify, threading.Lock()
        self.reads: dict[str, tuple[Blob, ...]] = {file.path: file.needs.blobs for file in plan.hashed}
        self.left = Counter(blob for blobs in self.reads.values() for blob in blobs)

    def __call__(self, event: Event) -> None:
        self.notify(event)
        if not isinstance(event, FileFinished | FileKept | FileProved):
            return
        with self.lock:
            blobs = self.reads.pop(event.path, ())
            self.left.subtract(blobs)
        for blob in blobs:
            drop = getattr(blob, "drop", None)
            if drop is not None and not self.left[blob]:
                drop()
