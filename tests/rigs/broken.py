"""A product broken on purpose, one way at a time: each way is seen by the rig that is there for it.

    python -m tests.rigs.broken --seed 1 [--only "no lock,cuts writes short"]

A rig makes its inputs and its measures with the product as it is, and then, by ``--broken NAME``, breaks it for all
that follows.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightkit.blobs import local
from weightkit.core.digest import Digest
from weightkit.run import coordinator, write
from weightkit.run.ledgers import directory, durable, journal, lock, look, stage

ROOT = Path(__file__).parents[2]

KILLS = ("tests.rigs.kills", "--small", "--kills", "8", "--jobs", "recover")
MANY_KILLS = ("tests.rigs.kills", "--small", "--kills", "32", "--jobs", "recover")
ORDER = ("tests.rigs.order", "--jobs", "recover")


def faults(kinds: str, sample: int) -> tuple[str, ...]:
    """A run of that rig."""
    return "tests.rigs.faults", "--jobs", "recover", "--kinds", kinds, "--sample", str(sample)


def limits(trial: str, rounds: int = 1) -> tuple[str, ...]:
    """A run of that rig."""
    return "tests.rigs.limits", "--jobs", "recover-safetensors", "--trials", trial, "--rounds", str(rounds)


def nothing(*_: Any, **__: Any) -> None:
    """Is done."""


def final_name() -> None:
    """Files grow under the names that they will have."""
    put = directory.put
    stage.partial_name = look.partial_name = lambda name: name
    directory.put = lambda partial, final, known: None if partial == final else put(partial, final, known)


def files_not_flushed() -> None:
    """A file has its name before its bytes are on the disk."""
    stage.flush = stage.flush_data = nothing


def folders_not_flushed() -> None:
    """The journal goes before the names are on the disk."""
    directory.flush_folder = nothing


def journal_not_flushed() -> None:
    """A file has its name before its receipt is on the disk."""
    journal.flush = nothing


def journal_first() -> None:
    """The journal says that a file is done before its bytes are on the disk."""
    stage.flush = stage.flush_data = nothing
    staged = directory.Directory.staged

    def late(self: directory.Directory, receipt: Any) -> Any:
        receipt = staged(self, receipt)
        with look.partial_of(self.root, receipt.path).open("rb") as file:
            durable.flush(file.fileno())
        return receipt

    directory.Directory.staged = late  # type: ignore[method-assign]


def new_folder_not_flushed() -> None:
    """The name of a new ``--out`` is never sent to the disk."""
    made = lock.FolderLock.make

    def forgets(self: lock.FolderLock) -> None:
        made(self)
        self.made = []

    lock.FolderLock.make = forgets  # type: ignore[method-assign]


def lists_first() -> None:
    """The list that says all is there comes before all is there for good."""
    flush = directory.Directory.flush
    calls: list[int] = []

    def second(self: directory.Directory, paths: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            flush(self, [*paths, *self.published])

    directory.Directory.flush = second  # type: ignore[method-assign]


def overwrites() -> None:
    """A file that came meanwhile is replaced."""
    directory.put = lambda partial, final, known: partial.replace(final)


def overwrites_all() -> None:
    """What is there is replaced, whatever was said."""
    overwrites()
    seen = directory.look
    directory.look = lambda *args, **more: seen(*args, **{**more, "overwrite": True})


def digests_of(receipt: Any) -> dict[str, Digest]:
    return dict(receipt.digests)


def kept_unseen() -> None:
    """A file that stands is taken for what the journal says."""
    directory.read_again = lambda path, receipt, *_: digests_of(receipt) if path.is_file() else None


def kept_by_size() -> None:
    """A file that stands is taken for what the journal says if it has its size."""

    def by_size(path: Path, receipt: Any, *_: Any) -> dict[str, Digest] | None:
        return digests_of(receipt) if path.is_file() and path.stat().st_size == receipt.nbytes else None

    directory.read_again = by_size


def inputs_by_time() -> None:
    """An input of the same name, size and time is taken for the same."""
    local.version_of = lambda state: f"{state.st_size}-{state.st_mtime_ns}"


def made_again() -> None:
    """What stands whole is thrown away and made again."""

    def none(self: directory.Directory, file: Any, notify: Any) -> None:
        there = directory.version_of(self.root / file.path)
        if there is not None:
            self.replaceable[file.path] = there

    directory.Directory.kept = none  # type: ignore[method-assign,assignment]


def errors_swallowed() -> None:
    """An error of a write is not told."""
    written = stage.OpenFile.write

    def quiet(self: stage.OpenFile, data: Any) -> None:
        with contextlib.suppress(Exception):
            written(self, data)

    stage.OpenFile.write = quiet  # type: ignore[method-assign]


def cut_short() -> None:
    """A write that took a part is taken for one that took all."""
    stage.OpenFile.write = lambda self, data: self.file.write(data)  # type: ignore[method-assign,assignment]


def flush_errors_swallowed() -> None:
    """An error of a flush is not told."""

    def quiet(descriptor: int) -> None:
        with contextlib.suppress(OSError):
            durable.flush(descriptor)

    stage.flush = quiet


def unlocked() -> None:
    """Nobody is kept out."""
    lock.FolderLock.lock = nothing  # type: ignore[method-assign]


def mismatches_published() -> None:
    """Digests are not compared with those that were published."""
    write.check = coordinator.check = nothing


def cleared() -> None:
    """A run that fails removes all that is in its folder."""
    close = directory.Directory.close

    def clears(self: directory.Directory) -> None:
        if not self.finished and self.journal is not None:
            shutil.rmtree(self.root, ignore_errors=True)
        close(self)

    directory.Directory.close = clears  # type: ignore[method-assign]


def journal_left() -> None:
    """The journal stays when all is done."""
    journal.Journal.remove = journal.Journal.close  # type: ignore[method-assign]


def folders_by_path() -> None:
    """What stands at the path of the folder is taken for the folder that was locked."""
    lock.FolderLock.there = property(lambda self: True)  # type: ignore[method-assign,assignment]
    stage.identity_of = directory.identity_of = nothing


def journals_believed() -> None:
    """A journal is taken for what was written."""
    journal.unsealed = lambda line: line.partition(b" ")[2]


def inputs_touched() -> None:
    """An input gets another time."""
    check = local.LocalBlob.check

    def touches(self: local.LocalBlob) -> None:
        check(self)
        os.utime(self.path)

    local.LocalBlob.check = touches  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to break the product.

    Attributes:
        apply: Breaks it, in this process and its children.
        rig: The rig that is there for it, and a run of it that is long enough.
    """

    apply: Callable[[], None]
    rig: tuple[str, ...]


