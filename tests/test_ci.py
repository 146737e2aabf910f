"""The GitHub Action and the pre-commit hook, as far as a machine without them can run them: their steps are shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import PEER, flip_bit

ROOT = Path(__file__).resolve().parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder with ``weightkit`` in it, as an installation has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "weightkit").write_text(f'#!/bin/sh\nexec {sys.executable} -m weightkit "$@"\n')
    (folder / "weightkit").chmod(0o755)
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "some weights"
    shutil.copytree(PEER / "hf-bin", folder)
    listed = subprocess.run("sha256sum *", shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout
    (folder / "SHA256SUMS").write_text(listed)
    return folder


def run_action(folder: Path, bin_folder: Path, tmp_path: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The step "Verify", with inputs put where the workflow runner puts them."""
    step = ACTION["runs"]["steps"][1]
    given = {name: value.get("default", "") for name, value in ACTION["inputs"].items()} | {"path": str(folder)} | inputs
    env = {**os.environ, "GITHUB_ACTION_PATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    for name, value in step["env"].items():
        env[name] = re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: given[match[1]], value)
    env["WEIGHTKIT"] = str(bin_folder / "weightkit")
    return subprocess.run(["bash", "-c", step["run"]], env=env, capture_output=True, text=True, check=False)


def test_the_action_passes_and_fails_as_verify_does(weights: Path, bin_folder: Path, tmp_path: Path) -> None:
    done = run_action(weights, bin_folder, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "10 ok, 0 FAILED" in (tmp_path / "summary.md").read_text()
    flip_bit(weights / "pytorch_model-00002-of-00004.bin", 5000)
    (weights / "extra.bin").write_bytes(b"x")
    done = run_action(weights, bin_folder, tmp_path, junit=str(tmp_path / "junit.xml"))
    assert done.returncode == 3
    assert "::error title=weightkit verify::FAILED   pytorch_model-00002-of-00004.bin" in done.stdout
    assert 'failures="1"' in (tmp_path / "junit.xml").read_text()
    assert "### weightkit verify: FAILED" in (tmp_path / "summary.md").read_text()


def test_every_input_reaches_verify(weights: Path, bin_folder: Path, tmp_path: Path) -> None:
    (weights / "extra.txt").write_text("x")
    assert run_action(weights, bin_folder, tmp_path).returncode == 0
    assert run_action(weights, bin_folder, tmp_path, **{"fail-on-extra": "true"}).returncode == 3
    (weights / "config.json").unlink()
    assert run_action(weights, bin_folder, tmp_path).returncode == 3
    assert run_action(weights, bin_folder, tmp_path, **{"fail-on-missing": "false"}).returncode == 0
    lists = f"{weights / 'SHA256SUMS'}\n{weights / 'SHA256SUMS'}"
    assert run_action(weights, bin_folder, tmp_path, checksums=lists).returncode == 3
    assert "no release" in run_action(weights, bin_folder, tmp_path, release="nothing-such").stderr
    hostile = run_action(weights, bin_folder, tmp_path, checksums="$(touch pwned)", release="`touch pwned`")
    assert hostile.returncode == 1
    assert not Path("pwned").exists()
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(ACTION["inputs"])


@pytest.mark.slow
def test_the_action_installs_weightkit_without_torch(weights: Path, tmp_path: Path) -> None:
    """The first step as it stands; then the second with what it has installed."""
    env = {**os.environ, "RUNNER_TEMP": str(tmp_path), "GITHUB_ACTION_PATH": str(ROOT)}
    python = tmp_path / "path" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    env["PATH"] = f"{python.parent}{os.pathsep}{env['PATH']}"
    subprocess.run(["bash", "-e", "-c", ACTION["runs"]["steps"][0]["run"]], env=env, check=True, capture_output=True)
    made = tmp_path / "weightkit" / "bin"
    assert subprocess.run([made / "python", "-c", "import torch"], capture_output=True, check=False).returncode == 1
    assert run_action(weights, made, tmp_path).returncode == 0
    done = subprocess.run([made / "weightkit", "releases", "zhixi-13b"], capture_output=True, text=True, check=True)
    assert "b19e56ec888b44bfe5c1db49eb4a3195" in done.stdout


def run_hook(bin_folder: Path, cwd: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """The hook as pre-commit calls it: its entry, then the files that match."""
    env = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    command = f'{HOOK["entry"]} "$@"'
    return subprocess.run(["sh", "-c", command, "hook", *files], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_the_hook_checks_the_files_beside_each_list(weights: Path, bin_folder: Path, tmp_path: Path) -> None:
    name = f"{weights.name}/SHA256SUMS"
    assert run_hook(bin_folder, tmp_path, name).returncode == 0
    flip_bit(weights / "config.json", 10)
    done = run_hook(bin_folder, tmp_path, name)
    assert done.returncode == 1
    assert "FAILED   config.json" in done.stdout


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        ("SHA256SUMS", True),
        ("a/b/SHA256SUMS", True),
        ("a/checklist.chk", True),
        ("release.sha256", True),
        ("TENSORS", True),
        ("a/MY_SHA256SUMS", False),
        ("config.json", False),
        ("sha256", False),
    ],
)
def test_the_hook_is_called_for_lists_alone(name: str, matches: bool) -> None:
    assert bool(re.search(HOOK["files"], name)) == matches


def test_the_docs_show_both() -> None:
    for name in ("docs/ci.md",):
        text = (ROOT / name).read_text()
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
            assert yaml.safe_load(block)
        assert f"id: {HOOK['id']}" in text
        (given,) = re.findall(r"uses: weightkit/weightkit@main\n +with:\n((?: +[\w-]+: .*\n)+)", text)
        assert set(yaml.safe_load(given)) <= set(ACTION["inputs"])
