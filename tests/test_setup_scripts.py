"""scripts/environment.sh, branch by branch: real shell, among named fakes of python, pip, uname and PyTorch's index."""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PINNED = next(line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("torch==")).removeprefix(
    "torch=="
)
TOOLS = ("cat", "cksum", "dirname", "grep", "rm", "sed", "sh")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

FAKE_PYTHON = '''#!{real}
"""A fake python {version}: makes fake environments and notes what pip is told to install."""
import os, shutil, sys
from pathlib import Path
me, words = Path(sys.argv[0]), sys.argv[1:]
home = Path({home!r})
def note(*words):
    with (home / "log").open("a") as log:
        print(*words, file=log)
match words:
    case ["--version"]:
        print("Python {version}")
    case ["-c", "import pip"]:
        sys.exit(not (me.parent / "pip").exists())
    case ["-c", code, version] if "import sys, torch" in code:
        there = me.parent / "torch"
        sys.exit(not (there.exists() and there.read_text() == version))
    case ["-c", code]:
        sys.version_info = tuple(map(int, "{version}".split(".")))
        exec(code)
    case ["-m", "venv", folder]:
        note("venv", me.name, folder)
        bin = Path(folder) / "bin"
        bin.mkdir(parents=True)
        shutil.copy(me, bin / "python")
        if not {makes}:
            print("ensurepip is not available")
            sys.exit(1)
        (bin / "pip").touch()
        (bin / "weightkit").write_text("#!/bin/sh\\necho weightkit $*\\n")
        (bin / "weightkit").chmod(0o755)
    case ["-m", "pip", "--disable-pip-version-check", "index", "versions", "torch"]:
        print("torch ({known})")
    case ["-m", "pip", "--disable-pip-version-check", "install", *rest]:
        note("pip", *rest)
        for word in rest:
            if word.startswith("torch=="):
                (me.parent / "torch").write_text(word.removeprefix("torch==").partition("+")[0])
    case ["-", *_]:
        os.execv({real!r}, [{real!r}, *words])
    case _:
        sys.exit(f"the fake python was asked {{words}}")
'''


