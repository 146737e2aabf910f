"""A folder's tokenizer as a GGUF file holds it: pieces, their scores and kinds, merges, special tokens. Nothing of it is run.

Source: llama.cpp ``conversion/base.py`` (``_create_vocab_sentencepiece``, ``get_vocab_base``, ``does_token_look_special``) and
``conversion/llama.py`` (``set_vocab``); ``SpecialVocab`` of gguf is called itself.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.vocabulary import BYTES, FIXED32, PIECES, SCORE, TEXT, fields, varint
from weightkit.containers.gguf import Fact
from weightkit.core.errors import WeightkitError
from weightkit.core.installed import adding_extra
from weightkit.families.gguf import pre_tokenizer

__all__ = ["gguf_package", "vocabulary_facts"]

KIND, VARINT = 3, 0
"""Field of a piece that says its kind, and the wire type of that."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
AS_IT_IS = (UNKNOWN, CONTROL, UNUSED, BYTE)
"""Kinds of sentencepiece that are told; a piece that its user defined counts as normal, as with llama.cpp."""

ADDED_SCORE, NO_SCORE = -1000.0, -10000.0
LOOK_SPECIAL = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
SPECIAL_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt")
LONGER = {"unk": "unknown", "sep": "seperator", "pad": "padding"}
"""Special tokens that go by a longer name there; "seperator" is llama.cpp's spelling."""

NO_BOS_ROWS = 49152
"""Rows of a vocabulary to which llama.cpp's converter says that no beginning is added: Granite's, SmolLM's."""


