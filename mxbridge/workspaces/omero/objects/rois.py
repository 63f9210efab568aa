"""Cells from the ROIs of people: polygons, masks, ellipses and rectangles of one plane, each shape a cell.

Shapes come in pages bounded in number and in bytes, so that a hundred thousand ROIs neither break the message limit nor stay
in memory as objects of the client. ROIs that mxbridge made are never inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import InputError
from mxbridge.workspaces.base import CellKind
from mxbridge.workspaces.omero.objects import roi_shapes
from mxbridge.workspaces.omero.objects.roi_shapes import Ring
from mxbridge.workspaces.omero.publishing.marks import OWN

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session

PAGE_ROIS = 500
PAGE_BYTES = 32 << 20
"""Masks of one page; the message limit is 250 MB."""

MASK_BYTES = 32 << 20
"""A ROI with more than this (boxes of 16,000 x 16,000 pixels) is left out: unpacked it would take eight times as much."""

NO_AREA = ("Line", "Point", "Polyline", "Label", "Path")
"""Shapes that are no cells."""

_ROIS = "select r.id, r.description from Roi r where r.image.id = :image order by r.id"
_MASKS = "select m.roi.id, m.width, m.height from Mask m where m.roi.image.id = :image"
_SHAPES = "select s from Shape s left outer join fetch s.transform where s.roi.id in (:rois) order by s.id"


def cells_from_rois(
    session: Session, info: ImageInfo, kind: CellKind, plane: tuple[int, int] = (0, 0)
) -> tuple[OutlineCells | None, list[str]]:
    """The cells that an image's ROIs are, ordered by ROI and shape, and remarks; None where there are none.

    plane: (z, t); shapes without z or t lie on every plane. Ids are ``<roi>:<shape>``; name is the text people gave the
    shape, which is also its class where ``kind`` is "annotations". What has no area, lies wholly outside the image, or
    is malformed is left out with a remark.
    """
    left_out = _LeftOut()
    found: list[tuple[int, int, str | None, list[Ring]]] = []
    for roi, shapes in _shapes_of(session, info.id, left_out):
        for shape in shapes:
            rings = _cell(shape, plane, info.shape, left_out)
            if rings:
                found.append((roi, shape.id.val, _text(shape.textValue), rings))
    notes = left_out.remarks()
    if not found:
        return None, notes
    found.sort(key=lambda cell: cell[:2])
    names = tuple(name for _, _, name, _ in found)
    cells = OutlineCells(
        ids=tuple(f"{roi}:{shape}" for roi, shape, _, _ in found),
        classes=names if kind == "annotations" else (None,) * len(found),
        shape=info.shape,
        outlines=Rings.of([rings for *_, rings in found]),
        names=names,
    )
    return cells, notes


class _LeftOut:
    """Why shapes were left out, how many, and one of each to look at."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, reason: str, example: str) -> None:
        self._counts[reason] += 1
        self._examples.setdefault(reason, example)

    def remarks(self) -> list[str]:
        return [
            f"{count} {'shape' if count == 1 else 'shapes'} of ROIs left out: {reason} (e.g. {self._examples[reason]})"
            for reason, count in sorted(self._counts.items())
        ]


def _shapes_of(session: Session, image: int, left_out: _LeftOut) -> Iterator[tuple[int, list[Any]]]:
    """Every ROI of people with its shapes, page by page."""
    theirs = [roi for roi, description in session.rows(_ROIS, image=image) if not (description or "").startswith(OWN)]
    weights: Counter[int] = Counter()
    for roi, width, height in session.rows(_MASKS, image=image):
        weights[roi] += _mask_bytes(width, height)
    for page in _pages(theirs, weights, left_out):
        shapes: dict[int, dict[int, Any]] = {roi: {} for roi in page}
        for shape in session.objects(_SHAPES, rois=page):
            shapes[shape.roi.id.val][shape.id.val] = shape  # a join may give a shape twice
        yield from ((roi, list(of_roi.values())) for roi, of_roi in shapes.items())


def _pages(rois: Sequence[int], weights: Counter[int], left_out: _LeftOut) -> Iterator[list[int]]:
    """ROIs in their order, so many that the masks of a page stay below :data:`PAGE_BYTES`."""
    page: list[int] = []
    size = 0
    for roi in rois:
        if weights[roi] > MASK_BYTES:
            left_out.add("masks too large to be unpacked", f"ROI {roi}")
            continue
        if page and (len(page) == PAGE_ROIS or size + weights[roi] > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(roi)
        size += weights[roi]
    if page:
        yield page


def _mask_bytes(width: float | None, height: float | None) -> int:
    pixels = (width or 0) * (height or 0)
    return int(pixels) // 8 if 0 <= pixels < 1e15 else 0  # nonsense is told when the shape is looked at


def _cell(shape: Any, plane: tuple[int, int], size: tuple[int, int], left_out: _LeftOut) -> list[Ring]:
    """The rings of a shape that is a cell on this plane; empty for one on another plane, or left out with its reason."""
    where = f"{shape.roi.id.val}:{shape.id.val}"
    kind = type(shape).__name__.removesuffix("I")
    if kind in NO_AREA:
        left_out.add("lines, points and texts are no cells", where)
        return []
    if any(
        at is not None and at.val not in (-1, here) for at, here in zip((shape.theZ, shape.theT), plane, strict=True)
    ):
        left_out.add(f"not on the plane z = {plane[0]}, t = {plane[1]}", where)
        return []
    try:
        rings = shape_rings(shape)
    except InputError as error:
        left_out.add(f"{kind.lower()}s that cannot be used", f"{where}: {error.message}")
        return []
    if not roi_shapes.meets(rings, size):
        left_out.add("outside the image, or empty", where)
        return []
    return rings


def shape_rings(shape: Any) -> list[Ring]:
    """The rings of a loaded shape, moved by its transform. Raises InputError for what is not an area, in words."""
    kind = type(shape).__name__.removesuffix("I")
    if kind == "Polygon":
        rings = roi_shapes.polygon(_text(shape.points) or "")
    elif kind == "Rectangle":
        rings = roi_shapes.rectangle(*_numbers(shape.x, shape.y, shape.width, shape.height))
    elif kind == "Ellipse":
        rings = roi_shapes.ellipse(*_numbers(shape.x, shape.y, shape.radiusX, shape.radiusY))
    elif kind == "Mask":
        x, y, width, height = _numbers(shape.x, shape.y, shape.width, shape.height)
        rings = roi_shapes.mask(x, y, width, height, bytes(shape.bytes or b""))
    else:
        raise InputError(f"a shape of kind {kind}")
    matrix = shape.transform
    if matrix is None or not rings:
        return rings
    return roi_shapes.moved(rings, _numbers(matrix.a00, matrix.a10, matrix.a01, matrix.a11, matrix.a02, matrix.a12))


def _numbers(*values: Any) -> Any:
    if any(value is None for value in values):
        raise InputError("a number is missing")
    return tuple(float(value.val) for value in values)


def _text(value: Any) -> str | None:
    return None if value is None or not value.val else str(value.val)
