"""Releases published as the XOR of the tuned files with the original ones: decoded, and encoded for others to decode.

Three formats:

- ``enc`` (point-alpaca, BELLE, Lawyer-LLaMA): ``<file>.<SHA-256 of it in hex>.enc``: 32 bytes, the same SHA-256 raw, then the
  file XORed with one key file for all, LLaMA-7B's ``consolidated.00.pth``. TechGPT's files are called so, too, but have the
  SHA-256 of nothing in their names, no header, and so no check of their own.
- ``block`` (Open-Assistant, Pygmalion, Metharme): a folder of files XORed with those of the same names in the base.
- ``block-gzip``: the same, each file compressed with gzip.

import weightkit.xor
weightkit.xor.decode("oasst-sft-6-xor", "llama-30b-hf", "oasst-sft-6")

Source: peers-measured, "The .enc rule"; releases, sections 5 to 8; point-alpaca ``encrypt.py`` and Open-Assistant
``xor_codec.py``, run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from weightkit import catalog, manifests
from weightkit.catalog import Release
from weightkit.containers import SUFFIXES, sniff
from weightkit.core.content import TENSORS
from weightkit.core.digest import Digest, hash_file
from weightkit.core.errors import DigestMismatch, FormatError, PlanError, WeightkitError
from weightkit.core.events import Notify, ignore
from weightkit.families.converters import DEFAULT_CONVERTER
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.execute import SUMS, Done, carry_out, check_out, expecting
from weightkit.run.plan import OutputFile, Plan, Planned, StreamFile
from weightkit.streams import FileBytes, Headed, Known, Reader, Stream, whole
from weightkit.streams.gzip import MAGIC as GZIP_MAGIC
from weightkit.streams.gzip import Gunzip, Gzip
from weightkit.streams.xor import Padded, Wrapped

__all__ = ["FORMATS", "Format", "decode", "encode", "kind_of", "prepare_decode", "prepare_encode"]

Format = Literal["enc", "block", "block-gzip"]
FORMATS: tuple[Format, ...] = get_args(Format)

ENC = re.compile(r"(?P<name>.+)\.(?P<digest>[0-9a-fA-F]{64})\.enc")
HEADER_BYTES = 32
NOTHING = hashlib.sha256().hexdigest()
SMALL = 4 << 20
"""Files up to this size are decoded before the work, to notice a wrong key or base at once."""
PLAIN = "added_tokens.json"
"""What Open-Assistant's script copies: the base has no such file."""


def listing(path: Path, role: str) -> dict[str, Path]:
    """The files of a folder and the folders in it, by their paths in it. A file is one of itself.

    Hidden ones are left out, and SHA256SUMS and TENSORS, which weightkit itself leaves and writes anew.

    Raises:
        PlanError: There is nothing.
    """
    if not path.exists():
        raise PlanError(f"{role}: {path} does not exist")
    if path.is_file():
        return {path.name: path}
    found = {}
    for file in sorted(path.rglob("*")):
        inside = PurePosixPath(*file.relative_to(path).parts)
        if file.is_file() and str(inside) not in (SUMS, TENSORS) and not any(part.startswith(".") for part in inside.parts):
            found[str(inside)] = file
    if not found:
        raise PlanError(f"{role}: {path} holds no files")
    return found


def payload_files(path: Path, role: str) -> dict[str, Path]:
    """The files of a published folder; where all weights lie in one folder inside it, that folder's.

    Source: Open-Assistant's releases, whose payload sits in a folder of the same name inside.
    """
    found = listing(path, role)
    homes = {str(PurePosixPath(name).parent) for name in found if is_weights(name)}
    if path.is_dir() and len(homes) == 1 and (home := homes.pop()) != ".":
        return {name.removeprefix(f"{home}/"): file for name, file in found.items() if name.startswith(f"{home}/")}
    return found


def is_weights(name: str) -> bool:
    """Whether a file's name is one of weights, whatever they are wrapped in."""
    match = ENC.fullmatch(name)
    return (match["name"] if match else name).endswith(SUFFIXES)


def head(path: Path, nbytes: int = 64) -> bytes:
    """The first bytes of a file."""
    try:
        with path.open("rb") as file:
            return file.read(nbytes)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}") from error


