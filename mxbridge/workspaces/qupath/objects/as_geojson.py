"""QuPath's objects as GeoJSON objects, and GeoJSON objects as objects to write: what is kept, and what cannot be."""

from __future__ import annotations

import hashlib
import uuid
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError, Unsupported
from mxbridge.workspaces.geojson import AREAS, Geometry, GeoObject
from mxbridge.workspaces.qupath.builders import argb
from mxbridge.workspaces.qupath.made import NAMESPACE
from mxbridge.workspaces.qupath.qpdata import ROI, NewPathObject, NewROI, PathObject
from mxbridge.workspaces.qupath.qpdata.path_objects import OBJECT_ID, is_uuid

Ring = NDArray[np.float64]

_KINDS = {"tma core": "tmaCore"}
_WRITTEN = ("annotation", "detection", "cell", "tile")
_CALLED = {"tmaCore": "TMA cores", "root": "root objects"}
_MAX_CLASS = 200

DECIMALS = (0, 2, 4, 6)
"""Tried until a number is the same float32 again; others are written in full."""


def geo_object(item: PathObject) -> GeoObject:
    """Everything GeoJSON can say of an object; its parent is not among it. Raises Unsupported for an outline it cannot say."""
    roi = item.roi
    if roi is None:
        raise Unsupported(f"{item!r} has no outline")
    color, class_color = item.color, item.class_color
    return GeoObject(
        _KINDS.get(item.kind, item.kind),
        _geometry(roi),
        id=item.id,
        nucleus=None if item.nucleus is None else _geometry(item.nucleus),
        name=item.name,
        color=None if color is None else color & 0xFFFFFF,
        class_name=item.class_name,
        class_color=None if class_color is None else class_color & 0xFFFFFF,
        locked=item.locked,
        missing=item.missing,
        measurements={name: shortest(value) for name, value in item.measurements.items()},
        metadata={key: value for key, value in item.metadata.items() if value is not None},
    )


def new_object(item: GeoObject, entry_id: int, numbers: dict[str, int]) -> NewPathObject:
    """The object to write, with its own id, or one that follows from what it is.

    numbers: how often an object without id has been met that is like another one. Raises InputError for what cannot be written.
    """
    if item.kind not in _WRITTEN:
        raise InputError(f"{_CALLED.get(item.kind, f'objects of the kind {item.kind[:40]!r}')} cannot be written")
    if item.class_name is not None:
        _check_class(item.class_name)
    nucleus = item.nucleus if item.kind == "cell" else None
    return NewPathObject(
        cast(Literal["annotation", "detection", "cell", "tile"], item.kind),
        _id_of(item, entry_id, numbers),
        _new_roi(item.geometry, boxes=item.kind in ("annotation", "tile")),
        nucleus=None if nucleus is None else _new_roi(nucleus),
        class_name=item.class_name,
        name=item.name,
        color=None if item.color is None else argb(item.color),
        locked=item.locked,
        metadata={key: value for key, value in item.metadata.items() if key != OBJECT_ID},
        measurements=item.measurements,
    )


def rounded(points: Ring) -> Ring:
    """The same float32 coordinates with as few decimals as possible, so that they are short in a file."""
    stored = points.astype(np.float32)
    for decimals in DECIMALS:
        short = np.round(points, decimals)
        if np.array_equal(short.astype(np.float32), stored):
            return short
    return points


def shortest(value: float) -> float:
    """The double with the fewest digits that is the same float32; a value that is none stays."""
    stored = np.float32(value)
    return float(str(stored)) if float(stored) == value else value


def _geometry(roi: ROI) -> Geometry:
    plane = (roi.c, roi.z, roi.t)
    if roi.kind == "geometry":
        return _shape(roi, plane)
    if roi.kind in ("rectangle", "ellipse", "polygon"):
        rings = [rounded(_open(ring)) if roi.kind == "polygon" else ring for ring in roi.rings]
        if not rings:
            raise Unsupported("an outline without an area")
        return Geometry("Polygon", (rings,), plane=plane, ellipse=roi.kind == "ellipse")
    points = roi.points if roi.kind == "line" else rounded(roi.points)
    if not len(points) or (roi.kind != "points" and len(points) < 2):
        raise Unsupported("an outline without points")
    kind = {"points": "Point" if len(points) == 1 else "MultiPoint"}.get(roi.kind, "LineString")
    return Geometry(kind, points=(points,), plane=plane)


