"""What a file or a folder is, told from its bytes: a payload, an adapter, a model, a difference, a tokenizer, a pointer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from weightkit import catalog, manifests
from weightkit.blobs import open_local
from weightkit.checkpoints import open_checkpoint, vocabulary
from weightkit.checkpoints.agreement import contradicting
from weightkit.checkpoints.beside import unread_notes
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.flavour import fits_bfloat16, flavour
from weightkit.checkpoints.meta_told import is_part, laid_out_by
from weightkit.checkpoints.quantized import original_of, quantized
from weightkit.containers import Container, sniff, suffixes
from weightkit.core.blob import Folder
from weightkit.core.errors import PlanError, WeightkitError
from weightkit.families import llama
from weightkit.methods import methods, wkx, xor_enc
from weightkit.methods.xor_files import ENC, head
from weightkit.proof.completeness import missing_notes

__all__ = ["of_file", "of_folder"]

LAYERS = {4096: 32, 5120: 40, 6656: 60, 8192: 80}
LAYOUTS = {"huggingface": "transformers'", "meta": "Meta's", "tencentpretrain": "TencentPretrain's"}


def of_file(file: Path) -> Iterable[str]:
    """What the bytes of a file tell.

    Raises:
        PlanError: It is weights of a layout in which something is missing.
        FormatError: It cannot be read, or is damaged.
    """
    blob = open_local(file)
    if wkx.is_wkx(blob):
        yield f"an exact difference (.wkx) of {file.name.removesuffix(wkx.SUFFIX)}"
        return
    match = ENC.fullmatch(file.name)
    if match:
        yield from xor_enc.about(blob, match["name"], match["digest"].lower())
        return
    first = head(blob, 64)
    try:
        sniff(first, blob.nbytes)
    except ValueError as error:
        if first.startswith(b"version https://git-lfs"):
            yield "a Git-LFS pointer (lfs), not the file itself; " + about_pointer(file)
        elif file.suffix == ".model" and not first.startswith((b"<", b"version")):
            yield from of_tokenizer(file)
        elif file.suffix in (*suffixes(), "") or first.startswith((b"<", b"GGUF")):
            yield str(error)
        else:
            yield f"{blob.nbytes} bytes of another kind"
        return
    yield from of_checkpoint(open_checkpoint(file, "PATH"))


def about_pointer(file: Path) -> str:
    """What a pointer points to, if it was published."""
    try:
        entry = manifests.read(file)[0]
    except WeightkitError as error:
        return str(error)
    known = catalog.by_digest().get(entry.digest, ())
    where = f", which is {known[0][1]} of {known[0][0]}" if known else ""
    return f"it points to {entry.nbytes} bytes with SHA-256 {entry.digest.hex[:16]}...{where}"


def of_tokenizer(file: Path) -> Iterable[str]:
    """A sentencepiece model."""
    try:
        count = len(vocabulary.pieces(file.read_bytes(), file))
    except WeightkitError as error:
        yield str(error)
        return
    known = llama.VOCABULARIES.get(count)
    yield f"a sentencepiece tokenizer of {count} pieces" + (f": {known}" if known else "")


def of_folder(folder: Folder) -> Iterable[str]:
    """What a folder is: the methods say whether it is a payload, its tensors what they are.

    Raises:
        PlanError: It holds nothing that is understood.
        FormatError: A file in it cannot be read, or is damaged.
    """
    if not folder.names():
        raise PlanError(f"PATH: {folder.name} holds no files")
    for method in methods():
        seen = method.recognise(folder)
        if seen is not None and seen.sure:
            yield from seen.tell() if seen.tell is not None else [f"{seen.what}: {seen.saw}"]
            return
    yield from of_checkpoint(open_checkpoint(folder, "PATH"))


def stored_dtypes(checkpoint: Checkpoint) -> list[str]:
    """What the weights are stored in, rotary buffers aside: of Meta's parts, which are handed out cast, in the files."""
    stored = [file.tensors for file in checkpoint.files.values()] if checkpoint.layout == "meta" else [checkpoint.tensors]
    buffer = ("inv_freq", "rope.freqs")
    return sorted({one.spec.dtype.name for tensors in stored for name, one in tensors.items() if not name.endswith(buffer)})


