"""Makes golden.json: what llama.cpp itself writes of the small models of these tests.

    python make.py LLAMA_CPP LLAMA_QUANTIZE

LLAMA_CPP is a checkout, whose ``convert_hf_to_gguf.py`` is run; LLAMA_QUANTIZE its program, for q4_0. Run with llama.cpp
b-0.25.3 (as llama-cpp-python 0.3.36 carries it), gguf 0.19.0, transformers 5.24.0, torch 2.13.0.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gguf import GGUFReader

import weightkit
from weightkit.merge import Form

PEER = Path(__file__).parents[1] / "peer"
KINDS = ("f32", "f16", "bf16", "q8_0")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read(path: Path) -> dict[str, Any]:
    """What a GGUF file holds: facts in their order, long ones as digests; tensors with type, shape and digest."""
    reader = GGUFReader(path)
    facts: dict[str, Any] = {}
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            value = field.contents()
            told = digest(json.dumps(value).encode()) if isinstance(value, list) else value
            facts[key] = ["/".join(one.name for one in field.types), told]
    tensors = {one.name: [one.tensor_type.name, one.shape.tolist(), digest(one.data.tobytes())] for one in reader.tensors}
    return {"facts": facts, "tensors": tensors}


def models(work: Path) -> dict[str, Path]:
    """Folders that llama.cpp's converter takes; two are recovered and merged, to bytes that the authors' tools gave."""
    weightkit.recover_release(PEER / "hf-bin", PEER / "diffs" / "knowlm", work / "knowlm")
    form = Form(max_shard_bytes=10**10)
    weightkit.merge_lora(PEER / "hf-bin", [PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"], work / "chinese", form=form)
    return {"base": PEER / "hf-bin", "knowlm": work / "knowlm", "chinese": work / "chinese"}


def main(llama_cpp: str, quantize: str) -> None:
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for name, folder in models(work).items():
            for kind in KINDS:
                out = work / f"{name}-{kind}.gguf"
                script = Path(llama_cpp) / "convert_hf_to_gguf.py"
                subprocess.run([sys.executable, script, folder, "--outtype", kind, "--outfile", out], check=True)
                found.setdefault(name, {})[kind] = read(out)
            out = work / f"{name}-q4_0.gguf"
            subprocess.run([quantize, "--pure", work / f"{name}-f32.gguf", out, "q4_0"], check=True)
            found[name]["q4_0"] = {"tensors": read(out)["tensors"]}
    Path(__file__).with_name("golden.json").write_text(json.dumps(found, indent=0, sort_keys=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
