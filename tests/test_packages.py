"""What is built of a clone: an sdist, a wheel, an editable install, by setuptools itself; and the wheel, used without torch."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import PEER, sha256
from weightkit import __version__, catalog

ROOT = Path(__file__).resolve().parents[1]
BUILT = f"weightkit-{__version__}"

LITTER = (
    ".venv/bin/python",
    ".DS_Store",
    "build/lib/weightkit/gone.py",
    "checksums/zhixi-13b/.DS_Store",
    "dist/weightkit-0.0.1.tar.gz",
    "docs/_build/index.html",
    "docs/tutorial.md~",
    "examples/.ipynb_checkpoints/real_model.py",
    "nohup.out",
    "play/base/pytorch_model.bin",
    "tests/.hypothesis/unicode_data/15/charmap.json.gz",
    "tests/.pytest_cache/v/cache/lastfailed",
    "tests/data/peer/.DS_Store",
    "tests/ops/__pycache__/test_lora.cpython-311.pyc",
    "weightkit/core/.mypy_cache/3.11/x.json",
)
"""What lies about in a clone that is worked in, and belongs to its machine."""

NEEDED = ("click", "isal", "numpy", "numpy.libs", "pip", "tqdm")
"""What weightkit needs when it needs no torch; and pip."""

Here = Callable[..., subprocess.CompletedProcess[str]]


def sources() -> set[str]:
    """What belongs to the project: what git follows; where there is no git, all that no ``.gitignore`` names."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    every = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    kept = (one for one in every if not any(fnmatch.fnmatch(part, name) for part in one.parts for name in ignored))
    return {one.as_posix() for one in kept} - {"PKG-INFO"}


def unfollowed() -> set[str]:
    """New files of packages and tests that git does not follow yet."""
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {name for name in listed.stdout.split("\0") if name} if listed.returncode == 0 else set()


def backend(folder: Path, hook: str, out: Path) -> Path:
    """Calls a hook of PEP 517 as pip and build do, in a process of its own."""
    out.mkdir(parents=True, exist_ok=True)
    code = f"import sys, setuptools.build_meta as backend; print(backend.{hook}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, out], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this clone, called ``weightkit`` as git calls it, with litter in it."""
    folder = tmp_path_factory.mktemp("clone") / "weightkit"
    for name in sources() | unfollowed():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in LITTER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"litter")
    return folder


