"""The command line, through a real process: statuses, what goes where, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PEER, Run, flip_bit, sha256
from tests.test_recover import KNOWLM, STANFORD
from weightkit.cli import COMMANDS

BASE = PEER / "hf-bin"
DIFF = PEER / "diffs" / "knowlm"
SHARDED = PEER / "diffs" / "fastchat-sharded"


def test_recover_says_what_it_did(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("recover", "--raw", BASE, "--diff", DIFF, "--out", "o")
    assert (done.returncode, done.stderr) == (0, "")
    assert KNOWLM in done.stdout
    assert "next: weightkit verify o" in done.stdout.splitlines()[-1]
    assert (tmp_path / "o" / "SHA256SUMS").read_text().count("\n") == 6
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {path.name for path in DIFF.iterdir()} | {"SHA256SUMS", "TENSORS"}


def test_coreutils_accept_the_list(weightkit: Run, tmp_path: Path) -> None:
    weightkit("recover", "--raw", BASE, "--diff", SHARDED, "--out", "o")
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path / "o", capture_output=True, check=False)
    assert done.returncode == 0
    assert weightkit("verify", "o").returncode == 0


def test_json(weightkit: Run) -> None:
    done = weightkit("recover", "--raw", BASE, "--diff", DIFF, "--out", "o", "--json")
    facts = json.loads(done.stdout)
    assert facts["ok"] is True
    assert facts["command"] == "recover"
    assert {"path": "pytorch_model.bin", "bytes": 696630, "sha256": KNOWLM, "checked": False} in facts["files"]


def test_quiet_says_nothing(weightkit: Run) -> None:
    done = weightkit("recover", "--raw", BASE, "--diff", DIFF, "--out", "o", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("as_json", [False, True])
def test_dry_run_touches_nothing_and_knows_the_sizes(weightkit: Run, tmp_path: Path, as_json: bool) -> None:
    words = ("recover", "--raw", BASE, "--diff", SHARDED, "--out", "o")
    planned = weightkit(*words, "--dry-run", *(["--json"] if as_json else []))
    assert planned.returncode == 0
    assert not (tmp_path / "o").exists()
    if as_json:
        sizes = {file["path"]: file["bytes"] for file in json.loads(planned.stdout)["files"]}
    else:
        sizes = {name: int(size) for size, name in re.findall(r"^ +(\d+) bytes  (.+)$", planned.stdout, re.MULTILINE)}
        assert "memory" in planned.stdout
        assert "free" in planned.stdout
    weightkit(*words)
    real = {path.name: path.stat().st_size for path in (tmp_path / "o").iterdir() if path.name not in ("SHA256SUMS", "TENSORS")}
    assert sizes == real


def test_files_get_the_mode_of_the_umask(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "weightkit", "recover", "--raw", str(BASE), "--diff", str(DIFF), "--out", "o"]
    for umask, mode in ((0o022, 0o644), (0o027, 0o640)):
        shutil.rmtree(tmp_path / "o", ignore_errors=True)
        subprocess.run(
            ["sh", "-c", f'umask {umask:o}; exec "$@"', "sh", *command], cwd=tmp_path, check=True, capture_output=True
        )
        assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "o").iterdir()} == {mode}


def digest_list(path: Path, **wanted: str) -> Path:
    path.write_text("".join(f"{digest}  {name.replace('_bin', '.bin')}\n" for name, digest in wanted.items()))
    return path


def test_checksums_that_hold(weightkit: Run, tmp_path: Path) -> None:
    md5 = subprocess.run(["md5sum", "config.json"], cwd=DIFF, capture_output=True, text=True, check=True).stdout
    listed = digest_list(tmp_path / "list", pytorch_model_bin=KNOWLM)
    (tmp_path / "md5").write_text(md5 + f"{'0123456789abcdef' * 2}  README.md\n")
    words = ("recover", "--raw", BASE, "--diff", DIFF, "--out", "o", "--checksums", listed)
    done = weightkit(*words)
    assert done.returncode == 0
    assert "all 1 published digests hold" in done.stdout


def test_checksums_that_do_not_hold(weightkit: Run, tmp_path: Path) -> None:
    listed = digest_list(tmp_path / "list", pytorch_model_bin=STANFORD)
    done = weightkit("recover", "--raw", BASE, "--diff", DIFF, "--out", "o", "--checksums", listed)
    assert done.returncode == 3
    for part in ("FAILED pytorch_model.bin", STANFORD, KNOWLM, "--torch-compat", "likely reason"):
        assert part in done.stderr
    assert not (tmp_path / "o" / "pytorch_model.bin").exists()
    assert not (tmp_path / "o" / "SHA256SUMS").exists()
    assert not list((tmp_path / "o").glob("*.partial"))


def test_one_shard_of_two_that_does_not_hold(weightkit: Run, tmp_path: Path) -> None:
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    weightkit("recover", "--raw", BASE, "--diff", SHARDED, "--out", "good")
    first, second = (sha256(tmp_path / "good" / name) for name in names)
    (tmp_path / "list").write_text(f"{first}  {names[0]}\n{first}  {names[1]}\n")
    done = weightkit("recover", "--raw", BASE, "--diff", SHARDED, "--out", "o", "--checksums", "list")
    assert done.returncode == 3
    assert "names mixed up" in done.stderr
    assert second in done.stderr
    assert [path.name for path in (tmp_path / "o").iterdir() if not path.name.startswith(".")] == [names[0]]


def test_the_list_of_another_release_is_refused_before_work(weightkit: Run, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{KNOWLM}  pytorch_model-00001-of-00006.bin\n")
    done = weightkit("recover", "--raw", BASE, "--diff", DIFF, "--out", "o", "--checksums", "list")
    assert done.returncode == 1
    assert "pytorch_model-00001-of-00006.bin" in done.stderr
    assert not (tmp_path / "o").exists()


def test_nothing_is_overwritten_unless_told(weightkit: Run, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "config.json").write_text("mine")
    words = ("recover", "--raw", BASE, "--diff", DIFF, "--out", "o")
    done = weightkit(*words)
    assert done.returncode == 1
    assert "config.json" in done.stderr
    assert "--overwrite" in done.stderr
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["config.json"]
    assert (tmp_path / "o" / "config.json").read_text() == "mine"
    assert weightkit(*words, "--overwrite").returncode == 0
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == KNOWLM


@pytest.mark.parametrize("way", ["missing-shard", "truncated", "lfs-pointer", "html", "evil-pickle", "index-escapes"])
@pytest.mark.parametrize("side", ["--raw", "--diff"])
def test_bad_inputs_end_in_one_clear_line(
    weightkit: Run, spoilt: Callable[[str], Path], tmp_path: Path, way: str, side: str
) -> None:
    said = {
        "missing-shard": "is not complete: pytorch_model-00001-of-00004.bin",
        "truncated": "cut short",
        "lfs-pointer": "Git-LFS pointer",
        "html": "web page",
        "evil-pickle": "posix.system",
        "index-escapes": "../../hf-bin/pytorch_model-00001-of-00004.bin",
    }[way]
    sides = {"--raw": BASE, "--diff": SHARDED, side: spoilt(way)}
    done = weightkit(
        "recover", *(str(word) for pair in sides.items() for word in pair), "--out", "o", env={"ACCEPT_OUT": tmp_path}
    )
    assert done.returncode == (3 if (way, side) == ("missing-shard", "--diff") else 1)  # what was published is to be whole
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "pwned").exists()


def test_damage_that_only_the_bytes_show(weightkit: Run, tmp_path: Path) -> None:
    base = shutil.copytree(BASE, tmp_path / "base")
    flip_bit(base / "pytorch_model-00002-of-00004.bin", 50_000)
    done = weightkit("recover", "--raw", base, "--diff", DIFF, "--out", "o")
    assert done.returncode == 1
    assert re.search(r"pytorch_model-00002-of-00004\.bin: model\.\S+ is damaged", done.stderr)
    assert not (tmp_path / "o" / "pytorch_model.bin").exists()


@pytest.mark.parametrize("out", ["base", "base/o", "diff", "diff/a/b"])
def test_out_is_never_an_input(weightkit: Run, tmp_path: Path, out: str) -> None:
    shutil.copytree(BASE, tmp_path / "base")
    shutil.copytree(DIFF, tmp_path / "diff")
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (out, f"link/{out}"):
        done = weightkit("recover", "--raw", "base", "--diff", "diff", "--out", path)
        assert done.returncode == 1
        assert "inputs are never written to" in done.stderr
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == sorted(path.name for path in BASE.iterdir())


def test_a_disk_that_fails_while_writing(tmp_path: Path) -> None:
    """The real refusal of a real kernel: a limit on the size of files, met in the middle of one."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000)); "
        "sys.argv[0] = 'weightkit'; from weightkit.cli import main; main(prog_name='weightkit')"
    )
    words = ["recover", "--raw", str(BASE), "--diff", str(DIFF), "--out", "o"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pytorch_model.bin: cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in (tmp_path / "o").iterdir()} <= {".weightkit-journal"}


