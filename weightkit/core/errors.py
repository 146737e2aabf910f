"""The errors that weightkit raises about files and plans.

    WeightkitError
    ├── FormatError      a file is not what it claims to be, or is damaged
    ├── PlanError        the inputs are sound but do not fit together, or the output cannot be made
    ├── TorchError       torch is needed, and is not installed or not fit for use
    └── DigestMismatch   a digest is not the one that was published
        ├── Incomplete   files that belong to what is to be proved are not there
        └── BadSignature a signature does not hold, or a file is not as it was signed

They carry data as well as a message, and survive a pickle. A bad argument to a function is a ``ValueError``; whoever
knows the file turns it into one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from weightkit.core.wording import apart, as_arguments

__all__ = ["BadSignature", "DigestMismatch", "FormatError", "Incomplete", "PlanError", "TorchError", "WeightkitError", "spoken"]


def spoken(text: str) -> str:
    """A message as whoever is spoken to says it: with options on the command line, with arguments in Python."""
    return text if WeightkitError.in_options else as_arguments(text)


class WeightkitError(Exception):
    """Anything that weightkit refuses to go on with. Its message names arguments; where the command line speaks, options.

    Attributes:
        in_options: Whether messages name options: a process speaks either way, and the command line says so when it starts.
        kind: The word for it in JSON: ``format``, ``plan``, ``mismatch``, ``incomplete``, ``refused``.
        path: The file or folder that it is about; None where it is about no single one.
    """

    in_options: ClassVar[bool] = False
    kind: ClassVar[str] = "refused"
    path: Path | str | None = None

    def __str__(self) -> str:
        return spoken(self.text())

    def text(self) -> str:
        """The message as it was written, with options."""
        return super().__str__()

    @property
    def summary(self) -> str:
        """What does not work, in a line, without the path if ``path`` has it, and without what to do."""
        return self.apart()[0]

    @property
    def hint(self) -> str | None:
        """What to do, where one thing will do; the message ends with it."""
        return self.apart()[1]

    def apart(self) -> tuple[str, str | None]:
        """Summary and hint."""
        return apart(str(self))


class FormatError(WeightkitError):
    """A file is not what it claims to be.

    Attributes:
        path: The file; of an input that is no local file, its name.
        offset: Where in the file, in bytes, if one place is to blame.
    """

    kind = "format"
    path: Path | str

    def __init__(self, path: Path | str, problem: str, offset: int | None = None) -> None:
        super().__init__(path, problem, offset)
        self.path, self.said, self.offset = path, problem, offset

    @property
    def problem(self) -> str:
        """What was found, what was wanted, and what to do."""
        return spoken(self.said)

    def text(self) -> str:
        """Where, what, and at which byte."""
        where = "" if self.offset is None else f" (at byte {self.offset})"
        return f"{self.path}: {self.said}{where}"

    def apart(self) -> tuple[str, str | None]:
        """The problem, without what to do, and that."""
        return apart(self.problem)


class PlanError(WeightkitError):
    """What was asked for cannot be done; every reason found is in ``problems``.

    Attributes:
        path: The file or folder that it is about, where it is about one.
    """

    kind = "plan"

    def __init__(
        self, summary: str, problems: Sequence[str] = (), *, path: Path | str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(summary, tuple(problems))
        self.path, self.said = path, (summary, tuple(problems), hint)

    @property
    def problems(self) -> tuple[str, ...]:
        """Further lines, one a misfit."""
        return tuple(map(spoken, self.said[1]))

    def text(self) -> str:
        """The summary and its hint, then a line for each problem."""
        summary, problems, hint = self.said
        first = summary if hint is None else f"{summary}; {hint}"
        return "\n".join([first, *(f"  {problem}" for problem in problems)])

    def apart(self) -> tuple[str, str | None]:
        """Summary and hint, as they were said; of a summary that problems follow, all."""
        summary, problems, hint = self.said
        return (spoken(summary), hint and spoken(hint)) if hint or problems else apart(spoken(summary))


class TorchError(WeightkitError):
    """torch is needed, and is not installed, does not load or is not fit for use.

    Attributes:
        problem: What was found.
    """

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem, hint)
        self.problem, self.commands = problem, hint

    def text(self) -> str:
        """What was found, and what mends it."""
        return f"{self.problem}; {self.commands}"

    def apart(self) -> tuple[str, str | None]:
        """What was found, and the commands that mend it."""
        return self.problem, self.commands


class DigestMismatch(WeightkitError):
    """A file's digest is not the one that was wanted; the file was not published under its name.

    Attributes:
        path: The file, relative to the output folder.
        algorithm: The digest's algorithm, as ``sha256``.
        expected: The digest wanted, in hexadecimal.
        actual: The digest found.
    """

    kind = "mismatch"
    path: str

    def __init__(self, path: str, algorithm: str, expected: str, actual: str, reason: str = "") -> None:
        super().__init__(path, algorithm, expected, actual, reason)
        self.path, self.algorithm = path, algorithm
        self.expected, self.actual, self.said = expected, actual, reason

    @property
    def reason(self) -> str:
        """The likely reason, where one can be told."""
        return spoken(self.said)

    def text(self) -> str:
        """The file, both digests, and why."""
        tail = f"; {self.said}" if self.said else ""
        return f"{self.path}: {self.algorithm} is {self.actual}, wanted {self.expected}{tail}"


class Incomplete(DigestMismatch):
    """Files that belong to a release are not there, so no proof of the others is one of it.

    Attributes:
        missing: Their names, all of them or the first.
        reason: What names them: an index, the numbers in the others' names, a list.
    """

    kind = "incomplete"

    def __init__(self, path: str, missing: Sequence[str], reason: str) -> None:
        super().__init__(path, "", "", "", reason)
        self.missing = tuple(missing)
        self.args = (path, self.missing, reason)

    def text(self) -> str:
        """The first of what is missing, and what to do."""
        more = f" and {len(self.missing) - 4} more" if len(self.missing) > 4 else ""
        advice = "fetch it" if len(self.missing) == 1 else "fetch them"
        return f"{self.path}: is not complete: {', '.join(self.missing[:4])}{more} not there, which {self.said}; {advice}"


class BadSignature(DigestMismatch):
    """A signature does not hold under the key that was given, or does not cover a file.

    Attributes:
        path: The signature, or the file.
        reason: What is wrong with it.
    """

    kind = "signature"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, "", "", "", reason)
        self.args = (path, reason)

    def text(self) -> str:
        """The file, and why."""
        return f"{self.path}: {self.said}"