@pytest.fixture(scope="module")
def sdist(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backend(clone, "build_sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, made of the unpacked sdist as ``python -m build`` makes it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return backend(folder / BUILT, "build_wheel", tmp_path_factory.mktemp("wheel"))


def environment(folder: Path, wheel: Path) -> Here:
    """A virtual environment with a wheel, and what it needs but torch; runs its programs in a folder given by ``cwd``."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    for name in NEEDED:
        found = find_spec(name.partition(".")[0])
        assert found is not None
        assert found.origin is not None
        (packages / name).symlink_to(Path(found.origin).parents[1] / name)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)

    def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        command = [folder / "bin" / str(words[0]), *map(str, words[1:])]
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Here:
    return environment(tmp_path_factory.mktemp("venv") / "venv", wheel)


def test_an_sdist_has_all_that_git_follows_and_nothing_of_the_machine(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        found = {name.removeprefix(f"{BUILT}/") for name in archive.getnames() if not archive.getmember(name).isdir()}
    made = {"PKG-INFO", *(name for name in found if name.startswith("weightkit.egg-info/"))}
    assert sources() - found == set()
    assert found - made - sources() - unfollowed() == set()


def test_a_wheel_has_the_packages_the_catalog_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
        (entry,) = (one for one in found if one.endswith("entry_points.txt"))
        assert "weightkit = weightkit.cli:main" in archive.read(entry).decode()
    assert {name.partition("/")[0] for name in found} == {"weightkit", f"{BUILT}.dist-info"}
    ours = {name for name in sources() | unfollowed() if name.startswith(("weightkit/", "checksums/"))}
    wanted = {f"weightkit/{name}" if name.startswith("checksums/") else name for name in ours}
    assert {name for name in found if name.startswith("weightkit/")} == wanted
    assert "weightkit/py.typed" in found


def test_a_wheel_made_in_a_clone_is_that_of_its_sdist(clone: Path, wheel: Path, tmp_path: Path) -> None:
    """As ``pip install .`` makes it, where an earlier build left modules that are gone since."""
    with zipfile.ZipFile(wheel) as wanted, zipfile.ZipFile(backend(clone, "build_wheel", tmp_path)) as found:
        assert set(found.namelist()) == set(wanted.namelist())


def test_a_wheel_without_torch_does_what_needs_none(installed: Here, tmp_path: Path) -> None:
    assert (
        installed(
            "python", "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is not None)", cwd=tmp_path
        ).returncode
        == 0
    )
    base, tuned, key = PEER / "hf-bin", PEER / "tuned-fp16-bin", PEER / "meta" / "7B" / "consolidated.00.pth"
    for status, *words in (
        (0, "manifest", base, "-o", "SUMS"),
        (0, "verify", base, "--checksums", "SUMS"),
        (3, "verify", base, "--release", "llama-7b", "--no-fail-on-missing"),
        (0, "identify", base),
        (0, "inspect", base),
        (0, "releases"),
        (0, "releases", "zhixi-13b"),
        (0, "completion", "bash"),
        (0, "xor", "encode", tuned, "--key", key, "--format", "enc", "-o", "enc"),
        (0, "xor", "decode", "enc", "--key", key, "-o", "of-enc"),
        (0, "xor", "encode", tuned, "--key", base, "--format", "block-gzip", "-o", "block"),
        (0, "xor", "decode", "block", "--key", base, "-o", "of-block"),
        (0, "recover", "--diff", "block", "--raw", base, "-o", "recovered"),
        (0, "convert", base, "-o", "meta", "--to", "meta"),
        (3, "explain", base, "--against", tuned),
        (0, "tokenizer", "--help"),
    ):
        done = installed("weightkit", *words, cwd=tmp_path)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        assert "torch" not in done.stderr
    for path in tuned.glob("*.bin"):
        for folder in ("of-enc", "of-block", "recovered"):
            assert sha256(tmp_path / folder / path.name) == sha256(path)
    found = installed("python", "-c", "import weightkit.catalog as c; print(len(c.releases()), c.folder())", cwd=tmp_path)
    assert found.stdout.split()[0] == str(len(catalog.releases()))
    assert not found.stdout.split()[1].startswith(str(ROOT))


HELD = (
    ("convert", PEER / "meta" / "7B", "-o", "o", "--to", "hf"),
    ("convert", PEER / "meta" / "7B", "-o", "o", "--to", "hf", "--dry-run"),
    ("merge", "--raw", PEER / "hf-bin", "--lora", PEER / "lora-alpaca-bin", "-o", "o"),
    ("merge", "--raw", PEER / "hf-bin", "--lora", PEER / "lora-alpaca-bin", "-o", "o", "--dry-run"),
    ("recover", "--raw", PEER / "hf-bin", "--diff", PEER / "diffs" / "knowlm", "-o", "o"),
    ("recover", "--raw", PEER / "hf-bin", "--diff", PEER / "diffs" / "knowlm", "-o", "o", "--dry-run"),
    ("recover", "--raw", PEER / "hf-bin", "--diff", PEER / "diffs" / "knowlm", "-o", "o", "--json"),
    ("make-diff", "--raw", PEER / "hf-bin", "--tuned", PEER / "tuned-fp16-bin", "-o", "o"),
    (
        "explain",
        PEER / "tuned-fp16-bin",
        "--against",
        PEER / "hf-bin",
        "--base",
        PEER / "hf-bin",
        "--lora",
        PEER / "lora-alpaca-bin",
    ),
    ("demo",),
    ("demo", "--keep", "o"),
)
"""What needs torch."""


@pytest.mark.parametrize("words", HELD, ids=lambda words: " ".join(str(one) for one in words if not isinstance(one, Path)))
def test_a_wheel_without_torch_says_in_one_line_how_to_get_it(
    installed: Here, tmp_path: Path, words: tuple[object, ...]
) -> None:
    done = installed("weightkit", *words, cwd=tmp_path)
    said = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    assert done.returncode == 1
    if "--json" in words:
        answer = json.loads(done.stdout)
        assert (answer["ok"], answer["error"]["kind"]) == (False, "refused")
        said = [f"{answer['error']['message']}; {answer['error']['hint']}"]
    (line,) = said
    assert "this needs torch, which is not installed" in line
    assert line.count("-m pip install 'torch>=2.1'") == 2
    assert "--index-url https://download.pytorch.org/whl/cpu" in line
    assert list(tmp_path.iterdir()) == []


USE = """
from weightkit import __version__
import weightkit.catalog
import weightkit.recover

print(__version__, len(weightkit.catalog.releases()), weightkit.catalog.load("zhixi-13b").name)
"""

TYPED = """
reveal_type(weightkit.catalog.load("zhixi-13b").name)
done: int = weightkit.catalog.load("zhixi-13b").name
"""


def test_an_editable_install_works_from_any_folder(clone: Path, tmp_path: Path) -> None:
    """In the clone's parent, where a folder ``weightkit`` lies that is not the package; in the clone; and elsewhere."""
    run = environment(tmp_path / "venv", backend(clone, "build_editable", tmp_path / "wheel"))
    wanted = f"{__version__} {len(catalog.releases())} zhixi-13b\n"
    for folder in (clone.parent, clone, clone / "docs", tmp_path):
        (folder / "use_weightkit.py").write_text(USE)
        for words in (("use_weightkit.py",), ("-c", USE), ("-P", "-c", USE)):
            done = run("python", *words, cwd=folder)
            assert (done.stdout, done.returncode) == (wanted, 0), (folder, done.stderr)
        assert run("weightkit", "releases", "zhixi-13b", cwd=folder).returncode == 0
        (folder / "use_weightkit.py").unlink()


@pytest.mark.slow
def test_type_checkers_see_an_editable_install_from_any_folder(clone: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    environment(tmp_path / "venv", backend(clone, "build_editable", tmp_path / "wheel"))
    for folder in (clone.parent, tmp_path):
        (folder / "use_weightkit.py").write_text(USE + TYPED)
        mypy = [
            sys.executable,
            "-m",
            "mypy",
            "--python-executable",
            tmp_path / "venv/bin/python",
            "--cache-dir",
            tmp_path / "cache",
        ]
        done = subprocess.run([*mypy, "use_weightkit.py"], cwd=folder, capture_output=True, text=True, check=False)
        assert 'Revealed type is "str"' in done.stdout
        assert done.stdout.splitlines()[-1].startswith("Found 1 error in 1 file"), done.stdout
        (folder / "use_weightkit.py").unlink()
