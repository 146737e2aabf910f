"""Published files that are not stored: made of those that the same run stores, hashed, and let go.

A stored file stands in the plan as an object that is yet to come; when it is whole, its own bytes take that place. So what
lies on the disk is what the published digests prove, each input is read once, and nothing is computed twice. Only a tensor that
no stored file has as it is wanted is computed again from the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from weightkit.containers import open_file, suffixes
from weightkit.core.blob import Blob, Extent
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError
from weightkit.core.lazy import Derived, LazyTensor, Stored, leaves
from weightkit.run.plan import Output, OutputFile

__all__ = ["ToCome", "again_nbytes", "made_of", "stands_for", "stored_tensors", "taken_from", "waits_for"]


@dataclass(frozen=True, slots=True)
class ToCome:
    """A file that the run will have stored, as an object: what is made of it can be planned, and not be read."""

    name: str
    nbytes: int

    @property
    def version(self) -> str:
        """None yet."""
        return ""

    @property
    def stated(self) -> tuple[Digest, ...]:
        """None."""
        return ()

    def read(self, start: int, stop: int) -> Buffer:
        """Nothing can be read.

        Raises:
            FormatError: Always.
        """
        raise FormatError(self.name, "is not written yet")

    def ahead(self, extents: Sequence[Extent], nbytes: int) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def check(self) -> None:
        """Nothing."""


def stored_tensors(files: Iterable[Output]) -> dict[LazyTensor, Stored]:
    """What fills the tensors that files store -> the tensor in the file that is to come."""
    found: dict[LazyTensor, Stored] = {}
    for file in files:
        if not isinstance(file, OutputFile) or not file.path.endswith(suffixes()):
            continue
        blob, fills = ToCome(file.path, file.nbytes), [fillers(run) for run in file.tensors]
        for number, item in enumerate(file.layout.items):
            tensor = fills[item.run].get(item.offset)
            if tensor is not None and tensor.spec == item.spec and item.spec.numel:
                found.setdefault(tensor, Stored(blob, item.name, item.spec, number))
    return found


def fillers(run: Sequence[LazyTensor]) -> dict[int, LazyTensor]:
    """The tensors that fill a run, by the element that each begins at."""
    found: dict[int, LazyTensor] = {}
    at = 0
    for tensor in run:
        found.setdefault(at, tensor)
        at += tensor.spec.numel
    return found


def stands_for(file: OutputFile, taken: Mapping[LazyTensor, LazyTensor]) -> OutputFile:
    """A file whose tensors, and what they are made of, are taken from elsewhere where they can be had there."""
    known: dict[LazyTensor, LazyTensor] = {}

    def of(tensor: LazyTensor) -> LazyTensor:
        if tensor not in known:
            found = taken.get(tensor)
            if found is None:
                found = tensor
                if isinstance(tensor, Derived):
                    found = Derived(tensor.op, tuple(map(of, tensor.inputs)), tensor.spec)
            known[tensor] = found
        return known[tensor]

    return replace(file, tensors=tuple(tuple(map(of, run)) for run in file.tensors))


def taken_from(file: OutputFile) -> list[Stored]:
    """The tensors of stored files that a file is made of."""
    return [one for one in leaves(tensor for run in file.tensors for tensor in run) if isinstance(one.blob, ToCome)]


def waits_for(file: Output) -> frozenset[str]:
    """The stored files that one is made of."""
    return frozenset(blob.name for blob in file.needs.blobs if isinstance(blob, ToCome))


def again_nbytes(file: Output) -> int:
    """Bytes of the inputs that are read once more, because no stored file has what is made of them."""
    if not isinstance(file, OutputFile):
        return 0
    return file.needs.read_nbytes - sum(one.spec.nbytes for one in taken_from(file))


def made_of(file: OutputFile, opened: Callable[[str], Blob]) -> OutputFile:
    """A file with the stored ones in their places, now that they are there.

    Args:
        file: As it was planned.
        opened: A stored file's name -> its bytes.

    Raises:
        FormatError: One is not as it was written.
    """
    tensors = {name: open_file(opened(name)).tensors for name in sorted(waits_for(file))}
    places: dict[LazyTensor, LazyTensor] = {}
    for one in taken_from(file):
        there = tensors[one.blob.name].get(one.name)
        if there is None or there.spec != one.spec:
            raise FormatError(opened(one.blob.name).name, f"{one.name} is not in it as it was written")
        places[one] = there
    return stands_for(file, places)
