"""Why does a file not match? The cause, narrowed down in streaming passes, and the command that mends it.

import weightkit.explain
print(weightkit.explain.explain("release/pytorch_model.bin", expect="bfd6f5e1...").sentence)
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from weightkit.blobs import Place, folder_at, local_copy
from weightkit.checkpoints.peft import open_adapter
from weightkit.core.arguments import as_tuple
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.methods.base import based, opened
from weightkit.proof.causes import Explanation
from weightkit.proof.causes.comparison import explain_against
from weightkit.proof.causes.digest import explain_digest
from weightkit.proof.causes.naive import NaiveSum, naive_sum

__all__ = ["Explanation", "NaiveSum", "digest_from", "explain", "naive_sum"]


def digest_from(text: str) -> Digest:
    """A digest as a user writes it: hexadecimal, or ``md5:`` and hexadecimal.

    Raises:
        PlanError: It is none.
    """
    algorithm, _, digits = text.lower().rpartition(":")
    algorithm = algorithm or {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}.get(len(digits), "")
    try:
        return Digest(algorithm, digits)
    except ValueError as error:
        raise PlanError(f"--expect {text!r} is no digest: {error}") from error


def explain(
    path: str | os.PathLike[str],
    *,
    expect: str | Digest | None = None,
    against: str | os.PathLike[str] | None = None,
    base: Place | None = None,
    lora: Place | Sequence[Place] = (),
    notify: Notify = ignore,
) -> Explanation:
    """Say why a file (or folder) is not the one wanted.

    Args:
        path: The file; with ``against``, or a folder.
        expect: The digest wanted.
        against: The right file or folder, to compare with.
        base: What LoRAs were merged into, to try orders and roundings.
        lora: The adapters.
        notify: Told what was read.

    Raises:
        PlanError: There is nothing to compare, or nothing to compare it with.
        FormatError: One of them cannot be read.
    """
    target = local_copy(path, "PATH")
    lora = as_tuple(lora)
    adapters = [open_adapter(folder_at(one, "--lora"), "--lora") for one in lora]
    below = None if base is None else opened(based(base, "--base"))
    if against is not None:
        return explain_against(target, local_copy(against, "--against"), below, adapters, notify)
    if expect is None:
        raise PlanError("say what was wanted: --expect DIGEST, or --against PATH")
    if not target.is_file():
        raise PlanError(f"{target} is no file: a digest is of one; name the file, or compare folders with --against")
    wanted = expect if isinstance(expect, Digest) else digest_from(expect)
    if wanted.of_nothing:
        raise PlanError(f"--expect {wanted.hex[:16]}... is the digest of nothing: whoever published it hashed no file")
    return explain_digest(target, wanted, below, adapters, notify)
