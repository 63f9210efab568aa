"""Which pixels a ROI owns, against geometry written down here anew: no ring, no rasteriser, one question per pixel centre."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mxbridge.cells import OutlineCells, Rings
from mxbridge.image import Box

pytest.importorskip("omero")
pytestmark = pytest.mark.omero

SHAPE = (50, 70)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
places = st.floats(5, 45).map(lambda v: round(v, 2))
radii = st.floats(1.5, 15).map(lambda v: round(v, 2))
ROUNDED = 0.003
"""How far an edge may lie off: outlines are rounded to 1/256 pixel, see ``mxbridge.cells``."""

few = settings(max_examples=40, deadline=None)


def _owned(shape: Any) -> np.ndarray:
    """The pixels that mxbridge gives to a shape of OMERO's model."""
    from mxbridge.workspaces.omero.objects.rois import shape_rings

    rings = Rings.of([shape_rings(shape)])
    return OutlineCells(ids=("1:1",), classes=(None,), shape=SHAPE, outlines=rings).raster(Box(0, 0, *SHAPE)) == 1


def _made(kind: str, turned: tuple[float, float, float] | None = None, **fields: float) -> Any:
    """turned: (angle, dx, dy) of an AffineTransform."""
    import omero.model
    from omero.rtypes import rdouble

    shape = getattr(omero.model, f"{kind}I")()
    for name, value in fields.items():
        setattr(shape, name, rdouble(value))
    if turned is not None:
        angle, dx, dy = turned
        matrix = omero.model.AffineTransformI()
        cos, sin = math.cos(angle), math.sin(angle)
        for name, value in zip(("a00", "a10", "a01", "a11", "a02", "a12"), (cos, sin, -sin, cos, dx, dy), strict=True):
            setattr(matrix, name, rdouble(value))
        shape.transform = matrix
    return shape


def _back(turned: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Where pixel centres came from before a shape was turned and moved."""
    angle, dx, dy = turned
    x, y = X - dx, Y - dy
    return x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)


@given(x=places, y=places, rx=radii, ry=radii, turned=st.tuples(st.floats(-3, 3), st.floats(-9, 9), st.floats(-9, 9)))
@few
def test_ellipses(x: float, y: float, rx: float, ry: float, turned: tuple[float, float, float]) -> None:
    u, v = _back(turned)
    far = np.hypot((u - x) / rx, (v - y) / ry)
    owned = _owned(_made("Ellipse", turned, x=x, y=y, radiusX=rx, radiusY=ry))
    rim = 0.05 / min(rx, ry)  # what a polygon in the place of an ellipse may miss
    np.testing.assert_array_equal(owned[far < 1 - rim], True)
    np.testing.assert_array_equal(owned[far > 1 + ROUNDED / min(rx, ry)], False)


@given(x=places, y=places, w=radii, h=radii, turned=st.tuples(st.floats(-3, 3), st.floats(-9, 9), st.floats(-9, 9)))
@example(
    x=5.0, y=5.0, w=2.0, h=1.5, turned=(0.0, 0.0, 1 / 512)
)  # an edge just beyond pixel centres is rounded onto them
@few
def test_rectangles(x: float, y: float, w: float, h: float, turned: tuple[float, float, float]) -> None:
    u, v = _back(turned)
    owned = _owned(_made("Rectangle", turned, x=x, y=y, width=w, height=h))
    inside = np.minimum(np.minimum(u - x, x + w - u), np.minimum(v - y, y + h - v))
    np.testing.assert_array_equal(owned[inside > ROUNDED], True)
    np.testing.assert_array_equal(owned[inside < -ROUNDED], False)


@given(
    x=st.integers(-4, 60), y=st.integers(-4, 40), size=st.tuples(st.integers(1, 19), st.integers(1, 23)), seed=st.integers(0, 99)
)  # fmt: skip
@few
def test_masks_to_the_pixel(x: int, y: int, size: tuple[int, int], seed: int) -> None:
    """Bits one by one, the most significant first, rows after one another without padding."""
    bits = np.random.default_rng(seed).random(size) < 0.6
    bits[0, 0] = True
    data = bytearray(-(-bits.size // 8))
    expected = np.zeros(SHAPE, bool)
    for number in range(bits.size):
        row, column = divmod(number, size[1])
        if bits[row, column]:
            data[number // 8] |= 0x80 >> number % 8
            if 0 <= y + row < SHAPE[0] and 0 <= x + column < SHAPE[1]:
                expected[y + row, x + column] = True
    mask = _made("Mask", x=x, y=y, width=size[1], height=size[0])
    mask.setBytes(bytes(data))
    np.testing.assert_array_equal(_owned(mask), expected)


@given(corners=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 50)), min_size=3, max_size=7, unique=True))
@few
def test_polygons_by_the_even_odd_rule(corners: list[tuple[int, int]]) -> None:
    from omero.model import PolygonI
    from omero.rtypes import rstring

    inside = np.zeros(SHAPE, bool)
    rim = np.zeros(SHAPE, bool)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            at = ax + (Y - ay) * (bx - ax) / (by - ay)
        crosses = (ay > Y) != (by > Y)
        inside ^= crosses & (at > X)
        rim |= crosses & (np.abs(at - X) < 1e-6)
    polygon = PolygonI()
    polygon.points = rstring(" ".join(f"{x},{y}" for x, y in corners))
    if abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True))) > 0:
        owned = _owned(polygon)
        np.testing.assert_array_equal(owned[~rim], inside[~rim])
