"""Lists of published digests: how they are called, which of them can be checked here, what the catalog has."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from weightkit import catalog
from weightkit.catalog.outside import SIGNATURE
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.manifests import Entry
from weightkit.manifests.tensors import TENSORS

__all__ = ["LIST_ENDINGS", "LIST_NAMES", "entries_of", "usable"]

LIST_NAMES = ("SHA256SUMS", "MD5SUMS", "SHA512SUMS", "BLAKE3SUMS", "checklist.chk")
"""Lists that are looked for in a folder where none is named. Without any, the Hub's notes in it are used."""

LIST_ENDINGS = (*LIST_NAMES, TENSORS, ".sha256", ".md5", ".sha512", SIGNATURE)
"""Ends of the names of lists, which are no extra files; a signature is one, with a proof of who wrote it."""


def usable(digest: Digest) -> bool:
    """Whether its algorithm is there: BLAKE3 is an extra."""
    return digest.algorithm != "blake3" or importlib.util.find_spec("blake3") is not None


def entries_of(release: str) -> list[Entry]:
    """The digests of a release, with sizes as far as known.

    Raises:
        PlanError: It is not in the catalog, or none of its digests is known.
    """
    known = catalog.load(release)
    entries = [replace(entry, nbytes=known.sizes.get(entry.path)) for entry in known.entries() if usable(entry.digest)]
    if not entries:
        raise PlanError(f"--release {release}: no digest of it is known: {known.title}")
    return entries
