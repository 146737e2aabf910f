"""Digests of a folder's files, as coreutils write them, or of its tensors, whatever their containers.

import weightkit.manifest
digests, text = weightkit.manifest.of_tensors("llama-7b")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from weightkit import manifests
from weightkit.blobs import Place, local_copy
from weightkit.checkpoints import open_checkpoint
from weightkit.core.arguments import as_tuple
from weightkit.core.digest import Digest, hash_file
from weightkit.core.errors import PlanError
from weightkit.core.events import BytesWritten, Notify, Started, ignore
from weightkit.manifests import Entry
from weightkit.manifests import tensors as tensor_lists
from weightkit.manifests.sums import BY_LENGTH
from weightkit.proof.contents import tensor_digests
from weightkit.proof.lists import LIST_ENDINGS

__all__ = ["of_files", "of_tensors", "write"]

Found = list[tuple[str, Digest]]


def of_files(
    path: str | os.PathLike[str], algorithms: str | Sequence[str] = ("sha256",), *, jobs: int = 2, notify: Notify = ignore
) -> tuple[Found, bytes]:
    """Digests of a file, or of all files of a folder but hidden ones and lists of digests.

    Args:
        path: The file or folder.
        algorithms: Which; of several, and of BLAKE2 and BLAKE3, each line names its own, as ``b2sum --tag`` writes it.
        jobs: Files at a time.
        notify: Told of bytes read.

    Returns:
        Path and digest of each, and the list.

    Raises:
        PlanError: There are no files.
    """
    algorithms = as_tuple(algorithms)
    target = local_copy(path, "PATH")
    root = target if target.is_dir() else target.parent
    files = (
        [target] if target.is_file() else [one for one in sorted(target.rglob("*")) if one.is_file() and listed(one, target)]
    )
    if not files:
        raise PlanError(f"{target} holds no files")

    notify(Started(sum(file.stat().st_size for file in files)))

    def digests(file: Path) -> dict[str, Digest]:
        found = hash_file(file, algorithms)
        notify(BytesWritten(file.name, file.stat().st_size))
        return found

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        results = list(pool.map(digests, files))
    names = [file.relative_to(root).as_posix() for file in files]
    found = [(name, result[algorithm]) for name, result in zip(names, results, strict=True) for algorithm in algorithms]
    if len(algorithms) == 1 and algorithms[0] in BY_LENGTH.values():
        return found, manifests.encode(Entry(name, digest) for name, digest in found)
    lines = [f"{digest.algorithm.upper().replace('BLAKE2B', 'BLAKE2b')} ({name}) = {digest.hex}\n" for name, digest in found]
    return found, "".join(lines).encode()


def listed(file: Path, root: Path) -> bool:
    """Whether a file is one to be listed."""
    inside = file.relative_to(root)
    return not any(part.startswith(".") for part in inside.parts) and not file.name.endswith(LIST_ENDINGS)


def of_tensors(path: Place, *, notify: Notify = ignore) -> tuple[Found, bytes]:
    """Content digests of the tensors of a checkpoint in any layout, under transformers' names.

    Raises:
        PlanError: It is none.
        FormatError: A file of it is damaged.
    """
    found = tensor_digests(open_checkpoint(path, "PATH").tensors, notify)
    return sorted(found.items()), tensor_lists.encode(found)


def write(path: Path, text: bytes) -> None:
    """Write a list, unless something is there.

    Raises:
        PlanError: Something is.
    """
    try:
        with path.open("xb") as file:
            file.write(text)
    except FileExistsError as error:
        raise PlanError(f"{path} is there already and would be replaced; name another file") from error