def kind_of(path: Path, role: str = "--diff") -> Literal["enc", "block"] | None:
    """Which XOR format a folder (or file) is in, told from its bytes; None for none of them.

    A file of weights that was XORed begins with zeros, since both sides began alike, or with gzip's magic; a ``.json`` then is
    no JSON. Source: peer-numerics, section 9; seen on what the authors' scripts wrote.
    """
    if not path.exists():
        return None
    files = payload_files(path, role)
    if any(ENC.fullmatch(name) for name in files):
        return "enc"
    for name, file in files.items():
        first = head(file, 4)
        if name.endswith(SUFFIXES) and (first[:3] == GZIP_MAGIC or first == bytes(4)):
            return "block"
        if name == "config.json" and first[:3] != b"ver" and head(file).lstrip()[:1] != b"{":
            return "block"
    return None


def plan_decode(
    payload: Path,
    key: Path,
    *,
    role: str = "--diff",
    key_role: str = "--raw",
    converter: str = DEFAULT_CONVERTER,
    max_shard_bytes: int | None = None,
    wanted: Format | None = None,
) -> Plan:
    """Decide all that will be written. Reads names and headers, and decodes small files to see whether the key is right.

    Args:
        payload: The published folder or file.
        key: The key file, or the base.
        role: What the payload is to the caller, for messages.
        key_role: What the key is.
        converter: Whose conversion a base in Meta's layout stands for.
        max_shard_bytes: Limit of the shards of that conversion; None for that of 2023.
        wanted: The format; None for what the bytes tell.

    Raises:
        PlanError: Something is missing or contradicts itself.
        DigestMismatch: A small file shows that the key is another.
    """
    kind = kind_of(payload, role)
    if wanted is not None and (wanted == "enc") != (kind == "enc"):
        kind = "enc" if wanted == "enc" else "block"
    if kind is None:
        raise PlanError(
            f"{role}: {payload} is no XOR payload: no .enc files, its weights do not begin with zeros or gzip's magic, and its "
            "JSON files are plain"
        )
    files = payload_files(payload, role)
    if kind == "enc":
        planned = plan_enc(files, key_file(key, key_role), role)
    else:
        planned = plan_block(files, key, key_role, converter, max_shard_bytes)
    check_small(planned, key)
    return planned


def key_file(path: Path, role: str) -> Path:
    """The key of ``.enc`` files: the file named, or ``consolidated.00.pth`` of Meta's folder.

    Raises:
        PlanError: There is none.
    """
    if not path.exists():
        raise PlanError(f"{role}: {path} does not exist")
    if path.is_file():
        return path
    found = path / "consolidated.00.pth"
    if not found.is_file():
        raise PlanError(
            f"{role}: {path} has no consolidated.00.pth: .enc files are decoded with the file that Meta released, of LLaMA-7B "
            "for point-alpaca and BELLE; name it, or Meta's folder, or say --key FILE"
        )
    return found


def plan_enc(files: Mapping[str, Path], key: Path, role: str) -> Plan:
    """A folder of ``.enc`` files."""
    mask = whole(key)
    outputs = []
    problems: list[str] = []
    known = known_key(key)
    notes = [f"key: {key}, {mask.nbytes} bytes" + (f", {known[1]} of {known[0]}" if known else "")]
    left = [name for name in files if not ENC.fullmatch(name)]
    if left:
        notes.append(f"left out, no .enc files: {', '.join(left[:4])}{' ...' if len(left) > 4 else ''}")
    bare = []
    for path, file in files.items():
        match = ENC.fullmatch(path)
        if match is None:
            continue
        try:
            stream, expect = enc_payload(file, match["digest"].lower(), mask)
        except ValueError as error:
            problems.append(f"{path}: {error}")
            continue
        if not expect:
            bare.append(match["name"])
        outputs.append(StreamFile(match["name"], stream, expect))
    if bare:
        notes.append(
            f"{', '.join(bare[:4])}{' ...' if len(bare) > 4 else ''}: files without a header, whose names have the SHA-256 of "
            "nothing (as TechGPT's): they carry no check of their own; give the publisher's list with --checksums"
        )
    if problems:
        raise PlanError(f"{role}: nothing was decoded:", problems)
    return Plan("recover", (f"XOR of {len(outputs)} .enc files with {key.name}",), in_order(outputs), (), tuple(notes))


