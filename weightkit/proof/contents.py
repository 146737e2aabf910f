"""Content digests of a checkpoint's tensors, whatever its containers, shards and layout."""

from __future__ import annotations

from collections.abc import Mapping

from weightkit.core.content import TensorHash
from weightkit.core.digest import Digest
from weightkit.core.events import BytesWritten, Notify, Started, ignore
from weightkit.core.lazy import LazyTensor
from weightkit.core.passes import blocks, reading
from weightkit.proof.unchecked import unchecked

__all__ = ["tensor_digests"]


def tensor_digests(tensors: Mapping[str, LazyTensor], notify: Notify = ignore) -> dict[str, Digest]:
    """The digest of each tensor as it stands, in one pass over them all."""
    found = {}
    notify(Started(sum(tensor.spec.nbytes for tensor in tensors.values())))
    with reading(tensors.values()):
        for name, tensor in tensors.items():
            taken = TensorHash(tensor.spec)
            for (block,) in blocks([unchecked(tensor)]):
                taken.update(block)
            found[name] = taken.digest()
            notify(BytesWritten(name, tensor.spec.nbytes))
    return found
