"""Sizes in bytes as people write them: 5GB is 5 * 10**9, 5GiB is 5 * 2**30."""

from __future__ import annotations

import re

__all__ = ["format_size", "parse_size"]

UNITS = {"": 1, "B": 1} | {
    prefix + suffix: base ** (power + 1) for power, prefix in enumerate("KMGT") for suffix, base in (("B", 1000), ("iB", 1024))
}


def parse_size(text: str) -> int:
    """``"10GB"`` -> 10000000000, ``"1GiB"`` -> 1073741824, ``"4096"`` -> 4096.

    Raises:
        ValueError: The text is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGTkmgt]?)(i?)([Bb]?)\s*", text)
    if not match or (match[3] and not (match[2] and match[4])) or (match[2] and not match[4]):
        raise ValueError(f"{text!r} is no size; write 10GB (10 * 10**9 bytes), 1GiB (2**30 bytes) or plain bytes")
    return int(float(match[1]) * UNITS[match[2].upper() + match[3] + match[4].upper()])


def format_size(nbytes: int) -> str:
    """A size for people, in decimal units: 13476939516 -> ``13.48 GB``."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if nbytes >= 1000**power:
            return f"{nbytes / 1000**power:.{2 if power > 1 else 1}f} {unit}"
    return f"{nbytes} bytes"
