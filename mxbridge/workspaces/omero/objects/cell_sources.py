"""Where the cells of an OMERO image are: its ROIs, a file attached to it, another image, or images of a dataset.

``--labels`` names it: ``rois``, ``attachment`` or ``attachment:NAME``, ``image:ID``, ``dataset:ID``. Without it, ROIs that
people (or other programs) made count, else an attachment that holds labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from mxbridge.cells import Cells
from mxbridge.errors import InputError, UsageError
from mxbridge.image import LocalImage
from mxbridge.workspaces.base import CellKind
from mxbridge.workspaces.omero.attachments.labels import cells_from_attachment, cells_from_label_image
from mxbridge.workspaces.omero.find import find_images
from mxbridge.workspaces.omero.objects.rois import cells_from_rois

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session

_NAMED = re.compile(r"(?P<kind>rois|attachment|image|dataset)(?::(?P<what>.+))?", re.DOTALL)


@dataclass(frozen=True)
class CellSource:
    """One of ``--labels``. name: of an attachment; id: of an image or dataset."""

    kind: str
    name: str | None = None
    id: int = 0

    @classmethod
    def parse(cls, text: str) -> CellSource:
        """Raises UsageError."""
        found = _NAMED.fullmatch(text.strip())
        kind, what = (found["kind"], found["what"]) if found else ("", None)
        numbered = kind in ("image", "dataset")
        fine = bool(found) and not (kind == "rois" and what) and (not numbered or bool(what and what.isdecimal()))
        if not fine:
            raise UsageError(
                f"--labels {text!r} names no cells of an OMERO image",
                hint="It is rois, attachment, attachment:NAME, image:ID or dataset:ID",
            )
        return cls(kind, None if numbered else what, int(what) if numbered and what else 0)


class CellReader:
    """Reads the cells of images. sources: tried in turn, none for what is usual. folder: where fetched files stay.

    open_image: opens another image of the server, for label images. siblings: names of the images of this place by id, among
    which a label image of a dataset finds its own.
    """

    def __init__(
        self,
        sources: Sequence[str],
        folder: Path,
        open_image: Callable[[Session, int], LocalImage],
        siblings: Callable[[], Mapping[int, str]],
    ) -> None:
        self._sources = tuple(CellSource.parse(text) for text in sources)
        self._folder, self._open_image, self._siblings = folder, open_image, siblings

    def read(
        self, session: Session, info: ImageInfo, kind: CellKind, plane: tuple[int, int]
    ) -> tuple[Cells | None, list[str]]:
        """Cells and remarks; None where there are none. Raises InputError, SourceError, UnknownName, OutputError."""
        notes: list[str] = []
        for source in self._sources or (CellSource("rois"), CellSource("attachment")):
            cells, more = self._from(source, session, info, kind, plane)
            notes += more
            if cells is not None and len(cells):
                return cells, notes
        return None, notes

    def _from(
        self, source: CellSource, session: Session, info: ImageInfo, kind: CellKind, plane: tuple[int, int]
    ) -> tuple[Cells | None, list[str]]:
        if source.kind == "rois":
            return cells_from_rois(session, info, kind, plane)
        if kind == "annotations" and source.kind != "attachment":
            return None, [f"{source.kind}:{source.id}: a label image has cells, no annotations"]
        if source.kind == "attachment":
            return cells_from_attachment(session, info, source.name, self._folder / "attachments", kind)
        if source.kind == "image":
            return cells_from_label_image(self._open_image(session, source.id), info.shape), []
        found = self._label_image(session, info, source.id)
        if found is None:
            return None, [f"no label image of dataset {source.id} bears its name"]
        return cells_from_label_image(self._open_image(session, found), info.shape), []

    def _label_image(self, session: Session, info: ImageInfo, dataset: int) -> int | None:
        """The label image of a dataset whose name says that it belongs to this image. Raises InputError for several."""
        names = {**self._siblings(), info.id: info.name}
        fitting = [
            (int(ref.id), ref.name)
            for ref in find_images(session, "dataset", [dataset])
            if int(ref.id) != info.id and owner_of(ref.name, names) == info.id
        ]
        if len(fitting) > 1:
            raise InputError(
                f"{info}: several label images of dataset {dataset} fit it ({', '.join(name for _, name in fitting[:5])})",
                hint="Name one with --labels image:ID",
            )
        return fitting[0][0] if fitting else None


def owner_of(label_name: str, images: Mapping[int, str]) -> int | None:
    """The image (by id) whose whole name a label image's name contains (``fov1_mask`` is of ``fov1``, never of ``fov10``); the
    longest name wins. None where no name fits, or images of equally long names do."""
    label = PurePath(label_name).name.casefold()
    fitting: dict[int, list[int]] = {}
    for number, name in images.items():
        stem = name.casefold().split(".")[0].strip() or name.casefold()
        if stem and re.search(rf"(?<![^\W_]){re.escape(stem)}(?![^\W_])", label):
            fitting.setdefault(len(stem), []).append(number)
    best = fitting[max(fitting)] if fitting else []
    return best[0] if len(best) == 1 else None