def enc_payload(file: Path, named: str, key: FileBytes) -> tuple[Stream, tuple[Digest, ...]]:
    """What an ``.enc`` file decodes to, and the digest that it says it has.

    Raises:
        ValueError: Header and name contradict each other, or are no digest.
    """
    size = file.stat().st_size
    header = head(file, HEADER_BYTES).hex()
    if named == NOTHING and header != NOTHING:
        bare = Wrapped(FileBytes(file, 0, size), key)
        reason = implausible(ENC.sub(r"\g<name>", file.name), bytes(Reader(bare.chunks(1 << 16)).read(64)), size)
        if reason:
            headed = Wrapped(FileBytes(file, min(HEADER_BYTES, size), max(0, size - HEADER_BYTES)), key)
            if not implausible(ENC.sub(r"\g<name>", file.name), bytes(Reader(headed.chunks(1 << 16)).read(64)), size):
                raise ValueError(f"its header says SHA-256 {header[:16]}..., its name that of nothing: it was renamed")
            raise ValueError(f"its name has the SHA-256 of nothing, and decoded without a header it {reason}")
        return bare, ()
    if size < HEADER_BYTES:
        raise ValueError(f"has {size} bytes: a header alone has {HEADER_BYTES}; download it again")
    if header != named:
        raise ValueError(
            f"its header says SHA-256 {header[:16]}..., its name {named[:16]}...: it is damaged, or another file was renamed; "
            "download it again"
        )
    if named == NOTHING and size > HEADER_BYTES:
        raise ValueError(f"header and name have the SHA-256 of nothing, but {size - HEADER_BYTES} bytes follow")
    expect = Digest("sha256", named)  # refuses placeholders
    return Wrapped(FileBytes(file, HEADER_BYTES, size - HEADER_BYTES), key), (expect,)


def known_key(key: Path) -> tuple[str, str] | None:
    """Which published file a key is, as far as Meta's checklist beside it and its size tell: entry of the catalog, file."""
    checklist = key.with_name("checklist.chk")
    if checklist.is_file():
        for entry in manifests.read(checklist):
            if entry.path.rpartition("/")[2] == key.name and (known := catalog.by_digest().get(entry.digest)):
                return known[0]
    return ("llama-7b", "consolidated.00.pth") if key.stat().st_size == LLAMA_7B_BYTES else None


LLAMA_7B_BYTES = 13476939516
"""Of LLaMA-7B's consolidated.00.pth. Source: releases, section 1."""


def check_key(key: Path, release: Release) -> None:
    """Refuse a key that is known to be another than the release's.

    Raises:
        PlanError: It is.
    """
    known = known_key(key)
    wanted = release.recipe.key if release.recipe else None
    if known is not None and wanted is not None and " ".join(known) != wanted:
        raise PlanError(f"{key} is {known[1]} of {known[0]}, by its checklist or size; {release.name} takes {wanted}")


def plan_block(files: Mapping[str, Path], base: Path, role: str, converter: str, max_shard_bytes: int | None = None) -> Plan:
    """A folder of files XORed with those of the same names in the base."""
    keys, converted = base_files(base, role, converter, max_shard_bytes)
    outputs = []
    problems: list[str] = []
    copied = []
    for path, file in files.items():
        payload = unpacked(file)
        key = keys.get(path)
        if key is not None:
            outputs.append(StreamFile(path, Padded(payload, key)))
            continue
        reason = implausible(path, bytes(Reader(payload.chunks(1 << 16)).read(64)), file.stat().st_size)
        if reason or (path.endswith(".json") and not is_json(payload)):
            problems.append(f"{path}: was XORed with a file of that name, which the base does not have")
        else:
            copied.append(path)
            outputs.append(StreamFile(path, whole(file)))
    if problems:
        advice = ""
        if converted:
            shards = sum(is_weights(name) for name in keys)
            advice = f" (converted on the way, it has {shards} files of weights; --max-shard-size cuts it otherwise)"
        raise PlanError(f"{role}: {base} is not the base of this release, or incomplete{advice}:", problems)
    notes = [f"{', '.join(copied)}: not in the base, copied"] if copied else []
    if converted:
        notes.append(f"the base is converted on the way as {converter} would (--as); other conversions give other bytes")
    return Plan("recover", (f"XOR of {len(outputs)} files with those of the base",), in_order(outputs), (), tuple(notes))


