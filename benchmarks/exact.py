"""How small an exact difference is, against what else one could publish.

    python benchmarks/exact.py --base BASE --tuned TUNED --work FOLDER

BASE and TUNED are folders of one safetensors file each, as ``examples/real_model.py --work`` leaves them. ``--wide`` casts the
tuned model to float32 and adds noise far below float16, as a float32 fine-tuning of a float16 base has. Sizes are given as a
share of the tuned file's. zipnn is tried where it is installed.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

NAME = "model.safetensors"


def run(*words: object) -> float:
    """Run weightkit; seconds."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "weightkit", *map(str, words), "-q"], check=True)
    return time.monotonic() - start


def gzipped(path: Path) -> int:
    """Size of a file under gzip -6."""
    return len(gzip.compress(path.read_bytes(), 6))


def zipped_by_zipnn(path: Path) -> int:
    """Size of a file's tensors under zipnn. It changes what it is given, so it gets copies."""
    zipnn = importlib.import_module("zipnn")
    total = 0
    for tensor in load_file(path).values():
        packer = zipnn.ZipNN(input_format="torch")
        total += len(packer.compress(tensor.clone()))
    return total


def main() -> None:
    """Make the differences, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tuned", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder with room; its content is removed")
    parser.add_argument("--wide", action="store_true")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    tuned = options.tuned
    if options.wide:
        tuned = options.work / "wide"
        tuned.mkdir()
        generator = torch.Generator().manual_seed(0)
        model = {
            name: value.float() * (1 + 1e-4 * torch.randn(value.shape, generator=generator))
            for name, value in load_file(options.tuned / NAME).items()
        }
        save_file(model, tuned / NAME, {"format": "pt"})
        shutil.copyfile(options.tuned / "config.json", tuned / "config.json")
    whole = (tuned / NAME).stat().st_size
    rows: list[tuple[str, int]] = [("the tuned file, gzip -6", gzipped(tuned / NAME))]
    for dtype in ("float16", "float32"):
        diff = options.work / f"diff-{dtype}"
        run("make-diff", "--raw", options.base, "--tuned", tuned, "--out", diff, "--dtype", dtype)
        rows.append((f"{dtype} difference", (diff / NAME).stat().st_size))
        rows.append((f"{dtype} difference, gzip -6", gzipped(diff / NAME)))
        if importlib.util.find_spec("zipnn"):
            rows.append((f"{dtype} difference, zipnn", zipped_by_zipnn(diff / NAME)))
    made = run("make-diff", "--raw", options.base, "--tuned", tuned, "--out", options.work / "exact", "--method", "exact")
    rows.append(("exact difference", (options.work / "exact" / f"{NAME}.wkx").stat().st_size))
    back = run("recover", "--raw", options.base, "--diff", options.work / "exact", "--out", options.work / "back")
    same = (options.work / "back" / NAME).read_bytes() == (tuned / NAME).read_bytes()
    for name, size in rows:
        print(f"{size / whole:7.1%}  {name}")
    print(f"tuned file {whole} bytes; exact: made in {made:.1f} s, recovered in {back:.1f} s, the same file: {same}")


if __name__ == "__main__":
    main()
