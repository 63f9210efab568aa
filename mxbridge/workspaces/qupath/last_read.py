"""The last ``data.qpdata`` that was read: the steps of a run ask for the same file again and again."""

from __future__ import annotations

from pathlib import Path

from mxbridge.formats.exchange import Seen, read_seen
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.qpdata.room import MAX_BYTES, check_file

LARGEST_KEPT = 256 * 1024**2
"""Bytes of the largest file that is kept: beside it there must be room for pixels and a model."""


class LastRead:
    """At most one file. It is recognised by path, size, time and content, so what others write is always seen."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._seen: Seen | None = None
        self._tree: ImageDataFile | None = None

    def read(self, path: Path) -> tuple[ImageDataFile, Seen]:
        """For looking only: what is returned must not be edited. Raises SourceError, BrokenFile, Unsupported."""
        data, seen = read_bytes(path)
        if self._tree is None or path != self._path or seen != self._seen:
            self.forget()
            tree = ImageDataFile(data, path)
            if seen.size > LARGEST_KEPT:
                return tree, seen
            self._path, self._seen, self._tree = path, seen, tree
        return self._tree, seen

    def to_edit(self, path: Path, data: bytes, seen: Seen) -> ImageDataFile:
        """The objects in ``data``, which are nobody else's from now on."""
        kept = self._tree if path == self._path and seen == self._seen else None
        self.forget()
        return kept or ImageDataFile(data, path)

    def forget(self) -> None:
        self._path = self._seen = self._tree = None


def read_bytes(path: Path) -> tuple[bytes, Seen]:
    """A ``data.qpdata`` as it is, if it is not too large to be handled here. Raises SourceError, BrokenFile, Unsupported."""
    check_file(path)
    return read_seen(path, MAX_BYTES)
