"""Where the cells of an OMERO image are: its ROIs, a file attached to it, another image, or images of a dataset.

``--labels`` names it: ``rois``, ``attachment`` or ``attachment:NAME``, ``image:ID``, ``dataset:ID``. Without it, ROIs that
people (or other programs) made count, else an attachment that holds labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
        self._matched: tuple[dict[int, str], dict[int, str], dict[int, int | None]] | None = None
        """Label images and images of the last look, and which belong together: the same for all images of a dataset."""

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
        labels = {int(ref.id): ref.name for ref in find_images(session, "dataset", [dataset])}
        names = {**self._siblings(), info.id: info.name}
        if self._matched is None or self._matched[:2] != (labels, names):
            self._matched = labels, names, owners_of(labels, names)
        fitting = [(k, labels[k]) for k, owner in self._matched[2].items() if owner == info.id]
        if len(fitting) > 1:
            raise InputError(
                f"{info}: several label images of dataset {dataset} fit it ({', '.join(name for _, name in fitting[:5])})",
                hint="Name one with --labels image:ID",
            )
        return fitting[0][0] if fitting else None


def owners_of(labels: Mapping[int, str], images: Mapping[int, str]) -> dict[int, int | None]:
    """The image that each label image belongs to, by id. They may lie in one dataset: no image is its own label image."""
    found = {}
    for number, name in labels.items():
        others = {k: other for k, other in images.items() if k != number} if number in images else images
        found[number] = owner_of(name, others)
    return found


def owner_of(label_name: str, images: Mapping[int, str]) -> int | None:
    """The image (by id) that a label image belongs to: the one of the same name, else the one whose whole name it contains
    (``fov1_mask`` is of ``fov1``, never of ``fov10``), with or without what follows the first dot; the longest name wins. None
    where no name fits, or images of equally long names do."""
    label = label_name.casefold().strip()
    same = [number for number, name in images.items() if name.casefold().strip() == label]
    if same:
        return same[0] if len(same) == 1 else None
    fitting: dict[int, list[int]] = {}
    for number, name in images.items():
        length = max((len(form) for form in _forms(name) if _contains(label, form)), default=0)
        if length:
            fitting.setdefault(length, []).append(number)
    best = fitting[max(fitting)] if fitting else []
    return best[0] if len(best) == 1 else None


def _forms(name: str) -> tuple[str, str]:
    """``slide.lif [Pos 1/2]`` and ``slide``: images of one file differ in what follows."""
    whole = name.casefold().strip()
    return whole, whole.split(".")[0].strip()


def _contains(label: str, form: str) -> bool:
    """A name without folders is looked for in the last part of the label's."""
    where = label if "/" in form else label.rpartition("/")[2]
    return bool(form) and form in where and re.search(rf"(?<![^\W_]){re.escape(form)}(?![^\W_])", where) is not None
