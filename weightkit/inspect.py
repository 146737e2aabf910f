"""Says what is in a folder or file of weights, from its headers alone. Needs no torch.

import weightkit.inspect
weightkit.inspect.inspect("llama-13b").tensors
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weightkit.blobs import LocalFolder, Place, ZipFolder, folder_at
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.agreement import contradicting
from weightkit.checkpoints.beside import beside_notes
from weightkit.checkpoints.checkpoint import lone_file
from weightkit.checkpoints.flavour import fits_bfloat16, flavour
from weightkit.checkpoints.peft import is_adapter, open_adapter
from weightkit.core.blob import Folder
from weightkit.core.errors import spoken
from weightkit.core.spec import TensorSpec
from weightkit.proof.completeness import missing_notes

__all__ = ["FileInfo", "Inspection", "TensorInfo", "inspect"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor: where it is and what it is. ``shares_with`` names the tensor on whose bytes it lies, if any."""

    name: str
    spec: TensorSpec
    file: str
    shares_with: str | None = None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file of weights: its size, its profile and which releases write that."""

    name: str
    nbytes: int
    profile: str
    written_by: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that the headers tell.

    Attributes:
        path: What was looked at.
        files: Its files of weights.
        tensors: Its tensors, in the files' order.
        small: Names of config and tokenizer files.
        looks_like: ``a model``, ``a diff`` or empty, told from the weights of the norms.
        fits_bfloat16: How many values of float16 or float32 matrices were looked at and all found representable in bfloat16;
            0 if one was not.
        notes: What is in the files beside tensors.
    """

    path: Path
    files: tuple[FileInfo, ...]
    tensors: tuple[TensorInfo, ...]
    small: tuple[str, ...]
    looks_like: str
    fits_bfloat16: int
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Elements in all tensors, shared ones once."""
        return sum(tensor.spec.numel for tensor in self.tensors if tensor.shares_with is None)

    @property
    def dtypes(self) -> Mapping[str, int]:
        """Dtype -> number of tensors, most frequent first."""
        counts: dict[str, int] = {}
        for tensor in self.tensors:
            counts[tensor.spec.dtype.name] = counts.get(tensor.spec.dtype.name, 0) + 1
        return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def holds_adapter(folder: Folder) -> bool:
    """Whether a folder is an adapter's and no model's."""
    return lone_file(folder) is None and is_adapter(folder) and not folder.holds("config.json")


def inspect(path: Place) -> Inspection:
    """Read the headers of a folder or file of weights.

    Raises:
        PlanError: There is nothing there that is understood.
        FormatError: A file is damaged or no file of weights.
    """
    folder = folder_at(path, "PATH")
    checkpoint = open_adapter(folder, "PATH").folder if holds_adapter(folder) else open_checkpoint(folder, "PATH")
    tensors = []
    for file, container in checkpoint.files.items():
        places: dict[int, str] = {}
        for name, tensor in container.tensors.items():
            first = places.setdefault(tensor.start, name) if tensor.spec.numel else name
            tensors.append(TensorInfo(name, tensor.spec, file, None if first == name else first))
    here = isinstance(folder, LocalFolder | ZipFolder)
    told = flavour(checkpoint) if here else None
    looks = "" if told is None else "a diff" if told.is_diff else "a model" if told.is_model else ""
    files = tuple(
        FileInfo(name, container.blob.nbytes, container.profile, container.written_by)
        for name, container in checkpoint.files.items()
    )
    small = () if lone_file(folder) else tuple(checkpoint.small_files())
    own = [] if lone_file(folder) else contradicting(checkpoint.json("config.json"), checkpoint.tensors)
    far = [] if here else ["its values were not looked at, since they are not on this machine"]
    notes = tuple(map(spoken, (*missing_notes(checkpoint), *beside_notes(checkpoint), *own, *far)))
    return Inspection(Path(folder.name), files, tuple(tensors), small, looks, fits_bfloat16(checkpoint) if here else 0, notes)
