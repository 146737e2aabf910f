"""The command line of the field proof; see the package."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.field.harness import Field, Weightkit
from tests.field.receipt import checked, receipt


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 0 if nothing failed, 1 if something did, 2 if there was nothing to run."""
    parser = argparse.ArgumentParser(prog="python -m tests.field", description="Rebuild releases from real weights.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="releases of the catalog; default: all that can be run")
    parser.add_argument("--llama", type=Path, default=os.environ.get("WEIGHTKIT_LLAMA"), help="default: $WEIGHTKIT_LLAMA")
    parser.add_argument("--downloads", type=Path, help="folder of downloads, each called like its entry")
    parser.add_argument("--fetch", action="store_true", help="fetch what is missing, by name, into --downloads")
    parser.add_argument("--work", type=Path, help="where to rebuild; default: a temporary folder. Each result is removed again")
    parser.add_argument("--keep", action="store_true", help="leave the results in --work")
    parser.add_argument("--out", type=Path, default=Path("receipt.json"), help="the receipt; default: %(default)s")
    said = parser.parse_args(arguments)
    if said.llama is None or not said.llama.is_dir():
        parser.error("name the folder of Meta's weights: --llama DIR, or WEIGHTKIT_LLAMA")
    if said.fetch and said.downloads is None:
        parser.error("--fetch needs --downloads DIR, where to fetch to")
    if said.keep and said.work is None:
        parser.error("--keep needs --work DIR")
    if said.out.exists():
        parser.error(f"{said.out} is there already; name another: --out FILE")
    with tempfile.TemporaryDirectory(prefix="weightkit-field-", dir=said.work) as work:
        keep = said.work if said.keep else None
        field = Field(Weightkit(), said.llama, said.downloads, Path(work), fetch=said.fetch, keep=keep, say=print)
        found = receipt(field, field.run(said.names))
    said.out.write_text(json.dumps(checked(found), indent=2) + "\n")
    outcomes = [one["outcome"] for one in found["releases"]]
    ran = [one for one in outcomes if one != "skipped"]
    print(f"{said.out}: {', '.join(f'{outcomes.count(one)} {one}' for one in sorted(set(outcomes))) or 'nothing'}")
    print("look at it, then send it with an issue: it has no path and no name of this machine")
    return 2 if not ran else int(any(one in ("mismatch", "refused") for one in ran))


if __name__ == "__main__":
    sys.exit(main())
