"""Releases published as the XOR of the tuned files with the original ones: decoded, and encoded for others to decode.

Three formats:

- ``enc`` (point-alpaca, BELLE, Lawyer-LLaMA): each file XORed with one key file; see ``methods.xor_enc``.
- ``block`` (Open-Assistant, Pygmalion, Metharme): each file XORed with that of the same name; see ``methods.xor_block``.
- ``block-gzip``: the same, each file compressed with gzip.

import weightkit.xor
weightkit.xor.decode("oasst-sft-6-xor", "llama-30b-hf", "oasst-sft-6")
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from weightkit import manifests
from weightkit.blobs import Place, folder_at
from weightkit.checkpoints.checkpoint import lone_file
from weightkit.core.arguments import OneOrMore, as_paths
from weightkit.core.blob import Folder
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.families.converters import DEFAULT_CONVERTER
from weightkit.methods import xor_block, xor_enc
from weightkit.methods.base import based
from weightkit.methods.xor_end import sound
from weightkit.methods.xor_files import listing
from weightkit.methods.xor_key import key_in
from weightkit.proof.completeness import complete, lacking, whole_base, whole_folder
from weightkit.proof.expecting import expecting
from weightkit.proof.own_lists import as_listed
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.carried import carried
from weightkit.run.execute import Done, check_out
from weightkit.run.plan import Plan

__all__ = ["FORMATS", "Format", "decode", "encode", "kind_of", "prepare_decode", "prepare_encode"]

Format = Literal["enc", "block", "block-gzip"]
FORMATS: tuple[Format, ...] = get_args(Format)


def kind_of(place: Place, role: str = "SRC") -> Literal["enc", "block"] | None:
    """Which XOR format a folder (or file) is in, told from names and bytes; None for none of them.

    Raises:
        PlanError: There is nothing.
    """
    folder = folder_at(place, role)
    if xor_enc.METHOD.recognise(folder):
        return "enc"
    return "block" if xor_block.METHOD.recognise(folder) else None


def chosen(payload: Folder, wanted: Format | None) -> Literal["enc", "block"]:
    """The format to decode: what the bytes tell, or what the user says where they may be either.

    Raises:
        PlanError: The payload is in none.
    """
    listing(payload, "SRC")
    kind = kind_of(payload)
    if wanted == "enc":
        return "enc"
    if kind is None:
        raise PlanError(
            f"SRC: {payload.name} is no XOR payload: no .enc files, its weights do not begin with zeros or gzip's magic, and "
            "its JSON files are plain"
        )
    return kind if wanted is None else "block"


def prepare_decode(
    src: Place,
    key: Place,
    out: str | os.PathLike[str],
    *,
    wanted: Format | None = None,
    converter: str = DEFAULT_CONVERTER,
    max_shard_bytes: int | None = None,
    checksums: OneOrMore = (),
) -> Plan:
    """Look at the inputs and plan; writes nothing. Raises like ``decode``."""
    sources = check_out(Path(out), [("SRC", src), ("--key", key)])
    payload = folder_at(src, "SRC")
    if chosen(payload, wanted) == "enc":
        found = xor_enc.decoded(payload, key_in(based(key, "--key", converter)), "SRC")
    else:
        found = xor_block.decoded(payload, based(key, "--key", converter), "SRC", max_shard_bytes)
    lists = [(path, manifests.read(path)) for path in as_paths(checksums)]
    planned = sound(expecting(replace(found.plan("recover"), sources=sources), lists))
    planned = as_listed(planned, [("SRC", payload)])
    if not lone_file(payload):
        complete(planned, payload.name)
    why = lacking(planned)
    return replace(planned, notes=(*planned.notes, why)) if why else planned


def prepare_encode(src: Place, key: Place, out: str | os.PathLike[str], wanted: Format) -> Plan:
    """Look at the inputs and plan; writes nothing. Raises like ``encode``."""
    sources = check_out(Path(out), [("SRC", src), ("--key", key)])
    source = folder_at(src, "SRC")
    whole_folder(source)
    if wanted == "enc":
        found = xor_enc.encoded(source, key_in(based(key, "--key")), "SRC")
    else:
        found = xor_block.encoded(source, whole_base(based(key, "--key")), "SRC", packed=wanted == "block-gzip")
    return replace(found.plan("encode"), sources=sources)


def decode(
    src: Place,
    key: Place,
    out: str | os.PathLike[str],
    *,
    wanted: Format | None = None,
    converter: str = DEFAULT_CONVERTER,
    checksums: OneOrMore = (),
    jobs: int = 1,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    keep_mismatched: bool = False,
    progress: bool = False,
    raise_on_mismatch: bool = False,
    notify: Notify = ignore,
) -> Done:
    """Decode a release that was published as a byte XOR. Bit-exact.

    Args:
        src: The published folder, or one file.
        key: For ``.enc``, the key file or Meta's folder; else the base's folder, Meta's or in transformers' layout.
        out: The folder to write; made if it is not there.
        wanted: The format; None for what the bytes tell.
        converter: Whose conversion a base in Meta's layout stands for.
        checksums: Lists of digests that the files must have.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes or as ``"1GiB"``.
        overwrite: Whether files of the same names may be replaced.
        keep_mismatched: Whether a file with another digest than wanted is kept as ``NAME.mismatch``, to be examined.
        progress: Whether a bar is drawn, in a terminal or a notebook.
        raise_on_mismatch: Whether a digest that does not hold is raised, the others as its notes, and not only reported.
        notify: Told what happens.

    Returns:
        What was written. Files whose digest did not match are in ``report.mismatches``; they were not published.

    Raises:
        PlanError: Something is missing or contradicts itself.
        DigestMismatch: A small file shows that the key is another, or (``Incomplete``) files are missing; nothing was written.
        FormatError: A file is damaged.
    """
    planned = prepare_decode(src, key, out, wanted=wanted, converter=converter, checksums=checksums)
    return carried(
        planned,
        out,
        "decoding",
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        keep_mismatched=keep_mismatched,
        progress=progress,
        raise_on_mismatch=raise_on_mismatch,
        notify=notify,
    )


def encode(
    src: Place,
    key: Place,
    out: str | os.PathLike[str],
    wanted: Format,
    *,
    jobs: int = 1,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    keep_mismatched: bool = False,
    progress: bool = False,
    raise_on_mismatch: bool = False,
    notify: Notify = ignore,
) -> Done:
    """Encode files so that the authors' own scripts, and ``decode``, decode them. Bit-exact; gzip up to its compressor.

    Args:
        src: A folder, or one file.
        key: For ``enc``, the key file; else the folder that holds files of the same names.
        out: The folder to write.
        wanted: The format.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes or as ``"1GiB"``.
        overwrite: Whether files of the same names may be replaced.
        keep_mismatched: Whether a file with another digest than wanted is kept as ``NAME.mismatch``, to be examined.
        progress: Whether a bar is drawn, in a terminal or a notebook.
        raise_on_mismatch: Whether a digest that does not hold is raised, the others as its notes, and not only reported.
        notify: Told what happens.

    Raises:
        PlanError: Something is missing.
    """
    planned = prepare_encode(src, key, out, wanted)
    return carried(
        planned,
        out,
        "encoding",
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        keep_mismatched=keep_mismatched,
        progress=progress,
        raise_on_mismatch=raise_on_mismatch,
        notify=notify,
    )
