"""What is published of a tuned model, and what is known of what others will rebuild of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from weightkit import manifests
from weightkit.catalog.outside import CARD, RELEASE_SUMS
from weightkit.checkpoints.checkpoint import read_small, small_names
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.huggingface import HUGGINGFACE
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import FILES
from weightkit.checkpoints.peft_config import CONFIG
from weightkit.core.blob import Blob, Folder
from weightkit.core.digest import Digest, Hasher
from weightkit.core.errors import PlanError
from weightkit.core.events import BytesChecked, Notify
from weightkit.core.passes import BLOCK_NBYTES
from weightkit.core.probes import Content
from weightkit.manifests import Entry
from weightkit.manifests.tensors import TENSORS, encode
from weightkit.methods.lora import Arithmetic
from weightkit.methods.said import Said
from weightkit.methods.wkx import SUFFIX
from weightkit.methods.xor_files import ENC
from weightkit.run.execute import hashed
from weightkit.run.plan import OutputFile, Plan, SmallFile, StreamFile, Watched
from weightkit.streams import whole

__all__ = ["adapter_release", "comes_back", "of_its_files"]


def comes_back(plan: Plan) -> Plan:
    """A plan of differences, with the content digests of what comes back taken on the way, not those of the differences."""

    def looking(file: OutputFile | StreamFile) -> OutputFile | StreamFile:
        if not isinstance(file, OutputFile) or file.twin is None:
            return file
        back = tuple(tuple((one,) for one in run) for run in file.twin.tensors)
        return replace(file, watched=(*file.watched, Watched(Content(), back)))

    return replace(plan, files=tuple(map(looking, plan.files)), tensors=True)


def of_its_files(plan: Plan, tuned: Folder, notify: Notify) -> SmallFile:
    """``RELEASE.sha256`` where the tuned model's files come back byte for byte, under their own names."""
    found = []
    for one in plan.everything:
        if (match := ENC.fullmatch(one.path)) is not None:
            found.append(Entry(match["name"], Digest("sha256", match["digest"].lower())))
            continue
        name = one.path.removesuffix(SUFFIX)
        found.append(Entry(name, digest_of(tuned.blob(name), notify)))
    return SmallFile(RELEASE_SUMS, manifests.encode(found))


def digest_of(blob: Blob, notify: Notify) -> Digest:
    """SHA-256 of a file."""
    hasher = Hasher(["sha256"], blob.nbytes)
    for chunk in whole(blob).chunks(BLOCK_NBYTES):
        hasher.update(chunk)
        notify(BytesChecked(blob.name, len(chunk)))
    blob.check()
    return hasher.digests()["sha256"]


@dataclass(frozen=True, slots=True)
class Payload:
    """An adapter as it is published.

    Attributes:
        plan: Its files, copied.
        known: ``RELEASE.sha256`` and ``TENSORS`` of what a merge of it gives.
    """

    plan: Plan
    known: tuple[SmallFile, ...]


def adapter_release(base: Model, adapter: Folder, how: Arithmetic, notify: Notify) -> Payload:
    """An adapter's files, and the digests of what merging it gives: it is merged, hashed and not written.

    Raises:
        PlanError: It is no adapter, does not fit the base, or is merged in a way that differs from machine to machine.
        FormatError: A file is damaged.
    """
    if how.sums == "blas":
        raise PlanError("--sums blas gives other bits on other machines, so others could not prove theirs: say fma or mul-add")
    model = Said(how=how).merged(base, (adapter,))
    try:
        made = HUGGINGFACE.write(model, Form())
    except ValueError as error:
        raise PlanError(f"{base.source.name}: {error}") from error
    merge = Plan("publish", model.steps, made.files, made.small, (*model.notes, *made.notes), tensors=made.named)
    report = hashed(merge, notify=notify)
    known = [SmallFile(RELEASE_SUMS, manifests.encode(Entry(one.path, one.digests["sha256"]) for one in report.receipts))]
    if made.named:
        known.append(
            SmallFile(TENSORS, encode({name: d for one in report.receipts for name, d in (one.tensors or {}).items()}))
        )
    weights = next(name for name in FILES if adapter.holds(name))
    blob = adapter.blob(weights)
    names = [CONFIG, *(name for name in small_names(adapter) if name not in (CONFIG, CARD))]
    small = tuple(SmallFile(name, read_small(adapter, name) or b"") for name in names)
    left = [name for name in adapter.names() if name not in (weights, *names)]
    notes = (f"not part of the release: {', '.join(left[:4])}{' ...' if len(left) > 4 else ''}",) if left else ()
    steps = (*merge.steps, f"merged, with {how}, hashed and not written: RELEASE.sha256")
    return Payload(Plan("publish", steps, (StreamFile(weights, whole(blob)),), small, (*merge.notes, *notes)), tuple(known))
