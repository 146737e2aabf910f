"""What a front door does with its plan: a bar if one is wanted, the run, an error for a mismatch if one is wanted."""

from __future__ import annotations

import os
from pathlib import Path

from weightkit.blobs import Place
from weightkit.core.arguments import as_nbytes, raise_first, telling
from weightkit.core.events import Notify
from weightkit.run.execute import Done, carry_out
from weightkit.run.plan import Plan

__all__ = ["carried"]


def carried(
    planned: Plan,
    out: str | os.PathLike[str],
    label: str,
    *,
    jobs: int,
    max_memory: int | str,
    overwrite: bool,
    keep_mismatched: bool,
    progress: bool,
    raise_on_mismatch: bool,
    notify: Notify,
    verify_raw: Place | None = None,
    reclaim_downloads: bool = False,
) -> Done:
    """Carry a plan out as a caller in Python asks for it; the arguments are those of ``recover_release``.

    Raises:
        DigestMismatch: A digest does not hold, and ``raise_on_mismatch`` was said.
        PlanError: There is no room, or something is in the way.
        FormatError: An input is damaged.
    """
    with telling(label, notify, progress) as told:
        done = carry_out(
            planned,
            Path(out),
            jobs=jobs,
            max_memory=as_nbytes(max_memory),
            overwrite=overwrite,
            keep_mismatched=keep_mismatched,
            verify_raw=verify_raw,
            reclaim_downloads=reclaim_downloads,
            notify=told,
        )
    if raise_on_mismatch:
        raise_first(done.report.mismatches)
    return done
