"""Reading ahead: in order, bounded, errors where they are taken, nothing left running; the right level and bytes."""

from __future__ import annotations

import threading
import time
import tracemalloc
from contextlib import closing

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.cells import LabelCells
from mxbridge.errors import BrokenFile
from mxbridge.image import Box, Channel, LocalImage
from mxbridge.models.nimbus_input import inner_mask
from mxbridge.stream.ahead import read_ahead
from mxbridge.stream.grid import Grid
from mxbridge.stream.measure import cell_pixels
from mxbridge.stream.reader import LABEL_BYTES, TileReader, best_level
from mxbridge.stream.resample import Field


def readers_alive() -> int:
    return sum(thread.name.startswith("mxbridge-read") for thread in threading.enumerate())


@given(st.lists(st.integers(), max_size=30), st.integers(1, 4), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_results_come_in_order(jobs: list[int], workers: int, ahead: int) -> None:
    def read(job: int) -> int:
        time.sleep((job % 3) / 2000)
        return job * 2

    assert list(read_ahead(jobs, read, workers=workers, ahead=ahead)) == [job * 2 for job in jobs]
    assert readers_alive() == 0


def test_never_more_than_asked_for_are_under_way() -> None:
    started: list[int] = []
    with closing(read_ahead(range(50), started.append, workers=4, ahead=3)) as stream:
        for taken in range(10):
            next(stream)
            time.sleep(0.002)
            assert len(started) <= taken + 1 + 3
    assert readers_alive() == 0
    assert len(started) < 20


def test_the_next_one_is_read_while_one_is_worked_on() -> None:
    """Also where the queue has room for one only: tiles of many channels."""
    second = threading.Event()
    with closing(read_ahead(range(3), lambda job: job == 1 and second.set(), workers=1, ahead=1)) as stream:
        next(stream)
        assert second.wait(5)


def test_an_error_surfaces_at_its_place_and_ends_the_threads() -> None:
    def read(job: int) -> int:
        if job == 3:
            raise ValueError("bad tile")
        return job

    got = []
    with pytest.raises(ValueError, match="bad tile"):
        for item in read_ahead(range(10), read, workers=2, ahead=4):
            got.append(item)
    assert got == [0, 1, 2]
    assert readers_alive() == 0


def image(*levels: np.ndarray, um: float = 0.5) -> LocalImage:
    planes = tuple(da.from_array(level, chunks=(1, 7, 7)) for level in levels)
    return LocalImage("field", planes, tuple(Channel(str(c)) for c in range(len(levels[0]))), (um, um), "id")


def cells(labels: np.ndarray) -> LabelCells:
    values = np.unique(labels[labels > 0]).astype(np.int64)
    boxes = np.array([[*np.argwhere(labels == v).min(0), *(np.argwhere(labels == v).max(0) + 1)] for v in values])
    return LabelCells(
        tuple(map(str, values)),
        (None,) * len(values),
        labels.shape,
        da.from_array(labels),
        values,
        boxes.reshape(-1, 4),
        "h",
    )


@pytest.mark.parametrize(
    ("um", "shapes", "level"),
    [
        (0.25, [(64, 64), (32, 32), (16, 16)], 2),
        (0.5, [(64, 64), (32, 32), (16, 16)], 1),
        (0.3, [(64, 64), (32, 32), (16, 16)], 1),
        (1.0, [(64, 64), (32, 32)], 0),
        (3.0, [(64, 64), (32, 32)], 0),
        (0.5, [(65, 65), (32, 32), (16, 16)], 1),
    ],
)
def test_the_coarsest_level_that_is_fine_enough(um: float, shapes: list[tuple[int, int]], level: int) -> None:
    picture = image(*(np.zeros((1, *shape), np.uint8) for shape in shapes), um=um)
    assert best_level(picture, Field.of(picture.shape, (um, um), 1.0)) == level


def test_tiles_carry_stored_numbers_of_the_wanted_channels() -> None:
    raw = np.random.default_rng(0).integers(0, 65536, (3, 40, 52)).astype(">u2")
    labels = np.zeros((40, 52), np.int32)
    labels[30:34, 40:45] = 7
    picture = image(raw)
    field = Field.of(picture.shape, (0.5, 0.5), 1.0)
    grid = Grid(field.shape, 4, 4, 8, minimum=8)
    reader = TileReader(picture, cells(labels), [2, 0], field, grid)
    with_cells = [tile for tile in grid if reader.wanted(tile)]
    assert [tile.core for tile in with_cells] == [Box(8, 16, 16, 24), Box(16, 16, 20, 24)]
    data = reader.read(with_cells[0])
    assert data is not None
    box = data.level_box
    assert data.raw.dtype == np.dtype("=u2")
    np.testing.assert_array_equal(data.raw, raw[[2, 0], box.y0 : box.y1, box.x0 : box.x1])
    assert set(np.unique(data.owned_labels)) == {0, 1}
    assert reader.read(grid[0]) is None
    assert reader.read(grid[0], empty_too=True) is not None


def test_without_cells_every_tile_is_read_and_no_label_made() -> None:
    raw = np.random.default_rng(0).integers(0, 255, (1, 40, 52)).astype(np.uint8)
    picture = image(raw)
    field = Field.of(picture.shape, (1.0, 1.0), 1.0)
    grid = Grid(field.shape, 4, 4, 8)
    reader, with_cells = (TileReader(picture, c, [0], field, grid) for c in (None, cells(np.ones((40, 52), np.int32))))
    assert not any(reader.wanted(tile) for tile in grid)
    data = reader.read(grid[5], empty_too=True)
    assert data.labels.size == 0
    np.testing.assert_array_equal(data.raw, with_cells.read(grid[5]).raw)
    assert reader.ahead(64, 10_000) > with_cells.ahead(64, 10_000)


@given(st.sampled_from([0.5, 0.325, 0.26, 1.0]), st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_each_stored_pixel_is_answered_for_once(um: float, reduction: int) -> None:
    full = np.zeros((1, 61, 47), np.uint8)
    low = np.arange((61 // reduction) * (47 // reduction), dtype=np.int32).reshape(1, 61 // reduction, -1)
    picture = image(full.astype(np.int32), low, um=um) if reduction > 1 else image(low, um=um)
    field = Field.of(picture.shape, (um, um), um * reduction)
    grid = Grid(field.shape, 4, 4, 8, minimum=8)
    reader = TileReader(picture, cells(np.ones((61, 47), np.int32)), [0], field, grid)
    found = np.concatenate([reader.owned_raw(reader.read(tile, empty_too=True)).ravel() for tile in grid])
    np.testing.assert_array_equal(np.sort(found), low.ravel())


def test_a_finely_sampled_tile_takes_bounded_memory() -> None:
    """0.1 µm per pixel: a hundred label pixels per model pixel, so copies of them are what fills the memory."""
    side = 1600
    block = np.pad(np.ones((36, 36), np.int32), 2)
    numbers = 1 + np.arange((side // 40) ** 2, dtype=np.int32).reshape(side // 40, -1)
    labels = np.kron(numbers, block)
    values = np.arange(1, numbers.size + 1)
    every = LabelCells(
        tuple(map(str, values)), (None,) * len(values), labels.shape, da.from_array(labels, chunks=400), values,
        np.tile([0, 0, side, side], (len(values), 1)), "h",
    )  # fmt: skip
    plane = da.zeros((1, side, side), dtype=np.uint8, chunks=400)
    picture = LocalImage("field", (plane,), (Channel("A"),), (0.1, 0.1), "id")
    field = Field.of(picture.shape, (0.1, 0.1), 1.0)
    reader = TileReader(picture, every, [0], field, Grid(field.shape, 4, 4, 160))
    tracemalloc.start()
    try:
        raster = every.raster(Box(0, 0, side, side))
        assert tracemalloc.get_traced_memory()[1] < 18 * side**2
        np.testing.assert_array_equal(raster, labels)
        del raster
        tracemalloc.reset_peak()
        data = reader.read(reader.grid[0])
        inner = inner_mask(data.labels)
        pixels = cell_pixels(data, inner, reader)
        data = data.without_labels()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1.1 * (LABEL_BYTES + 1) * side**2
    assert peak < 32 * side**2
    np.testing.assert_array_equal(pixels.shape[0], 36 * 36)
    np.testing.assert_array_equal(pixels.map_weights.sum(axis=1), 36 * 36)


def test_unreadable_pixels_name_the_place() -> None:
    def broken(block: np.ndarray) -> np.ndarray:
        raise OSError("truncated strip")

    picture = image(np.zeros((1, 20, 20), np.uint8))
    level = picture.levels[0].map_blocks(broken, dtype=np.uint8, meta=np.zeros((0, 0, 0), np.uint8))
    picture = LocalImage("field", (level,), picture.channels, (1.0, 1.0), "id")
    field = Field.of(picture.shape, (1.0, 1.0), 1.0)
    reader = TileReader(picture, cells(np.ones((20, 20), np.int32)), [0], field, Grid(field.shape, 4, 4, 8))
    with pytest.raises(BrokenFile, match=r"field: .* level 0 cannot be read .truncated strip"):
        reader.read(reader.grid[0])
