"""Text <-> digests by path."""

from weightkit.manifests.sums import Entry, encode, parse, read

__all__ = ["Entry", "encode", "parse", "read"]
