"""Objects as ROIs, when they are asked for: one ROI each, as an exact mask or as polygons, saved without an image at first.

A ROI without an image is seen by nobody; the commit of a publication gives all of them their image at once
(:func:`rois_to_link`). The description of each then ends with a hash of what it was when it was made, so that one which a user
has moved or renamed since is known (:func:`edited_rois`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mxbridge.cells import Cells, LabelCells, OutlineCells, Rings
from mxbridge.errors import ChangedMeanwhile, InputError, UsageError
from mxbridge.results import NewObjects
from mxbridge.workspaces.omero.find import pages
from mxbridge.workspaces.omero.objects.masks import Mask, masks_of_cells, masks_of_outlines, unpacked
from mxbridge.workspaces.omero.objects.polygons import DECIMALS, Ring, polygons_of
from mxbridge.workspaces.omero.objects.roi_shapes import polygon, traced
from mxbridge.workspaces.qupath.qpdata.classes import default_class_color

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.sessions.connection import Session

As = Literal["masks", "polygons"]

BATCH_ROIS, BATCH_BYTES = 500, 8 << 20
"""What is saved in one call at most."""

OPAQUE, FILLED = 0xFF, 0x40
"""Alpha of lines, and of areas, which let the image show through."""

NO_CLASS_COLOR = 0xFFFF00

PAGE = 500
_MINE = "select r from Roi r where r.id in (:rois)"
_SHAPES = "select s from Shape s where s.roi.id in (:rois) order by s.id"


@dataclass(frozen=True)
class SavedRois:
    """ids: of the ROIs. objects: which object each ROI is. hashes: see :func:`geometry_hash`. notes: remarks for people."""

    ids: tuple[int, ...]
    objects: tuple[int, ...]
    hashes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def save_rois(
    session: Session,
    objects: NewObjects | Cells,
    *,
    shape: tuple[int, int],
    group_id: int,
    token: str,
    as_: As = "masks",
    cap: int,
    plane: tuple[int, int] = (0, 0),
) -> SavedRois:
    """Save objects as ROIs that no image has yet, in pages below the message limit.

    shape: (y, x) of the image; objects without a pixel in it get no ROI. token: their description until they are linked. as_: ``masks`` are
    exact; ``polygons`` are simplified and overlap what they stand for by 0.95 or more each, and an object for which no
    polygon does (its holes matter) becomes a mask. Nuclei of cells are left out. Raises UsageError for more than ``cap``.
    """
    if len(objects) > cap:
        raise UsageError(
            f"{len(objects):,} objects are more than the {cap:,} that may become ROIs",
            hint=f"Viewers become slow with many ROIs; labels and the table hold all of them, or give --rois {len(objects)}",
        )
    texts, classes = _texts(objects)
    as_masks = 0
    ids: list[int] = []
    indices: list[int] = []
    hashes: list[str] = []
    batch: list[Any] = []
    size = 0
    for k, shapes in _shapes(objects, shape, as_):
        as_masks += isinstance(shapes, Mask)
        roi, weight = roi_of(shapes, texts[k], classes[k], token, plane)
        hashes.append(geometry_hash(roi.copyShapes()))
        if batch and (len(batch) == BATCH_ROIS or size + weight > BATCH_BYTES):
            ids += session.save(batch, group_id)
            batch, size = [], 0
        batch.append(roi)
        size += weight
        indices.append(k)
    if batch:
        ids += session.save(batch, group_id)
    notes = []
    if as_ == "polygons" and as_masks:
        notes.append(f"{as_masks} of {len(ids)} objects became masks: polygons of OMERO have no holes")
    if len(ids) < len(objects):
        notes.append(f"{len(objects) - len(ids)} objects have no pixel in the image and no ROI")
    return SavedRois(tuple(ids), tuple(indices), tuple(hashes), tuple(notes))


def rois_to_link(session: Session, descriptions: Mapping[int, str], image_id: int) -> list[Any]:
    """Saved ROIs, loaded, with image and description set: saving these makes all of them visible. Their shapes stay as they are.

    descriptions: by id; :func:`edited_rois` needs the hash of :class:`SavedRois` as their last word. Raises ChangedMeanwhile
    when one is gone.
    """
    from omero.model import ImageI
    from omero.rtypes import rstring

    rois = _by_id(session, _MINE, list(descriptions))
    if len(rois) < len(descriptions):
        raise ChangedMeanwhile(
            f"{len(descriptions) - len(rois)} ROIs of this publication are not on the server any more",
            hint="Run the same command again",
        )
    for number, roi in rois.items():
        roi.unloadShapes()
        roi.setImage(ImageI(image_id, False))
        roi.setDescription(rstring(descriptions[number]))
    return list(rois.values())


def edited_rois(session: Session, ids: Sequence[int]) -> list[int]:
    """Those of our ROIs that somebody has moved, renamed or described otherwise since; ROIs that are gone are not listed."""
    rois = _by_id(session, _MINE, ids)
    shapes: dict[int, list[Any]] = {roi: [] for roi in rois}
    for shape in _by_id(session, _SHAPES, list(rois)).values():
        shapes[shape.roi.id.val].append(shape)
    edited = []
    for number, roi in rois.items():
        told = (roi.description.val if roi.description else "").rpartition(" ")[2]
        if told != geometry_hash(shapes[number]):
            edited.append(number)
    return edited


def geometry_hash(shapes: Iterable[Any]) -> str:
    """16 hex digits of where the shapes of a ROI lie and what they are called, whatever way points are spelt."""
    digest = hashlib.sha256()
    for shape in shapes:
        kind = type(shape).__name__.removesuffix("I")
        digest.update(f"{kind}\n{_value(shape.theZ)} {_value(shape.theT)}\n{_value(shape.textValue) or ''}\n".encode())
        if kind == "Polygon":
            try:
                digest.update(np.concatenate(polygon(_value(shape.points) or "")).tobytes())
            except InputError:
                digest.update(b"broken")
        elif kind == "Mask":
            numbers = [_value(number) for number in (shape.x, shape.y, shape.width, shape.height)]
            digest.update(struct.pack("<4d", *(float("nan") if n is None else n for n in numbers)))
            digest.update(bytes(shape.bytes or b""))
    return digest.hexdigest()[:16]


def rgba(color: int, alpha: int) -> int:
    """OMERO's colour, a signed 32-bit RGBA, of 0xRRGGBB."""
    (signed,) = struct.unpack(">i", struct.pack(">I", (color & 0xFFFFFF) << 8 | alpha))
    return int(signed)


