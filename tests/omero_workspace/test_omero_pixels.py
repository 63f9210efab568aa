"""Tiles over the wire: grids, byte order, what is read again after a loss, and what is written."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import InputError, SourceError
from mxbridge.image import Box
from mxbridge.workspaces.omero.image_info import PIXEL_TYPES
from mxbridge.workspaces.omero.pixels.tiles import (
    Layout,
    PlaneWriter,
    Tile,
    bands,
    decoded,
    open_pixels,
    read_layout,
    read_tiles,
    tile_to_ask_for,
    tiles_of,
)
from tests.omero_workspace.toy_pixels import Lost, ToyServer, ToyStore, noise

quick = settings(max_examples=40, deadline=None)
sides = st.integers(1, 90)
dtypes = st.sampled_from(sorted(PIXEL_TYPES.values()))


@given(shape=st.tuples(sides, sides), tile=st.tuples(st.integers(1, 40), st.integers(1, 40)))
@quick
def test_a_grid_of_tiles_covers_every_pixel_once(shape: tuple[int, int], tile: tuple[int, int]) -> None:
    seen = np.zeros(shape, int)
    for box in tiles_of(shape, tile):
        assert box.y0 % tile[0] == 0
        assert box.x0 % tile[1] == 0
        seen[box.y0 : box.y1, box.x0 : box.x1] += 1
    assert (seen == 1).all()


@given(
    corner=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    size=st.tuples(sides, sides),
    itemsize=st.sampled_from((1, 2, 4, 8)),
    limit=st.integers(8, 2000),
)
@quick
def test_bands_cover_a_box_once_and_stay_below_the_limit(
    corner: tuple[int, int], size: tuple[int, int], itemsize: int, limit: int
) -> None:
    box = Box(*corner, corner[0] + size[0], corner[1] + size[1])
    seen = np.zeros((box.y1, box.x1), int)
    for part in bands(box, size[1] * itemsize, limit):
        assert part.shape[0] * part.shape[1] * itemsize <= limit
        seen[part.y0 : part.y1, part.x0 : part.x1] += 1
    assert (seen[box.y0 :, box.x0 :] == 1).all()
    assert seen.sum() == size[0] * size[1]


@given(server=st.tuples(st.integers(0, 5000), st.integers(0, 5000)), shape=st.tuples(st.integers(1, 9000), sides))
@quick
def test_the_tile_asked_for_is_of_moderate_size_and_fits_the_servers(
    server: tuple[int, int], shape: tuple[int, int]
) -> None:
    tile = tile_to_ask_for(server, shape)
    for side, theirs, size in zip(tile, server, shape, strict=True):
        assert 1 <= side <= min(size, 2048)
        assert side == size or side == 1024 or (theirs and side % theirs == 0)


@given(dtype=dtypes, size=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99))
@quick
def test_bytes_become_the_numbers_that_were_stored(dtype: str, size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.frombuffer(rng.bytes(size[0] * size[1] * np.dtype(dtype).itemsize), dtype).reshape(size)
    box = Box(3, 4, 3 + size[0], 4 + size[1])
    values = decoded(truth.astype(truth.dtype.newbyteorder(">")).tobytes(), box, np.dtype(dtype), "x")
    assert values.dtype == np.dtype(dtype)
    assert values.flags.writeable
    np.testing.assert_array_equal(values, truth)


@pytest.mark.parametrize("change", [-1, 1, -18])
def test_an_answer_of_another_length_is_an_error_not_zeros(change: int) -> None:
    data = b"\1" * 18
    with pytest.raises(SourceError, match=r"image 7.* bytes instead of 18 for 3 x 3 pixels at \(4, 2\)"):
        decoded(data[:change] if change < 0 else data + b"\1", Box(2, 4, 5, 7), np.dtype("u2"), "image 7")


@given(data=st.data(), dtype=dtypes, readers=st.integers(1, 5))
@quick
def test_reading_goes_on_where_a_lost_session_stopped(data: st.DataObject, dtype: str, readers: int) -> None:
    pixels = noise(2, 3, 2, 40, 50, dtype=dtype)
    losses = data.draw(st.sets(st.integers(1, 60), max_size=12))

    def fail(number: int, answer: bytes) -> bytes:
        if number in losses:
            raise Lost
        return answer

    server = ToyServer(pixels, fail=fail)
    tiles = [Tile(1, c, 0, box) for c in (0, 2) for box in tiles_of((40, 50), (16, 16))]
    got = np.zeros((3, 40, 50), dtype)
    taken: Counter[Tile] = Counter()

    def attempt(work) -> None:
        def with_session(session) -> None:
            with open_pixels(session, 70, np.dtype(dtype), group_id=3) as source:
                work(source)

        server.attempt("reading", with_session)

    def take(tile: Tile, answer: bytes) -> None:
        taken[tile] += 1
        values = decoded(answer, tile.box, np.dtype(dtype), "x")
        got[tile.c, tile.box.y0 : tile.box.y1, tile.box.x0 : tile.box.x1] = values

    read_tiles(attempt, tiles, take, dtype=np.dtype(dtype), where="x", readers=readers)
    np.testing.assert_array_equal(got[[0, 2]], pixels[0, [0, 2], 1])
    assert set(taken.values()) == {1}
    assert len(taken) == len(tiles)
    assert server.calls["tiles"] == len(tiles) + server.calls["lost"]
    assert server.open_stores == 0


def test_the_first_error_stops_all_threads() -> None:
    def fail(number: int, answer: bytes) -> bytes:
        return answer[:-1] if number == 5 else answer

    server = ToyServer(noise(1, 1, 1, 400, 400), fail=fail)
    tiles = [Tile(0, 0, 0, box) for box in tiles_of((400, 400), (10, 10))]

    def attempt(work) -> None:
        work(ToySource(server))

    with pytest.raises(SourceError, match="199 bytes instead of 200"):
        read_tiles(attempt, tiles, lambda tile, answer: None, dtype=np.dtype("u2"), where="x")
    assert server.calls["tiles"] < 100


class ToySource:
    def __init__(self, server: ToyServer) -> None:
        self._store = ToyStore(server)

    def tile(self, z: int, c: int, t: int, box: Box) -> bytes:
        return self._store.getTile(z, c, t, box.x0, box.y0, box.shape[1], box.shape[0])


@pytest.mark.parametrize("listed", ["largest first", "smallest first"])
def test_levels_are_listed_from_the_largest_and_numbered_from_the_smallest(
    listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest is 0 at every server; the order of their sizes is another with some pixel buffers."""
    if listed == "smallest first":
        usual = ToyStore.getResolutionDescriptions
        monkeypatch.setattr(ToyStore, "getResolutionDescriptions", lambda store: usual(store)[::-1])
    server = ToyServer(noise(1, 1, 1, 160, 240), levels=3, tile=(64, 32))
    layout = read_layout(server, server.info)
    assert layout == Layout(((160, 240), (80, 120), (40, 60)), (None, 1, 0), (160, 240))
    for shape, number in zip(layout.shapes, layout.numbers, strict=True):
        with open_pixels(server, 70, np.dtype("u2"), group_id=3, level=number) as source:
            step = 160 // shape[0]
            values = source.read(0, 0, 0, Box(0, 0, *shape))
        np.testing.assert_array_equal(values, server.levels[0][0, 0, 0, ::step, ::step])
    flat = ToyServer(noise(1, 1, 1, 30, 20))
    assert read_layout(flat, flat.info) == Layout(((30, 20),), (None,), (30, 20))


