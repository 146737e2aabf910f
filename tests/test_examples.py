"""The small examples, run as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import PEER, sha256
from tests.test_merge import BY_CHINESE

ROOT = Path(__file__).resolve().parents[1]


def run_example(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, words)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)


def test_merge_lora(tmp_path: Path) -> None:
    """In the base's four shards; the tensors' digest is checked elsewhere, here that it runs, reports and proves."""
    adapters = [PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"]
    done = run_example("merge_lora.py", PEER / "hf-bin", tmp_path / "o", *adapters)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "o").glob("pytorch_model-*.bin"):
        assert f"{sha256(path)} {path.name}" in done.stdout
        assert f"{path.name}: whole" in done.stderr
    (tmp_path / "list").write_text(f"{BY_CHINESE}  pytorch_model-00001-of-00004.bin\n")
    again = run_example("merge_lora.py", PEER / "hf-bin", tmp_path / "p", *adapters, "--checksums", tmp_path / "list")
    assert again.returncode == 3
    assert not (tmp_path / "p" / "pytorch_model-00001-of-00004.bin").exists()
    swapped = run_example("merge_lora.py", PEER / "hf-bin", tmp_path / "q", *reversed(adapters))
    assert swapped.returncode == 1
    assert "Traceback" not in swapped.stderr
