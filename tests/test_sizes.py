"""Sizes as people write them."""

from __future__ import annotations

import pytest

from weightkit.core.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("10GB", 10**10), ("5GiB", 5 * 2**30), ("1.5 kB", 1500), ("300mb", 300 * 10**6), ("7B", 7)],
)
def test_parse(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1G", "1Gi", "ten", "1 0", "1e9"])
def test_not_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


@pytest.mark.parametrize(("size", "text"), [(7, "7 bytes"), (1500, "1.5 kB"), (13476939516, "13.48 GB")])
def test_format(size: int, text: str) -> None:
    assert format_size(size) == text