def test_levels_that_are_not_the_images_are_an_error() -> None:
    server = ToyServer(noise(1, 1, 1, 60, 60), levels=2)
    server.levels = server.levels[1:] + server.levels[1:]
    with pytest.raises(SourceError, match=r"largest level is 30 x 30, the image 60 x 60"):
        read_layout(server, server.info)


@given(dtype=dtypes, order=st.sampled_from("<>="), size=st.tuples(sides, sides), seed=st.integers(0, 9))
@quick
def test_what_is_written_comes_back_whatever_its_byte_order(
    dtype: str, order: str, size: tuple[int, int], seed: int
) -> None:
    server = ToyServer(np.zeros((1, 2, 1, *size), dtype))
    values = noise(*size, dtype=dtype, seed=seed).astype(np.dtype(dtype).newbyteorder(order))
    with PlaneWriter(server, 70, 3) as writer:
        for box in tiles_of(size, (32, 32)):
            writer.write(0, 1, 0, box, values[box.y0 : box.y1, box.x0 : box.x1])
        writer.finish()
    assert server.calls["saved"] == 1
    assert server.open_stores == 0
    with open_pixels(server, 70, np.dtype(dtype), group_id=3) as source:
        back = source.read(0, 1, 0, Box(0, 0, *size))
    np.testing.assert_array_equal(back, values)
    assert not server.levels[0][0, 0].any()


@pytest.mark.parametrize("wrong", ["i2", "u4", "f4", "?"])
def test_values_of_another_type_are_not_written(wrong: str) -> None:
    server = ToyServer(np.zeros((1, 1, 1, 4, 4), "u2"))
    with PlaneWriter(server, 70, 3) as writer, pytest.raises(InputError, match="the image holds uint16"):
        writer.write(0, 0, 0, Box(0, 0, 4, 4), np.ones((4, 4), wrong))
    assert not server.calls["written"]


def test_values_of_another_shape_are_not_written() -> None:
    server = ToyServer(np.zeros((1, 1, 1, 4, 4), "u2"))
    with PlaneWriter(server, 70, 3) as writer, pytest.raises(InputError, match="do not fit"):
        writer.write(0, 0, 0, Box(0, 0, 4, 3), np.ones((4, 4), "u2"))
    assert server.open_stores == 0