def gguf_package() -> Any:
    """llama.cpp's Python package.

    Raises:
        WeightkitError: It is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise WeightkitError(f"GGUF files need llama.cpp's package gguf: {adding_extra('gguf')}") from error
    return gguf


def vocabulary_facts(folder: Checkpoint, config: bytes, rows: int, notes: list[str]) -> dict[str, Fact]:
    """The facts ``tokenizer.*``.

    Args:
        folder: Whose tokenizer it is.
        config: config.json, which names special tokens, too.
        rows: Rows of the embedding: so many pieces are written.
        notes: Takes what the user should know.

    Raises:
        ValueError: It is of a kind that is not known here, or has more tokens than rows.
        FormatError: A file of it is damaged.
    """
    facts: dict[str, Fact] = {}
    said = folder.json("tokenizer_config.json")
    if isinstance(said.get("add_prefix_space"), bool):
        facts["tokenizer.ggml.add_space_prefix"] = "bool", said["add_prefix_space"]
    model = folder.small("tokenizer.model")
    if model is not None:
        facts |= sentencepiece_facts(model, folder, said, rows, notes)
    elif folder.small("tokenizer.json") is not None:
        facts |= bpe_facts(folder, rows)
    else:
        notes.append(
            f"{folder.name} has no tokenizer.model and no tokenizer.json: the GGUF file has no tokenizer and takes numbers"
        )
        return {"tokenizer.ggml.model": ("string", "none")}
    facts |= special_facts(folder, config, rows, merges=model is None)
    if rows == NO_BOS_ROWS:
        facts["tokenizer.ggml.add_bos_token"] = "bool", False
    return facts


def sentencepiece_facts(model: bytes, folder: Checkpoint, said: dict[str, Any], rows: int, notes: list[str]) -> dict[str, Fact]:
    """Of ``tokenizer.model``, with what ``added_tokens.json`` and ``tokenizer_config.json`` add to it or say of it."""
    tokens = [f"[PAD{number}]".encode() for number in range(rows)]
    scores, kinds = [NO_SCORE] * rows, [UNUSED] * rows
    beyond: list[str] = []

    def put(number: int, token: bytes, score: float, kind: int) -> None:
        if 0 <= number < rows:
            tokens[number], scores[number], kinds[number] = token, score, kind
        else:
            beyond.append(f"{token.decode(errors='replace')!r} ({number})")

    for number, (token, score, kind) in enumerate(pieces(model, folder.where("tokenizer.model"))):
        put(number, token, score, kind if kind in AS_IT_IS else NORMAL)
    for text, number in folder.json("added_tokens.json").items():
        if type(number) is int:
            put(number, text.encode(), ADDED_SCORE, USER_DEFINED)
    added = said.get("added_tokens_decoder")
    for number, one in (added if isinstance(added, dict) else {}).items():
        if isinstance(one, dict) and isinstance(one.get("content"), str) and number.isdecimal():
            kind = CONTROL if one.get("special") or looks_special(one["content"]) else USER_DEFINED
            token = one["content"] if kind == CONTROL else one["content"].replace(BLANK, " ")
            put(int(number), token.encode(), ADDED_SCORE, kind)
    if beyond:
        more = f" and {len(beyond) - 3} more" if len(beyond) > 3 else ""
        notes.append(
            f"{folder.name}: tokens beyond the {rows} rows of the embedding are left out: {', '.join(beyond[:3])}{more}"
        )
    return {
        "tokenizer.ggml.model": ("string", "llama"),
        "tokenizer.ggml.pre": ("string", "default"),
        "tokenizer.ggml.tokens": ("string[]", tokens),
        "tokenizer.ggml.scores": ("float32[]", scores),
        "tokenizer.ggml.token_type": ("int32[]", kinds),
    }


def pieces(model: bytes, origin: str) -> Iterable[tuple[bytes, float, int]]:
    """Text, score and kind of each piece of a sentencepiece model."""
    for number, wire, _, start, stop in fields(model, origin):
        if (number, wire) != (PIECES, BYTES):
            continue
        piece, token, score, kind = model[start:stop], b"", 0.0, NORMAL
        for inner, wire, _, low, high in fields(piece, origin):
            if (inner, wire) == (TEXT, BYTES):
                token = piece[low:high]
            elif (inner, wire) == (SCORE, FIXED32):
                (score,) = struct.unpack("<f", piece[low:high])
            elif (inner, wire) == (KIND, VARINT):
                kind, _ = varint(piece, low, origin)
        yield token, score, kind


def bpe_facts(folder: Checkpoint, rows: int) -> dict[str, Fact]:
    """Of ``tokenizer.json``."""
    whole = folder.json("tokenizer.json")
    where = folder.where("tokenizer.json")
    model = whole.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    cut = pre_tokenizer(whole)
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(vocab, dict) or cut is None:
        what = "sentencepiece" if isinstance(model, dict) and model.get("byte_fallback") else "a kind that is not known here"
        raise ValueError(
            f"has a tokenizer.json of {what} and no tokenizer.model, which a GGUF file is made of: put the tokenizer.model "
            f"that was published with it beside it ({where})"
        )
    tokens: list[str | bytes] = [f"[PAD{number}]" for number in range(rows)]
    kinds = [UNUSED] * rows
    listed = whole.get("added_tokens")
    added = [one for one in (listed if isinstance(listed, list) else []) if isinstance(one, dict)]
    named: list[tuple[str, Any, int]] = [(token, number, NORMAL) for token, number in vocab.items()]
    for one in added:
        token = str(one.get("content"))
        special = one.get("special") or looks_special(token)
        named.append((token if special else token.replace(BLANK, " "), one.get("id"), CONTROL if special else USER_DEFINED))
    for token, number, kind in named:
        if type(number) is not int or not 0 <= number < rows:
            raise ValueError(
                f"has a token {token[:40]!r} with the number {number}, and an embedding of {rows} rows: not one model"
            )
        tokens[number], kinds[number] = token, kind
    return {
        "tokenizer.ggml.model": ("string", "gpt2"),
        "tokenizer.ggml.pre": ("string", cut),
        "tokenizer.ggml.tokens": ("string[]", tokens),
        "tokenizer.ggml.token_type": ("int32[]", kinds),
    }


def special_facts(folder: Checkpoint, config: bytes, rows: int, *, merges: bool) -> dict[str, Fact]:
    """Merges, numbers of special tokens, whether they are added, chat templates: what ``SpecialVocab`` finds in the files."""
    gguf = gguf_package()
    with tempfile.TemporaryDirectory(prefix="weightkit-gguf-") as place:
        small = {name: folder.small(name) for name in SPECIAL_FILES} | {"config.json": config}
        for name, content in small.items():
            if content is not None:
                (Path(place) / name).write_bytes(content)
        try:
            special = gguf.SpecialVocab(place, load_merges=merges, n_vocab=rows)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"has tokenizer files that llama.cpp's own reader does not take: {error}") from error
    facts: dict[str, Fact] = {}
    if special.merges:
        facts["tokenizer.ggml.merges"] = "string[]", special.merges
    for kind, number in special.special_token_ids.items():
        facts[f"tokenizer.ggml.{LONGER.get(kind, kind)}_token_id"] = "uint32", number
    for kind, value in special.add_special_token.items():
        facts[f"tokenizer.ggml.add_{kind}_token"] = "bool", value
    return facts | templates(special.chat_template)


def templates(found: Any) -> dict[str, Fact]:
    """A chat template; of several, those that have names, too."""
    if isinstance(found, str):
        return {"tokenizer.chat_template": ("string", found)}
    named = {
        one["name"]: one["template"] for one in found or () if isinstance(one, dict) and {"name", "template"} <= one.keys()
    }
    default = {"tokenizer.chat_template": ("string", named["default"])} if "default" in named else {}
    others = {f"tokenizer.chat_template.{name}": ("string", one) for name, one in named.items() if name != "default"}
    names = {"tokenizer.chat_templates": ("string[]", [name for name in named if name != "default"])} if others else {}
    return names | others | default


def looks_special(token: str) -> bool:
    """Whether llama.cpp's converter takes a token for one that steers, whatever the tokenizer says."""
    bars = (("<|", "|>"), ("<\N{FULLWIDTH VERTICAL LINE}", "\N{FULLWIDTH VERTICAL LINE}>"), ("<unused", ">"))
    return token in LOOK_SPECIAL or any(token.startswith(one) and token.endswith(other) for one, other in bars)