def test_unreadable_files_are_named(weightkit: Run, tmp_path: Path) -> None:
    base = shutil.copytree(BASE, tmp_path / "base")
    path = base / "pytorch_model-00003-of-00004.bin"
    path.unlink()
    path.mkdir()
    done = weightkit("recover", "--raw", base, "--diff", DIFF, "--out", "o")
    assert done.returncode == 1
    assert "pytorch_model-00003-of-00004.bin: cannot be read" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("recover",),
        ("recover", "--raw", "a", "--diff", "b", "--out", "c", "--dtype", "float8"),
        ("recover", "--raw", "a", "--diff", "b", "--out", "c", "--max-memory", "lots"),
        ("nonsense",),
        ("verify",),
    ],
)
def test_usage_errors(weightkit: Run, words: tuple[str, ...]) -> None:
    assert weightkit(*words).returncode == 2


@pytest.mark.parametrize("version", ["1.8", "newest"])
def test_versions_that_cannot_be_written(weightkit: Run, version: str) -> None:
    done = weightkit("recover", "--raw", BASE, "--diff", DIFF, "--out", "o", "--torch-compat", version)
    assert done.returncode == 1
    assert "torch" in done.stderr


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_help(weightkit: Run, command: str) -> None:
    for flag in ("-h", "--help"):
        done = weightkit(*([command] if command else []), flag)
        assert done.returncode == 0
        assert done.stdout.startswith("Usage: weightkit")
        assert all(name in done.stdout for name in COMMANDS) or command


