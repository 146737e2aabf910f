"""Merge LoRA adapters from Python, with progress, and check the result against a published list.

    python examples/merge_lora.py BASE OUT ADAPTER... [--checksums FILE]

For Chinese-Alpaca-Plus-7B, say, BASE is Meta's ``LLaMA/7B`` or a converted copy, and the adapters are those of
Chinese-LLaMA-Plus-7B and Chinese-Alpaca-Plus-7B, in this order.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import weightkit
import weightkit.merge
from weightkit.core.events import BytesWritten, Event, FileFinished


def show(event: Event) -> None:
    """Say on standard error what happens; a real program would move a progress bar on ``BytesWritten``."""
    if isinstance(event, FileFinished):
        print(f"{event.path}: whole, {event.nbytes} bytes", file=sys.stderr)
    elif isinstance(event, BytesWritten):
        pass


def main() -> int:
    """Merge; 0 if every digest that was given holds."""
    parser = argparse.ArgumentParser(description="Merge LoRA adapters into a base.")
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("adapters", type=Path, nargs="+")
    parser.add_argument("--checksums", type=Path, action="append", default=[])
    options = parser.parse_args()
    try:
        done = weightkit.merge.merge_lora(
            options.base,
            options.adapters,
            options.out,
            how=weightkit.merge.Arithmetic(rounding="per-adapter", sums="fma"),
            checksums=options.checksums,
            notify=show,
        )
    except weightkit.WeightkitError as error:
        print(error, file=sys.stderr)
        return 1
    for step in done.plan.steps:
        print(step)
    for file in done.report.receipts:
        print(file.sha256, file.path)
    for mismatch in done.report.mismatches:
        print(f"{mismatch.path}: wanted {mismatch.expected}, found {mismatch.actual}", file=sys.stderr)
    return 0 if done.ok else 3


if __name__ == "__main__":
    sys.exit(main())