def base_files(base: Path, role: str, converter: str, max_shard_bytes: int | None = None) -> tuple[dict[str, Stream], bool]:
    """The files of a base; those of Meta's folder as they would be converted, computed as they are read."""
    from weightkit.checkpoints import converter_for, open_checkpoint
    from weightkit.checkpoints.meta import is_meta

    if base.exists() and is_meta(base):
        from weightkit import convert
        from weightkit.checkpoints.output import Form

        form = Form(max_shard_bytes=max_shard_bytes)
        plan = convert.plan(open_checkpoint(base, role, converter_for(converter)), "hf", form=form)
        streams: dict[str, Stream] = {file.path: Planned(file) for file in plan.files if isinstance(file, OutputFile)}
        return streams | {file.path: Known(file.content) for file in plan.small}, True
    return {path: whole(file) for path, file in listing(base, role).items()}, False


def unpacked(file: Path) -> Stream:
    """A payload, decompressed where it is gzip."""
    raw = whole(file)
    if head(file, 3) != GZIP_MAGIC:
        return raw
    with file.open("rb") as opened:
        opened.seek(max(0, raw.nbytes - 4))
        size = int.from_bytes(opened.read(4), "little")
    while size < raw.nbytes * 9 // 10:
        size += 1 << 32
    return Gunzip(raw, size)


def in_order(files: Sequence[StreamFile]) -> tuple[StreamFile, ...]:
    """By their names, so that plans do not hang on a folder's order."""
    return tuple(sorted(files, key=lambda file: file.path))


def implausible(name: str, first: bytes, size: int) -> str:
    """Why bytes cannot be the beginning of a file of this name; empty where they can be, or nothing is known."""
    if name.endswith(SUFFIXES):
        try:
            sniff(first, max(size, 1 << 62))
        except ValueError:
            return f"begins with {first[:4].hex(' ')}, as no file of weights does"
    if name.endswith(".json") and first.lstrip()[:1] not in (b"{", b"["):
        return f"begins with {first[:4].hex(' ')}, as no JSON does"
    return ""


def is_json(stream: Stream) -> bool:
    """Whether a small stream is JSON."""
    try:
        json.loads(b"".join(stream.chunks(1 << 20)))
    except (ValueError, RecursionError, WeightkitError):
        return False
    return True


def check_small(plan: Plan, key: Path) -> None:
    """Decode small files, and the beginning of large ones that carry no digest: a wrong key shows at once.

    Raises:
        DigestMismatch: One has another digest than it says.
        PlanError: One without a digest does not come out as what it is called.
    """
    problems = []
    for file in plan.files:
        if not isinstance(file, StreamFile) or not isinstance(file.stream, Padded | Wrapped):
            continue
        if file.expect and file.nbytes <= SMALL:
            found = hashlib.sha256(b"".join(file.stream.chunks(1 << 20))).hexdigest()
            if found != file.expect[0].hex:
                reason = f"{key} is not the key, or the payload is damaged; this small file was decoded first to find out"
                raise DigestMismatch(file.path, "sha256", file.expect[0].hex, found, reason)
        elif not file.expect:
            reason = implausible(file.path, bytes(Reader(file.stream.chunks(1 << 16)).read(64)), file.nbytes)
            if not reason and file.path.endswith(".json") and file.nbytes <= SMALL and not is_json(file.stream):
                reason = "is no JSON"
            if reason:
                problems.append(f"{file.path}: decoded with the base's file it {reason}")
    if problems:
        raise PlanError(
            f"{key} is not the base of this release: its files must be those of the conversion that the publisher used, byte "
            "for byte (configs differ between versions of transformers; --as names one, where the base is Meta's folder):",
            problems,
        )


