"""Says what a file or a folder is: by its digest, where that was published, and by what its bytes tell. Needs no torch.

import weightkit.identify
for line in weightkit.identify.identify("some-folder").lines:
    print(line)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from weightkit import catalog, xor
from weightkit.checkpoints import Checkpoint, open_checkpoint, vocabulary
from weightkit.checkpoints.flavour import fits_bfloat16, flavour
from weightkit.checkpoints.meta import is_meta
from weightkit.checkpoints.peft import is_adapter, open_adapter
from weightkit.containers import SUFFIXES, Container, sniff
from weightkit.core.digest import Digest, hash_file
from weightkit.core.errors import PlanError, WeightkitError
from weightkit.core.sizes import format_size
from weightkit.families import llama
from weightkit.inspect import WRITTEN_BY
from weightkit.methods import exact
from weightkit.verify import usable

__all__ = ["Identity", "identify", "published"]

QUICK_BYTES = 1 << 30
"""Files up to this size are hashed without being asked: about a second."""

LAYERS = {4096: 32, 5120: 40, 6656: 60, 8192: 80}
VOCABULARIES = {
    32000: "LLaMA's vocabulary",
    32001: "LLaMA's vocabulary and one token ([PAD]), as Alpaca's and Vicuna v0's",
    32016: "LLaMA's vocabulary and 16 rows, as Open-Assistant's",
    49953: "Chinese-LLaMA's vocabulary",
    49954: "Chinese-Alpaca's vocabulary",
    55296: "Chinese-LLaMA-2's and Chinese-Alpaca-2's vocabulary",
    79458: "BELLE-EXT's and TechGPT's vocabulary",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What was found.

    Attributes:
        path: What was looked at.
        releases: Entries of the catalog that have this very file, or files of this folder.
        lines: For people, the surest first.
    """

    path: Path
    releases: tuple[str, ...]
    lines: tuple[str, ...]


def identify(path: str | os.PathLike[str], *, full: bool = False) -> Identity:
    """Say what a file or folder is.

    Args:
        path: The file or folder.
        full: Whether to hash large files, too; it takes a second for each gigabyte and a half.

    Raises:
        PlanError: It does not exist.
        FormatError: It cannot be read.
    """
    target = Path(path)
    if not target.exists():
        raise PlanError(f"{target} does not exist")
    files = [target] if target.is_file() else sorted(one for one in target.glob("*") if one.is_file())
    releases: dict[str, None] = {}
    skipped: list[str] = []
    lines: list[str] = []
    small: list[str] = []
    for file in files:
        if file.stat().st_size > QUICK_BYTES and not full:
            skipped.append(file.name)
            continue
        known = sorted(published(file), key=lambda one: (ORDER.index(catalog.load(one[0]).kind), one))
        releases |= dict.fromkeys(name for name, _ in known)
        if known and target.is_dir() and file.stat().st_size < SMALL_BYTES:
            small.append(f"{file.name} ({known[0][0]}{f' and {len(known) - 1} more' if len(known) > 1 else ''})")
        elif known:
            lines.append(by_digest(file, known))
    if small:
        lines.append(f"small files that were published, too: {', '.join(small)}")
    if target.is_file():
        lines += list(of_file(target))
    else:
        lines += list(of_folder(target))
    if skipped:
        lines.append(f"not hashed, larger than {format_size(QUICK_BYTES)}: {', '.join(skipped[:3])}; --full hashes them, too")
    return Identity(target, tuple(releases), tuple(lines))


ORDER = ("raw", "tokenizer", "converted", "lora", "diff", "xor", "result")
"""Kinds of entries, those first that others took a file from."""

SMALL_BYTES = 1 << 20
"""Many releases share a config or a tokenizer: in a folder such a file says little."""


def by_digest(file: Path, known: list[tuple[str, str]]) -> str:
    """Which published file this is."""
    name, there = known[0]
    also = f"; the same file is in {', '.join(one for one, _ in known[1:4])}" if len(known) > 1 else ""
    more = f" and {len(known) - 4} more" if len(known) > 4 else ""
    return f"{file.name} is, by its digest, {there} of {name}: {catalog.load(name).title}{also}{more}"


def published(file: Path) -> list[tuple[str, str]]:
    """Entries of the catalog, and what the file is called there, that have a file's very digest.

    Raises:
        FormatError: It cannot be read.
    """
    size = file.stat().st_size
    if not size:
        return []
    known = catalog.by_digest()
    algorithms = {digest.algorithm for digest in known if usable(digest)}
    found: dict[tuple[str, str], None] = {}
    for digest in hash_file(file, algorithms).values():
        found |= dict.fromkeys(known.get(digest, ()))
    return list(found)


