"""What it takes to make a file: inputs, bytes read, memory. One value that adds up."""

from __future__ import annotations

from dataclasses import dataclass

from weightkit.core.blob import Blob

__all__ = ["Needs"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What making some bytes takes.

    Attributes:
        blobs: The objects that are read, each once.
        read_nbytes: Bytes read from them.
        held_nbytes: Memory held while they are made, beside the blocks that are on their way.
        widest_row_nbytes: Bytes in the widest row of a tensor: a block can be no smaller.
        torch: Whether torch is imported on the way.
    """

    blobs: tuple[Blob, ...] = ()
    read_nbytes: int = 0
    held_nbytes: int = 0
    widest_row_nbytes: int = 0
    torch: bool = False

    def __add__(self, other: Needs) -> Needs:
        """What both take at once."""
        return Needs(
            tuple(dict.fromkeys((*self.blobs, *other.blobs))),
            self.read_nbytes + other.read_nbytes,
            self.held_nbytes + other.held_nbytes,
            max(self.widest_row_nbytes, other.widest_row_nbytes),
            self.torch or other.torch,
        )