@dataclass
class Machine:
    """A folder with the scripts, and a PATH of fakes and a few real tools."""

    root: Path
    clone: Path = field(init=False)
    programs: Path = field(init=False)
    system: str = "Linux"
    chip: str = "x86_64"
    index: str = CPU_INDEX

    def __post_init__(self) -> None:
        self.clone, self.programs = self.root / "my clone", self.root / "programs"
        self.programs.mkdir()
        (self.clone / "scripts").mkdir(parents=True)
        for name in ("scripts/demo.sh", "scripts/environment.sh", "constraints.txt", "setup.cfg"):
            shutil.copy(ROOT / name, self.clone / name)
        for name in TOOLS:
            (self.programs / name).symlink_to(str(shutil.which(name)))

    def python(self, name: str = "python3", version: str = "3.12.1", *, makes: bool = True, known: str = PINNED) -> Path:
        """Puts a fake python on the PATH."""
        path = self.programs / name
        facts = {"real": sys.executable, "home": str(self.root), "version": version, "makes": makes, "known": known}
        path.write_text(FAKE_PYTHON.format(**facts))
        path.chmod(0o755)
        return path

    def demo(self, **env: str) -> tuple[int, str, list[str]]:
        """Runs scripts/demo.sh: its status, what it said, and what it had installed."""
        fake = self.programs / "uname"
        fake.write_text(f"#!/bin/sh\ncase $1 in -m) echo {self.chip} ;; *) echo {self.system} ;; esac\n")
        fake.chmod(0o755)
        script = self.clone / "scripts" / "environment.sh"
        script.write_text(script.read_text().replace(CPU_INDEX, self.index))
        log = self.root / "log"
        log.unlink(missing_ok=True)
        env = {"PATH": str(self.programs), "HOME": str(self.root), "no_proxy": "*", **env}
        command = [str(shutil.which("sh")), "my clone/scripts/demo.sh"]
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 0:
            assert done.stdout == "weightkit demo\n"
        assert "the fake python was asked" not in done.stderr
        return done.returncode, done.stderr, log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class Index(http.server.BaseHTTPRequestHandler):
    """A fake of PyTorch's index: answers as its path says."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/whl/cpu/torch/" else 404)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


WEIGHTKIT = "pip -c constraints.txt -e ."


def torch(*words: str) -> str:
    return " ".join(["pip -c constraints.txt", *words])


def test_where_pip_knows_a_cpu_build_that_is_taken_and_a_second_run_installs_nothing(machine: Machine) -> None:
    machine.python(known=f"{PINNED}+cpu")
    status, said, log = machine.demo()
    assert (status, log) == (0, ["venv python3 .venv", torch(f"torch=={PINNED}+cpu"), WEIGHTKIT])
    assert "about 1 GB with torch's CPU build (200 MB to download)" in said.splitlines()[1], "said before it is downloaded"
    assert said.splitlines()[-1].endswith(f". '{machine.clone}/.venv/bin/activate'"), "from another folder"
    assert machine.demo() == (0, "", [])


def test_where_the_index_answers_the_cpu_build_comes_from_it(machine: Machine, index: str) -> None:
    machine.python()
    machine.index = f"{index}/whl/cpu"
    status, said, log = machine.demo()
    wanted = torch("--extra-index-url", machine.index, f"torch=={PINNED}+cpu")
    assert (status, log) == (0, ["venv python3 .venv", wanted, WEIGHTKIT])
    assert "CPU build (200 MB" in said


@pytest.mark.parametrize("way", ["no such page", "closed", pytest.param("silent", marks=pytest.mark.slow)])
def test_where_no_cpu_build_can_be_had_it_stops_and_names_two_ways(machine: Machine, index: str, way: str) -> None:
    machine.python()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if way == "closed":
            silent.close()
        machine.index = f"{index}/elsewhere" if way == "no such page" else f"http://127.0.0.1:{port}"
        status, said, log = machine.demo()
        assert (status, log) == (1, ["venv python3 .venv"])
        (line,) = said.splitlines()[1:]
        assert "5.5 GB" in line
        assert "PIP_EXTRA_INDEX_URL=<mirror of that index> sh my clone/scripts/demo.sh" in line
        assert "WEIGHTKIT_TORCH=cuda sh my clone/scripts/demo.sh" in line
        status, said, log = machine.demo(WEIGHTKIT_TORCH="cuda")
    assert (status, log) == (0, [torch(f"torch=={PINNED}"), WEIGHTKIT]), "what the first run made is kept"
    assert "5.5 GB" in said.splitlines()[0]


def test_on_macos_torch_has_no_other_build(machine: Machine) -> None:
    machine.python()
    machine.system, machine.chip = "Darwin", "arm64"
    status, said, log = machine.demo()
    assert (status, log) == (0, ["venv python3 .venv", torch(f"torch=={PINNED}"), WEIGHTKIT])
    assert "100 MB to download" in said


REFUSED = {
    "Intel Mac": ("Darwin", "x86_64", {}, ["Intel Macs", "[old-torch]"]),
    "Git's shell on Windows": ("MINGW64_NT-10.0-19045", "x86_64", {}, ["in WSL"]),
    "a wish with a typo": ("Linux", "x86_64", {"WEIGHTKIT_TORCH": "CUDA"}, ["WEIGHTKIT_TORCH is CUDA", "or cuda"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_one_line_before_anything_is_made(machine: Machine, case: str) -> None:
    machine.python()
    machine.system, machine.chip, env, parts = REFUSED[case]
    status, said, log = machine.demo(**env)
    assert (status, log, said.count("\n")) == (1, [], 1)
    assert all(part in said for part in parts)
    assert not (machine.clone / ".venv").exists()


PYTHONS = {
    "none": ((), None),
    "too old": ((("python3", "3.9.18"),), None),
    "too new": ((("python3", "3.15.0"),), None),
    "Python 2": ((("python", "2.7.18"),), None),
    "old and new": ((("python3", "3.10.13"), ("python3.15", "3.15.0"), ("python", "3.15.0")), None),
    "the second": ((("python3", "3.9.18"), ("python3.13", "3.13.0")), "python3.13"),
    "newest first": ((("python3", "3.15.0"), ("python3.11", "3.11.7"), ("python3.14", "3.14.0")), "python3.14"),
    "called python": ((("python", "3.11.7"),), "python"),
}


@pytest.mark.parametrize("case", PYTHONS)
def test_a_python_that_fits_is_found_or_the_line_says_what_is_there(machine: Machine, case: str) -> None:
    pythons, wanted = PYTHONS[case]
    for name, version in pythons:
        machine.python(name, version, known=f"{PINNED}+cpu")
    status, said, log = machine.demo()
    if wanted is not None:
        assert (status, log[0]) == (0, f"venv {wanted} .venv")
        return
    assert (status, log, said.count("\n")) == (1, [], 1)
    assert "Python 3.11 to 3.14 is needed" in said
    assert "PYTHON=/path/to/python3.12 sh my clone/scripts/demo.sh" in said
    for name, version in pythons:
        assert f"{name} is Python {version}" in said or name == "python3.15"


def test_a_python_that_is_named_is_taken_and_no_other(machine: Machine) -> None:
    machine.python(known=f"{PINNED}+cpu")
    named = machine.python("my python", "3.13.0", known=f"{PINNED}+cpu")
    assert machine.demo(PYTHON=str(named))[::2] == (0, ["venv my python .venv", torch(f"torch=={PINNED}+cpu"), WEIGHTKIT])
    shutil.rmtree(machine.clone / ".venv")
    status, said, log = machine.demo(PYTHON=str(machine.python("old python", "3.8.1")))
    assert (status, log) == (1, [])
    assert "old python is Python 3.8.1" in said
    status, said, log = machine.demo(PYTHON="/no/such/python")
    assert (status, log) == (1, [])
    assert "there is no /no/such/python" in said


def test_a_venv_that_could_not_be_made_is_not_left_behind(machine: Machine) -> None:
    """As on Debian without python3-venv: a Python in .venv, no pip."""
    machine.python(makes=False)
    status, said, _ = machine.demo()
    assert status == 1
    assert "apt install python3-venv" in said.splitlines()[-1]
    assert not (machine.clone / ".venv").exists()
    machine.python(known=f"{PINNED}+cpu")
    assert machine.demo()[0] == 0


def spoil(clone: Path, way: str) -> Path:
    """The clone, wherever it is then."""
    if way == "no pip":
        (clone / ".venv/bin/pip").unlink()
    elif way == "no python":
        (clone / ".venv/bin/python").unlink()
    else:
        clone = clone.rename(clone.with_name("moved"))
        clone.with_name("my clone").symlink_to(clone)
    return clone


@pytest.mark.parametrize("way", ["no pip", "no python", "moved"])
def test_a_venv_that_does_not_work_any_more_is_made_anew(machine: Machine, way: str) -> None:
    machine.python(known=f"{PINNED}+cpu")
    assert machine.demo()[0] == 0
    spoil(machine.clone, way)
    status, _, log = machine.demo()
    assert (status, log) == (0, ["venv python3 .venv", torch(f"torch=={PINNED}+cpu"), WEIGHTKIT])


def test_a_venv_is_kept_where_no_python_can_make_another(machine: Machine) -> None:
    machine.python(known=f"{PINNED}+cpu").rename(machine.programs / "python3.12")
    assert machine.demo()[0] == 0
    spoil(machine.clone, "no pip")
    (machine.programs / "python3.12").unlink()
    assert machine.demo()[0] == 1
    assert (machine.clone / ".venv/weightkit-installed").exists()


def test_a_venv_of_another_python_is_not_touched(machine: Machine) -> None:
    machine.python(known=f"{PINNED}+cpu")
    assert machine.demo()[0] == 0
    machine.python("python3.10", "3.10.13").rename(machine.clone / ".venv/bin/python")
    status, said, log = machine.demo()
    assert (status, log) == (1, [])
    assert ".venv is of Python 3.10.13" in said
    assert "rm -r .venv" in said


@pytest.mark.parametrize(("there", "anew"), [("2.1.0", True), (PINNED, False)])
def test_a_new_pin_brings_the_cpu_build_and_a_torch_that_is_right_stays(machine: Machine, there: str, anew: bool) -> None:
    """pip would meet a new pin with the registry's build, CUDA and all."""
    machine.python(known=f"{PINNED}+cpu")
    assert machine.demo()[0] == 0
    (machine.clone / ".venv/bin/torch").write_text(there)
    with (machine.clone / "constraints.txt").open("a") as file:
        file.write("# another day\n")
    assert machine.demo()[::2] == (0, [*([torch(f"torch=={PINNED}+cpu")] if anew else []), WEIGHTKIT])


def test_another_folder_on_cdpath_is_not_taken_for_the_clone(machine: Machine) -> None:
    machine.python(known=f"{PINNED}+cpu")
    other = machine.root / "other"
    (other / "my clone" / "scripts").mkdir(parents=True)
    assert machine.demo(CDPATH=str(other))[0] == 0
    assert (machine.clone / ".venv").is_dir()
