"""Content digests: of a tensor whatever container holds it, and of a model whatever its shards.

    tensor   SHA-256 of a line "float16 32000 4096" (dtype, then each size) with a line feed, then the bytes, row-major,
             little-endian
    model    SHA-256 of the lines "<digest>  <name>" with line feeds, in the order of the names' bytes, without rotary
             inv_freq buffers, which converters store or leave out

Names, dtypes and shapes are those of the transformers layout. ``docs/content-digests.md`` specifies it for others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from weightkit.checkpoints import Checkpoint
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError
from weightkit.core.events import BytesWritten, Notify, ignore
from weightkit.core.lazy import LazyTensor, reader
from weightkit.core.spec import TensorSpec
from weightkit.families import llama

__all__ = ["TENSORS", "TensorHash", "encode", "is_list", "model_digest", "parse", "tensor_digest", "tensor_digests"]

TENSORS = "TENSORS"
"""The file that runs leave beside SHA256SUMS."""

HEADER = "# weightkit tensors 1: model "
BLOCK_BYTES = 1 << 20


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
    taken, read = TensorHash(tensor.spec), reader(tensor)
    for start, stop in tensor.spec.blocks(BLOCK_BYTES):
        taken.update(read(start, stop))
    return taken.digest()


def tensor_digests(checkpoint: Checkpoint, notify: Notify = ignore) -> dict[str, Digest]:
    """The digests of all tensors of a checkpoint, by name."""
    found = {}
    for name, tensor in checkpoint.tensors.items():
        found[name] = tensor_digest(tensor)
        notify(BytesWritten(name, tensor.spec.nbytes))
    return found


def model_digest(tensors: Mapping[str, Digest]) -> Digest:
    """The digest of a model."""
    lines = [line for name, line in in_order(tensors) if not llama.is_inv_freq(name)]
    return Digest("sha256", hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest())


def in_order(tensors: Mapping[str, Digest]) -> Iterable[tuple[str, str]]:
    """Names and lines, in the order of the names' bytes."""
    lines = [(name, f"{tensors[name].hex}  {escaped(name)}\n") for name in tensors]
    return sorted(lines, key=lambda one: one[0].encode("utf-8", "surrogatepass"))


ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def escaped(name: str) -> str:
    """A name on one line: a backslash, line feed or carriage return in it is written as two characters."""
    return re.sub(r"[\\\n\r]", lambda match: ESCAPES[match[0]], name)


def unescaped(text: str) -> str:
    """Undo ``escaped``."""
    back = {value: key for key, value in ESCAPES.items()}
    return re.sub(r"\\[\\nr]", lambda match: back[match[0]], text)


def encode(tensors: Mapping[str, Digest]) -> bytes:
    """The file: a line with the model's digest, then a line for each tensor, all buffers among them."""
    text = f"{HEADER}{model_digest(tensors).hex}\n" + "".join(line for _, line in in_order(tensors))
    return text.encode("utf-8", "surrogatepass")


def is_list(path: Path) -> bool:
    """Whether a file holds digests of tensors."""
    with path.open("rb") as file:
        return file.read(len(HEADER)) == HEADER.encode()


def parse(path: Path) -> dict[str, Digest]:
    """The digests in such a file.

    Raises:
        FormatError: It is damaged, or its first line is not the model's digest.
    """
    lines = path.read_bytes().decode("utf-8", "surrogatepass").removesuffix("\n").split("\n")
    found: dict[str, Digest] = {}
    for number, line in enumerate(lines[1:], 2):
        digits, _, name = line.partition("  ")
        try:
            found[unescaped(name)] = Digest("sha256", digits)
        except ValueError as error:
            raise FormatError(path, f"line {number}: {error}") from error
    if not found or model_digest(found).hex != lines[0].removeprefix(HEADER).strip():
        raise FormatError(path, "is damaged: its first line is not the digest of the others; make it anew")
    return found
