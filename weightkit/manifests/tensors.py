"""The file TENSORS: the content digest of each tensor of a model, and the model's own, whatever its shards.

    # weightkit tensors 1: model 9f86d081...      the model's digest: SHA-256 of the lines below, as they stand, but without
                                                  rotary inv_freq buffers, which converters store or leave out
    60303ae2...  lm_head.weight                   a tensor's, see ``core.content``; in the order of the names' bytes

Names, dtypes and shapes are those of the transformers layout. ``docs/content-digests.md`` specifies it for others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError
from weightkit.families import llama
from weightkit.manifests.sums import escaped, unescaped

__all__ = ["TENSORS", "encode", "escaped", "is_list", "model_digest", "parse", "parse_text"]

TENSORS = "TENSORS"
"""The file that runs leave beside SHA256SUMS."""

HEADER = "# weightkit tensors 1: model "


def model_digest(tensors: Mapping[str, Digest]) -> Digest:
    """The digest of a model."""
    digest = hashlib.sha256()
    for name, line in in_order(tensors):
        if not llama.is_inv_freq(name):
            digest.update(line)
    return Digest("sha256", digest.hexdigest())


def in_order(tensors: Mapping[str, Digest]) -> Iterator[tuple[str, bytes]]:
    """Names and lines, in the order of the names' bytes."""
    for name in sorted(tensors, key=lambda one: one.encode("utf-8", "surrogatepass")):
        yield name, f"{tensors[name].hex}  {escaped(name)}\n".encode("utf-8", "surrogatepass")


def encode(tensors: Mapping[str, Digest]) -> bytes:
    """The file: a line with the model's digest, then a line for each tensor, all buffers among them."""
    text = bytearray(f"{HEADER}{model_digest(tensors).hex}\n".encode())
    for _, line in in_order(tensors):
        text += line
    return bytes(text)


def is_list(path: Path) -> bool:
    """Whether a file holds digests of tensors."""
    with path.open("rb") as file:
        return file.read(len(HEADER)) == HEADER.encode()


def parse(path: Path) -> dict[str, Digest]:
    """The digests in such a file. Raises like ``parse_text``."""
    return parse_text(path.read_bytes(), path)


def parse_text(content: bytes, path: Path | str) -> dict[str, Digest]:
    """The digests in the bytes of such a file.

    Raises:
        FormatError: It is damaged, or its first line is not the model's digest.
    """
    try:
        lines = content.decode("utf-8", "surrogatepass").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(path, "is no list of tensors") from error
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
