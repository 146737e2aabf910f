"""The publisher's whole way: a diff, the proof that it rebuilds the model, its lists, a recipe, a card, one commit on the Hub.

import weightkit.publish
weightkit.publish.publish("llama-7b", "my-tuned-7b", "my-release", repo="me/my-release")
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from weightkit import manifests
from weightkit.blobs import Place
from weightkit.blobs.upload import upload
from weightkit.catalog.outside import BASE_TENSORS, METHODS, RECIPE, RELEASE_SUMS
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.form import Form
from weightkit.core.arguments import as_nbytes, telling
from weightkit.core.blob import Blob, Folder
from weightkit.core.digest import Digest, Hasher
from weightkit.core.errors import PlanError
from weightkit.core.events import BytesChecked, Notify, ignore
from weightkit.core.passes import BLOCK_NBYTES
from weightkit.manifests import Entry
from weightkit.manifests.tensors import TENSORS, encode
from weightkit.methods import changed, method_named, options_for
from weightkit.methods.base import based
from weightkit.methods.pairing import Rules
from weightkit.methods.wkx import SUFFIX
from weightkit.methods.xor_files import ENC
from weightkit.proof.card import card, recipe
from weightkit.proof.completeness import whole_base, whole_source
from weightkit.proof.contents import tensor_digests
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.execute import SUMS_ONLY, Done, carry_out, check_out
from weightkit.run.plan import Plan, SmallFile
from weightkit.streams import whole

__all__ = ["Published", "carry", "prepare", "publish"]


@dataclass(frozen=True, slots=True)
class Published:
    """What was made, and where it was put.

    Attributes:
        done: The files, which stand in the folder.
        commit: The commit on the Hub in which the release appeared whole; None where it was not uploaded.
    """

    done: Done
    commit: str | None = None

    @property
    def ok(self) -> bool:
        """Whether all is there and holds."""
        return self.done.ok


def prepare(
    raw: Place,
    tuned: Place,
    out: str | os.PathLike[str],
    *,
    method: str = "exact",
    rules: Rules | None = None,
    title: str = "",
    licence: str = "",
    base_model: str = "",
    repo: str = "",
    notify: Notify = ignore,
) -> Plan:
    """Open the inputs, take the digests of base and tuned model, and plan; writes nothing.

    Raises:
        PlanError: The inputs do not fit together, or something is in the way.
        FormatError: An input is damaged.
    """
    if method not in METHODS:
        raise PlanError(f"--method {method[:40]} is none that is published", hint=f"known: {', '.join(METHODS)}")
    sources = check_out(Path(out), [("--base", raw), ("--tuned", tuned)])
    chosen, rules = method_named(METHODS[method]), rules or Rules()
    refusal = f"--method {method} keeps every bit of TUNED: it goes with none of the options on tensors"
    options = options_for(chosen, changed(rules), refusal)
    base = whole_base(based(raw, "--base"))
    model = based(tuned, "--tuned")
    read = whole_source(open_checkpoint(model.source, "--tuned"))
    made = chosen.make(base, model, options, Form())
    own = {name for name in made_names(made) if name in (RECIPE, RELEASE_SUMS, BASE_TENSORS, TENSORS)}
    if own:
        raise PlanError(
            f"--tuned {read.name} holds {sorted(own)[0]}, a name that a release has of its own", hint="move it away"
        )
    below = tensor_digests(open_checkpoint(base.source, "--base").tensors, notify)
    small = [
        SmallFile(BASE_TENSORS, encode(below)),
        SmallFile(RECIPE, recipe(chosen.name, title or Path(out).name, base_model, licence, rules)),
    ]
    if chosen.settles:
        small.append(SmallFile(TENSORS, encode(tensor_digests(read.tensors, notify))))
        small.append(SmallFile(RELEASE_SUMS, manifests.encode(file_digests(made, model.source, notify))))
    text = card(title or Path(out).name, base_model, licence, repo, chosen.name)
    kept = [one for one in made.small if one.path != "README.md"]
    small.append(SmallFile("README.md", text))
    return replace(made, job="publish", small=tuple(sorted((*kept, *small), key=lambda one: one.path)), sources=sources)


def made_names(plan: Plan) -> set[str]:
    """Names of all files of a plan."""
    return {one.path for one in plan.everything}


def file_digests(plan: Plan, tuned: Folder, notify: Notify) -> list[Entry]:
    """SHA-256 of the tuned model's files that come back byte for byte, under their own names."""
    found = []
    for one in plan.everything:
        if one.path.endswith(SUFFIX):
            name = one.path.removesuffix(SUFFIX)
        elif (match := ENC.fullmatch(one.path)) is not None:
            found.append(Entry(match["name"], Digest("sha256", match["digest"].lower())))
            continue
        else:
            name = one.path
        if tuned.holds(name):
            found.append(Entry(name, digest_of(tuned.blob(name), notify)))
    return found


