"""The images of the published MAXIM program: stacks as numpy files with a CSV of splits. Read, never written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mxbridge.errors import UnknownName, UsageError
from mxbridge.formats.npy_panels import read_npy_panels
from mxbridge.results import ImageRef, Results
from mxbridge.workspaces.base import CellKind, Published, Pulled, Workspace


class NpyWorkspace(Workspace):
    """One split of a table of images; there are no cells.

    panel: names of the planes, in order. split: as the table calls it, ``train``, ``valid`` or ``test``. An image's id is its path.
    Raises UsageError (a split without images), SourceError, BrokenFile.
    """

    def __init__(
        self, table: Path, panel: Sequence[str], split: str = "test", *, um_per_px: float | None = None
    ) -> None:
        found = read_npy_panels(table, panel, um_per_px)
        self._images = {str(one.path): one.image for one in found if one.side == split.casefold()}
        if not self._images:
            sides = ", ".join(dict.fromkeys(one.side for one in found if one.side)) or "none"
            raise UsageError(f"{table} lists no image of the split {split!r}", hint=f"It has: {sides}")
        self.address = f"npy:{table.absolute()}"

    @property
    def runs_home(self) -> Path:
        return Path.cwd() / "mxbridge-runs"

    def list(self, names: Sequence[str] = ()) -> list[ImageRef]:
        refs = [ImageRef(path, image.name) for path, image in self._images.items()]
        for name in names:
            if not any(name in (ref.id, ref.name) for ref in refs):
                raise UnknownName("image", name, [ref.name for ref in refs])
        return [ref for ref in refs if not names or ref.id in names or ref.name in names]

    def pull(self, ref: ImageRef, cells: CellKind | None = "cells") -> Pulled:
        if ref.id not in self._images:
            raise UnknownName("image", ref.name, [image.name for image in self._images.values()])
        return Pulled(ref, self._images[ref.id], None)

    def publish(self, results: Results) -> Published:
        """Nothing to do: the run folder is the publication."""
        return Published(results.image, changed=False, where="the run folder")

    def holds(self, results: Results) -> bool:
        return True

    def retract(self, ref: ImageRef, result_keys: Sequence[str], *, run_id: str | None = None) -> Published:
        raise UsageError(f"{ref.name}: nothing to undo, results of .npy images are in the run folder only")

    def check_writable(self) -> None:
        """Nothing is written beside the images."""
