"""Fixed windows of any image: every pixel has shares that add up to one, and the tiles of the published program are found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import UsageError
from mxbridge.stream.windows import Axis, PeerGrid, WindowGrid, mirror_index

sides = st.integers(1, 300)


@given(length=sides, side=st.integers(4, 64), share=st.integers(0, 4))
@settings(deadline=None, max_examples=150)
def test_shares_add_up_and_at_most_two_windows_have_one(length: int, side: int, share: int) -> None:
    overlap = side // 4 * share // 4 // 2 * 2
    axis = WindowGrid.of((length, 1), side=side, overlap=overlap).y
    assert_shares(axis)
    starts = np.array(axis.starts)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - side)  # windows reach beyond images that are smaller, and only those
    assert (starts[:-1] + side - starts[1:] >= overlap).all()
    fewest = 1 if length <= side else -(-(length - overlap) // (side - overlap))
    assert len(starts) == fewest


def assert_shares(axis: Axis) -> None:
    shares = np.zeros((len(axis.starts), axis.length), np.float32)
    for k, start in enumerate(axis.starts):
        first, last = axis.support(k)
        assert start <= first < last <= min(start + axis.side, axis.length)
        shares[k, first:last] = axis.weights(k, first, last)
    assert np.allclose(shares.sum(axis=0), 1, atol=1e-6)
    assert ((shares > 0).sum(axis=0) <= 2).all()
    for pixel in range(0, axis.length, 7):
        assert set(np.flatnonzero(shares[:, pixel])) <= set(axis.meeting(pixel, pixel + 1))
    pieces = axis.pieces(0, axis.length)
    assert [first for first, _, _ in pieces] + [axis.length] == [0] + [last for _, last, _ in pieces]
    for first, last, shared in pieces:
        assert last > first
        assert {int(n) for n in (shares[:, first:last] > 0).sum(axis=0)} == {2 if shared else 1}
        assert axis.pieces(first, last) == [(first, last, shared)]
    at = 0
    for k in range(len(axis.starts)):
        first, last = axis.settled(k)
        assert first == at
        at = last
        assert not shares[k + 1 :, first:last].any()  # settled: no later window has a share
        assert not shares[: max(0, k - 1), first:last].any()  # and only this one and the one before are needed
    assert at == axis.length


@given(height=sides, width=sides, tile=st.sampled_from([16, 32, 40, 64]))
@settings(deadline=None, max_examples=100)
def test_tiles_of_the_published_program(height: int, width: int, tile: int) -> None:
    """Against a plain reading of how it cuts and pastes: tile by tile, later over earlier, margins kept at the border."""
    grid = PeerGrid.of_tiles((height, width), tile)
    padded = max(height, tile), max(width, tile)
    margins = [tile // 16 if length > tile else 0 for length in (height, width)]
    owner = np.full(padded, -1)
    places: list[tuple[int, int]] = []
    for y in range(0, padded[0], tile - 2 * margins[0]):
        for x in range(0, padded[1], tile - 2 * margins[1]):
            at = min(y, padded[0] - tile), min(x, padded[1] - tile)
            places += [at] if at not in places else []
            (y0, y1), (x0, x1) = (
                (p + (m if p else 0), p + tile - (m if p != length - tile else 0))
                for p, m, length in zip(at, margins, padded, strict=True)
            )
            owner[y0:y1, x0:x1] = places.index(at)
    assert [(w.box.y0, w.box.x0) for w in grid] == places  # those computed twice are there once
    assert_shares(grid.y)
    assert_shares(grid.x)
    mine = np.full((height, width), -1)
    for window in grid:
        (y0, y1), (x0, x1) = grid.y.support(window.row), grid.x.support(window.column)
        mine[y0:y1, x0:x1] = window.index
    assert np.array_equal(mine, owner[:height, :width])


def test_tiles_computed_twice_are_there_once() -> None:
    assert PeerGrid.of_tiles((512, 960), 512).x.starts == (0, 448)
    assert len(PeerGrid.of_tiles((2048, 2048), 512)) == 25
    assert PeerGrid.of_tiles((560, 640), 512).seams() == ((80,), (160,))


def test_blended_windows_meet_in_the_middle_of_their_overlap() -> None:
    grid = WindowGrid.of((512, 1000))
    assert grid.x.starts == (0, 244, 488)
    assert grid.x.cuts == (378, 622)
    assert grid.x.support(1) == (346, 654)
    assert grid.x.weights(0, 346, 348) == pytest.approx([1 - 0.5 / 64, 1 - 1.5 / 64])
    assert (grid.rows, grid.columns, len(grid)) == (1, 3, 3)
    with pytest.raises(IndexError):
        grid[3]


@pytest.mark.parametrize("overlap", [-2, 3, 130])
def test_overlaps_that_are_refused(overlap: int) -> None:
    with pytest.raises(UsageError, match="up to 128"):
        WindowGrid.of((1000, 1000), side=512, overlap=overlap)


def test_a_tile_needs_pixels() -> None:
    with pytest.raises(UsageError, match="--tile-size 0"):
        PeerGrid.of_tiles((10, 10), 0)


@given(size=st.integers(1, 9), copies=st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_mirrored_copies_follow_an_axis(size: int, copies: int) -> None:
    axis = np.arange(size)
    pieces = [axis if k % 2 == 0 else axis[::-1] for k in range(copies)]
    assert np.array_equal(mirror_index(0, size * copies, size), np.concatenate(pieces))
