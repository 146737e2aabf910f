"""Of a release from outside the catalog: whether a base is the one it was made from, and its lists prove what comes out."""

from __future__ import annotations

from collections.abc import Mapping

from weightkit.blobs import LocalFolder
from weightkit.catalog.outside import BASE_TENSORS, RELEASE_SUMS, Outside
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.model import Model
from weightkit.core.content import TensorHash
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.core.lazy import LazyTensor
from weightkit.core.passes import blocks
from weightkit.families import llama
from weightkit.proof.completeness import INDEX
from weightkit.proof.counterparts import unproved
from weightkit.run.plan import Plan

__all__ = ["all_proved", "base_is"]

SMALL_NBYTES = 1 << 20
"""Tensors up to this size are looked at before the work: the norms, which most tuning changes."""

LOOKED_AT_NBYTES = 256 << 20
"""Of larger ones on this machine so many bytes in all: an adapter that was merged changes them alone, in every layer."""


def base_is(own: Outside, base: Model) -> list[str]:
    """Refuse a base that is another, before any work; what comes out is proved by its own digests besides. Notes.

    Raises:
        PlanError: A tensor is missing, has another shape or dtype, or other content.
    """
    read = open_checkpoint(base.source, base.role, base.converter)
    named = f", {own.base_name}" if own.base_name else ""
    what = f"{base.role} {read.name} is not the base of --release {own.name}{named}"
    names = [name for name in own.base if not llama.is_inv_freq(name)]
    if lacking := [name for name in names if name not in read.tensors]:
        raise PlanError(f"{what}: it lacks {lacking[0]}")
    most = LOOKED_AT_NBYTES if isinstance(base.source, LocalFolder) else 0
    looked_at = some_of({name: read.tensors[name] for name in names}, most)
    for name in looked_at:
        if digest_of(read.tensors[name]) != own.base[name]:
            raise PlanError(f"{what}: its {name} has another content, dtype or shape than {BASE_TENSORS} says")
    return [
        f"--release {own.name}: {len(looked_at)} of {len(names)} tensors of the base were looked at and are right; the digests "
        "of what comes out decide"
    ]


def digest_of(tensor: LazyTensor) -> Digest:
    """The content digest of a tensor, for which no more is fetched than itself."""
    taken = TensorHash(tensor.spec)
    for (block,) in blocks([tensor]):
        taken.update(block)
    return taken.digest()


def some_of(tensors: Mapping[str, LazyTensor], most: int) -> list[str]:
    """The names of all small tensors, and of the smallest of the others, up to so many bytes."""
    by_size = sorted(tensors, key=lambda name: tensors[name].spec.nbytes)
    found, left = [], most
    for name in by_size:
        nbytes = tensors[name].spec.nbytes
        if nbytes > SMALL_NBYTES:
            left -= nbytes
            if left < 0:
                break
        found.append(name)
    return found


def all_proved(own: Outside, plan: Plan) -> None:
    """See that the release's list has a digest of everything that will be written.

    Raises:
        PlanError: It has not: it was cut off, or is another's.
    """
    listed = {one.path for one in own.results}
    proved = {file.path for file in plan.files} if plan.proofs and not unproved(plan) else set()
    bare = [
        one.path for one in plan.everything if one.path not in listed | proved and not (proved and one.path.endswith(INDEX))
    ]
    if bare:
        raise PlanError(
            f"--release {own.name}: its {RELEASE_SUMS} has no digest of {bare[0]}, so nothing would prove it: the list was cut "
            "off, or is another release's",
            hint="get it again from its publisher",
        )
