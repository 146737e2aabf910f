"""The pages of the documentation as programs: their blocks are run in order, and what they print is compared.

A ``console`` block holds ``$ commands`` with what they print; a line ``...`` there stands for any number of lines. A ``python``
block is run as it stands. Before an ``sh`` block ``<!-- not-run: reason -->`` says why it is not run. A page that needs weights
has ``<!-- stand-ins: LLaMA/7B = meta/7B; ... -->``: names in its commands, and what of ``tests/data/peer`` stands in for them.
``python -m tests.pages PAGE...`` writes into pages what their commands print today; look at the difference.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / "tests" / "data" / "peer"
BLOCK = re.compile(r"(?:<!-- not-run: (?P<why>[^\n]+) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
STAND_INS = re.compile(r"<!-- stand-ins: (.*?) -->", re.DOTALL)
VARYING = [
    (r"in \d+\.\d s", "in 0.0 s"),
    (r"[\d.]+ .?B free: enough", "0 GB free: enough"),
    (r"memory  [\d.]+ MB", "memory  0 MB"),  # the process is measured: another torch is another number
    (r"sums (fma|mul-add): .*", r"sums \1: here"),  # how this machine's BLAS was met
]


@dataclass(frozen=True, slots=True)
class Step:
    """A command of a page, and what the page says that it prints."""

    command: str
    shown: str


def plain(text: str) -> str:
    """Without what differs from run to run: seconds, memory, and room on the disk."""
    for pattern, put in VARYING:
        text = re.sub(pattern, put, text)
    return text.strip()


def same(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed."""
    pieces = [re.escape(plain(piece)) for piece in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE)]
    pattern = r"(?:.*\n)*?".join(f"{piece}\n?" if piece else "" for piece in pieces)
    text = plain(printed)
    return re.fullmatch(pattern, f"{text}\n" if text else "") is not None


def steps(block: str) -> list[Step]:
    """The commands of a ``console`` block; a line that ends in a backslash goes on in the next, after ``> ``."""
    found: list[Step] = []
    for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = piece.splitlines()
        count = next(number for number, line in enumerate(lines, 1) if not line.endswith("\\"))
        found.append(Step("\n".join(line.removeprefix("> ") for line in lines[:count]), "\n".join(lines[count:])))
    return found


class Session:
    """A shell in a fresh folder; it remembers where ``cd`` led."""

    def __init__(self, page: str, folder: Path) -> None:
        self.here = folder
        for line in (part for names in STAND_INS.findall(page) for part in names.split(";") if part.strip()):
            name, source = (one.strip() for one in line.split("="))
            target = folder / name
            if (PEER / source).is_dir():
                shutil.copytree(PEER / source, target, dirs_exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(PEER / source, target)
        (folder / ".bin").mkdir()
        script = folder / ".bin" / "weightkit"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m weightkit "$@"\n')
        script.chmod(0o755)
        path = os.pathsep.join([str(script.parent), os.environ["PATH"]])
        self.env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "80"}

    def sh(self, command: str) -> str:
        """What a command prints, both streams in order."""
        if command.startswith("cd "):
            self.here = self.here / command.removeprefix("cd ").strip()
            assert self.here.is_dir(), command
            return ""
        return self.run(["sh", "-c", command])

    def run(self, words: list[str]) -> str:
        done = subprocess.run(
            words, cwd=self.here, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout


def check(page: Path, folder: Path) -> int:
    """Run a page from an empty folder; how many commands were run and compared."""
    text, count = page.read_text(), 0
    session = Session(text, folder)
    for block in BLOCK.finditer(text):
        if block["kind"] == "console":
            for step in steps(block["text"]):
                printed = session.sh(step.command)
                assert same(step.shown, printed), f"{page.name}: $ {step.command}\n{printed}\n--- shown:\n{step.shown}"
                count += 1
        elif block["kind"] == "python" and not block["why"]:
            session.run([sys.executable, "-c", block["text"]])
            count += 1
    return count


def fill(page: Path) -> None:
    """Write into a page what its commands print; blocks with a ``...`` are left, and what differs in nothing but time."""
    text = page.read_text()
    with tempfile.TemporaryDirectory() as folder:
        session = Session(text, Path(folder))

        def put(block: re.Match[str]) -> str:
            if block["kind"] != "console":
                return block[0]
            lines = []
            for step in steps(block["text"]):
                printed = session.sh(step.command).rstrip("\n")
                stays = "\n...\n" in f"\n{step.shown}\n" or same(step.shown, printed)
                printed = step.shown.rstrip("\n") if stays else printed
                lines += ["$ " + step.command.replace("\n", "\n> "), *([printed] if printed else [])]
            return "```console\n" + "\n".join(lines) + "\n```"

        page.write_text(BLOCK.sub(put, text))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        fill(Path(name))
