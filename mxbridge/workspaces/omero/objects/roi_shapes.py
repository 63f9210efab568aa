"""From the shapes of OMERO's ROIs to rings of points: polygons, masks, ellipses, rectangles, and what moves them.

Pure: numbers and texts in, arrays out. Rings are open, ``(n, 2)`` float64, columns x and y in full-resolution pixels, and are
meant even-odd, as everywhere in mxbridge.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import COORDINATE_LIMIT
from mxbridge.errors import InputError
from mxbridge.workspaces.omero.objects.masks import unpacked

Ring = NDArray[np.float64]

TEXT_LIMIT = 64 << 20
"""Characters of one polygon's points; a few million points."""

_NUMBERS = re.compile(r"[0-9eE+\-.,\s]*")
_OLD_POINTS = re.compile(r"\s*points\[([^\]]*)\]")
"""Imports of old versions kept lists beside each other: ``points[..] points1[..] points2[..] mask[..]``; the first counts."""

_SAGITTA = 0.02
"""How far, in pixels, the polygon that stands for an ellipse may lie within it."""

MASK_LIMIT, EDGE_LIMIT = 1 << 28, 10_000_000
"""Pixels of one mask's box, and how often pixels inside and outside may lie side by side in it: noise has no outline."""


def polygon(points: str) -> list[Ring]:
    """The ring of ``Polygon.points``: ``x,y x,y ...``, or ``points[x,y ...] ...`` of old imports.

    A repeated last point is dropped. Raises InputError on anything else, in time linear in the text.
    """
    if len(points) > TEXT_LIMIT:
        raise InputError(f"its points are a text of {len(points):,} characters")
    old = _OLD_POINTS.match(points)
    text = old.group(1) if old else points
    if not _NUMBERS.fullmatch(text):
        raise InputError("its points are not numbers x,y x,y ...")
    try:
        numbers = np.array(text.replace(",", " ").split(), np.float64)
    except ValueError as error:
        raise InputError("its points are not numbers x,y x,y ...") from error
    if len(numbers) % 2:
        raise InputError("its points are not pairs x,y")
    return [_ring(numbers.reshape(-1, 2))]


def rectangle(x: float, y: float, width: float, height: float) -> list[Ring]:
    """Raises InputError on sizes that are no area."""
    if not (width > 0 and height > 0):
        raise InputError(f"a rectangle of {width:g} x {height:g} pixels has no area")
    return [_ring(np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]))]


def ellipse(x: float, y: float, rx: float, ry: float) -> list[Ring]:
    """The polygon that stands for an ellipse around (x, y); its area is within 0.02 pixels along the rim. Raises InputError."""
    radius = max(rx, ry)
    if not (rx > 0 and ry > 0 and radius <= COORDINATE_LIMIT):
        raise InputError(f"an ellipse with radii {rx:g} and {ry:g} has no area")
    steps = int(np.clip(np.ceil(np.pi / np.sqrt(2 * _SAGITTA / max(radius, 1))), 32, 4096))
    angles = np.arange(steps) * (2 * np.pi / steps)
    return [_ring(np.column_stack([x + rx * np.cos(angles), y + ry * np.sin(angles)]))]


def mask(x: float, y: float, width: float, height: float, bits: bytes) -> list[Ring]:
    """The rings along the pixel edges of a mask, holes and separate parts included. Raises InputError on wrong byte counts."""
    if not (width >= 1 and height >= 1 and width * height <= MASK_LIMIT):
        raise InputError(f"a mask of {width:g} x {height:g} pixels")
    if width != int(width) or height != int(height):
        raise InputError(f"a mask of {width:g} x {height:g} pixels: not whole numbers")
    corner = np.array([x, y])
    return [_ring(ring + corner) for ring in traced(unpacked(bits, int(height), int(width)))]


def traced(pixels: NDArray[np.bool_]) -> list[Ring]:
    """Rings (x, y) along the pixel edges of everything that is true in ``(y, x)``; empty when nothing is.

    Raises InputError for what is too ragged to have an outline.
    """
    from rasterio.features import shapes

    if not pixels.any():
        return []
    if np.count_nonzero(pixels[:, 1:] != pixels[:, :-1]) > EDGE_LIMIT:
        raise InputError("a mask of noise, with more than ten million edges")
    values = pixels.astype(np.uint8)
    found = shapes(values, mask=pixels, connectivity=4)
    return [np.asarray(ring[:-1], np.float64) for geometry, _ in found for ring in geometry["coordinates"]]


def moved(rings: list[Ring], matrix: tuple[float, float, float, float, float, float]) -> list[Ring]:
    """Rings after OMERO's AffineTransform (a00, a10, a01, a11, a02, a12). Raises InputError when it is none."""
    a00, a10, a01, a11, a02, a12 = matrix
    linear, shift = np.array([[a00, a10], [a01, a11]]), np.array([a02, a12])
    if not (np.all(np.isfinite(linear)) and np.all(np.isfinite(shift))) or a00 * a11 == a01 * a10:
        raise InputError("its transform is none")
    with np.errstate(over="ignore", invalid="ignore"):
        return [_ring(ring @ linear + shift) for ring in rings]


def meets(rings: list[Ring], shape: tuple[int, int]) -> bool:
    """Whether the box around the rings meets an image of ``shape`` (y, x)."""
    if not rings:
        return False
    xy = np.concatenate(rings)
    low, high = xy.min(axis=0), xy.max(axis=0)
    return bool(low[0] < shape[1] and low[1] < shape[0] and high[0] > 0 and high[1] > 0)


def _ring(points: NDArray[np.float64]) -> Ring:
    points = np.asarray(points, np.float64)
    if len(points) > 1 and np.array_equal(points[0], points[-1]):
        points = points[:-1]
    if len(points) < 3:
        raise InputError(f"{len(points)} points enclose no area")
    if not np.all(np.abs(points) <= COORDINATE_LIMIT):
        raise InputError("it has coordinates that are no pixels")
    return points
