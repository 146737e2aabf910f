"""The content digest of a tensor, whatever container holds it.

    SHA-256 of a line "float16 32000 4096" (dtype, then each size) with a line feed, then the bytes, row-major, little-endian

Names, dtypes and shapes are those of the transformers layout. A model's digest, and the file that lists them, are in
``manifests.tensors``; ``docs/content-digests.md`` specifies both for others.
"""

from __future__ import annotations

import hashlib

from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.lazy import LazyTensor
from weightkit.core.passes import blocks, reading
from weightkit.core.spec import TensorSpec

__all__ = ["TensorHash", "tensor_digest"]


class TensorHash:
    """The digest of one tensor, taken as its bytes go by."""

    def __init__(self, spec: TensorSpec) -> None:
        self.hash = hashlib.sha256(" ".join([spec.dtype.name, *map(str, spec.shape)]).encode() + b"\n")

    def update(self, block: Buffer) -> None:
        """Take in the next bytes."""
        self.hash.update(block)

    def digest(self) -> Digest:
        """The digest so far."""
        return Digest("sha256", self.hash.hexdigest())


def tensor_digest(tensor: LazyTensor) -> Digest:
    """The digest of a tensor."""
    taken = TensorHash(tensor.spec)
    with reading([tensor]):
        for (block,) in blocks([tensor]):
            taken.update(block)
    return taken.digest()
