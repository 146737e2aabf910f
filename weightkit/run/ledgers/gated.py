"""A sink that publishes nothing before something else has been found to hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.run.ledgers import Sink, Writer

__all__ = ["Gated"]


class GatedWriter:
    """One file; to seal it waits for the gate."""

    def __init__(self, out: Writer, gate: Callable[[], None]) -> None:
        self.out, self.gate = out, gate

    def write(self, data: Buffer) -> object:
        return self.out.write(data)

    def seal(self, digests: dict[str, Digest]) -> None:
        self.gate()
        self.out.seal(digests)


class Gated:
    """Another sink, whose files appear only after ``gate`` has returned; if it raises, none does."""

    def __init__(self, sink: Sink, gate: Callable[[], None]) -> None:
        self.sink, self.gate = sink, gate

    def finished(self, path: str, nbytes: int | None) -> dict[str, Digest] | None:
        """As the other sink says."""
        return self.sink.finished(path, nbytes)

    @contextmanager
    def create(self, path: str) -> Iterator[Writer]:
        """A file of the other sink, behind the gate."""
        with self.sink.create(path) as out:
            yield GatedWriter(out, self.gate)

    def close(self) -> None:
        """Close the other sink."""
        self.sink.close()
