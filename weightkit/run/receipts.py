"""What a run says of the files it wrote: a receipt for each, which is a line of the journal, too, and a report of all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weightkit.core.digest import Digest
from weightkit.core.errors import DigestMismatch
from weightkit.core.probes import CONTENT
from weightkit.core.sizes import format_size

__all__ = ["DIGEST", "Receipt", "Report", "Standing"]

DIGEST = "sha256"
"""The algorithm that every file is hashed by."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """All that is known of a file that was written whole.

    Attributes:
        path: Its name in the output folder.
        fingerprint: What it was made of: ``Output.fingerprint``; empty until the ledger has it.
        nbytes: Its size.
        digests: By algorithm; SHA-256 is always among them.
        twin: Digests of the file that was computed in step, if there was one.
        found: Name of a probe -> name of a tensor -> what it saw there.
        inputs: Digests of inputs whose every byte went by, in order; by name.
        token: How the ledger finds what was staged.
        checked: Whether a published digest was given for it (and so holds).
        kept: Whether it stood there whole from an interrupted run.
    """

    path: str
    fingerprint: str
    nbytes: int
    digests: Mapping[str, Digest]
    twin: Mapping[str, Digest] | None = None
    found: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    inputs: Mapping[str, Digest] = field(default_factory=dict)
    token: str = ""
    checked: bool = False
    kept: bool = False

    @property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal."""
        return self.digests[DIGEST].hex

    @property
    def tensors(self) -> dict[str, Digest] | None:
        """Content digests of its tensors by name; None where they were not taken."""
        content = self.found.get(CONTENT)
        return None if content is None else {name: Digest(DIGEST, text) for name, text in content.items()}

    def encode(self) -> str:
        """One line of JSON, for the journal."""
        return json.dumps(
            {
                "path": self.path,
                "fingerprint": self.fingerprint,
                "nbytes": self.nbytes,
                "digests": in_hex(self.digests),
                "twin": None if self.twin is None else in_hex(self.twin),
                "found": {name: dict(by_tensor) for name, by_tensor in self.found.items()},
                "inputs": {name: str(digest) for name, digest in self.inputs.items()},
                "token": self.token,
            }
        )

    @classmethod
    def decode(cls, line: str | bytes) -> Receipt:
        """What ``encode`` wrote.

        Raises:
            ValueError: The line is no receipt: it was being written when the run was killed, or is damaged.
        """
        try:
            match json.loads(line):
                case {
                    "path": str(path),
                    "fingerprint": str(fingerprint),
                    "nbytes": int(nbytes),
                    "digests": dict(digests),
                    "twin": None | dict() as twin,
                    "found": dict(found),
                    "inputs": dict(inputs),
                    "token": str(token),
                } if DIGEST in digests and all(isinstance(one, dict) for one in found.values()):
                    return cls(
                        path,
                        fingerprint,
                        nbytes,
                        from_hex(digests),
                        None if twin is None else from_hex(twin),
                        found,
                        {name: Digest(*str(digest).split(":", 1)) for name, digest in inputs.items()},
                        token,
                    )
        except (TypeError, RecursionError) as error:
            raise ValueError("no receipt") from error
        raise ValueError("no receipt")


def in_hex(digests: Mapping[str, Digest]) -> dict[str, str]:
    return {name: digest.hex for name, digest in sorted(digests.items())}


def from_hex(texts: Mapping[str, Any]) -> dict[str, Digest]:
    return {name: Digest(name, str(text)) for name, text in texts.items()}


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What a run did.

    Attributes:
        receipts: The files published, in the order of the plan.
        mismatches: Files whose digest was not the one wanted; none of them was published.
        proofs: The published files that were made of those that are stored, and have their digests.
    """

    receipts: tuple[Receipt, ...]
    mismatches: tuple[DigestMismatch, ...]
    proofs: tuple[Receipt, ...] = ()

    def __repr__(self) -> str:
        total = format_size(sum(one.nbytes for one in self.receipts))
        return f"<{len(self.receipts)} files, {total}, {len(self.mismatches)} mismatches>"


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is at the destination before a run.

    Attributes:
        receipts: By path: what an earlier, interrupted try of the same plan has made, published or staged, as the journal
            says. Whether it holds is seen when it is read.
        changed: Those of them that were made of something else than what is planned now.
        notes: What the user should know, one line each.
        stands: Path -> size, of the files that are there already and may be kept.
        whole: Whether all that is planned seems to be there, so that it is compared and not written.
    """

    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    stands: Mapping[str, int] = field(default_factory=dict)
    whole: bool = False
