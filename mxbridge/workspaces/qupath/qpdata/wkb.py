"""Well-known binary of geometries, as JTS writes them into data.qpdata: two dimensions, doubles, either byte order."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""``(points, 2)``, columns x and y."""

_POINT, _LINE, _POLYGON, _MANY_POINTS, _MANY_LINES, _MANY_POLYGONS, _COLLECTION = range(1, 8)
_MAX_NESTING = 5


@dataclass
class Geometry:
    """polygons: outer ring, then holes, of each, every ring closed. lines and points: what else there is."""

    polygons: list[list[Ring]] = field(default_factory=list)
    lines: list[Ring] = field(default_factory=list)
    points: list[Ring] = field(default_factory=list)


def read_wkb(data: bytes) -> Geometry:
    """Raises ValueError on anything that is not one whole geometry of a known type."""
    out = Geometry()
    try:
        end = _read(data, 0, out, 0)
    except (IndexError, struct.error):
        raise ValueError("a geometry that ends too early") from None
    if end != len(data):
        raise ValueError("a geometry with something behind it")
    return out


def write_wkb(polygons: Sequence[Sequence[Ring]]) -> bytes:
    """A polygon, or a multipolygon when there are several; big-endian. Rings are closed where they are not."""
    parts = [
        b"\0" + struct.pack(">II", _POLYGON, len(rings)) + b"".join(_ring_bytes(ring) for ring in rings)
        for rings in polygons
    ]
    if len(parts) == 1:
        return parts[0]
    return b"\0" + struct.pack(">II", _MANY_POLYGONS, len(parts)) + b"".join(parts)


def _ring_bytes(ring: Ring) -> bytes:
    closed = ring if np.array_equal(ring[0], ring[-1]) else np.vstack([ring, ring[:1]])
    return struct.pack(">I", len(closed)) + closed.astype(">f8").tobytes()


def _read(data: bytes, at: int, out: Geometry, depth: int) -> int:
    """Read one geometry at ``at``; the position behind it."""
    if depth > _MAX_NESTING:
        raise ValueError(f"geometries nested deeper than {_MAX_NESTING} levels")
    if data[at] > 1:
        raise ValueError("a geometry of unknown byte order")
    order = "<" if data[at] else ">"
    (kind,) = struct.unpack_from(order + "I", data, at + 1)
    at += 5
    if kind == _POINT:
        point, at = _coordinates(data, at, 1, order)
        out.points.append(point)
        return at
    if not _LINE <= kind <= _COLLECTION:
        raise ValueError(f"a geometry of unknown type {kind}")
    count, at = _count(data, at, order)
    if kind == _LINE:
        line, at = _coordinates(data, at, count, order)
        out.lines.append(line)
        return at
    if kind == _POLYGON:
        rings = []
        for _ in range(count):
            points, at = _count(data, at, order)
            ring, at = _coordinates(data, at, points, order)
            rings.append(ring)
        if rings:
            out.polygons.append(rings)
        return at
    for _ in range(count):
        at = _read(data, at, out, depth + 1)
    return at


def _count(data: bytes, at: int, order: str) -> tuple[int, int]:
    (count,) = struct.unpack_from(order + "I", data, at)
    if count > len(data) - at:
        raise ValueError(f"a geometry of {count} parts, which its data cannot hold")
    return count, at + 4


def _coordinates(data: bytes, at: int, count: int, order: str) -> tuple[Ring, int]:
    if count * 16 > len(data) - at:
        raise ValueError(f"a geometry of {count} points, which its data cannot hold")
    flat = np.frombuffer(data, order + "f8", 2 * count, at)
    return flat.reshape(-1, 2).astype(np.float64), at + 16 * count
