"""Outlines hold the pixels they are of, whatever the blocks; cells hold their nuclei and do not overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from seg_images import FormulaSlide, tangled

from mxbridge.cells import Rings, rasterise
from mxbridge.errors import UsageError
from mxbridge.image import Box
from mxbridge.nuclei import corners as module
from mxbridge.nuclei.corners import corners_of, rings_of_corners
from mxbridge.nuclei.find import find_nuclei
from mxbridge.nuclei.outlines import outlines
from mxbridge.nuclei.thresholds import Thresholds


def drawn(rings: Rings, shape: tuple[int, int]) -> np.ndarray:
    return rasterise(rings, np.arange(len(rings)), Box(0, 0, *shape), shape)


def assert_same_rings(one: Rings, two: Rings) -> None:
    for name in ("xy", "ring_starts", "object_starts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(3, 40), st.integers(3, 40), st.integers(2, 45), st.integers(0, 3))
def test_outlines_hold_their_pixels(seed: int, height: int, width: int, block: int, skip: int) -> None:
    source = tangled(seed, height, width)
    nuclei = find_nuclei(source, Thresholds(), block=block)
    keep = np.arange(len(nuclei)) % 4 != skip
    rings, none = outlines(source, nuclei, keep)
    raster = nuclei.atlas.raster(source, Box(0, 0, height, width))
    number = np.zeros(len(nuclei) + 2, int)
    number[1:-1][keep] = np.arange(1, keep.sum() + 1)
    assert none is None
    assert len(rings) == keep.sum()
    np.testing.assert_array_equal(drawn(rings, (height, width)), number[raster])
    once = find_nuclei(source, Thresholds(), block=64)
    assert_same_rings(rings, outlines(source, once, keep)[0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12))
def test_rings_of_any_labels(seed: int, height: int, width: int) -> None:
    """Labels that touch, with holes: every ring is closed along pixel edges, turns at every corner and touches no point twice
    in a row; together they are the label."""
    labels = np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.int32)
    rings = rings_of_corners(corners_of(np.pad(labels, 1), 0, 0), 3)
    np.testing.assert_array_equal(drawn(rings, (height, width)), labels)
    for k in range(3):
        four = ndimage.label(labels == k + 1)[1]
        around = np.pad(labels != k + 1, 1, constant_values=True)
        holes = ndimage.label(around, np.ones((3, 3)))[1] - 1
        assert len(rings.rings_of(k)) == four + holes
        for ring in rings.rings_of(k):
            steps = np.roll(ring, -1, axis=0) - ring
            assert np.all((steps == 0).sum(axis=1) == 1)
            assert np.all((steps[:, 0] == 0) != (np.roll(steps[:, 0], 1) == 0))
            assert steps[0, 0] > 0
            assert tuple(ring[0, ::-1]) == min(map(tuple, ring[:, ::-1]))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(10, 30), st.sampled_from([1, 1.5, 4, 7.3]))
def test_cells_are_grown_alike_in_all_blocks(seed: int, block: int, distance: float) -> None:
    source = tangled(seed, 40, 34)
    nuclei = find_nuclei(source, Thresholds(), block=block)
    keep = np.arange(len(nuclei)) % 3 != 1
    own, grown = outlines(source, nuclei, keep, expand_px=distance)
    once = find_nuclei(source, Thresholds(), block=64)
    own_once, grown_once = outlines(source, once, keep, expand_px=distance)
    assert_same_rings(own, own_once)
    assert_same_rings(grown, grown_once)
    assert_same_rings(own, outlines(source, nuclei, keep)[0])
    small, large = drawn(own, (40, 34)), drawn(grown, (40, 34))
    assert np.all(large[small > 0] == small[small > 0])
    if not keep.any():
        return
    far = np.stack([ndimage.distance_transform_edt(small != k + 1) for k in range(keep.sum())])
    np.testing.assert_array_equal(large > 0, far.min(axis=0) <= distance)
    y, x = np.nonzero(large)
    np.testing.assert_array_equal(far[large[y, x] - 1, y, x], far.min(axis=0)[y, x])


def test_many_outlines_are_joined_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = FormulaSlide((300, 300))
    nuclei = find_nuclei(slide, Thresholds(), block=128)
    keep = np.ones(len(nuclei), bool)
    at_once = outlines(slide, nuclei, keep)[0]
    monkeypatch.setattr(module, "AT_ONCE", 100)
    assert_same_rings(outlines(slide, nuclei, keep)[0], at_once)


def test_no_cells_beyond_reason() -> None:
    slide = FormulaSlide((64, 64))
    nuclei = find_nuclei(slide, Thresholds())
    with pytest.raises(UsageError, match="grown by 1e"):
        outlines(slide, nuclei, np.ones(len(nuclei), bool), expand_px=1e9)
    rings, grown = outlines(slide, nuclei, np.zeros(len(nuclei), bool), expand_px=3)
    assert len(rings) == len(grown) == 0
