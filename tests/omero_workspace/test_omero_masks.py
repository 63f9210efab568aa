"""Masks: every bit where OMERO keeps it, whatever made them."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import InputError
from mxbridge.formats.label_outlines import labels_to_outlines
from mxbridge.formats.labels import scan_labels
from mxbridge.image import Box
from mxbridge.workspaces.omero.objects import roi_shapes
from mxbridge.workspaces.omero.objects.masks import (
    Mask,
    masks_of_cells,
    masks_of_outlines,
    masks_of_raster,
    packed,
    unpacked,
)

SIDES = st.tuples(st.integers(1, 23), st.integers(1, 23))
PIXELS = SIDES.flatmap(lambda shape: arrays(bool, shape))
RASTERS = SIDES.flatmap(lambda shape: arrays(np.int32, shape, elements=st.integers(0, 5)))


@settings(deadline=None, max_examples=60)
@given(PIXELS)
def test_bits_are_most_significant_first_and_rows_follow_without_padding(pixels: np.ndarray) -> None:
    mask = packed(pixels, 3, 4)
    assert mask.box == Box(3, 4, 3 + pixels.shape[0], 4 + pixels.shape[1])
    assert len(mask.bits) == -(-pixels.size // 8)
    for index, value in enumerate(pixels.ravel()):
        assert bool(mask.bits[index // 8] >> (7 - index % 8) & 1) == value
    assert np.array_equal(unpacked(mask.bits, *pixels.shape), pixels)


@settings(deadline=None, max_examples=60)
@given(RASTERS)
def test_masks_of_a_raster_are_its_labels_exactly_in_tight_boxes(labels: np.ndarray) -> None:
    found = dict(masks_of_raster(labels, 100, 200))
    assert list(found) == [k for k in np.unique(labels) if k]
    assert np.array_equal(_painted(found, labels.shape, (100, 200)), labels)
    for mask in found.values():
        pixels = unpacked(mask.bits, *mask.box.shape)
        assert pixels[0].any() and pixels[-1].any() and pixels[:, 0].any() and pixels[:, -1].any()


@settings(deadline=None, max_examples=40)
@given(RASTERS)
def test_label_images_and_their_outlines_give_the_same_masks(labels: np.ndarray) -> None:
    cells = scan_labels(da.from_array(labels), labels.shape, where="here")
    from_labels = dict(masks_of_cells(cells))
    assert from_labels == dict(masks_of_cells(labels_to_outlines(cells)))
    assert np.array_equal(_painted({cells.values[k]: m for k, m in from_labels.items()}, labels.shape), labels)


@settings(deadline=None, max_examples=40)
@given(PIXELS, st.integers(-5, 5), st.integers(-5, 5))
def test_a_mask_read_from_omero_has_the_pixels_that_its_bits_say(pixels: np.ndarray, y: int, x: int) -> None:
    mask = packed(pixels, y, x)
    rings = roi_shapes.mask(x, y, pixels.shape[1], pixels.shape[0], mask.bits)
    size = (30, 31)
    cells = OutlineCells(("1:1",), (None,), size, Rings.of([rings]))
    expected = np.zeros((60, 61), np.int32)
    expected[10 + y : 10 + y + pixels.shape[0], 10 + x : 10 + x + pixels.shape[1]] = pixels
    assert np.array_equal(cells.raster(Box(0, 0, *size)), expected[10 : 10 + size[0], 10 : 10 + size[1]])


def test_overlapping_outlines_keep_all_their_pixels_and_the_image_cuts_them() -> None:
    square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    outlines = Rings.of([[square], [square + 2], [square - 2], [square + 50], []])
    found = dict(masks_of_outlines(outlines, (6, 6)))
    assert {k: m.box for k, m in found.items()} == {0: Box(0, 0, 4, 4), 1: Box(2, 2, 6, 6), 2: Box(0, 0, 2, 2)}
    assert all(unpacked(m.bits, *m.box.shape).all() for m in found.values())


@pytest.mark.parametrize("size", [0, 2, 4, 1000])
def test_another_number_of_bytes_is_no_mask(size: int) -> None:
    with pytest.raises(InputError, match="mask of 5 x 4 pixels needs 3 bytes"):
        unpacked(bytes(size), 4, 5)


@pytest.mark.parametrize(
    ("width", "height"), [(0, 4), (-5, -4), (float("nan"), 4), (5.5, 4), (1e9, 1e9), (float("inf"), 1)]
)
def test_boxes_that_are_none_are_refused_before_anything_is_unpacked(width: float, height: float) -> None:
    with pytest.raises(InputError, match="a mask of"):
        roi_shapes.mask(0, 0, width, height, bytes(3))


def test_negative_labels_are_no_objects() -> None:
    with pytest.raises(InputError, match="below 0"):
        list(masks_of_raster(np.array([[-1, 0]], np.int32)))


def _painted(masks: dict[int, Mask], shape: tuple[int, int], corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    image = np.zeros(shape, np.int64)
    for label, mask in masks.items():
        box = Box(*(np.array(mask.box) - np.array([*corner, *corner])))
        image[box.y0 : box.y1, box.x0 : box.x1][unpacked(mask.bits, *mask.box.shape)] = label
    return image


def test_cells_across_the_squares_that_are_visited_stay_whole() -> None:
    labels = np.zeros((1300, 2100), np.int32)
    labels[1000:1060, 1000:1060] = 3
    labels[5:1290, 20:40] = 900  # longer than a square
    labels[1200:1210, 2090:2100] = 7
    labels[1023:1025, 30:2000:7] = 11
    cells = scan_labels(da.from_array(labels, chunks=500), labels.shape, where="here")
    found = {int(cells.values[k]): mask for k, mask in masks_of_cells(cells)}
    assert np.array_equal(_painted(found, labels.shape), labels)
