"""Tokenizer files: how many tokens there are, and a sentencepiece model with further pieces.

A ``tokenizer.model`` is a protobuf message ``ModelProto``: field 1 is a piece, once for each token in the order of their
numbers, then come the specifications. A piece has its text in field 1 and its score, a float32, in field 2. Nothing else
of the format is needed, so it is read here rather than with a protobuf runtime.

Source: sentencepiece, ``src/sentencepiece_model.proto``; protobuf's encoding (varints, wire types).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.core.errors import FormatError, PlanError

__all__ = [
    *("BYTES", "FIXED32", "PIECES", "SCORE", "TEXT"),
    *("Vocabulary", "fields", "merge_models", "pieces", "read", "varint", "write_merged"),
]

PIECES, TEXT, SCORE = 1, 1, 2
BYTES, FIXED32 = 2, 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a folder's tokenizer.

    Attributes:
        numbers: Token -> its number.
        pad: The token that pads; None where none is named.
    """

    numbers: dict[str, int]
    pad: str | None

    @property
    def size(self) -> int:
        """Rows that a vocabulary tensor needs."""
        return 1 + max(self.numbers.values(), default=-1)

    @property
    def pad_number(self) -> int | None:
        """Number of the token that pads."""
        return None if self.pad is None else self.numbers.get(self.pad)


def read(folder: Checkpoint) -> Vocabulary | None:
    """The tokenizer of a folder: ``tokenizer.model`` or else ``tokenizer.json``, and ``added_tokens.json``; None without.

    Raises:
        FormatError: A file is damaged.
    """
    numbers: dict[str, int] = {}
    model = folder.small("tokenizer.model")
    if model is not None:
        numbers |= {piece: number for number, piece in enumerate(pieces(model, folder.where("tokenizer.model")))}
    else:
        whole = folder.json("tokenizer.json")
        vocab = whole.get("model", {}).get("vocab") if isinstance(whole.get("model"), dict) else None
        numbers |= {token: n for token, n in vocab.items() if type(n) is int} if isinstance(vocab, dict) else {}
        for one in whole.get("added_tokens") or []:
            if isinstance(one, dict) and type(one.get("id")) is int and isinstance(one.get("content"), str):
                numbers[one["content"]] = one["id"]
    if not numbers:
        return None
    numbers |= {token: n for token, n in folder.json("added_tokens.json").items() if type(n) is int}
    pad = None
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        found = folder.json(name).get("pad_token")
        found = found.get("content") if isinstance(found, dict) else found
        pad = found if isinstance(found, str) else pad
    return Vocabulary(numbers, pad)


def fields(message: bytes, origin: Path | str) -> Iterator[tuple[int, int, int, int, int]]:
    """The fields of a protobuf message: number, wire type, where it begins, where its value begins and ends.

    Raises:
        FormatError: It is no protobuf message.
    """
    at = 0
    while at < len(message):
        begin = at
        key, at = varint(message, at, origin)
        match key & 7:
            case 0:
                _, end = varint(message, at, origin)
            case 1:
                end = at + 8
            case 2:
                length, at = varint(message, at, origin)
                end = at + length
            case 5:
                end = at + 4
            case kind:
                raise FormatError(origin, f"is no sentencepiece model: a field of wire type {kind}", offset=begin)
        if end > len(message) or not key >> 3:
            raise FormatError(origin, "is no sentencepiece model, or cut off: a field goes past its end", offset=begin)
        yield key >> 3, key & 7, begin, at, end
        at = end


def varint(message: bytes, at: int, origin: Path | str) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise FormatError(origin, "is no sentencepiece model, or cut off: a number does not end", offset=at)


def pieces(model: bytes, origin: Path | str) -> list[str]:
    """The pieces of a sentencepiece model, in the order of their numbers.

    Raises:
        FormatError: It is none.
    """
    found = []
    for number, kind, _, start, stop in fields(model, origin):
        if (number, kind) == (PIECES, BYTES):
            piece = model[start:stop]
            texts = [piece[low:high] for n, k, _, low, high in fields(piece, origin) if (n, k) == (TEXT, BYTES)]
            try:
                found.append(texts[-1].decode() if texts else "")
            except UnicodeDecodeError as error:
                raise FormatError(origin, f"piece {len(found)} is no UTF-8", offset=start) from error
    if not found:
        raise FormatError(origin, "is no sentencepiece model: it has no pieces")
    return found


def encode_piece(text: str) -> bytes:
    """A piece of score 0, as protobuf serialises one whose text and score were set."""
    raw = text.encode()
    body = encode_varint(TEXT << 3 | BYTES) + encode_varint(len(raw)) + raw
    body += encode_varint(SCORE << 3 | FIXED32) + struct.pack("<f", 0.0)
    return encode_varint(PIECES << 3 | BYTES) + encode_varint(len(body)) + body


def encode_varint(value: int) -> bytes:
    """A number of seven bits a byte, lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def merge_models(
    base: bytes, base_origin: Path | str, extra: bytes, extra_origin: Path | str, add: Sequence[str] = ()
) -> tuple[bytes, int]:
    """A sentencepiece model with those pieces of another that it lacks, each with score 0, then some more.

    Every other byte is the base's: fields come in the order of their numbers, so new pieces go behind the last one.
    Source: Chinese-LLaMA-Alpaca, ``scripts/merge_tokenizer/merge_tokenizers.py``; its published result comes out.

    Args:
        base: A ``tokenizer.model``.
        base_origin: Where it was read, for messages.
        extra: Another.
        extra_origin: Likewise.
        add: Further pieces.

    Returns:
        The model, and how many pieces it has.

    Raises:
        FormatError: One of them is no sentencepiece model, or the base's fields are in another order.
        PlanError: A piece to be added is there already, or empty.
    """
    own = pieces(base, base_origin)
    known = dict.fromkeys(own)
    new = [piece for piece in dict.fromkeys(pieces(extra, extra_origin)) if piece not in known]
    known |= dict.fromkeys(new)
    for piece in add:
        if not piece or piece in known:
            raise PlanError(f"--add-piece {piece!r}: " + ("is there already" if piece else "is empty"))
        known[piece] = None
        new.append(piece)
    numbers = [number for number, *_ in fields(base, base_origin)]
    if numbers != sorted(numbers):
        raise FormatError(base_origin, "its fields are not in the order of their numbers; wanted one that sentencepiece wrote")
    end = max(stop for number, _, _, _, stop in fields(base, base_origin) if number == PIECES)
    return base[:end] + b"".join(encode_piece(piece) for piece in new) + base[end:], len(own) + len(new)


def write_merged(base: Path, extra: Path, out: Path, add: Sequence[str] = (), *, overwrite: bool = False) -> tuple[bytes, int]:
    """Merge two sentencepiece models into a file. Raises like ``merge_models``.

    Returns:
        The bytes written, and how many pieces they have.
    """
    if out.exists() and any(out.samefile(one) for one in (base, extra) if one.exists()):
        raise PlanError(f"-o {out} is one of the inputs, which are never written to; name another file")
    if out.exists() and not overwrite:
        raise PlanError(f"{out} is there already and would be replaced; name another file, or say --overwrite")
    content, count = merge_models(base.read_bytes(), base, extra.read_bytes(), extra, add)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return content, count