def plan_encode(src: Path, key: Path, wanted: Format) -> Plan:
    """Decide all that will be written. For ``enc`` every file is read once, for its digest.

    Raises:
        PlanError: Something is missing.
    """
    files = listing(src, "SRC")
    if wanted == "enc":
        return plan_encode_enc(files, key_file(key, "--key"))
    keys, _ = base_files(key, "--key", DEFAULT_CONVERTER)
    outputs = []
    copied = []
    for path, file in files.items():
        if path not in keys or PurePosixPath(path).name == PLAIN:
            copied.append(path)
            outputs.append(StreamFile(path, whole(file)))
            continue
        payload: Stream = Padded(whole(file), keys[path])
        outputs.append(StreamFile(path, Gzip(payload) if wanted == "block-gzip" else payload))
    notes = [f"{', '.join(copied)}: not in the base, copied as they are"] if copied else []
    others = [path for path in copied if PurePosixPath(path).name != PLAIN]
    if others:
        notes.append(
            f"{', '.join(others)}: Open-Assistant's own script leaves these out when it decodes; weightkit copies them"
        )
    step = f"XOR of {len(outputs)} files with those of {key}"
    return Plan("encode", (step,), in_order(outputs), (), tuple(notes))


def plan_encode_enc(files: Mapping[str, Path], key: Path) -> Plan:
    """``.enc`` files of all files."""
    mask = whole(key)
    outputs = []
    for path, file in files.items():
        if ENC.fullmatch(path):
            raise PlanError(f"SRC: {path} is an .enc file already")
        digest = hash_file(file, ["sha256"])["sha256"].hex
        try:
            body = Wrapped(whole(file), mask)
        except ValueError as error:
            raise PlanError(f"--key: {error}") from error
        outputs.append(StreamFile(f"{path}.{digest}.enc", Headed(bytes.fromhex(digest), body)))
    return Plan("encode", (f"XOR of {len(outputs)} files with {key.name}",), in_order(outputs), ())


def prepare_decode(
    src: str | os.PathLike[str],
    key: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    wanted: Format | None = None,
    converter: str = DEFAULT_CONVERTER,
    max_shard_bytes: int | None = None,
    checksums: Sequence[str | os.PathLike[str]] = (),
) -> Plan:
    """Look at the inputs and plan; writes nothing. Raises like ``decode``."""
    check_out(Path(out), [("SRC", Path(src)), ("--key", Path(key))])
    planned = plan_decode(
        Path(src),
        Path(key),
        role="SRC",
        key_role="--key",
        converter=converter,
        max_shard_bytes=max_shard_bytes,
        wanted=wanted,
    )
    return expecting(planned, [(Path(path), manifests.read(Path(path))) for path in checksums])


def prepare_encode(
    src: str | os.PathLike[str], key: str | os.PathLike[str], out: str | os.PathLike[str], wanted: Format
) -> Plan:
    """Look at the inputs and plan; writes nothing. Raises like ``encode``."""
    check_out(Path(out), [("SRC", Path(src)), ("--key", Path(key))])
    return plan_encode(Path(src), Path(key), wanted)


def decode(
    src: str | os.PathLike[str],
    key: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    wanted: Format | None = None,
    converter: str = DEFAULT_CONVERTER,
    checksums: Sequence[str | os.PathLike[str]] = (),
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
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
        max_memory: Resident memory allowed, in bytes.
        overwrite: Whether files of the same names may be replaced.
        notify: Told what happens.

    Returns:
        What was written. Files whose digest did not match are in ``report.mismatches``; they were not published.

    Raises:
        PlanError: Something is missing or contradicts itself.
        DigestMismatch: A small file shows that the key is another; nothing was written.
        FormatError: A file is damaged.
    """
    planned = prepare_decode(src, key, out, wanted=wanted, converter=converter, checksums=checksums)
    return carry_out(planned, Path(out), jobs=jobs, max_memory=max_memory, overwrite=overwrite, notify=notify)


def encode(
    src: str | os.PathLike[str],
    key: str | os.PathLike[str],
    out: str | os.PathLike[str],
    wanted: Format,
    *,
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    notify: Notify = ignore,
) -> Done:
    """Encode files so that the authors' own scripts, and ``decode``, decode them. Bit-exact; gzip up to its compressor.

    Args:
        src: A folder, or one file.
        key: For ``enc``, the key file; else the folder that holds files of the same names.
        out: The folder to write.
        wanted: The format.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes.
        overwrite: Whether files of the same names may be replaced.
        notify: Told what happens.

    Raises:
        PlanError: Something is missing.
    """
    planned = prepare_encode(src, key, out, wanted)
    return carry_out(planned, Path(out), jobs=jobs, max_memory=max_memory, overwrite=overwrite, notify=notify)
