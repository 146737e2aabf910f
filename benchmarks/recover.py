"""How fast recovering is, and how much memory it takes, against the yardstick on the same files and in the same run.

    python benchmarks/recover.py --work /somewhere/with/20GB --layers 4 --runs 3

The model has the true width of LLaMA-7B (hidden 4096, vocabulary 32000): float16 base, float32 diff. The yardstick is
``cp -r`` of the recovered folder followed by ``openssl dgst -sha256`` of its files. Yardstick and recovery take turns, the
page cache is warm, and the median ratio is what README quotes. Figures of single runs say little on a shared machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path

from common import timed, write, yardstick


def main() -> None:
    """Build the inputs, take turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder with room; its content is removed")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--format", choices=["bin", "safetensors"], default="bin")
    parser.add_argument("--meta-parts", type=int, default=0, help="give the base in so many of Meta's parts")
    parser.add_argument("--max-shard-bytes", type=int, default=10 * 10**9)
    options = parser.parse_args()
    base, diff, out = (options.work / name for name in ("base", "diff", "out"))
    made = {"chosen": options.format, "max_shard_bytes": options.max_shard_bytes}
    if not base.exists():
        write(base, options.layers, "float16", center=1.0, scale=0.02, **made)
        write(diff, options.layers, "float32", center=0.0, scale=0.0005, **made)
    if options.meta_parts:
        parts = options.work / f"meta-{options.meta_parts}"
        if not parts.exists():
            words = ["convert", str(base), str(parts), "--to", "meta", "--parts", str(options.meta_parts), "--quiet"]
            timed(sys.executable, "-m", "weightkit", *words)
        base = parts
    recover = [sys.executable, "-m", "weightkit", "recover", "--raw", str(base), "--diff", str(diff), "--out", str(out)]
    ratios, peaks, ours, theirs = [], [], [], []
    for number in range(options.runs + 1):
        shutil.rmtree(out, ignore_errors=True)
        seconds, peak = timed(*recover, "--jobs", str(options.jobs), "--quiet")
        copying, hashing = yardstick(out)
        if number:  # the first turn warms the cache
            ratios.append(seconds / (copying + hashing))
            peaks.append(peak)
            ours.append(seconds)
            theirs.append(copying + hashing)
        print(f"recover {seconds:.2f} s, cp {copying:.2f} s + openssl {hashing:.2f} s, peak {peak} MiB", flush=True)
    nbytes = sum(path.stat().st_size for path in out.iterdir())
    print(f"output {nbytes} bytes in {len(list(out.iterdir()))} files, {options.layers} layers, {options.jobs} jobs")
    print(f"recover {statistics.median(ours):.2f} s, yardstick {statistics.median(theirs):.2f} s (medians of {options.runs})")
    print(f"ratio {statistics.median(ratios):.2f} (of pairs: {min(ratios):.2f} to {max(ratios):.2f}), peak {max(peaks)} MiB")


if __name__ == "__main__":
    main()
