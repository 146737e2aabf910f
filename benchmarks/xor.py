"""How fast decoding byte XOR releases is, and how much memory it takes, against the yardstick in the same run.

    python benchmarks/xor.py --work /somewhere/with/15GB --runs 3

Two files of ``--gigabytes`` each, as BELLE-7B-2M has, and a key a little shorter, so that it starts again. The yardstick is
``cp -r`` of the decoded folder followed by ``openssl dgst -sha256`` of its files; both take turns, the page cache is warm.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
from common import BLOCK, timed, yardstick


def write(path: Path, nbytes: int, seed: int) -> None:
    """A file of random bytes; a block of them repeats, which neither disk nor processor notices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = np.random.default_rng(seed).bytes(BLOCK - 7)
    with path.open("wb") as file:
        while nbytes:
            file.write(block[:nbytes])
            nbytes -= min(nbytes, len(block))


def main() -> None:
    """Build the inputs, take turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder with room; its content is removed")
    parser.add_argument("--gigabytes", type=float, default=1.5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    tuned, base, payload, out = (options.work / name for name in ("tuned", "base", "payload", "out"))
    shutil.rmtree(options.work, ignore_errors=True)
    nbytes = int(options.gigabytes * 10**9)
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    for number, name in enumerate(names):
        write(tuned / name, nbytes, number)
    write(base / names[0], nbytes - 12345, 2)
    key = base / names[0]
    weightkit = [sys.executable, "-m", "weightkit", "xor"]
    timed(*weightkit, "encode", str(tuned), "--key", str(key), "--format", "enc", "--out", str(payload), "-q")
    shutil.rmtree(tuned)
    ratios, peaks = [], []
    for number in range(options.runs + 1):
        shutil.rmtree(out, ignore_errors=True)
        words = ["decode", str(payload), "--key", str(key), "--format", "enc", "--out", str(out), "-q"]
        seconds, peak = timed(*weightkit, *words, "--jobs", str(options.jobs))
        copying, hashing = yardstick(out)
        if number:  # the first turn warms the cache
            ratios.append(seconds / (copying + hashing))
            peaks.append(peak)
        print(f"decode {seconds:.2f} s, cp {copying:.2f} s + openssl {hashing:.2f} s, peak {peak} MiB", flush=True)
    print(f"ratio {statistics.median(ratios):.2f} (of pairs: {min(ratios):.2f} to {max(ratios):.2f}), peak {max(peaks)} MiB")


if __name__ == "__main__":
    main()
