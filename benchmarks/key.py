"""What a key costs that is computed of a float16 copy, against the key file itself, on the same payload and in the same run.

    python benchmarks/key.py --work /somewhere/with/10GB --layers 4 --runs 3

The model has LLaMA-7B's width. The key file is ``convert --to meta`` of the copy; the payload is made of the copy's own shards,
encoded with it. Both ways take turns, the page cache is warm.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
from pathlib import Path

from common import timed, write


def main() -> None:
    """Build the inputs, take turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder with room; its content is removed")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--format", choices=["bin", "safetensors"], default="bin")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    copy, meta, payload, out = (options.work / name for name in ("copy", "meta", "payload", "out"))
    write(copy, options.layers, "float16", center=1.0, scale=0.02, chosen=options.format, max_shard_bytes=10**9)
    weightkit = [sys.executable, "-m", "weightkit"]
    timed(*weightkit, "convert", str(copy), str(meta), "--to", "meta", "-q")
    key = meta / "consolidated.00.pth"
    timed(*weightkit, "xor", "encode", str(copy), "--key", str(key), "--format", "enc", "--out", str(payload), "-q")
    ways = {"key file": meta, "copy": copy}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, int] = dict.fromkeys(ways, 0)
    for number in range(options.runs + 1):
        turns = list(ways.items())
        for way, raw in turns if number % 2 else turns[::-1]:  # on some machines every second run is slow
            shutil.rmtree(out, ignore_errors=True)
            os.sync()  # what the last turn wrote is no burden of this one
            words = ["recover", "--raw", str(raw), "--diff", str(payload), "--out", str(out), "--jobs", str(options.jobs), "-q"]
            taken, peak = timed(*weightkit, *words)
            if number:  # the first turn warms the cache
                seconds[way].append(taken)
                peaks[way] = max(peaks[way], peak)
            print(f"{way}: {taken:.2f} s, peak {peak} MiB", flush=True)
    ratios = [two / one for one, two in zip(*seconds.values(), strict=True)]
    print(f"key of {key.stat().st_size} bytes, payload of {sum(path.stat().st_size for path in payload.iterdir())} bytes")
    fastest = min(seconds["copy"]) / min(seconds["key file"])
    print(f"ratio of the fastest {fastest:.2f}, median of pairs {statistics.median(ratios):.2f}")
    print(f"peaks {peaks} MiB")


if __name__ == "__main__":
    main()
