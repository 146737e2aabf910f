"""The errors that weightkit raises about files and plans.

    WeightkitError
    ├── FormatError      a file is not what it claims to be, or is damaged
    ├── PlanError        the inputs are sound but do not fit together, or the output cannot be made
    ├── TorchError       torch is needed, and is not installed or not fit for use
    └── DigestMismatch   a digest is not the one that was published
        └── Incomplete   files that belong to what is to be proved are not there

They carry data as well as a message, and survive a pickle. A bad argument to a function is a ``ValueError``; whoever
knows the file turns it into one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from weightkit.core.wording import as_arguments

__all__ = ["DigestMismatch", "FormatError", "Incomplete", "PlanError", "TorchError", "WeightkitError"]


class WeightkitError(Exception):
    """Anything that weightkit refuses to go on with. Its message names arguments; where the command line speaks, options.

    Attributes:
        in_options: Whether messages name options: a process speaks either way, and the command line says so when it starts.
    """

    in_options: ClassVar[bool] = False

    def __str__(self) -> str:
        return self.text() if WeightkitError.in_options else as_arguments(self.text())

    def text(self) -> str:
        """The message as it was written, with options."""
        return super().__str__()


class FormatError(WeightkitError):
    """A file is not what it claims to be.

    Attributes:
        path: The file; of an input that is no local file, its name.
        problem: What was found and what was wanted.
        offset: Where in the file, in bytes, if one place is to blame.
    """

    def __init__(self, path: Path | str, problem: str, offset: int | None = None) -> None:
        super().__init__(path, problem, offset)
        self.path, self.problem, self.offset = path, problem, offset

    def text(self) -> str:
        """Where, what, and at which byte."""
        where = "" if self.offset is None else f" (at byte {self.offset})"
        return f"{self.path}: {self.problem}{where}"


class PlanError(WeightkitError):
    """What was asked for cannot be done; every reason found is in ``problems``.

    Attributes:
        summary: One line saying what does not work.
        problems: Further lines, one a misfit.
        path: The file or folder that it is about, where it is about one.
        hint: What to do, where one thing will do; the message ends with it.
    """

    def __init__(
        self, summary: str, problems: Sequence[str] = (), *, path: Path | str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(summary, tuple(problems))
        self.summary, self.problems = summary, tuple(problems)
        self.path, self.hint = path, hint

    def text(self) -> str:
        """The summary and its hint, then a line for each problem."""
        first = self.summary if self.hint is None else f"{self.summary}; {self.hint}"
        return "\n".join([first, *(f"  {problem}" for problem in self.problems)])


class TorchError(WeightkitError):
    """torch is needed, and is not installed, does not load or is not fit for use.

    Attributes:
        problem: What was found.
        hint: The commands that mend it.
    """

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem, hint)
        self.problem, self.hint = problem, hint

    def text(self) -> str:
        """What was found, and what mends it."""
        return f"{self.problem}; {self.hint}"


class DigestMismatch(WeightkitError):
    """A file's digest is not the one that was wanted; the file was not published under its name.

    Attributes:
        path: The file, relative to the output folder.
        algorithm: The digest's algorithm, as ``sha256``.
        expected: The digest wanted, in hexadecimal.
        actual: The digest found.
        reason: The likely reason, where one can be told.
    """

    def __init__(self, path: str, algorithm: str, expected: str, actual: str, reason: str = "") -> None:
        super().__init__(path, algorithm, expected, actual, reason)
        self.path, self.algorithm = path, algorithm
        self.expected, self.actual, self.reason = expected, actual, reason

    def text(self) -> str:
        """The file, both digests, and why."""
        tail = f"; {self.reason}" if self.reason else ""
        return f"{self.path}: {self.algorithm} is {self.actual}, wanted {self.expected}{tail}"


class Incomplete(DigestMismatch):
    """Files that belong to a release are not there, so no proof of the others is one of it.

    Attributes:
        missing: Their names, all of them or the first.
        reason: What names them: an index, the numbers in the others' names, a list.
    """

    def __init__(self, path: str, missing: Sequence[str], reason: str) -> None:
        super().__init__(path, "", "", "", reason)
        self.missing = tuple(missing)
        self.args = (path, self.missing, reason)

    def text(self) -> str:
        """The first of what is missing."""
        more = f" and {len(self.missing) - 4} more" if len(self.missing) > 4 else ""
        return f"{self.path}: is not complete: {', '.join(self.missing[:4])}{more} not there, which {self.reason}"
