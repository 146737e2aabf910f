"""How weightkit gets onto a machine: what works without torch, and what is said where something is missing."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import PEER

ROOT = Path(__file__).resolve().parents[1]

TORCHES = {
    "missing": 'raise ModuleNotFoundError("No module named torch", name="torch")',
    "broken": 'raise OSError("libtorch_cpu.so: cannot open shared object file: No such file or directory")',
    "half": "import no_such_module_of_torch",
    "crooked": "def (",
    "another": "x = 1",
}
"""What stands where torch should: as Python finds it where there is none, and ways in which it fails to load."""

NEED_TORCH = {
    "recover": ("recover", "--raw", PEER / "hf-bin", "--diff", PEER / "diffs" / "knowlm", "--out", "o"),
    "recover --dry-run": ("recover", "--raw", PEER / "hf-bin", "--diff", PEER / "diffs" / "knowlm", "--out", "o", "--dry-run"),
    "recover --lora": (
        "recover",
        "--raw",
        PEER / "hf-bin",
        "--diff",
        PEER / "diffs" / "knowlm",
        "--lora",
        "lora",
        "--out",
        "o",
    ),
    "merge": ("merge", "--raw", PEER / "hf-bin", "--lora", "lora", "--out", "o"),
    "merge --seek": ("merge", "--raw", PEER / "hf-bin", "--lora", "lora", "--out", "o", "--checksums", "list", "--seek"),
    "convert --dtype": ("convert", PEER / "hf-bin", "--to", "meta", "--dtype", "float32", "--out", "o"),
    "make-diff": ("make-diff", "--raw", PEER / "hf-bin", "--tuned", PEER / "tuned", "--out", "o"),
    "demo": ("demo",),
    "demo --keep": ("demo", "--keep", "play"),
}


def spoilt_torch(folder: Path, source: str) -> dict[str, str]:
    """An environment in which ``import torch`` does this."""
    folder.mkdir(exist_ok=True)
    (folder / "torch.py").write_text(source + "\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}