def _shape(roi: ROI, plane: tuple[int, int, int]) -> Geometry:
    """A geometry of areas; one with lines or points among them has no name in GeoJSON as QuPath reads it."""
    polygons = tuple([_open(ring) for ring in polygon] for polygon in roi.polygons)
    if not polygons or sum(map(len, polygons)) == 0 or len(roi.points) != sum(len(r) for p in roi.polygons for r in p):
        raise Unsupported("an outline that is not made of areas")
    return Geometry("Polygon" if len(polygons) == 1 else "MultiPolygon", polygons, plane=plane)


def _new_roi(geometry: Geometry, *, boxes: bool = False) -> NewROI:
    """boxes: a polygon that is a rectangle becomes one, as when QuPath itself reads the file."""
    plane = dict(zip("czt", geometry.plane, strict=True))
    if not -1 <= plane["c"] < 1 << 31 or not (0 <= plane["z"] < 1 << 31 and 0 <= plane["t"] < 1 << 31):
        raise InputError("objects on a plane that no image has")
    if geometry.kind == "LineString" and len(geometry.points[0]) == 2:
        return NewROI.line(*geometry.points[0].ravel().tolist(), **plane)
    if geometry.kind == "LineString" and len(geometry.points[0]) > 2:
        return NewROI.polyline(geometry.points[0], **plane)
    if geometry.kind in ("Point", "MultiPoint") and len(geometry.points[0]):
        return NewROI.of_points(geometry.points[0], **plane)
    if geometry.kind not in AREAS or not geometry.polygons:
        raise InputError(f"objects with a {geometry.kind} as outline cannot be written")
    return _new_area(geometry, plane, boxes=boxes)


def _new_area(geometry: Geometry, plane: dict[str, int], *, boxes: bool) -> NewROI:
    if any(len(ring) < 3 for ring in geometry.rings) or not all(geometry.polygons):
        raise InputError("objects with rings of less than three points cannot be written")
    if len(geometry.rings) > 1:
        return NewROI.of_polygons(geometry.polygons, **plane)
    corners = geometry.rings[0]
    (low, high) = _box(corners)
    if geometry.ellipse:
        return NewROI.ellipse(*low, *high, **plane)
    if boxes and len(corners) == 4 and _is_box(corners):
        return NewROI.rectangle(*low, *high, **plane)
    return NewROI.of_rings(geometry.rings, **plane)


def _box(ring: Ring) -> tuple[tuple[float, float], tuple[float, float]]:
    (x0, y0), (x1, y1) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    return (x0, y0), (x1, y1)


def _is_box(corners: Ring) -> bool:
    """Whether each edge of these four corners runs along an axis, and there is something between them."""
    steps = np.roll(corners, -1, axis=0) - corners
    return bool(((steps != 0).sum(axis=1) == 1).all() and np.array_equal(steps[:2], -steps[2:]))


def _open(ring: Ring) -> Ring:
    return ring[:-1] if len(ring) > 1 and np.array_equal(ring[0], ring[-1]) else ring


def _check_class(name: str) -> None:
    for level in name.split(": "):
        if not level or level != level.strip() or set(level) & {":", "\n"} or len(name) > _MAX_CLASS:
            raise InputError(f"objects of the class {name[:60]!r}, which is no name of a class in QuPath")


def _id_of(item: GeoObject, entry_id: int, numbers: dict[str, int]) -> str:
    """The UUID of the file. Of an object that has none, one that is the same whenever the file is read again."""
    if item.id is not None and is_uuid(item.id):
        return item.id.lower()
    digest = hashlib.sha256(
        "\n".join([str(entry_id), item.kind, str(item.id), str(item.class_name), str(item.name)]).encode()
    )
    for part in (*item.geometry.rings, *item.geometry.points):
        digest.update(np.ascontiguousarray(part, np.float64).tobytes() + b"|")
    made = digest.hexdigest()
    numbers[made] = numbers.get(made, 0) + 1
    return str(uuid.uuid5(NAMESPACE, f"imported\n{made}\n{numbers[made]}"))
