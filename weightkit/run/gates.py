"""Meta's ``checklist.chk``: MD5 of the original files, checked beside a run that reads them anyway.

The check runs in threads of its own while the weights are converted, over pages that are in memory for both; the run
publishes nothing before it is through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from weightkit import manifests
from weightkit.core.digest import Digest, hash_file
from weightkit.core.errors import DigestMismatch, PlanError

__all__ = ["CHECKLIST", "checking"]

CHECKLIST = "checklist.chk"


@contextmanager
def checking(folder: Path) -> Iterator[Callable[[], None]]:
    """Start checking a folder of Meta's; calling what is yielded waits for the result.

    tokenizer.model may stand in the folder above, as in Meta's own tree.

    Raises:
        PlanError: There is no checklist, or a file that it lists is missing.
        DigestMismatch: (by what is yielded) A file is not the original.
    """
    listed = folder / CHECKLIST
    if not listed.is_file():
        raise PlanError(f"--verify-raw: {folder} has no {CHECKLIST}; leave the option out, or fetch the file")
    wanted: list[tuple[Path, Digest]] = []
    for entry in manifests.read(listed):
        places = [place / entry.path for place in (folder, folder.resolve().parent) if (place / entry.path).is_file()]
        if not places:
            raise PlanError(f"--verify-raw: {folder / entry.path} is in {CHECKLIST} and not there")
        wanted.append((places[0], entry.digest))
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(hash_file, path, [digest.algorithm]) for path, digest in wanted]

        def wait() -> None:
            for (path, digest), future in zip(wanted, found, strict=True):
                actual = future.result()[digest.algorithm]
                if actual != digest:
                    reason = f"it is not the file that Meta published, by {listed}; download it again"
                    raise DigestMismatch(str(path), digest.algorithm, digest.hex, actual.hex, reason)

        try:
            yield wait
        finally:
            pool.shutdown(cancel_futures=True)
