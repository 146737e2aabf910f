"""Bytes in memory: what a reader hands out and an encoder yields."""

from __future__ import annotations

__all__ = ["Buffer"]

Buffer = bytes | bytearray | memoryview
"""A flat run of bytes. A memoryview is one-dimensional with itemsize 1, so that ``len`` is its size in bytes."""
