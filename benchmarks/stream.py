"""How long ``recover --stream`` takes against a local run of the same files, and how much memory and disk.

    python benchmarks/stream.py --work /somewhere/with/4GB --layers 0 --runs 5

The diff is served by ``tests/hub.py``, a process of its own on the same machine, from the page cache: a server as fast as the
disk. Local and streamed runs take turns; the ratio is the median of pairs. The disk's high-water mark is what the folder of
the run and the client's home hold at most, looked at every 20 ms, less the result.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import timed, write

sys.path.insert(0, str(Path(__file__).parents[1]))

SERVE = "import sys, time; from pathlib import Path; from tests.hub import Hub\n"
SERVE += "hub = Hub(Path(sys.argv[1])).start(); print(hub.url, flush=True); time.sleep(1e6)"


def held(*folders: Path) -> int:
    """Bytes that files below some folders take."""
    total = 0
    for folder in folders:
        for one in folder.rglob("*"):
            try:
                total += one.lstat().st_blocks * 512
            except OSError:
                continue
    return total


def main() -> None:
    """Build the inputs, take turns, print figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder with room; its content is removed")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="of the diff")
    parser.add_argument("--format", choices=["bin", "safetensors"], default="bin")
    parser.add_argument("--max-memory", default="1GiB")
    options = parser.parse_args()
    base, root, out, home = (options.work / name for name in ("base", "hub", "out", "home"))
    diff = root / "org" / "diff"
    made = {"chosen": options.format, "max_shard_bytes": 10 * 10**9}
    if not base.exists():
        write(base, options.layers, "float16", center=1.0, scale=0.02, **made)
        write(diff, options.layers, options.dtype, center=0.0, scale=0.0005, **made)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, root], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    os.environ |= {"HF_ENDPOINT": server.stdout.readline().strip(), "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    common = ["--raw", str(base), "--out", str(out), "--jobs", str(options.jobs), "--max-memory", options.max_memory, "--quiet"]
    recover = [sys.executable, "-m", "weightkit", "recover", *common]
    pairs: list[tuple[float, float]] = []
    marks, peaks = [], []
    try:
        for number in range(options.runs + 1):
            shutil.rmtree(out, ignore_errors=True)
            os.sync()
            here, _ = timed(*recover, "--diff", str(diff))
            shutil.rmtree(out)
            os.sync()
            seen, ended = [0], threading.Event()

            def watch(seen: list[int] = seen, ended: threading.Event = ended) -> None:
                while not ended.is_set():
                    seen.append(held(out, home))
                    time.sleep(0.02)

            looking = threading.Thread(target=watch)
            looking.start()
            there, peak = timed(*recover, "--diff", "hf://org/diff", "--stream")
            ended.set()
            looking.join()
            print(f"local {here:.2f} s, streamed {there:.2f} s, peak {peak} MiB", flush=True)
            if number:  # the first turn warms the cache, and the server takes its digests
                pairs.append((here, there))
                marks.append(max(seen) - held(out))
                peaks.append(peak)
    finally:
        server.terminate()
    print(f"diff {held(diff)} bytes, result {held(out)} bytes, {options.jobs} jobs")
    ratios = [there / here for here, there in pairs]
    print(f"ratio {statistics.median(ratios):.2f} (of pairs: {min(ratios):.2f} to {max(ratios):.2f})")
    here, there = (min(one) for one in zip(*pairs, strict=True))
    print(f"fastest: local {here:.2f} s, streamed {there:.2f} s, ratio {there / here:.2f}")
    print(f"peak {max(peaks)} MiB of memory; beside the result {max(marks) / 1e6:.1f} MB on the disk at most")


if __name__ == "__main__":
    main()