def _texts(objects: NewObjects | Cells) -> tuple[Sequence[str], Sequence[str | None]]:
    """What each ROI is called (its class, else its name, else its key), and its class."""
    keys = objects.keys if isinstance(objects, NewObjects) else objects.ids
    classes = objects.class_names if isinstance(objects, NewObjects) else objects.classes
    given = objects.names if isinstance(objects, NewObjects | OutlineCells) else ()
    names = given or (None,) * len(keys)
    return [c or n or key for c, n, key in zip(classes, names, keys, strict=True)], classes


def _shapes(objects: NewObjects | Cells, shape: tuple[int, int], as_: As) -> Iterator[tuple[int, Mask | list[Ring]]]:
    """Every object that owns a pixel, as a mask or as polygons."""
    outlines = _outlines(objects)
    masks = masks_of_outlines(outlines, shape) if outlines is not None else masks_of_cells(_cells(objects))
    for k, mask in masks:
        rings = None
        if as_ == "polygons":
            rings = polygons_of(outlines.rings_of(k) if outlines is not None else _traced(mask))
        yield k, mask if rings is None else rings


def _outlines(objects: NewObjects | Cells) -> Rings | None:
    return objects.outlines if isinstance(objects, NewObjects | OutlineCells) else None


def _cells(objects: NewObjects | Cells) -> LabelCells:
    assert isinstance(objects, LabelCells)  # noqa: S101 - what has outlines was dealt with
    return objects


def _traced(mask: Mask) -> list[Ring]:
    corner = np.array([mask.box.x0, mask.box.y0])
    return [ring + corner for ring in traced(unpacked(mask.bits, *mask.box.shape))]


def roi_of(
    shapes: Mask | list[Ring], text: str, class_name: str | None, token: str, plane: tuple[int, int]
) -> tuple[Any, int]:
    """A ROI of OMERO's model, and about how many bytes it is on its way."""
    from omero.model import RoiI
    from omero.rtypes import rint, rstring

    color = NO_CLASS_COLOR if class_name is None else default_class_color(class_name) & 0xFFFFFF
    roi = RoiI()
    made = [_mask(shapes)] if isinstance(shapes, Mask) else [_polygon(ring) for ring in shapes]
    for shape, _ in made:
        shape.theZ, shape.theT = rint(plane[0]), rint(plane[1])
        shape.textValue = rstring(text)
        shape.fillColor, shape.strokeColor = rint(rgba(color, FILLED)), rint(rgba(color, OPAQUE))
        roi.addShape(shape)
    roi.description = rstring(token)
    return roi, 400 + sum(size for _, size in made)


def _mask(mask: Mask) -> tuple[Any, int]:
    from omero.model import MaskI
    from omero.rtypes import rdouble

    shape = MaskI()
    shape.x, shape.y = rdouble(mask.box.x0), rdouble(mask.box.y0)
    height, width = mask.box.shape
    shape.width, shape.height = rdouble(width), rdouble(height)
    shape.setBytes(mask.bits)
    return shape, len(mask.bits)


def _polygon(ring: Ring) -> tuple[Any, int]:
    from omero.model import PolygonI
    from omero.rtypes import rstring

    points = " ".join(f"{_short(x)},{_short(y)}" for x, y in ring.tolist())
    shape = PolygonI()
    shape.points = rstring(points)
    return shape, len(points)


def _short(number: float) -> str:
    """Two decimals at most."""
    text = f"{number:.{DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _by_id(session: Session, hql: str, rois: Sequence[int]) -> dict[int, Any]:
    """Objects of these ROIs by their own id, page by page."""
    found: dict[int, Any] = {}
    for page in pages(list(dict.fromkeys(rois)), PAGE):
        for item in session.objects(hql, rois=page):
            found[item.id.val] = item
    return found


def _value(number: Any) -> Any:
    return None if number is None else number.val
