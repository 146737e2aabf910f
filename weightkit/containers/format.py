"""What a container format is, as a value; and what opening a file in it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from weightkit.containers.layout import Encoding, Layout
from weightkit.core.blob import Blob
from weightkit.core.stored import Stored

__all__ = ["Container", "Format"]


class Container(Protocol):
    """One file as an index of tensors: cheap to hold, safe to share, fit to be pickled to a worker."""

    @property
    def blob(self) -> Blob:
        """The file."""

    @property
    def format(self) -> Format:
        """Its format."""

    @property
    def profile(self) -> str:
        """Who wrote it, as ``zip-1.13`` or ``safetensors``: a word for people."""

    @property
    def written_by(self) -> str:
        """The same in full: ``torch 1.13 to 2.0``."""

    @property
    def tensors(self) -> Mapping[str, Stored]:
        """Name -> where it lies, in the file's own order."""

    @property
    def layout(self) -> Layout:
        """How they lie: for an output that follows this file, ties and shared storages included."""

    @property
    def encoding(self) -> Encoding | None:
        """What writes tensors as this file's writer did; None where that one cannot be followed.

        Of plain tensors that are whole runs it writes the very same bytes. For a file of another name ask ``format.encoding``:
        a name may be among the bytes.
        """


class Format(Protocol):
    """A container format, as a value. Registered in ``containers.formats``, or by the entry point ``weightkit.containers``."""

    @property
    def name(self) -> str:
        """The word of ``--format`` and of recipes."""

    @property
    def stem(self) -> str:
        """How transformers begins its files' names: ``pytorch_model``."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """How such files end; the first is the one written: ``.bin``."""

    @property
    def ties(self) -> bool:
        """Whether two names may share bytes in a file."""

    @property
    def ordered(self) -> bool:
        """Whether a file keeps the order in which its tensors were saved, as a state dict has it."""

    def recognise(self, head: bytes, nbytes: int) -> bool:
        """Whether a file of ``nbytes`` bytes that begins with ``head`` (its first 64 bytes) is in this format."""

    def open(self, blob: Blob) -> Container:
        """Index a file: reads its headers, nothing else.

        Raises:
            FormatError: It is damaged, or wants something to be run.
        """

    def encoding(self, path: str, like: Container | None, profile: str | None, *, same: bool) -> Encoding:
        """What writes a file of this name.

        Args:
            path: Its name.
            like: A file whose writer is followed, of any format; None for none.
            profile: The writer that the user names (``--torch-compat``); None for that of ``like``, or the default.
            same: Whether the new file holds what ``like`` holds, so that all of its form is followed.

        Raises:
            ValueError: Nothing writes that.
        """

    def variants(self, path: str, like: Encoding, *, all_kinds: bool) -> Sequence[Encoding]:
        """Encodings in which others may have written the same tensors under this name, ``like`` first.

        Args:
            path: The file's name.
            like: How it is, or would be, written.
            all_kinds: Whether to vary what was saved, too (a dict, an OrderedDict), not only who wrote it.
        """
