"""Which pixels a cell owns: centres, holes, overlaps, and no trace of the tiling."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.cells import BoxIndex, LabelCells, OutlineCells, Rings
from mxbridge.errors import InputError
from mxbridge.image import Box
from tests.outlines import areas

WHOLE = Box(0, 0, 40, 50)


def outlines(*objects: list[np.ndarray], shape: tuple[int, int] = (40, 50)) -> OutlineCells:
    n = len(objects)
    return OutlineCells(tuple(f"cell {i}" for i in range(n)), (None,) * n, shape, Rings.of(objects))


def square(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def test_a_pixel_belongs_to_a_cell_when_its_centre_lies_inside() -> None:
    labels = outlines([square(2, 3, 5, 7)]).raster(WHOLE)
    assert labels[3:7, 2:5].all()
    assert labels.sum() == 12
    half = outlines([square(2.6, 3.4, 5.4, 7.6)]).raster(WHOLE)  # centres at 3.5, 4.5 / 3.5 ... 6.5, and 7.5
    assert half.sum() == 2 * 5


def test_holes_are_not_cell() -> None:
    ring = outlines([square(0, 0, 10, 10), square(3, 3, 7, 7)])
    labels = ring.raster(WHOLE)
    assert labels.sum() == 100 - 16
    assert labels[5, 5] == 0
    assert areas(ring.outlines)[0] == pytest.approx(84)


def test_separate_parts_add_up() -> None:
    parts = outlines([square(0, 0, 4, 4), square(10, 10, 14, 12)])
    assert parts.raster(WHOLE).sum() == 24
    assert areas(parts.outlines)[0] == pytest.approx(24)


def test_the_later_cell_paints_over_the_earlier() -> None:
    labels = outlines([square(0, 0, 10, 10)], [square(5, 0, 15, 10)]).raster(WHOLE)
    assert labels[5, 4] == 1
    assert labels[5, 5] == 2
    assert np.count_nonzero(labels == 1) == 50


def test_outside_the_image_is_background() -> None:
    cells = outlines([square(-5, -5, 60, 60)])
    labels = cells.raster(Box(-3, -3, 43, 53))
    assert labels.sum() == 40 * 50
    assert not labels[:3].any()


def test_cells_without_area_own_nothing() -> None:
    cells = outlines([square(1.6, 1.6, 1.9, 1.9)], [], [square(3, 3, 6, 6)])
    labels = cells.raster(WHOLE)
    assert set(np.unique(labels)) == {0, 3}
    assert np.isnan(cells.outlines.bounds()[1]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2e8])
def test_coordinates_that_are_no_pixels_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="not pixels"):
        Rings.of([[np.array([[0, 0], [1, bad], [2, 2]])]])


coordinates = st.integers(0, 50 * 8).map(lambda v: v / 8) | st.floats(0, 50, width=32)
polygons = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9).map(lambda p: np.array(p, float))


@settings(deadline=None, max_examples=60)
@given(st.lists(polygons, min_size=1, max_size=6), st.integers(1, 39), st.integers(1, 49))
def test_tiles_put_together_are_the_whole(shapes: list[np.ndarray], cut_y: int, cut_x: int) -> None:
    cells = outlines(*([p] for p in shapes))
    whole = cells.raster(WHOLE)
    tiled = np.block(
        [
            [cells.raster(Box(0, 0, cut_y, cut_x)), cells.raster(Box(0, cut_x, cut_y, 50))],
            [cells.raster(Box(cut_y, 0, 40, cut_x)), cells.raster(Box(cut_y, cut_x, 40, 50))],
        ]
    )
    np.testing.assert_array_equal(tiled, whole)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(*[st.floats(-2000, 9000)] * 2, *[st.floats(0, 3000)] * 2), max_size=20),
    st.tuples(*[st.integers(-3000, 9000)] * 2, *[st.integers(1, 4000)] * 2),
)
def test_the_index_finds_exactly_the_boxes_that_meet(rows: list, query: tuple) -> None:
    boxes = np.array([[y, x, y + h, x + w] for y, x, h, w in rows]).reshape(-1, 4)
    box = Box(query[0], query[1], query[0] + query[2], query[1] + query[3])
    expected = [
        i for i, (y0, x0, y1, x1) in enumerate(boxes) if y0 < box.y1 and y1 > box.y0 and x0 < box.x1 and x1 > box.x0
    ]
    assert BoxIndex(boxes).hits(box).tolist() == expected


def test_the_index_holds_huge_outlines_without_filling_every_bucket() -> None:
    index = BoxIndex(np.array([[0, 0, 9e7, 9e7], [5, 5, 6, 6]]))
    assert len(index._buckets) == 1
    assert index.hits(Box(8_000_000, 8_000_000, 8_000_010, 8_000_010)).tolist() == [0]


def test_labels_of_any_value_become_indices() -> None:
    pixels = np.zeros((6, 8), np.int64)
    pixels[1:3, 1:3], pixels[4:, 5:] = 70_000, 2**40
    values = np.array([70_000, 2**40])
    boxes = np.array([[1, 1, 3, 3], [4, 5, 6, 8]])
    cells = LabelCells(("70000", str(2**40)), (None, None), (6, 8), da.from_array(pixels), values, boxes, "hash")
    labels = cells.raster(Box(-1, -1, 7, 9))
    assert np.count_nonzero(labels == 1) == 4
    assert np.count_nonzero(labels == 2) == 6
    assert not cells.any_in(Box(3, 0, 4, 8))


def test_the_geometry_hash_follows_shapes_and_ids() -> None:
    one, same, moved = outlines([square(0, 0, 4, 4)]), outlines([square(0, 0, 4, 4)]), outlines([square(0, 0, 4, 5)])
    assert one.geometry_hash() == same.geometry_hash() != moved.geometry_hash()
