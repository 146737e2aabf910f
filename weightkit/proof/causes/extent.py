"""One file as the beginning or the end of another: cut off, or with bytes after or before it."""

from __future__ import annotations

import shlex

from weightkit.containers import open_file
from weightkit.core.blob import Blob
from weightkit.core.errors import WeightkitError
from weightkit.core.passes import BLOCK_NBYTES
from weightkit.proof.causes import Explanation
from weightkit.proof.causes.damage import end_of
from weightkit.proof.causes.mending import begins_with

__all__ = ["lengthened"]

AGAINST = "what it was compared with (--against)"


def lengthened(here: Blob, there: Blob) -> Explanation | None:
    """Why two files of weights are alike but for bytes at an end of one; None where they are not.

    Which of them is at fault is told by which can be read; where both can or none, the one compared with is the right one.
    """
    if min(here.nbytes, there.nbytes) == 0 or here.nbytes == there.nbytes:
        return None
    longer, shorter = (here, there) if here.nbytes > there.nbytes else (there, here)
    many = longer.nbytes - shorter.nbytes
    if begins_with(longer, shorter):
        place, cut = f"after the end of {{}}, at byte {shorter.nbytes}", f"head -c {shorter.nbytes} {{}} > OUT"
    elif ends_with(longer, shorter):
        place, cut = "before the beginning of {}", f"tail -c +{many + 1} {{}} > OUT"
    else:
        return None
    short_is_right = (reads(shorter) and not reads(longer)) or (reads(shorter) == reads(longer) and shorter is there)
    if short_is_right and longer is here:
        name = here.name.rpartition("/")[2]
        told = f"{many} bytes were {'appended ' if 'after' in place else 'put '}{place.format(name)}"
        return Explanation(
            False, (), f"{told}; without them it is the right file, byte for byte", cut.format(shlex.quote(here.name))
        )
    if short_is_right:
        return Explanation(
            False, (), f"{many} bytes stand {place.format(AGAINST)}; without them it is {here.name}, byte for byte"
        )
    which = "the last" if "after" in place else "the first"
    name, right = (here.name, "the right file's") if shorter is here else (AGAINST, f"those of {here.name}")
    return Explanation(
        False,
        (),
        f"{name} is cut off: {which} {many} bytes are missing, and the {shorter.nbytes} that it has are {right}: "
        "download it again",
    )


def ends_with(one: Blob, other: Blob) -> bool:
    """Whether a file ends with all bytes of another; stops at the first block that differs."""
    start = one.nbytes - other.nbytes
    return all(
        bytes(one.read(start + at, start + min(at + BLOCK_NBYTES, other.nbytes)))
        == bytes(other.read(at, min(at + BLOCK_NBYTES, other.nbytes)))
        for at in range(0, other.nbytes, BLOCK_NBYTES)
    )


def reads(blob: Blob) -> bool:
    """Whether a file of weights can be read, and ends where it says itself that it ends."""
    try:
        open_file(blob)
    except WeightkitError:
        return False
    return end_of(blob) == blob.nbytes
