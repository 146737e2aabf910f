"""What differences of small files tell: line ends, which converter wrote the one wanted, which fields."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from weightkit.blobs import open_local
from weightkit.core.digest import Digest, Hasher
from weightkit.families.converters import CONVERTERS, MODIFIERS, ModelShape, converter_named
from weightkit.manifests.pointers import TOLD, is_pointer
from weightkit.methods.xor_files import ENC
from weightkit.proof.causes import Explanation

__all__ = ["SMALL_NBYTES", "differing_fields", "unlike", "unlike_digest"]

SUFFIXES = (".json", ".txt", ".model", ".jinja", ".md", "")
SMALL_NBYTES = 16 << 20
"""A config or tokenizer has no more bytes."""

PAYLOADS = (".enc", ".wkx")
XORED, RECOVER = b"\0", "recover the release first, with weightkit recover"

NOT_SMALL = (
    (b"<!doctype", "is a web page; the download went wrong, perhaps for want of a login"),
    (b"<html", "is a web page; the download went wrong, perhaps for want of a login"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"pk\3\4", "is a zip file, as files of weights are"),
)
"""How files begin that are no config and no tokenizer."""


def unlike_digest(target: Path, wanted: Digest) -> Explanation:
    """Why a small file has another digest: which version of which tool wrote the one wanted, and which fields differ."""
    if target.stat().st_size > SMALL_NBYTES or target.suffix not in SUFFIXES:
        sentence = "its bytes differ, and it is no file of weights that could be looked into: download it again"
        return Explanation(False, (), sentence)
    content = target.read_bytes()
    for what, changed in (
        ("its newline at the end is missing", content + b"\n"),
        ("it has a newline at the end", content.removesuffix(b"\n")),
        ("it has Windows line ends", content.replace(b"\r\n", b"\n")),
        ("it begins with a byte order mark", content.removeprefix(b"\xef\xbb\xbf")),
    ):
        if has(changed, wanted):
            return Explanation(False, (), f"small file: {what}; its content is right")
    for converter, size, name, made in known_small_files():
        if name == target.name and has(made, wanted):
            fields = differing_fields(content, made)
            sentence = f"small file: the one wanted is what {converter} writes for LLaMA-{size}; {fields}"
            return Explanation(False, (), sentence, f"weightkit convert LLaMA/{size} OUT --to hf --as {converter}")
    if target.suffix == ".json" and not is_json(content):
        if content.startswith(XORED):
            return Explanation(False, (), f"{target.name} is no JSON, and begins with zeros as under a byte XOR: {RECOVER}")
        return Explanation(False, (), f"damage: {target.name} is no JSON")
    often = "most often only the version of transformers in it does: " if b'"transformers_version"' in content else ""
    return Explanation(False, (), f"small file: its bytes differ; {often}compare it with --against FILE")


def has(content: bytes, wanted: Digest) -> bool:
    """Whether bytes have a digest."""
    hasher = Hasher([wanted.algorithm], len(content))
    hasher.update(content)
    return hasher.digests()[wanted.algorithm] == wanted


def unlike(target: Path, other: Path) -> Explanation:
    """Why a file that holds no weights is not another."""
    if not other.is_file():
        return Explanation(False, (), f"{target} is a file, and {other} a folder")
    for path in (target, other):
        if is_pointer(open_local(path)):
            return Explanation(False, (), f"{path} {TOLD}")
    if (match := ENC.fullmatch(target.name)) and not ENC.fullmatch(other.name):
        return Explanation(False, (), f"{target} is an XOR payload of {match['name']}, not the file itself; recover it first")
    if target.name.endswith(PAYLOADS):
        return Explanation(
            False, (), f"a payload: its bytes are not those of {other}; download it again, or name the right one"
        )
    if max(target.stat().st_size, other.stat().st_size) > SMALL_NBYTES:
        return Explanation(False, (), f"the bytes differ, and {target.name} is no file of weights that could be looked into")
    mine, right = target.read_bytes(), other.read_bytes()
    for path, content in ((target, mine), (other, right)):
        for magic, what in NOT_SMALL:
            if content[:16].lower().startswith(magic):
                return Explanation(False, (), f"{path} {what}")
    if target.suffix != ".json":
        return Explanation(False, (), "small file: its bytes differ", copied(other))
    return Explanation(False, (), f"small file: {differing_fields(mine, right)}", copied(other) if is_json(right) else "")


def copied(right: Path) -> str:
    """The command that copies the right file."""
    return f"cp {shlex.quote(str(right))} OUT"


def known_small_files() -> Iterator[tuple[str, str, str, bytes]]:
    """What the known converters write: converter, size of LLaMA, name of the file, bytes."""
    shapes = {
        "7B": ModelShape(4096, 11008, 32, 32, 32, 32000, 1e-6),
        "13B": ModelShape(5120, 13824, 40, 40, 40, 32000, 1e-6),
        "30B": ModelShape(6656, 17920, 52, 52, 60, 32000, 1e-6),
        "65B": ModelShape(8192, 22016, 64, 64, 80, 32000, 1e-5),
    }
    for base in CONVERTERS:
        for name in (base, *(f"{base}+{modifier}" for modifier in MODIFIERS)):
            converter = converter_named(name)
            for size, shape in shapes.items():
                for file, content in converter.small_files(shape).items():
                    yield name, size, file, content


def is_json(content: bytes) -> bool:
    """Whether bytes are JSON."""
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def differing_fields(one: bytes, other: bytes) -> str:
    """Which fields of two JSON objects differ, here and there."""
    if not is_json(one) and not is_json(other):
        return "the bytes differ, of what is no JSON on either side"
    for content, where in ((one, "here"), (other, "there")):
        if not is_json(content):
            return f"what is {where} is no JSON: damage"
    here, there = json.loads(one), json.loads(other)
    if not isinstance(here, dict) or not isinstance(there, dict):
        return "they are no objects"
    gone = object()
    changed = [
        f"{key}: {shown_field(here, key)} here, {shown_field(there, key)} wanted"
        for key in sorted({*here, *there})
        if here.get(key, gone) != there.get(key, gone)
    ]
    if not changed:
        return "same fields, written otherwise (blanks, order or line ends)"
    return "fields that differ: " + "; ".join(changed)


def shown_field(fields: Mapping[str, object], key: str) -> str:
    """A field's value, for people."""
    return json.dumps(fields[key]) if key in fields else "(missing)"