def test_commands_that_need_no_torch_do_not_import_it() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom weightkit.cli import main\n"
        f"for words in (['--help'], ['verify', '-h'], ['inspect', {str(BASE)!r}], ['recover', '-h'], ['make-diff', '-h']):\n"
        "    assert CliRunner().invoke(main, words).exit_code == 0, words\n"
        "import weightkit.verify, weightkit.inspect\n"
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestVerify:
    def test_names_each_file(self, weightkit: Run, tmp_path: Path) -> None:
        folder = shutil.copytree(BASE, tmp_path / "f")
        listed = subprocess.run("sha256sum *", shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout
        (tmp_path / "list").write_text(listed)
        assert weightkit("verify", folder, "--checksums", "list").stdout.splitlines()[-1] == "10 ok, 0 FAILED"
        flip_bit(folder / "config.json", 5)
        (folder / "pytorch_model-00004-of-00004.bin").unlink()
        (folder / "more.txt").write_text("more")
        (folder / "pytorch_model-00001-of-00004.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
        done = weightkit("verify", folder, "--checksums", "list")
        assert done.returncode == 3
        lines = done.stdout.splitlines()
        for line in (
            "FAILED   config.json",
            "missing  pytorch_model-00004-of-00004.bin",
            "extra    more.txt",
            "ok       tokenizer.model",
        ):
            assert line in lines
        assert "Git-LFS pointer" in done.stdout
        assert lines[-1] == "7 ok, 2 FAILED, 1 missing, 1 extra"

    def test_md5_and_tagged_lists(self, weightkit: Run, tmp_path: Path) -> None:
        for tool in (["md5sum"], ["md5sum", "-b"], ["sha256sum", "--tag"], ["sha512sum"]):
            listed = subprocess.run([*tool, "config.json"], cwd=BASE, capture_output=True, text=True, check=True).stdout
            (tmp_path / "list").write_text(listed)
            done = weightkit("verify", BASE, "--checksums", "list", "--json")
            assert done.returncode == 0
            assert json.loads(done.stdout)["files"][0]["status"] == "ok"

    def test_a_single_file(self, weightkit: Run, tmp_path: Path) -> None:
        (tmp_path / "list").write_text(f"{sha256(BASE / 'config.json')}  somewhere/config.json\n")
        assert weightkit("verify", BASE / "config.json", "--checksums", "list").returncode == 0
        assert weightkit("verify", BASE / "tokenizer.model", "--checksums", "list").returncode == 1

    def test_nothing_to_go_by(self, weightkit: Run, tmp_path: Path) -> None:
        assert "no list of digests" in weightkit("verify", BASE).stderr
        assert "does not exist" in weightkit("verify", "nowhere").stderr
        (tmp_path / "list").write_text(f"{'0' * 64}  config.json\n")
        done = weightkit("verify", BASE, "--checksums", "list")
        assert (done.returncode, "placeholder" in done.stderr) == (1, True)


class TestInspect:
    def test_tensors_and_container(self, weightkit: Run) -> None:
        done = weightkit("inspect", BASE)
        assert re.search(r"^float16 +320x64 +40960  model\.embed_tokens\.weight$", done.stdout, re.MULTILINE)
        assert "pytorch_model-00001-of-00004.bin: 76223 bytes, zip-1.13: written by torch 1.13 to 2.0" in done.stdout
        assert "by its norms a model" in done.stdout
        assert "by its norms a diff" in weightkit("inspect", DIFF).stdout

    def test_json(self, weightkit: Run) -> None:
        facts = json.loads(weightkit("inspect", DIFF / "pytorch_model.bin", "--json").stdout)
        assert facts["tensors"][0] == {
            "name": "model.embed_tokens.weight",
            "dtype": "float32",
            "shape": [320, 64],
            "bytes": 81920,
            "file": "pytorch_model.bin",
            "shares_with": None,
        }


def test_make_diff_and_back(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("make-diff", "--raw", BASE, "--tuned", PEER / "tuned-fp16-bin", "--out", "d")
    assert done.returncode == 0
    assert "724 of 172368 elements" in done.stdout
    command = done.stdout.splitlines()[-1].removeprefix("next: weightkit ").split()
    again = weightkit(*command)
    assert again.returncode == 0, again.stderr
    assert "all 10 published digests hold" in again.stdout


def test_demo(weightkit: Run) -> None:
    done = weightkit("demo")
    assert done.returncode == 0, done.stdout
    assert "\ncaught, both times\nnext: " in done.stdout
    assert "FAILED   pytorch_model.bin" in done.stdout


@pytest.mark.parametrize("seed", [0, 1, 4711])
@pytest.mark.parametrize("threads", [1, 2])
def test_neither_hash_seed_nor_threads_change_a_byte(weightkit: Run, tmp_path: Path, seed: int, threads: int) -> None:
    env = {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads}
    words = ("recover", "--raw", BASE, "--diff", PEER / "diffs" / "stanford", "--new-rows", "mean", "--jobs", 1 + threads)
    assert weightkit(*words, "--out", "o", env=env).returncode == 0
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == STANFORD
    sums = (tmp_path / "o" / "SHA256SUMS").read_text()
    assert sums == "".join(sorted(sums.splitlines(keepends=True), key=lambda line: line.split("  ")[1]))


def test_version(weightkit: Run) -> None:
    from weightkit import __version__

    assert weightkit("--version").stdout == f"weightkit {__version__}\n"


def test_a_closed_pipe_is_no_crash(tmp_path: Path) -> None:
    command = f"{sys.executable} -m weightkit inspect {BASE} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=dict(os.environ))
    time.sleep(0.1)
    assert "Traceback" not in done.stderr
