"""The command line in processes of their own that need not start anew: forked from one that has imported torch and weightkit.

Each has its own environment, folder, output and exit status, and imports the Hub's client itself, which reads its settings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

COMMAND = "from weightkit.cli import main\nmain()"


class Warm:
    """The process that is forked from."""

    def __enter__(self) -> Self:
        command, here = [sys.executable, "-m", "tests.warm"], Path(__file__).parents[1]
        self.process = subprocess.Popen(command, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def run(
        self, *words: object, env: Mapping[str, object], cwd: Path, code: str = COMMAND
    ) -> subprocess.CompletedProcess[str]:
        """The command line, or other code, with these words; environment and folder as for ``subprocess.run``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        said = [cwd / f".said-{number}" for number in (1, 2)]
        job = {"words": list(map(str, words)), "env": {key: str(one) for key, one in env.items()}, "cwd": str(cwd)}
        self.process.stdin.write(json.dumps({**job, "code": code, "said": list(map(str, said))}) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        out, err = (one.read_text() for one in said)
        for one in said:
            one.unlink()
        return subprocess.CompletedProcess(job["words"], status, out, err)


def carry_out(job: dict[str, Any]) -> NoReturn:
    """What a forked process does."""
    status: object = 0
    try:
        os.environ.clear()
        os.environ.update(job["env"])
        os.chdir(job["cwd"])
        sys.path[:0] = filter(None, job["env"].get("PYTHONPATH", "").split(os.pathsep))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(job["said"], 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["weightkit", *job["words"]]
        exec(compile(job["code"], "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def main() -> None:
    """Fork a process for each line."""
    import torch  # noqa: F401

    import weightkit.cli
    import weightkit.fetch
    import weightkit.merge
    import weightkit.recover  # noqa: F401

    assert not {"huggingface_hub", "httpx", "httpx2"} & set(sys.modules)
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            carry_out(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
