"""Outlines: every kind of ROI that QuPath writes, decoded when asked for, and those that mxbridge makes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import COORDINATE_LIMIT
from mxbridge.errors import InputError, Unsupported
from mxbridge.workspaces.qupath.javastream import JavaObject, StreamError
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.qpdata.jdk import Maker, numbers
from mxbridge.workspaces.qupath.qpdata.nesting import nested_polygons, ring_area
from mxbridge.workspaces.qupath.qpdata.wkb import Geometry, Ring, read_wkb, write_wkb

ELLIPSE_POINTS = 128
"""Corners of the polygon that stands for an ellipse."""

_KINDS = {
    d.RECTANGLE: "rectangle",
    d.ELLIPSE: "ellipse",
    d.LINE: "line",
    d.POLYGON: "polygon",
    d.POLYLINE: "polyline",
    d.POINTS: "points",
    d.GEOMETRY: "geometry",
}


class ROI:
    """A region in full-resolution pixels.

    kind: 'rectangle', 'ellipse', 'line', 'polygon', 'polyline', 'points' or 'geometry'; for one that mxbridge does not
    know, the name of its Java class, and asking for more raises Unsupported. c is -1 for all channels; z and t are planes.
    """

    __slots__ = ("_owner", "kind", "node")

    def __init__(self, node: JavaObject, owner: Callable[[], str]) -> None:
        """owner: names the object it belongs to, for messages."""
        self.node = node
        self.kind = _KINDS.get(node.name, node.name)
        self._owner = owner

    @property
    def c(self) -> int:
        return self._plane("c")

    @property
    def z(self) -> int:
        return self._plane("z")

    @property
    def t(self) -> int:
        return self._plane("t")

    def _plane(self, axis: str) -> int:
        self._check_known()
        try:
            return int(self.node.number(axis))
        except StreamError as error:
            raise self._error(str(error)) from None

    @property
    def polygons(self) -> list[list[Ring]]:
        """Outer ring and holes of each part with an area. Raises InputError on coordinates that are no pixels."""
        return self._geometry().polygons

    @property
    def rings(self) -> list[Ring]:
        """All rings of ``polygons`` in one list (even-odd), each float64 ``(points, 2)`` x and y; none for lines and points.

        An ellipse is a polygon of ELLIPSE_POINTS corners.
        """
        return [ring for polygon in self.polygons for ring in polygon]

    @property
    def points(self) -> Ring:
        """All corners, ``(points, 2)`` x and y."""
        found = self._geometry()
        parts = [ring for polygon in found.polygons for ring in polygon] + found.lines + found.points
        return np.concatenate(parts) if parts else np.zeros((0, 2))

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """x0, y0, x1, y1; None where there is nothing."""
        if self.kind in ("rectangle", "ellipse", "line"):
            x0, y0, x1, y1 = self._corners()
            return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
        points = self.points
        if not len(points):
            return None
        (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return x0, y0, x1, y1

    def area(self) -> float:
        """In px²; 0 for lines and points."""
        if self.kind == "ellipse":
            x0, y0, x1, y1 = self._corners()
            return float(np.pi / 4 * abs(x1 - x0) * abs(y1 - y0))
        return sum(ring_area(polygon[0]) - sum(ring_area(hole) for hole in polygon[1:]) for polygon in self.polygons)

    def _corners(self) -> tuple[float, float, float, float]:
        try:
            x0, y0, x1, y1 = (float(self.node.number(name)) for name in ("x", "y", "x2", "y2"))
        except StreamError as error:
            raise self._error(str(error)) from None
        self._check(np.array([x0, y0, x1, y1]))
        return x0, y0, x1, y1

    def _geometry(self) -> Geometry:
        if self.kind in ("rectangle", "ellipse", "line"):
            x0, y0, x1, y1 = self._corners()
            if self.kind == "line":
                return Geometry(lines=[np.array([[x0, y0], [x1, y1]])])
            return Geometry([[_rectangle(x0, y0, x1, y1) if self.kind == "rectangle" else _ellipse(x0, y0, x1, y1)]])
        self._check_known()
        try:
            if self.kind == "geometry":
                found = read_wkb(numbers(self.node.get("wkb"), "B").tobytes())
                for part in (*(r for polygon in found.polygons for r in polygon), *found.lines, *found.points):
                    self._check(part)
                return found
            xy = self._vertices()
        except ValueError as error:  # StreamError is one
            raise self._error(str(error)) from None
        if self.kind == "polygon":
            return Geometry(polygons=[[xy]] if len(xy) >= 3 else [])
        return Geometry(lines=[xy]) if self.kind == "polyline" else Geometry(points=[xy])

    def _check_known(self) -> None:
        if self.node.name not in _KINDS:
            raise Unsupported(
                f"{self._owner()}: outline stored as {self.kind}, which mxbridge does not know",
                hint="Open and save the image once in QuPath 0.4 or later",
            )

    def _vertices(self) -> Ring:
        x, y = numbers(self.node.get("x"), "F"), numbers(self.node.get("y"), "F")
        if len(x) != len(y):
            raise StreamError(f"{len(x)} x coordinates and {len(y)} y coordinates")
        xy = np.empty((len(x), 2))
        xy[:, 0], xy[:, 1] = x, y
        self._check(xy)
        return xy

    def _check(self, coordinates: NDArray[np.float64]) -> None:
        if not np.all(np.abs(coordinates) <= COORDINATE_LIMIT):  # NaN fails this as well
            raise self._error("coordinates that are not pixels (not finite, or beyond 1e8)")

    def _error(self, what: str) -> InputError:
        return InputError(f"{self._owner()}: an outline with {what}", hint="Delete or redraw this object in QuPath")

    def __repr__(self) -> str:
        return f"<ROI {self.kind} of {self._owner()}>"


@dataclass(frozen=True)
class NewROI:
    """A region to write. Make it with one of its class methods.

    kind: Java class of the stored form. polygons: outer ring and holes of each part, the two corners of a box, or points.
    """

    kind: str
    polygons: tuple[tuple[Ring, ...], ...]
    c: int = -1
    z: int = 0
    t: int = 0

    @classmethod
    def of_rings(cls, rings: Sequence[NDArray | Sequence], *, c: int = -1, z: int = 0, t: int = 0) -> NewROI:
        """From closed rings of ``(points, 2)`` x and y that do not cross each other (even-odd).

        One ring becomes a polygon (stored as float32: exact up to 2**24 px for whole numbers), several a geometry with
        its holes (float64). Raises InputError on rings without an area or with coordinates that are no pixels.
        """
        cleaned = [_open(np.asarray(ring, np.float64).reshape(-1, 2)) for ring in rings]
        if not cleaned or any(len(ring) < 3 for ring in cleaned):
            raise InputError("an outline needs rings of at least three different points")
        if not all(np.all(np.abs(ring) <= COORDINATE_LIMIT) for ring in cleaned):
            raise InputError("an outline has coordinates that are not pixels (not finite, or beyond 1e8)")
        if len(cleaned) == 1:
            return cls(d.POLYGON, ((cleaned[0],),), c, z, t)
        return cls(d.GEOMETRY, tuple(tuple(rings) for rings in nested_polygons(cleaned)), c, z, t)

    @classmethod
    def of_polygons(cls, polygons: Sequence[Sequence[Ring]], *, c: int = -1, z: int = 0, t: int = 0) -> NewROI:
        """A geometry (float64) of polygons that are known already: outer ring, then holes, of each, open rings."""
        return cls(d.GEOMETRY, tuple(tuple(rings) for rings in polygons), c, z, t)

    @classmethod
    def of_points(cls, points: Ring, *, c: int = -1, z: int = 0, t: int = 0) -> NewROI:
        """Points ``(n, 2)`` x and y, stored as float32."""
        return cls(d.POINTS, ((points,),), c, z, t)

    @classmethod
    def polyline(cls, points: Ring, *, c: int = -1, z: int = 0, t: int = 0) -> NewROI:
        """A line through points ``(n, 2)`` x and y, stored as float32."""
        return cls(d.POLYLINE, ((points,),), c, z, t)

    @classmethod
    def line(cls, x0: float, y0: float, x1: float, y1: float, *, c: int = -1, z: int = 0, t: int = 0) -> NewROI:
        return cls(d.LINE, ((_corner_pair(x0, y0, x1, y1),),), c, z, t)

    @classmethod
    def rectangle(cls, x0: float, y0: float, x1: float, y1: float, *, c: int = -1, z: int = 0, t: int = 0) -> NewROI:
        return cls(d.RECTANGLE, ((_corner_pair(x0, y0, x1, y1),),), c, z, t)

    @classmethod
    def ellipse(cls, x0: float, y0: float, x1: float, y1: float, *, c: int = -1, z: int = 0, t: int = 0) -> NewROI:
        """The ellipse within this box."""
        return cls(d.ELLIPSE, ((_corner_pair(x0, y0, x1, y1),),), c, z, t)

    def node(self, maker: Maker) -> JavaObject:
        plane = {axis: struct.pack(">i", value) for axis, value in (("c", self.c), ("z", self.z), ("t", self.t))}
        if self.kind == d.GEOMETRY:
            return maker.object(d.GEOMETRY, **plane, stats=None, wkb=maker.bytes(write_wkb(self.polygons)))
        outline = self.polygons[0][0]
        if self.kind == d.POLYGON:
            x, y = maker.floats(outline[:, 0]), maker.floats(outline[:, 1])
            return maker.object(d.POLYGON, **plane, name=None, stats=None, x=x, y=y)
        if self.kind in (d.POINTS, d.POLYLINE):
            named = {"name": None} if self.kind == d.POINTS else {}
            return maker.object(
                self.kind, **plane, **named, x=maker.floats(outline[:, 0]), y=maker.floats(outline[:, 1])
            )
        corners = zip(("x", "y", "x2", "y2"), outline.ravel().tolist(), strict=True)
        return maker.object(self.kind, **plane, name=None, **{name: struct.pack(">d", v) for name, v in corners})


def _open(ring: Ring) -> Ring:
    return ring[:-1] if len(ring) > 1 and np.array_equal(ring[0], ring[-1]) else ring


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> Ring:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _ellipse(x0: float, y0: float, x1: float, y1: float) -> Ring:
    angle = np.arange(ELLIPSE_POINTS) * (2 * np.pi / ELLIPSE_POINTS)
    centre, radius = np.array([x0 + x1, y0 + y1]) / 2, np.abs([x1 - x0, y1 - y0]) / 2
    return np.asarray(centre + radius * np.column_stack([np.cos(angle), np.sin(angle)]))


def _corner_pair(x0: float, y0: float, x1: float, y1: float) -> Ring:
    corners = np.array([[x0, y0], [x1, y1]], np.float64)
    if not np.all(np.abs(corners) <= COORDINATE_LIMIT):
        raise InputError("a box has coordinates that are not pixels (not finite, or beyond 1e8)")
    return corners
