"""Runs the catalog's own commands on real weights, and writes down what came of them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WEIGHTS = (".bin", ".pth", ".safetensors")
PLACEHOLDERS = {"BASE", "DIFF", "LORA"}
"""What stands in a command of the catalog where it does not know the entry."""

Found = dict[str, Any]


@dataclass(frozen=True)
class Ran:
    """A command that ended.

    Attributes:
        status: Its exit status.
        answer: What it said with ``--json``.
        seconds: How long it took.
        peak_nbytes: Its resident memory at most.
    """

    status: int
    answer: Found
    seconds: float
    peak_nbytes: int


@dataclass(frozen=True)
class Weightkit:
    """The command line, each command in a process of its own, so that its memory can be measured."""

    env: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str, cwd: Path) -> Ran:
        """Run a command with ``--json``."""
        started = time.perf_counter()
        with (cwd / ".answer").open("w+b") as file:
            command = [sys.executable, "-m", "weightkit", *words, "--json", "--quiet"]
            child = subprocess.Popen(command, cwd=cwd, env={**os.environ, **self.env}, stdout=file)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            file.seek(0)
            text = file.read()
        answer: Found = json.loads(text) if text.strip() else {}
        unit = 1 if sys.platform == "darwin" else 1024
        return Ran(child.returncode, answer, round(time.perf_counter() - started, 1), usage.ru_maxrss * unit)


@dataclass
class Field:
    """One visit to a machine that has the weights.

    Attributes:
        weightkit: Runs commands.
        llama: Where Meta's folders are.
        downloads: Where downloads are, each called like its entry; None: nowhere.
        work: An empty folder for results.
        fetch: Whether what is missing is fetched.
        keep: Where results stay; None: they are removed once they are checked.
        say: Is told what happens.
        inputs: What the published digests say of each input that was needed.
        raw: Entries of original weights, which are not fetched.
    """

    weightkit: Weightkit
    llama: Path
    downloads: Path | None
    work: Path
    fetch: bool = False
    keep: Path | None = None
    say: Callable[[str], None] = lambda _: None
    inputs: dict[str, Found] = field(default_factory=dict)
    raw: set[str] = field(default_factory=set)

    def ask(self, *words: str) -> Found:
        """What weightkit answers to a question that cannot go wrong."""
        ran = self.weightkit(*words, cwd=self.work)
        if ran.status:
            raise SystemExit(f"weightkit {' '.join(words)}: {ran.answer.get('error', ran.status)}")
        return ran.answer

    def run(self, names: Sequence[str]) -> list[Found]:
        """Rebuild some releases, or all that are rebuilt or converted; what was found of each, in order."""
        known = {one["name"]: one for one in self.ask("releases")["releases"]}
        self.raw = {name for name, one in known.items() if one["kind"] == "raw"}
        for name in names:
            if name not in known:
                raise SystemExit(f"no release {name}; weightkit releases lists them")
        made = names or [name for name, one in known.items() if one["kind"] in ("result", "converted")]
        found = []
        for name in made:
            one = self.release(self.ask("releases", name))
            self.say(f"{name}: {one['outcome']}{': ' + one['why'] if 'why' in one else ''}")
            found.append(one)
        return found

    def release(self, entry: Found) -> Found:
        """Rebuild one release, check it, and take it away again."""
        steps = {step["what"]: step for step in entry["steps"] if step["what"] != "get"}
        wanted = [step["entry"] for step in entry["steps"] if step["what"] == "get"]
        if entry["kind"] not in ("result", "converted"):
            return {"name": entry["name"], "outcome": "skipped", "why": "there is nothing to rebuild"}
        (command,) = steps["make"]["commands"]
        if PLACEHOLDERS & set(command):
            return {"name": entry["name"], "outcome": "skipped", "why": "the catalog does not know all that it takes"}
        places = {one: self.place(one) for one in wanted}
        if lacking := [one for one, place in places.items() if place is None]:
            return {"name": entry["name"], "outcome": "skipped", "why": f"not there: {', '.join(lacking)}"}
        for words in steps["verify"]["commands"]:
            self.verify_input(words[-1], self.filled(words, places))
        out = (self.keep or self.work) / entry["name"]
        ran = self.weightkit(*self.filled(command, {**places, "OUT": out}), cwd=self.work)
        found: Found = {
            "name": entry["name"],
            "inputs": wanted,
            "status": ran.status,
            "seconds": ran.seconds,
            "peak_memory_bytes": ran.peak_nbytes,
        }
        if ran.status not in (0, 3):
            error = ran.answer.get("error", {})
            found |= {
                "outcome": "refused",
                "kind": error.get("kind", "none"),
                "why": self.without_paths(error.get("message")),
            }
        else:
            found |= self.proved(entry, steps["prove"]["commands"], {**places, "OUT": out}, ran)
        if self.keep is None:
            shutil.rmtree(out, ignore_errors=True)
        return found

    def proved(self, entry: Found, commands: Sequence[Sequence[str]], places: dict[str, Path], ran: Ran) -> Found:
        """What the published digests say of a result, and what its own are."""
        files = [{key: one.get(key) for key in ("path", "bytes", "sha256")} for one in ran.answer.get("files", [])]
        if ran.status == 3 and "error" in ran.answer:
            return {"outcome": "mismatch", "files": files, "why": self.without_paths(ran.answer["error"]["message"])}
        if not commands:
            return {"outcome": "mismatch" if ran.status else "rebuilt", "files": files}
        checks = self.weightkit(*self.filled(commands[0], places), cwd=self.work)
        listed = checks.answer.get("files", [])
        counts = {status: sum(one["status"] == status for one in listed) for status in ("ok", "FAILED", "missing", "extra")}
        bad = [
            {key: one[key] for key in ("path", "status", "algorithm", "expected", "actual")}
            for one in listed
            if one["status"] in ("FAILED", "missing")
        ]
        unproved = sorted(one["path"] for one in listed if one["status"] == "extra" and one["path"].endswith(WEIGHTS))
        whole = not ran.status and not checks.status and counts["ok"] and not bad
        outcome = ("partly proved" if unproved else "proved") if whole else "mismatch"
        return {"outcome": outcome, "files": files, "digests": counts, "differ": bad, "unproved": unproved}

    def verify_input(self, name: str, words: Sequence[str]) -> None:
        """Check an input against its published digests, once."""
        if name not in self.inputs:
            listed = self.weightkit(*words, cwd=self.work).answer.get("files", [])
            self.inputs[name] = {
                "name": name,
                **{status: sum(one["status"] == status for one in listed) for status in ("ok", "FAILED", "missing")},
            }

    def place(self, name: str) -> Path | None:
        """Where an input lies; None if it does not."""
        size = name.removeprefix("llama-").upper()
        for path in (self.llama / size, self.llama / name, *([self.downloads / name] if self.downloads else [])):
            if path.exists():
                return path.resolve()
        if not self.fetch or self.downloads is None or name in self.raw:
            return None
        self.say(f"fetching {name}")
        ran = self.weightkit("fetch", name, "--out", str(self.downloads / name), cwd=self.work)
        return (self.downloads / name).resolve() if ran.status == 0 else None

    def filled(self, words: Sequence[str], places: dict[str, Path | None]) -> list[str]:
        """A command of the catalog, without ``weightkit``, with the real folders in place of the entries' names."""
        found = []
        for before, word in itertools.pairwise(words):
            place = places.get(word) if before != "--release" else None
            found.append(str(place) if place else word)
        return found

    def without_paths(self, text: str | None) -> str:
        """A message without the folders of this visit; the receipt leaves out one that still has a path."""
        text = text or ""
        for path, word in ((self.llama, "LLAMA"), (self.downloads, "DOWNLOADS"), (self.keep, "OUT"), (self.work, "OUT")):
            for one in (path, path and path.resolve()):
                text = text.replace(str(one), word) if one else text
        return text