def of_file(file: Path) -> Iterable[str]:
    """What the bytes of a file tell."""
    size = file.stat().st_size
    if exact.is_exact_file(file):
        yield f"an exact difference (.wkx) of {file.name.removesuffix(exact.SUFFIX)}"
        return
    match = xor.ENC.fullmatch(file.name)
    if match:
        yield from of_enc(file, match["name"], match["digest"].lower())
        return
    with file.open("rb") as opened:
        head = opened.read(64)
    try:
        sniff(head, size)
    except ValueError as error:
        if head.startswith(b"version https://git-lfs"):
            yield "a Git-LFS pointer (lfs), not the file itself; " + about_pointer(file)
        elif file.suffix == ".model" and not head.startswith((b"<", b"version")):
            yield from of_tokenizer(file)
        elif file.suffix in (*SUFFIXES, "") or head.startswith((b"<", b"GGUF")):
            yield str(error)
        else:
            yield f"{size} bytes of another kind"
        return
    yield from of_checkpoint(open_checkpoint(file, "PATH"))


def about_pointer(file: Path) -> str:
    """What a pointer points to, if it was published."""
    from weightkit import manifests

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
    known = VOCABULARIES.get(count)
    yield f"a sentencepiece tokenizer of {count} pieces" + (f": {known}" if known else "")


def of_enc(file: Path, name: str, digest: str) -> Iterable[str]:
    """An ``.enc`` file."""
    header = xor.head(file, xor.HEADER_BYTES).hex()
    if digest == xor.NOTHING and header != digest:
        yield f"{name} under a byte XOR, without a header (as TechGPT's): it carries no check of its own"
        return
    agrees = "header and name agree" if header == digest else "its header says another digest than its name: damaged or renamed"
    yield f"{name} under a byte XOR (.enc, as point-alpaca's and BELLE's); {agrees}"
    known = catalog.by_digest().get(Digest("sha256", digest), ()) if len(set(digest)) > 1 else ()
    for release, there in known:
        yield f"what it decodes to is {there} of {release}: {catalog.load(release).title}"


def of_folder(folder: Path) -> Iterable[str]:
    """What a folder is."""
    if exact.is_exact(folder):
        yield "exact differences (.wkx): weightkit recover --raw BASE --diff it"
        return
    kind = xor.kind_of(folder, "PATH")
    if kind == "enc":
        yield "a byte XOR of .enc files, with Meta's consolidated.00.pth as key: weightkit recover --raw LLaMA/7B --diff it"
        for file in sorted(folder.glob("*.enc"))[:1]:
            yield from of_file(file)
        return
    if kind == "block":
        yield "a byte XOR with files of the same names (as Open-Assistant's): weightkit recover --raw BASE --diff it"
        return
    if is_adapter(folder):
        adapter = open_adapter(folder, "PATH")
        rows = {tensor.spec.shape[0] for tensor in adapter.whole.values() if len(tensor.spec.shape) == 2}
        whole = f", {max(rows)} rows of embedding whole" + named_rows(max(rows)) if rows else ""
        yield f"a LoRA adapter of rank {adapter.config.rank} on {len(adapter.factors)} weights{whole}"
        return
    yield from of_checkpoint(open_checkpoint(folder, "PATH"))


def named_rows(rows: int) -> str:
    """What a vocabulary of so many rows is, in brackets."""
    return f" ({VOCABULARIES[rows]})" if rows in VOCABULARIES else ""


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
    dtypes = sorted({tensor.spec.dtype.name for name, tensor in checkpoint.tensors.items() if not llama.is_inv_freq(name)})
    frequencies = [tensor for name, tensor in checkpoint.tensors.items() if llama.is_inv_freq(name)]
    what = "weights"
    if told is not None and told.is_diff:
        what = f"a diff{like(rows, dtypes, len(checkpoint.files))}"
    elif told is not None and told.is_model:
        what = "a model" if rows <= 32000 or not size else "a model with a grown vocabulary: tuned or merged already"
    layout = {"huggingface": "transformers'", "meta": "Meta's", "tencentpretrain": "TencentPretrain's"}[checkpoint.layout]
    parts = [what, size, f"{layout} layout", f"{len(checkpoint.files)} files", ", ".join(dtypes)]
    if rows:
        parts.append(f"{rows} tokens{named_rows(rows)}")
    yield "; ".join(part for part in parts if part)
    if checkpoint.layout == "huggingface":
        yield "inv_freq " + (f"stored in {frequencies[0].spec.dtype}" if frequencies else "not stored")
    yield "; ".join(f"{name}: {written(container)}" for name, container in list(checkpoint.files.items())[:2])
    if (seen := fits_bfloat16(checkpoint)) and "bfloat16" not in dtypes:
        yield f"through bf16: all of {seen} values looked at fit bfloat16; an original LLaMA's do not"
    if checkpoint.layout == "huggingface" and not is_meta(checkpoint.path):
        yield from of_small_files(checkpoint)


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


def written(container: Container) -> str:
    """Who wrote a file."""
    return f"written by {WRITTEN_BY[container.profile]}"


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
