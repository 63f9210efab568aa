"""Grids of any image, stride, halo and tile: every pixel once, aligned, with all the neighbours there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import UsageError
from mxbridge.stream.grid import Grid

sides = st.integers(1, 70)


@given(shape=st.tuples(sides, sides), depth=st.integers(0, 4), halo=st.integers(0, 6), core=st.integers(1, 9))
@settings(deadline=None, max_examples=80)
def test_every_pixel_belongs_to_one_core(shape: tuple[int, int], depth: int, halo: int, core: int) -> None:
    stride = 1 << depth
    grid = Grid(shape, stride, halo * stride, core * stride, minimum=2 * stride)
    hits = np.zeros(shape, int)
    for index, tile in enumerate(grid):
        assert tile.index == index
        hits[tile.core.y0 : tile.core.y1, tile.core.x0 : tile.core.x1] += 1
        assert tile.core == tile.core.clip(shape)
        for first, last, low, high, padded in zip(
            tile.core[:2], tile.core[2:], tile.outer[:2], tile.outer[2:], grid.padded, strict=True
        ):
            assert first % stride == low % stride == high % stride == 0
            assert low == max(0, first - grid.halo)
            assert high == padded or high >= last + grid.halo
            assert high <= padded
            assert high - low >= min(padded, stride + grid.halo)
        inside = tile.core_in_outer
        assert inside.shape == tile.core.shape
        assert inside.y0 + tile.outer.y0 == tile.core.y0
    assert (hits == 1).all()
    assert len(grid) == index + 1


@given(shape=st.tuples(sides, sides), tile=st.integers(1, 400))
@settings(deadline=None, max_examples=100)
def test_outer_boxes_are_no_larger_than_the_tile(shape: tuple[int, int], tile: int) -> None:
    if tile < 2 * 24 + 8:
        with pytest.raises(UsageError, match="--tile 56 or more"):
            Grid.of_tiles(shape, stride=8, halo=24, tile=tile)
        return
    grid = Grid.of_tiles(shape, stride=8, halo=24, tile=tile, minimum=16)
    assert all(max(t.outer.shape) <= max(tile, 16) for t in grid)
    assert (len(grid) == 1) >= (max(grid.padded) <= tile)


def test_padding_goes_to_the_right_and_bottom() -> None:
    grid = Grid((1, 33), stride=16, halo=96, core=320, minimum=32)
    assert grid.padded == (32, 48)
    assert grid[0].outer == (0, 0, 32, 48)
    with pytest.raises(IndexError):
        grid[1]


def test_nonsense_is_refused() -> None:
    for arguments in [((0, 5), 4, 8, 8), ((5, 5), 4, 7, 8), ((5, 5), 4, 8, 6), ((5, 5), 4, 8, 0)]:
        with pytest.raises(ValueError, match="no grid"):
            Grid(*arguments)


def test_padding_that_no_pixel_sees_is_left_out() -> None:
    """An image padded far beyond itself, whole or in tiles: cores inside it, and no more around them than the halo."""
    whole = Grid.of_tiles((64, 90), stride=16, halo=96, tile=4096, minimum=2048)
    assert whole.padded == (2048, 2048)
    assert [tile.outer for tile in whole] == [(0, 0, 160, 192)]
    cut = Grid.of_tiles((64, 90), stride=16, halo=96, tile=256, minimum=2048)
    assert [tile.core for tile in cut] == [(0, 0, 64, 64), (0, 64, 64, 90)]
    assert [tile.outer for tile in cut] == [(0, 0, 160, 160), (0, 0, 160, 192)]
