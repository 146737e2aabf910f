"""The publisher's whole way: a diff, the proof that it rebuilds the model, its lists, a recipe, a card, one commit on the Hub.

import weightkit.publish
weightkit.publish.publish_release("llama-7b", "my-tuned-7b", "my-release", repo="me/my-release")
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from weightkit.blobs import Place
from weightkit.blobs.upload import check_repository, upload
from weightkit.catalog.outside import BASE_TENSORS, CARD, METHODS, OF_ITS_OWN, RECIPE, RELEASE_SUMS, SIGNATURE, SUMS
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.model import Model
from weightkit.core.arguments import as_nbytes, telling
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.manifests import Entry
from weightkit.manifests import encode as encode_sums
from weightkit.manifests.tensors import TENSORS, encode
from weightkit.methods import Method, changed, method_named, options_for
from weightkit.methods.base import based
from weightkit.methods.lora import Arithmetic
from weightkit.methods.pairing import Rules
from weightkit.proof.card import Told, card, recipe
from weightkit.proof.completeness import whole_base, whole_source
from weightkit.proof.contents import tensor_digests
from weightkit.proof.keys import PrivateKey, private_key
from weightkit.proof.released import adapter_release, comes_back, of_its_files
from weightkit.proof.signature import sign as signature_of
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.execute import Done, Lists, Seals, carry_out, check_out
from weightkit.run.plan import Plan, SmallFile
from weightkit.run.receipts import Receipt

__all__ = ["Arithmetic", "Published", "Rules", "carry", "prepare", "publish", "publish_release"]


@dataclass(frozen=True, slots=True)
class Published:
    """What was made, and where it was put.

    Attributes:
        done: The files, which stand in the folder.
        commit: The commit on the Hub in which the release appeared whole; None where it was not uploaded.
        notes: What else there is in the repository, or that all of it stood there already.
    """

    done: Done
    commit: str | None = None
    notes: tuple[str, ...] = ()

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
    how: Arithmetic | None = None,
    title: str = "",
    licence: str = "",
    base_model: str = "",
    repo: str = "",
    sign: str | os.PathLike[str] | None = None,
    notify: Notify = ignore,
) -> Plan:
    """Open the inputs, take the digests of base and tuned model, and plan; writes nothing.

    Raises:
        PlanError: The inputs do not fit together, something is in the way, or the key is none that signs.
        FormatError: An input is damaged.
    """
    if method not in METHODS:
        raise PlanError(f"--method {method[:40]} is none that is published", hint=f"known: {', '.join(METHODS)}")
    sources = check_out(Path(out), [("--base", raw), ("--tuned", tuned)])
    if sign is not None:
        sources = (*sources, kept_apart(Path(sign), [Path(out), *sources]))
    elif (Path(out) / SIGNATURE).exists():
        raise PlanError(
            f"--out {out} holds {SIGNATURE}, and another release would lie beside it",
            hint="say --sign KEY, or remove the signature",
        )
    chosen, rules = method_named(METHODS[method]), rules or Rules()
    name = Path(out).resolve().name
    told = Told(title or name, licence, base_model, check_repository(repo), name, sign is not None)
    own = recipe(chosen.name, told, rules, how if chosen.role == "--lora" else None)
    description = card(chosen.name, told)
    base, model = whole_base(based(raw, "--base")), based(tuned, "--tuned")
    for name in (RECIPE, RELEASE_SUMS, BASE_TENSORS):
        if model.source.holds(name):
            raise PlanError(
                f"--tuned {model.source.name} holds {name}, a name that a release has of its own", hint="move it away"
            )
    if chosen.role == "--lora":
        if changed(rules):
            raise PlanError("--method lora merges an adapter: it goes with none of the options on tensors")
        payload = adapter_release(base, model.source, how or Arithmetic(), notify)
        made, known = payload.plan, payload.known
    else:
        if how is not None:
            raise PlanError(f"--rounding and --sums are for --method lora, not for {method}")
        made, known = difference(chosen, base, model, rules, notify)
    below = tensor_digests(open_checkpoint(base.source, "--base").tensors, notify)
    small = [one for one in made.small if one.path != CARD]
    notes = made.notes
    if model.source.holds(CARD) and not any(one.path.startswith(f"{CARD}.") for one in made.files):
        notes = (*notes, f"--tuned {model.source.name}: its {CARD} does not come back: the release has a card of its own")
    small += [*known, SmallFile(BASE_TENSORS, encode(below)), SmallFile(RECIPE, own), SmallFile(CARD, description)]
    steps = (*made.steps, *([f"signed with the key {sign}: {SIGNATURE}"] if sign is not None else []))
    steps += (f"to hf://{repo}: all files first, then one commit",) if repo else ()
    in_order = tuple(sorted(small, key=lambda one: one.path))
    return replace(made, job="publish", small=in_order, steps=steps, notes=notes, sources=sources)


def kept_apart(key: Path, others: list[Path]) -> Path:
    """The key that signs, which is read now so that a wrong one is refused before any work.

    Raises:
        PlanError: It is none that signs, or lies among what is published or written.
    """
    private_key(key)
    homes = [one.resolve() for one in others if one.is_dir()]
    if any(home in key.resolve().parents for home in homes):
        raise PlanError(f"--sign {key} lies in a folder whose files are published", hint="keep a private key elsewhere")
    return key


def difference(chosen: Method, base: Model, tuned: Model, rules: Rules, notify: Notify) -> tuple[Plan, tuple[SmallFile, ...]]:
    """The payload that rebuilds a model, and the lists of what comes out, as far as they are known before it is made.

    Raises:
        PlanError: The two do not fit together.
        FormatError: One is damaged.
    """
    if rules.inv_freq != Rules().inv_freq:
        raise PlanError("--inv-freq is no word of a recipe, so whoever recovers would not know: leave it out")
    refusal = f"--method {chosen.name} keeps every bit of TUNED: it goes with none of the options on tensors"
    options = options_for(chosen, changed(rules), refusal)
    read = whole_source(open_checkpoint(tuned.source, "--tuned"))
    made = chosen.make(base, tuned, options, Form())
    if not chosen.settles:
        return comes_back(made), ()
    tensors = SmallFile(TENSORS, encode(tensor_digests(read.tensors, notify)))
    made = replace(made, small=tuple(one for one in made.small if one.path != CARD))
    return made, (tensors, of_its_files(made, tuned.source, notify))


def publish_release(
    raw: Place,
    tuned: Place,
    out: str | os.PathLike[str],
    *,
    method: str = "exact",
    rules: Rules | None = None,
    how: Arithmetic | None = None,
    title: str = "",
    licence: str = "",
    base_model: str = "",
    repo: str = "",
    private: bool = False,
    sign: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    progress: bool = False,
    notify: Notify = ignore,
) -> Published:
    """Make a release of a tuned model that others rebuild with one command, and put it on the Hub in one commit.

    The folder holds the diff, ``SHA256SUMS`` of all in it, ``RELEASE.sha256`` of what comes out, ``BASE.TENSORS`` of the base,
    ``release.toml`` (what ``recover --release`` follows) and a card. What comes out is the tuned model byte for byte with
    ``exact`` and ``enc``; with ``additive`` it is ``base + (tuned - base)``, with ``lora`` the base with the adapter merged:
    ``RELEASE.sha256`` is of that.

    >>> made = weightkit.publish_release("base", "tuned", "my-release", licence="apache-2.0")
    >>> made.ok, weightkit.recover_release("base", None, "rebuilt", release="my-release").ok
    (True, True)

    Args:
        raw: The base that everybody has.
        tuned: The tuned model; for ``lora`` the adapter, as PEFT writes it.
        out: The folder to write; made if it is not there.
        method: ``exact``, ``additive``, ``enc`` or ``lora``.
        rules: For ``additive``: what both sides are cast to, and what rows are that the base lacks.
        how: For ``lora``: how the adapter is added.
        title: For people; the folder's name by default.
        licence: For the card, as ``apache-2.0``.
        base_model: What the base is called on the Hub, for the card and the recipe.
        repo: ``owner/name`` on the Hub; empty: nothing is uploaded.
        private: Whether the repository is private; one that is there already, and is not, is refused.
        sign: A private key in PEM, EC on P-256, P-384 or P-521, that signs all files of the folder: ``model.sig``. An encrypted
            one is opened by the environment's ``WEIGHTKIT_SIGN_PASSPHRASE``. Needs cryptography (``weightkit[sign]``).
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes or as ``"1GiB"``.
        overwrite: Whether files of the same names may be replaced, in ``out`` and in the repository, and the payload of an
            earlier release removed there.
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
            how=how,
            title=title,
            licence=licence,
            base_model=base_model,
            repo=repo,
            sign=sign,
            notify=told,
        )
        return carry(
            planned,
            out,
            repo=repo,
            private=private,
            sign=sign,
            jobs=jobs,
            max_memory=max_memory,
            overwrite=overwrite,
            notify=told,
        )