def digest_of(blob: Blob, notify: Notify) -> Digest:
    """SHA-256 of a file."""
    hasher = Hasher(["sha256"], blob.nbytes)
    for chunk in whole(blob).chunks(BLOCK_NBYTES):
        hasher.update(chunk)
        notify(BytesChecked(blob.name, len(chunk)))
    blob.check()
    return hasher.digests()["sha256"]


def publish(
    raw: Place,
    tuned: Place,
    out: str | os.PathLike[str],
    *,
    method: str = "exact",
    rules: Rules | None = None,
    title: str = "",
    licence: str = "",
    base_model: str = "",
    repo: str = "",
    private: bool = False,
    jobs: int = 1,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    progress: bool = False,
    notify: Notify = ignore,
) -> Published:
    """Make a release of a tuned model that others rebuild with one command, and put it on the Hub in one commit.

    The folder holds the diff, ``SHA256SUMS`` of all in it, ``RELEASE.sha256`` of what comes out, ``BASE.TENSORS`` of the base,
    ``release.toml`` (what ``recover --release`` follows) and a card. What comes out is the tuned model byte for byte with
    ``exact`` and ``enc``; with ``additive`` it is ``base + (tuned - base)``, and ``RELEASE.sha256`` is of that.

    Args:
        raw: The base that everybody has.
        tuned: The tuned model.
        out: The folder to write; made if it is not there.
        method: ``exact``, ``additive`` or ``enc``.
        rules: For ``additive``: what both sides are cast to, and what rows are that the base lacks.
        title: For people; the folder's name by default.
        licence: For the card, as ``apache-2.0``.
        base_model: What the base is called on the Hub, for the card and the recipe.
        repo: ``owner/name`` on the Hub; empty: nothing is uploaded.
        private: Whether a repository that is made is private.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes or as ``"1GiB"``.
        overwrite: Whether files of the same names in ``out`` may be replaced.
        progress: Whether a bar is drawn.
        notify: Told what happens.

    Raises:
        PlanError: The inputs do not fit together, there is no room, or the Hub refuses.
        FormatError: An input is damaged.
    """
    with telling("publishing", notify, progress) as told:
        planned = prepare(
            raw,
            tuned,
            out,
            method=method,
            rules=rules,
            title=title,
            licence=licence,
            base_model=base_model,
            repo=repo,
            notify=told,
        )
        return carry(
            planned, out, repo=repo, private=private, jobs=jobs, max_memory=max_memory, overwrite=overwrite, notify=told
        )


def carry(
    planned: Plan,
    out: str | os.PathLike[str],
    *,
    repo: str = "",
    private: bool = False,
    jobs: int = 1,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    notify: Notify = ignore,
) -> Published:
    """Carry out what ``prepare`` planned, then upload. Arguments, result and errors are those of ``publish``."""
    lists = dict(SUMS_ONLY)
    if any(file.twin for file in planned.files):
        lists = {RELEASE_SUMS: lambda receipt: (receipt.twin or receipt.digests)["sha256"], **SUMS_ONLY}
    done = carry_out(
        planned, Path(out), jobs=jobs, max_memory=as_nbytes(max_memory), overwrite=overwrite, lists=lists, notify=notify
    )
    if not repo or not done.ok:
        return Published(done)
    names = sorted({*(receipt.path for receipt in done.report.receipts), *lists})
    return Published(done, upload(Path(out), names, repo, private=private))