WAYS = {
    "writes under the final name": Way(final_name, KILLS),
    "takes a kept file without looking": Way(kept_unseen, MANY_KILLS),
    "trusts size alone when it resumes": Way(kept_by_size, MANY_KILLS),
    "makes whole files again": Way(made_again, KILLS),
    "leaves its journal": Way(journal_left, KILLS),
    "touches an input": Way(inputs_touched, KILLS),
    "swallows errors of writes": Way(errors_swallowed, faults("write", 16)),
    "cuts writes short": Way(cut_short, faults("write", 24)),
    "swallows errors of flushes": Way(flush_errors_swallowed, faults("fsync", 24)),
    "no lock": Way(unlocked, limits("two_at_once", 4)),
    "replaces a file that came meanwhile": Way(overwrites, limits("put_there_meanwhile")),
    "replaces what was there": Way(overwrites_all, limits("there_before")),
    "publishes a mismatched file": Way(mismatches_published, limits("mismatched")),
    "takes an input of the same size and time": Way(inputs_by_time, limits("another_input", 8)),
    "works on in a folder that is another run's": Way(folders_by_path, limits("moved_away", 4)),
    "believes a damaged journal": Way(journals_believed, limits("damaged_journal", 6)),
    "clears its folder when it fails": Way(cleared, limits("quota")),
    "no flush of a file before its name": Way(files_not_flushed, ORDER),
    "no flush of the folders": Way(folders_not_flushed, ORDER),
    "no flush of the journal": Way(journal_not_flushed, ORDER),
    "no flush of a new folder's name": Way(new_folder_not_flushed, ORDER),
    "journal says done before the file is": Way(journal_first, ORDER),
    "list of digests before the files": Way(lists_first, ORDER),
}


def option(parser: argparse.ArgumentParser) -> None:
    """Give a rig its ``--broken``."""
    parser.add_argument("--broken", choices=sorted(WAYS), help="break the product first: the rig must find it")


def apply(name: str | None) -> None:
    """Break the product, if that was said."""
    if name is not None:
        WAYS[name].apply()


def main() -> int:
    """Let each rig look for what is broken; 0 if everything is found, and nothing where nothing is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="names, with commas between; the rigs are not tried on what is not broken then")
    said = parser.parse_args()
    names = said.only.split(",") if said.only else list(WAYS)
    missed = 0
    for name in names:
        words = [sys.executable, "-m", *WAYS[name].rig, "--seed", str(said.seed)]
        done = subprocess.run([*words, "--broken", name], cwd=ROOT, capture_output=True, text=True, check=False)
        finds = [line for line in done.stdout.splitlines() if line.strip().startswith("FIND")]
        last = (done.stdout.splitlines() or ["?"])[-1]
        if done.returncode != 1 or not finds:
            missed += 1
            print(f"{name}: MISSED by {' '.join(words[2:])}: {last} {done.stderr[-600:]}", flush=True)
        else:
            print(f"{name}: found by {words[2]}: {last}; {finds[0].strip()[:140]}", flush=True)
    for rig in sorted({WAYS[name].rig for name in names}) if not said.only else ():
        words = [sys.executable, "-m", *rig, "--seed", str(said.seed)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        missed += done.returncode != 0
        print(f"not broken: {' '.join(words[2:])}: {done.stdout.splitlines()[-1]} {done.stderr[-600:]}", flush=True)
    print(f"{len(names)} ways, seed {said.seed}: {missed} missed")
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
