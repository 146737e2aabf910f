"""How much memory a command takes: ``ru_maxrss`` of a whole process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["peak"]

PROBE = (
    "import resource, subprocess, sys; "
    "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def peak(tmp_path: Path, *words: str, env: dict[str, str] | None = None) -> int:
    """``ru_maxrss`` of one command, in bytes; run from a small process, since a child begins with its parent's peak."""
    command = [sys.executable, "-c", PROBE, sys.executable, "-m", "weightkit", *words]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024
