"""Two folders file by file: what only one has, what is called otherwise, what has other bytes."""

from __future__ import annotations

from dataclasses import dataclass

from weightkit.core.blob import Folder
from weightkit.proof.causes.mending import same_bytes
from weightkit.proof.causes.small import SMALL_NBYTES, differing_fields

__all__ = ["FileNames", "by_name"]


@dataclass(frozen=True, slots=True)
class FileNames:
    """What differs of two folders' files.

    Attributes:
        here: Names that only the first has, and no file of the second has their bytes.
        there: The other way round.
        renamed: Name here -> name there, where only the name differs, or names are exchanged.
        changed: Names that both have, with other bytes.
        same: How many files are the same under the same name.
    """

    here: tuple[str, ...]
    there: tuple[str, ...]
    renamed: dict[str, str]
    changed: tuple[str, ...]
    same: int

    @property
    def alike(self) -> bool:
        """Whether both hold the same files."""
        return not (self.here or self.there or self.renamed or self.changed)

    def told(self, here: Folder, there: Folder) -> str:
        """What differs, in one sentence."""
        parts = [f"{name} is missing here" for name in self.there] + [f"{name} is only here" for name in self.here]
        parts += [f"{name} here is {home} there" for name, home in self.renamed.items()]
        parts += [f"of {name} {fields(name, here, there)}" for name in self.changed]
        return "; ".join(parts[:6]) + (f"; and {len(parts) - 6} more" if len(parts) > 6 else "")


def by_name(here: Folder, there: Folder) -> FileNames:
    """Compare two folders' files; hidden ones are left out."""
    mine, theirs = set(here.names()), set(there.names())
    changed = [name for name in sorted(mine & theirs) if not same_bytes(here.blob(name), there.blob(name))]
    left, right = sorted(mine - theirs) + changed, sorted(theirs - mine) + changed
    renamed: dict[str, str] = {}
    for name in left:
        home = next((one for one in right if one != name and same_bytes(here.blob(name), there.blob(one))), None)
        if home is not None:
            renamed[name] = home
            right.remove(home)
    return FileNames(
        tuple(name for name in left if name not in renamed and name not in changed),
        tuple(name for name in right if name not in changed),
        renamed,
        tuple(name for name in changed if name not in renamed),
        len(mine & theirs) - len(changed),
    )


def fields(name: str, here: Folder, there: Folder) -> str:
    """What differs of a file that both have."""
    mine, theirs = here.blob(name), there.blob(name)
    if not name.endswith(".json") or max(mine.nbytes, theirs.nbytes) > SMALL_NBYTES:
        return "the bytes differ"
    return differing_fields(bytes(mine.read(0, mine.nbytes)), bytes(theirs.read(0, theirs.nbytes)))
