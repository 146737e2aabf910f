"""Whether what was written are Meta's own files: their digests against those that were published of LLaMA 1."""

from __future__ import annotations

from dataclasses import replace

from weightkit import catalog
from weightkit.checkpoints.meta_layout import FREQS
from weightkit.checkpoints.meta_parts import UNSETTLED
from weightkit.containers.bin import DEFAULT_PROFILE
from weightkit.families import llama
from weightkit.proof.lists import usable
from weightkit.run.execute import Done
from weightkit.run.plan import OutputFile
from weightkit.run.receipts import Receipt

__all__ = ["with_metas"]

RELEASES = {4096: ("llama-7b", 32), 5120: ("llama-13b", 40), 6656: ("llama-30b", 60), 8192: ("llama-65b", 80)}
"""Width -> entry of the catalog, and layers."""


def with_metas(done: Done) -> Done:
    """What was done, with a note where parts were written that have the numbers of LLaMA 1: Meta's bytes, or what differs."""
    files = {one.path: one for one in done.plan.files if isinstance(one, OutputFile) and one.also}
    receipts = [one for one in done.report.receipts if one.path in files]
    if not receipts or len(receipts) != len(files):
        return done
    found = {of_metas(one) for one in receipts}
    if len(found) == 1 and None not in found:
        notes = [note for note in done.plan.notes if not note.startswith(UNSETTLED)]
        parts = "part has its" if len(receipts) == 1 else f"{len(receipts)} parts have their"
        notes.append(f"these are Meta's bytes: the {parts} published digest{'' if len(receipts) == 1 else 's'} ({found.pop()})")
        return replace(done, plan=replace(done.plan, notes=tuple(notes)))
    told = unlike(receipts, files[receipts[0].path])
    return replace(done, plan=replace(done.plan, notes=(*done.plan.notes, told))) if told else done


def of_metas(receipt: Receipt) -> str | None:
    """The entry of original weights whose file this is, by a digest; None for none."""
    for digest in receipt.digests.values():
        for entry, file in catalog.by_digest().get(digest, ()):
            if file == receipt.path and catalog.load(entry).kind == "raw":
                return entry
    return None


def unlike(receipts: list[Receipt], first: OutputFile) -> str:
    """How parts with the numbers of LLaMA 1 differ from Meta's; empty for other models."""
    shapes = {item.name: item.spec for item in first.layout.items}
    rows = sum(1 for name in shapes if name.endswith("attention_norm.weight"))
    width = shapes["norm.weight"].numel
    entry, layers = RELEASES.get(width, ("", 0))
    if rows != layers or len(receipts) != llama.PARTS.get(width):
        return ""
    published = {one.path: one.digest for one in catalog.load(entry).entries() if usable(one.digest)}
    for receipt in receipts:
        wanted = published.get(receipt.path)
        if wanted is None or receipt.digests.get(wanted.algorithm) in (None, wanted):
            continue
        mine = receipt.digests[wanted.algorithm]
        return f"not Meta's bytes: {receipt.path} has {wanted.algorithm} {mine.hex}, and {entry}'s {wanted.hex}: " + why(
            first, receipt, entry
        )
    return ""


def why(first: OutputFile, receipt: Receipt, entry: str) -> str:
    """The likely reason.

    Args:
        first: The first part, for its tensors and how it is written.
        receipt: Of the part that differs.
        entry: The catalog's, of Meta's files of this width.
    """
    shapes = {item.name: item.spec for item in first.layout.items}
    dtypes = sorted({spec.dtype.name for name, spec in shapes.items() if not name.endswith(FREQS)})
    if dtypes != ["float16"]:
        return f"it is in {' and '.join(dtypes)}, theirs is in float16"
    tokens = shapes["tok_embeddings.weight"].shape[0]
    if tokens != catalog.load(entry).vocabulary:
        return f"it has {tokens} tokens, theirs {catalog.load(entry).vocabulary}"
    if first.encoding.profile != DEFAULT_PROFILE:
        return f"it is as {first.encoding.written_by} writes it (--torch-compat)"
    size = catalog.load(entry).sizes.get(receipt.path)
    if size not in (None, receipt.nbytes):
        return f"it has {receipt.nbytes} bytes, theirs {size}: it is of another model of this width, as LLaMA-2"
    order = "; or Meta's parts name another GPU (--order meta-cuda-0)" if entry in ("llama-13b", "llama-30b") else ""
    return f"the source's values are not the original's: it was tuned, or rounded on the way, or is of LLaMA-2{order}"