publish = publish_release


def carry(
    planned: Plan,
    out: str | os.PathLike[str],
    *,
    repo: str = "",
    private: bool = False,
    sign: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    notify: Notify = ignore,
) -> Published:
    """Carry out what ``prepare`` planned, then upload. Arguments, result and errors are those of ``publish``."""
    lists, seals = last(planned, out, sign)
    done = carry_out(
        planned,
        Path(out),
        jobs=jobs,
        max_memory=as_nbytes(max_memory),
        overwrite=overwrite,
        lists=lists,
        seals=seals,
        notify=notify,
    )
    if not repo or not done.ok:
        return Published(done)
    of_tensors = [TENSORS] if planned.tensors else []
    files = {one.path: one.digests["sha256"] for one in done.report.receipts}
    every = {**files, **dict.fromkeys((*of_tensors, *lists, *seals))}
    uploaded = upload(Path(out), every, repo, private=private, replacing=overwrite)
    return Published(done, uploaded.commit, uploaded.notes)


def last(planned: Plan, out: str | os.PathLike[str], sign: str | os.PathLike[str] | None) -> tuple[Lists, Seals]:
    """What is written when all files are there: ``RELEASE.sha256``, if it was not known before; sums of all; the signature."""
    lists: Lists = {RELEASE_SUMS: comes_out} if any(file.twin for file in planned.files) else {}
    if sign is None:
        return lists, {SUMS: sums}
    key, name = private_key(Path(sign)), Path(out).resolve().name
    return lists, {SUMS: sums, SIGNATURE: lambda digests: signed(digests, name, key)}


def sums(digests: Mapping[str, Digest]) -> bytes:
    """``SHA256SUMS`` of all files."""
    return encode_sums(Entry(path, digest) for path, digest in digests.items())


def signed(digests: Mapping[str, Digest], name: str, key: PrivateKey) -> bytes:
    """The signature of all files."""
    return signature_of(digests, name, SIGNATURE, key)


def comes_out(receipt: Receipt) -> Digest | None:
    """The digest of what recovering gives of a file; None of what only tells of the release."""
    if receipt.path in OF_ITS_OWN:
        return None
    return (receipt.twin or receipt.digests)["sha256"]
