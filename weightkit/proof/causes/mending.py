"""Whether a conversion mends a file: it is planned and computed here, and compared; nothing is written."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.huggingface import HUGGINGFACE
from weightkit.core.blob import Blob
from weightkit.core.digest import Digest, Hasher
from weightkit.core.dtypes import BY_NAME
from weightkit.core.errors import WeightkitError
from weightkit.core.passes import BLOCK_NBYTES
from weightkit.core.sizes import parse_size
from weightkit.methods.base import based, opened_from
from weightkit.methods.pairing import Rules
from weightkit.run.plan import OutputFile

__all__ = ["Conversion", "begins_with", "gives_digest", "gives_files", "same_bytes", "shard_limit"]

LIMITS = ("10GB", "9.9GB", "5GB", "2GB", "1GB", "500MB", "400MB", "200MB", "200kB")
"""Limits of shards that people say."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A run of ``weightkit convert`` to transformers' layout.

    Attributes:
        source: The folder converted.
        torch_compat: As the option; None for as the source.
        format: Likewise.
        max_shard_size: Likewise.
        dtype: Likewise.
    """

    source: Path
    torch_compat: str | None = None
    format: str | None = None
    max_shard_size: str | None = None
    dtype: str | None = None

    @property
    def command(self) -> str:
        """What the user types."""
        words = [f"weightkit convert {shlex.quote(str(self.source))} OUT --to hf"]
        words += [f"--torch-compat {self.torch_compat}"] if self.torch_compat else []
        words += [f"--format {self.format}"] if self.format else []
        words += [f"--max-shard-size {self.max_shard_size}"] if self.max_shard_size else []
        words += [f"--dtype {self.dtype}"] if self.dtype else []
        return " ".join(words)

    def files(self) -> dict[str, OutputFile]:
        """The files of weights that it writes; none where it would be refused."""
        try:
            base = based(self.source, "PATH")
            checkpoint = open_checkpoint(base.source, base.role, base.converter)
            rules = Rules(BY_NAME[self.dtype] if self.dtype else None)
            tensors = {name: rules.cast(name, one) for name, one in checkpoint.tensors.items()}
            limit = parse_size(self.max_shard_size) if self.max_shard_size else None
            form = Form(format=self.format, torch_compat=self.torch_compat, max_shard_bytes=limit)
            written = HUGGINGFACE.write(replace(opened_from(base, checkpoint), tensors=tensors), form)
        except (WeightkitError, ValueError):
            return {}
        return {file.path: file for file in written.files}


def gives_files(made: Conversion, wanted: Mapping[str, Blob], *, whole: bool) -> bool:
    """Whether a conversion writes these files, byte for byte.

    Args:
        made: The conversion.
        wanted: The files by their names.
        whole: Whether it may write no other files of weights.
    """
    files = made.files()
    if not wanted.keys() <= files.keys() or (whole and len(files) > len(wanted)):
        return False
    return all(files[name].nbytes == blob.nbytes and streams(files[name], blob) for name, blob in wanted.items())


def streams(file: OutputFile, blob: Blob) -> bool:
    """Whether a planned file has the bytes of one that is there; stops at the first block that differs."""
    at = 0
    try:
        for (chunk,) in file.chunks(BLOCK_NBYTES):
            if bytes(chunk) != bytes(blob.read(at, at + len(chunk))):
                return False
            at += len(chunk)
    except WeightkitError:
        return False
    return at == blob.nbytes


def gives_digest(made: Conversion, name: str, wanted: Digest) -> bool:
    """Whether a conversion writes a file of this name with this digest."""
    file = made.files().get(name)
    if file is None:
        return False
    hasher = Hasher([wanted.algorithm], file.nbytes)
    try:
        for (chunk,) in file.chunks(BLOCK_NBYTES):
            hasher.update(chunk)
    except WeightkitError:
        return False
    return hasher.digests()[wanted.algorithm] == wanted


def same_bytes(one: Blob, other: Blob) -> bool:
    """Whether two files are the same; stops at the first block that differs."""
    return one.nbytes == other.nbytes and begins_with(one, other)


def begins_with(one: Blob, other: Blob) -> bool:
    """Whether a file begins with all bytes of another; stops at the first block that differs."""
    if one.nbytes < other.nbytes:
        return False
    ranges = [(at, min(at + BLOCK_NBYTES, other.nbytes)) for at in range(0, other.nbytes, BLOCK_NBYTES)]
    found = all(bytes(one.read(*part)) == bytes(other.read(*part)) for part in ranges)
    one.check()
    other.check()
    return found


def shard_limit(wanted: Checkpoint) -> str | None:
    """The limit of shards that cuts tensors as these files hold them, as people say it; None where none does."""
    sizes = [[tensor.spec.nbytes for tensor in container.tensors.values()] for container in wanted.files.values()]
    if not all(sizes):
        return None
    least = max(map(sum, sizes))
    most = min((sum(one) + after[0] for one, after in itertools.pairwise(sizes)), default=1 << 62)
    if least >= most:
        return None
    return next((one for one in LIMITS if least <= parse_size(one) < most), f"{least}B")
