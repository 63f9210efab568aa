"""Polygons for OMERO: fewer points, no holes, and still the same objects."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import polygon2mask

from mxbridge.workspaces.omero.objects.polygons import polygons_of, simplified
from mxbridge.workspaces.omero.objects.roi_shapes import traced

LEAST_OVERLAP = 0.95
FINE = 16
"""Points per pixel and axis at which these tests measure areas."""

NOISE = 0.001
"""What counting points along slanted edges may be wrong by."""


def _blob(seed: int, side: int, smooth: float) -> np.ndarray:
    """Pixels of one to a few parts, perhaps with holes."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), smooth)
    return np.pad(field > np.quantile(field, 0.6), 1)


BLOBS = st.builds(_blob, st.integers(0, 10_000), st.integers(4, 40), st.floats(0.5, 4))


def _area(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Which fine points lie in any of the rings, by another program than the one that is tested."""
    fine = (shape[0] * FINE, shape[1] * FINE)
    inside = np.zeros(fine, bool)
    for ring in rings:
        inside |= polygon2mask(fine, ring[:, ::-1] * FINE - 0.5)
    return inside


def _overlap(pixels: np.ndarray, rings: list[np.ndarray]) -> float:
    exact = np.kron(pixels, np.ones((FINE, FINE), bool))
    found = _area(rings, pixels.shape)
    return float((exact & found).sum() / (exact | found).sum())


@settings(deadline=None, max_examples=30)
@given(BLOBS)
def test_every_object_keeps_its_area_or_is_no_polygon(pixels: np.ndarray) -> None:
    exact = traced(pixels)
    found = polygons_of(exact)
    filled = ndimage.binary_fill_holes(pixels)  # also what is closed by corners only
    if found is None:
        assert pixels.sum() / filled.sum() < LEAST_OVERLAP + 0.01
        return
    assert _overlap(pixels, found) >= LEAST_OVERLAP - NOISE
    assert sum(map(len, found)) <= sum(map(len, exact))


def test_round_objects_become_much_simpler() -> None:
    y, x = np.ogrid[:40, :40]
    exact = traced((y - 20) ** 2 + (x - 20) ** 2 < 15**2)
    (found,) = polygons_of(exact) or []
    assert len(found) < len(exact[0]) / 3


def test_parts_are_polygons_of_their_own_small_holes_are_filled_and_large_ones_refused() -> None:
    pixels = np.zeros((40, 40), bool)
    pixels[1:11, 1:11] = pixels[20:39, 20:39] = True
    pixels[5, 5] = False
    assert len(polygons_of(traced(pixels)) or []) == 2
    pixels[22:37, 22:37] = False
    assert polygons_of(traced(pixels)) is None


def test_single_pixels_and_rectangles_stay_as_they_are() -> None:
    for shape in ((1, 1), (1, 7), (30, 2)):
        (found,) = polygons_of(traced(np.pad(np.ones(shape, bool), 1))) or []
        assert len(found) == 4
        assert found.min(axis=0).tolist() == [1, 1]
        assert found.max(axis=0).tolist() == [1 + shape[1], 1 + shape[0]]


@settings(deadline=None, max_examples=20)
@given(BLOBS, st.integers(0, 10**7), st.integers(0, 10**7))
def test_the_place_on_the_slide_changes_nothing(pixels: np.ndarray, x: int, y: int) -> None:
    here = traced(pixels)
    there = [ring + np.array([x, y]) for ring in here]
    found, moved = polygons_of(here), polygons_of(there)
    assert (found is None) == (moved is None)
    for ring, other in zip(found or [], moved or [], strict=True):
        assert np.allclose(ring, other - np.array([x, y]), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(BLOBS, st.floats(0.1, 3))
@example(_blob(19, 19, 3.0), 1.75)
def test_left_out_points_lie_near_the_simplified_ring(pixels: np.ndarray, tolerance: float) -> None:
    for ring in traced(pixels):
        simple = simplified(ring, tolerance)
        kept = {tuple(p) for p in simple}
        assert kept <= {tuple(p) for p in ring}
        for point in ring:
            assert _distance(point, simple) <= tolerance + 1e-3


def _distance(point: np.ndarray, ring: np.ndarray) -> float:
    a, b = ring, np.roll(ring, -1, axis=0)
    length = ((b - a) ** 2).sum(axis=1)
    along = np.clip(((point - a) * (b - a)).sum(axis=1) / np.where(length > 0, length, 1), 0, 1)
    return float(np.sqrt((((a + along[:, None] * (b - a)) - point) ** 2).sum(axis=1)).min())
