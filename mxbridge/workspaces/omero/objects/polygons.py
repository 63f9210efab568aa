"""Outlines as the polygons that OMERO knows: one ring without holes each, simplified as far as the object stays the same.

OMERO's Polygon has no holes and no parts. Parts become several shapes of one ROI; a hole is filled where the object stays what
it was (see :data:`LEAST_OVERLAP`), and an object whose holes matter is no polygon here: it becomes a mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Rings, rasterise
from mxbridge.image import Box
from mxbridge.workspaces.geojson import area_geometry

Ring = NDArray[np.float64]

LEAST_OVERLAP = 0.95
"""Intersection over union with the exact outline that every polygon keeps."""

TOLERANCES = (2.5, 1.7, 1.2, 0.85, 0.4)
"""How far, in pixels, points may lie off the simplified outline; the first that keeps enough is taken, then the exact outline."""

DECIMALS = 2

_SAMPLES, _MOST_SAMPLES = 1 << 16, 1 << 22
"""Points at which an overlap is measured: small objects finer than their pixels, those above 2048² pixels coarser."""
_FINEST = 16
_ERROR = 0.003
"""By which a measured overlap may be too large, mostly along slanted edges."""


def polygons_of(rings: list[Ring]) -> list[Ring] | None:
    """Simplified outer rings (x, y, two decimals) that together overlap the even-odd area of ``rings`` enough.

    None where no set of plain rings does: then the holes are too much of the object.
    """
    geometry = area_geometry([ring for ring in rings if len(ring) >= 3]).polygons
    if not geometry:
        return []
    parts = [polygon[0] for polygon in geometry]
    area = sum(_area(ring) for ring in parts) - sum(_area(ring) for polygon in geometry for ring in polygon[1:])
    frame = _Frame(rings)
    exact = frame.raster(rings)
    if not exact.any():  # thinner than what is looked at: nothing to simplify
        return [np.round(part, DECIMALS) for part in parts]
    for tolerance in (*TOLERANCES, 0.0):
        simple = [np.round(simplified(part, tolerance), DECIMALS) for part in parts]
        if tolerance and (min(map(len, simple)) < 3 or not _alike(area, sum(map(_area, simple)))):
            continue
        if frame.overlap(exact, simple) >= LEAST_OVERLAP + _ERROR:
            return simple
    return None


def simplified(ring: Ring, tolerance: float) -> Ring:
    """A closed ring with fewer of its own points, none of those left out farther than ``tolerance`` from it."""
    import cv2

    if tolerance <= 0 or len(ring) <= 4:
        return ring
    corner = ring.min(axis=0)  # float32 holds no fractions far from 0
    # OpenCV's last look at a closed ring drops points up to 0.71 epsilon off once more
    epsilon = tolerance / (1 + 0.5**0.5)
    found = cv2.approxPolyDP((ring - corner).astype(np.float32)[:, None], epsilon, True)
    moved: Ring = found[:, 0].astype(np.float64) + corner
    return moved


def _area(ring: Ring) -> float:
    x, y = (ring - ring[0]).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _alike(area: float, other: float) -> bool:
    """Whether areas of this size can overlap enough at all, which is quicker to say than how much they do."""
    return min(area, other) >= LEAST_OVERLAP * max(area, other)


class _Frame:
    """A grid over some rings on which areas are compared."""

    def __init__(self, rings: list[Ring]) -> None:
        xy = np.concatenate(rings)
        self._corner = np.floor(xy.min(axis=0)) - 1
        width, height = np.ceil(xy.max(axis=0)) + 1 - self._corner
        area = width * height
        scale = float(np.clip(np.sqrt(_SAMPLES / area), min(1.0, np.sqrt(_MOST_SAMPLES / area)), _FINEST))
        self._scale = np.floor(scale) if scale > 1 else scale  # then pixel edges lie between points, and count exactly
        self._shape = (int(np.ceil(height * self._scale)), int(np.ceil(width * self._scale)))

    def raster(self, rings: list[Ring]) -> NDArray[np.bool_]:
        """Even-odd, all rings together."""
        placed = Rings.of([[(ring - self._corner) * self._scale for ring in rings]])
        return rasterise(placed, np.array([0]), Box(0, 0, *self._shape), self._shape) > 0

    def overlap(self, exact: NDArray[np.bool_], polygons: list[Ring]) -> float:
        """Of an area and the union of polygons, each filled by itself as OMERO's clients fill them."""
        filled = np.zeros_like(exact)
        for polygon in polygons:
            filled |= self.raster([polygon])
        union = int(np.count_nonzero(exact | filled))
        return int(np.count_nonzero(exact & filled)) / union if union else 1.0
