"""Says what is in a folder or file of weights, from its headers alone. Needs no torch.

import weightkit.inspect
weightkit.inspect.inspect("llama-13b").tensors
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.flavour import fits_bfloat16, flavour
from weightkit.containers.torch_file import TorchFile
from weightkit.core.spec import TensorSpec

__all__ = ["FileInfo", "Inspection", "TensorInfo", "inspect"]

WRITTEN_BY = {
    "zip-1.6": "torch 1.6 to 1.8",
    "zip-1.9": "torch 1.9 to 1.12 (or later, into a file object)",
    "zip-1.13": "torch 1.13 to 2.0",
    "zip-2.1": "torch 2.1 to 2.6",
    "zip-2.7": "torch 2.7 or later",
    "legacy": "torch before 1.6 (or later, legacy format)",
    "safetensors": "safetensors",
}
"""Profile -> which releases write it. Source: torch-golden, section 1."""


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

    @property
    def written_by(self) -> str:
        """Which releases write such a file."""
        return WRITTEN_BY[self.profile]


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
    """

    path: Path
    files: tuple[FileInfo, ...]
    tensors: tuple[TensorInfo, ...]
    small: tuple[str, ...]
    looks_like: str
    fits_bfloat16: int

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


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Read the headers of a folder or file of weights.

    Raises:
        PlanError: There is nothing there that is understood.
        FormatError: A file is damaged or no file of weights.
    """
    checkpoint = open_checkpoint(Path(path), "PATH")
    tensors = []
    for file, container in checkpoint.files.items():
        places: dict[tuple[str, int], str] = {}
        for name, spec in container.specs.items():
            shares = None
            if isinstance(container, TorchFile) and spec.numel:
                ref = container.tensors[name]
                first = places.setdefault((ref.storage.key, ref.offset), name)
                shares = first if first != name else None
            tensors.append(TensorInfo(name, spec, file, shares))
    told = flavour(checkpoint)
    looks = "" if told is None else "a diff" if told.is_diff else "a model" if told.is_model else ""
    files = tuple(
        FileInfo(name, container.path.stat().st_size, container.profile) for name, container in checkpoint.files.items()
    )
    small = tuple(checkpoint.small_files()) if Path(path).is_dir() else ()
    return Inspection(Path(path), files, tuple(tensors), small, looks, fits_bfloat16(checkpoint))