def of_checkpoint(checkpoint: Checkpoint) -> Iterable[str]:
    """What tensors' names, shapes and a few values tell."""
    embedding = next((t.spec for name, t in checkpoint.tensors.items() if llama.is_vocabulary(name)), None)
    width = embedding.shape[1] if embedding and len(embedding.shape) == 2 else None
    layers = {llama.block_of(name) for name in checkpoint.tensors} - {None}
    size = llama.SIZES.get(width or 0, "")
    if size and len(layers) not in (0, LAYERS[width or 0]):
        size = f"of {size}'s width, {len(layers)} layers"
    told = flavour(checkpoint)
    rows = embedding.shape[0] if embedding else 0
    dtypes = stored_dtypes(checkpoint)
    frequencies = [tensor for name, tensor in checkpoint.tensors.items() if llama.is_inv_freq(name)]
    what = "weights"
    if told is not None and told.is_diff:
        what = f"a diff{like(rows, dtypes, len(checkpoint.files))}"
    elif told is not None and told.is_model:
        what = "a model" if rows <= 32000 or not size else "a model with a grown vocabulary: tuned or merged already"
    if (packed := quantized(checkpoint)) is not None:
        what = f"a quantized model: {packed.method}, as {packed.shown_by} shows"
        what += f", of {name}" if (name := original_of(checkpoint)) else ""
    parts = {name: one for name, one in checkpoint.files.items() if is_part(one)}
    layout = "meta" if parts else checkpoint.layout
    facts = [what, size, f"{LAYOUTS.get(layout, layout)} layout", f"{len(checkpoint.files)} files", ", ".join(dtypes)]
    if rows:
        facts.append(f"{rows} tokens{llama.named_rows(rows)}")
    yield "; ".join(one for one in facts if one)
    yield from missing_notes(checkpoint)
    yield from unread_notes(checkpoint)
    yield from contradicting(checkpoint.json("config.json"), checkpoint.tensors)
    if layout == "huggingface":
        yield "inv_freq " + (f"stored in {frequencies[0].spec.dtype}" if frequencies else "not stored")
    yield from of_parts(parts)
    yield "; ".join(f"{name}: written by {container.written_by}" for name, container in list(checkpoint.files.items())[:2])
    if packed is None and (seen := fits_bfloat16(checkpoint)) and "bfloat16" not in dtypes:
        yield f"through bf16: all of {seen} values looked at fit bfloat16; an original LLaMA's do not"
    if checkpoint.layout == "huggingface":
        yield from of_small_files(checkpoint)


def of_parts(parts: Mapping[str, Container]) -> Iterable[str]:
    """Who laid out Meta's parts; once for those of which the same is to be said."""
    told: dict[str, list[str]] = {}
    for name, part in parts.items():
        told.setdefault(laid_out_by(part), []).append(name)
    for what, names in told.items():
        yield f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {what}"


def like(rows: int, dtypes: list[str], files: int) -> str:
    """Which releases have differences of this kind. Source: peer-numerics, section 9."""
    if dtypes == ["float16"] and rows == 32000:
        return ", like Vicuna v1.1's or KnowLM's float16 one"
    if dtypes == ["float16"] and rows == 32001:
        return ", like Vicuna v0's"
    if dtypes == ["float32"] and rows == 32001:
        return ", like Stanford Alpaca's or WizardLM's"
    if dtypes == ["float32"] and files == 6:
        return ", like KnowLM's float32 one"
    return ""


def of_small_files(checkpoint: Checkpoint) -> Iterable[str]:
    """Which transformers the configs say."""
    try:
        versions = {
            str(checkpoint.json(name)["transformers_version"])
            for name in ("config.json", "generation_config.json")
            if "transformers_version" in checkpoint.json(name)
        }
    except WeightkitError as error:
        yield str(error)
        return
    if versions:
        yield f"configs of transformers {' and '.join(sorted(versions))}"
