"""How fast verifying is, against openssl and sha256sum on the same files in the same run.

    python benchmarks/verify.py FOLDER --runs 3

FOLDER holds files of weights. All take turns; the page cache is warm.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import timed


def main() -> None:
    """Take turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    files = sorted(str(path) for path in options.folder.iterdir() if path.is_file())
    with tempfile.NamedTemporaryFile("w", suffix=".sha256") as listed:
        text = subprocess.run(
            ["sha256sum", *(Path(one).name for one in files)], cwd=options.folder, capture_output=True, text=True
        )
        listed.write(text.stdout)
        listed.flush()
        rows = []
        for number in range(options.runs + 1):
            ours, peak = timed(
                sys.executable, "-m", "weightkit", "verify", str(options.folder), "--checksums", listed.name, "-q"
            )
            openssl, _ = timed("openssl", "dgst", "-sha256", *files)
            coreutils, _ = timed("sh", "-c", f"cd '{options.folder}' && exec sha256sum --quiet -c {listed.name}")
            if number:  # the first turn warms the cache
                rows.append((ours / openssl, ours / coreutils))
            print(f"verify {ours:.2f} s, peak {peak} MiB; openssl {openssl:.2f} s; sha256sum -c {coreutils:.2f} s", flush=True)
    for column, name in enumerate(("openssl dgst -sha256", "sha256sum -c")):
        ratios = [row[column] for row in rows]
        print(f"ratio to {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
