"""What files of weights hold that is no tensor: nothing that is computed here has a place for it, so it is said.

Source: transformers 5.24.0 ``from_pretrained`` and torch 2.13 ``load_state_dict``, run: such a value is passed over as an
unexpected key, and is an error under the name of a parameter. So no tool that makes or takes differences adds it to anything
(Stanford's, KnowLM's and FastChat's go over ``state_dict()`` of a loaded model).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.shards import index_name, numbered, shard_names
from weightkit.containers import formats
from weightkit.containers.format import Container
from weightkit.containers.pickled import Beside
from weightkit.manifests.pointers import is_pointer

__all__ = ["beside", "beside_in", "beside_notes", "key_shown", "unread", "unread_notes"]

SHOWN = 5
MAX_KEY = 60


def beside_in(container: Container) -> Mapping[str, Beside]:
    """What a file holds that is no tensor, by name; only formats that can hold such have it."""
    found: Mapping[str, Beside] = getattr(container, "beside", {})
    return found


def beside(checkpoint: Checkpoint) -> Mapping[str, Beside]:
    """The same of all files of a checkpoint."""
    return {name: one for container in checkpoint.files.values() for name, one in beside_in(container).items()}


def beside_notes(checkpoint: Checkpoint) -> list[str]:
    """A line for each file that holds such values: how many, and the first of them; one for weights that are not read."""
    return [note(container) for container in checkpoint.files.values() if beside_in(container)] + unread_notes(checkpoint)


def unread(checkpoint: Checkpoint) -> list[str]:
    """Files of weights by their names, beside those that are read: another model, or the same in another container."""
    if checkpoint.folder.single or checkpoint.layout != "huggingface":
        return []
    names = checkpoint.folder.names()
    single = {shard_names(one, 1)[0] for one in formats()}
    found = {name for name in names if name in single} | {name for one in formats() for name in numbered(one, names)}
    return sorted(found - set(checkpoint.files))


def unread_notes(checkpoint: Checkpoint) -> list[str]:
    """A line that names them, and one for those that are Git-LFS pointers."""
    found = unread(checkpoint)
    indexes = [] if checkpoint.folder.single else [index_name(one) for one in formats()]
    held = [name for name in (*found, *indexes) if checkpoint.folder.holds(name)]
    pointers = [name for name in held if is_pointer(checkpoint.folder.blob(name))]
    others = [name for name in found if name not in pointers]
    taken = f"{checkpoint.name}: {next(iter(checkpoint.files))}{' and its set' if len(checkpoint.files) > 1 else ''} is read"
    notes = []
    if pointers:
        notes.append(f"{taken}; Git-LFS pointers, so not fetched: {first(pointers)}; `git lfs pull` fetches them")
    if others:
        notes.append(f"{taken}, as transformers chooses; not read, whatever is in them: {first(others)}")
    return notes


def first(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def note(container: Container) -> str:
    """The line for one file."""
    found = beside_in(container)
    count = sum(one.count for one in found.values())
    values = "1 value" if count == 1 else f"{count} values"
    some = ", ".join(f"{key_shown(name)} = {one}" for name, one in list(found.items())[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    what = f"holds {values} beside its tensors, not written here and not loaded by transformers"
    return f"{container.blob.name}: {what}: {some}{more}"


def key_shown(name: str) -> str:
    """A name out of a file, short and printable."""
    text = name if name.isprintable() and name else ascii(name)
    return text if len(text) <= MAX_KEY else f"{text[:MAX_KEY]}..."
