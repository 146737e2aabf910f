"""Commands that a failure prints are run as printed: ``next:`` lines examine what failed, whatever the paths are called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PEER, Run, flip_bit

WRONG = "0" * 62 + "17"
PLACE = "with blanks; 'and' more"


@pytest.fixture
def printed(tmp_path: Path) -> object:
    """Runs the commands that a text advises, in a shell, and gives what they printed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "weightkit"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m weightkit "$@"\n')
    script.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"

    def run(text: str) -> str:
        found = re.findall(r"^ *next: (weightkit explain .*)$", text, re.MULTILINE)
        assert found, text
        told = []
        for line in found:
            done = subprocess.run(
                ["sh", "-c", line], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
            )
            assert done.returncode == 3, (line, done.stdout + done.stderr)
            told.append(done.stdout)
        return "".join(told)

    return run


JOBS = {
    "recover": ("recover", "--raw", PEER / "hf-bin", "--diff", PEER / "diffs" / "knowlm", "--out"),
    "recover, sharded": ("recover", "--raw", PEER / "hf-bin", "--diff", PEER / "diffs" / "fastchat-sharded", "--out"),
    "merge": ("merge", "--base", PEER / "hf-bin", "--lora", PEER / "lora-alpaca-bin", "--max-shard-size", "10GB", "--out"),
    "merge to meta": ("merge", "--base", PEER / "hf-bin", "--lora", PEER / "lora-alpaca-bin", "--to", "meta", "--out"),
    "convert": ("convert", PEER / "meta" / "7B", "--to", "hf", "--max-shard-size", "10GB", "--out"),
    "xor decode": ("xor", "decode", PEER / "diffs" / "oasst", "--key", PEER / "hf-bin", "--out"),
}
WEIGHTS = {
    "recover": "pytorch_model.bin",
    "recover, sharded": "pytorch_model-00001-of-00002.bin",
    "merge": "pytorch_model.bin",
    "merge to meta": "consolidated.00.pth",
    "convert": "pytorch_model.bin",
    "xor decode": "pytorch_model-00001-of-00004.bin",
}


@pytest.mark.parametrize("job", JOBS)
def test_a_kept_file_is_examined_by_the_printed_command(weightkit: Run, tmp_path: Path, printed: Run, job: str) -> None:
    (tmp_path / "list").write_text(f"{WRONG}  {WEIGHTS[job]}\n")
    done = weightkit(*JOBS[job], PLACE, "--checksums", "list", "--keep-mismatched")
    assert done.returncode == 3, done.stderr
    assert (tmp_path / PLACE / f"{WEIGHTS[job]}.mismatch").is_file()
    assert "cause" in printed(done.stderr)


@pytest.mark.parametrize("job", JOBS)
def test_without_it_the_printed_way_leads_to_the_same(weightkit: Run, tmp_path: Path, printed: Run, job: str) -> None:
    (tmp_path / "list").write_text(f"{WRONG}  {WEIGHTS[job]}\n")
    done = weightkit(*JOBS[job], PLACE, "--checksums", "list")
    assert done.returncode == 3, done.stderr
    (line,) = re.findall(
        r"^next: say the same with --keep-mismatched, .* then (weightkit explain .*)$", done.stderr, re.MULTILINE
    )
    assert weightkit(*JOBS[job], PLACE, "--checksums", "list", "--keep-mismatched").returncode == 3
    assert "cause" in printed(f"next: {line}")


@pytest.mark.parametrize("where", ["in the folder", "elsewhere", "one file"])
def test_verify_names_the_command_for_what_failed(weightkit: Run, tmp_path: Path, printed: Run, where: str) -> None:
    folder = tmp_path / PLACE
    shutil.copytree(PEER / "hf-bin", folder)
    names = sorted(one.name for one in folder.iterdir())
    listed = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    at = folder / "SHA256SUMS" if where == "in the folder" else tmp_path / "list"
    at.write_bytes(listed)
    file = folder / "pytorch_model-00002-of-00004.bin"
    flip_bit(file, file.stat().st_size // 2)
    target = f"{PLACE}/pytorch_model-00002-of-00004.bin" if where == "one file" else PLACE
    done = weightkit("verify", target, *(() if where == "in the folder" else ("--checksums", "list")))
    assert done.returncode == 3
    assert "damage" in printed(done.stdout)


def test_the_doors_keep_a_mismatched_file(tmp_path: Path) -> None:
    """From Python, as from the command line."""
    import weightkit.convert
    import weightkit.merge
    import weightkit.recover
    import weightkit.xor

    for job, name in WEIGHTS.items():
        (tmp_path / f"{job}.list").write_text(f"{WRONG}  {name}\n")
    more = {job: {"checksums": [tmp_path / f"{job}.list"], "keep_mismatched": True} for job in WEIGHTS}
    peer, out = PEER, {job: tmp_path / f"out {job}" for job in WEIGHTS}
    to_meta = more["merge to meta"]
    weightkit.recover.recover(peer / "hf-bin", peer / "diffs" / "knowlm", out["recover"], **more["recover"])
    weightkit.merge.merge_lora(peer / "hf-bin", [peer / "lora-alpaca-bin"], out["merge to meta"], to="meta", **to_meta)
    weightkit.xor.decode(peer / "diffs" / "oasst", peer / "hf-bin", out["xor decode"], **more["xor decode"])
    weightkit.convert.convert(peer / "hf-bin", tmp_path / "c", "meta", **to_meta)
    kept = [out["recover"] / "pytorch_model.bin", out["merge to meta"] / "consolidated.00.pth"]
    for one in [*kept, tmp_path / "c" / "consolidated.00.pth", out["xor decode"] / "pytorch_model-00001-of-00004.bin"]:
        assert one.with_name(f"{one.name}.mismatch").is_file()
        assert not one.exists()
