"""Fixed windows in pure integers, for networks that must see squares of one size: where they lie, and who answers for a pixel.

Along each axis neighbouring windows meet at a cut. In a ramp around it both have a share, which adds up to one; with ramps of
width 0 every pixel belongs to one window alone. At most two windows of an axis have a share in a pixel, and everything before
the ramp of a cut is settled once the window before it is there: a slide is put together band by band.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import UsageError
from mxbridge.image import Box
from mxbridge.stream.grid import round_up


@dataclass(frozen=True)
class Window:
    """box: in the grid's pixels; beyond the right and bottom border of an image smaller than a window, which is mirrored there."""

    index: int
    row: int
    column: int
    box: Box


@dataclass(frozen=True)
class Axis:
    """Windows along one axis.

    length: pixels of the image. side: of a window. starts: first pixel of each, ascending. cuts: between neighbours, one fewer.
    ramp: pixels around a cut in which both have a share, even.
    """

    length: int
    side: int
    starts: tuple[int, ...]
    cuts: tuple[int, ...]
    ramp: int

    def support(self, position: int) -> tuple[int, int]:
        """First and last of the pixels in which a window has a share."""
        half = self.ramp // 2
        first = 0 if position == 0 else self.cuts[position - 1] - half
        return first, self.length if position == len(self.cuts) else self.cuts[position] + half

    def settled(self, position: int) -> tuple[int, int]:
        """First and last of the pixels that are settled by this window: no later one has a share, no earlier one settles them."""
        half = self.ramp // 2
        first = 0 if position == 0 else self.cuts[position - 1] - half
        return first, self.length if position == len(self.cuts) else self.cuts[position] - half

    def meeting(self, first: int, last: int) -> range:
        """Positions of the windows that have a share in a pixel of ``first <= i < last``."""
        half = self.ramp // 2
        return range(
            int(np.searchsorted(self.cuts, first - half, side="right")),
            int(np.searchsorted(self.cuts, last + half, side="left")) + 1,
        )

    def pieces(self, first: int, last: int) -> list[tuple[int, int, bool]]:
        """``first <= i < last`` cut where ramps begin and end: first and last of each piece, and whether two windows share it."""
        half = self.ramp // 2
        near = [self.cuts[window] for window in self.meeting(first, last)[:-1]]
        edges = {edge for cut in near for edge in (cut - half, cut + half) if first < edge < last}
        places = sorted({first, last} | edges)
        return [(a, b, any(cut - half <= a < cut + half for cut in near)) for a, b in pairwise(places)]

    def weights(self, position: int, first: int, last: int) -> NDArray[np.float32]:
        """Share of a window in each pixel ``first <= i < last``, 0..1; rising and falling evenly over a ramp."""
        place: NDArray[np.float64] = np.arange(first, last, dtype=np.float64) + 0.5
        out = np.ones(last - first)
        if position > 0:
            out = np.minimum(out, self._after(self.cuts[position - 1], place))
        if position < len(self.cuts):
            out = np.minimum(out, 1 - self._after(self.cuts[position], place))
        return out.astype(np.float32)

    def _after(self, cut: int, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of what lies behind a cut: 0 before its ramp, 1 after it."""
        if not self.ramp:
            return (place > cut).astype(np.float64)
        return np.clip((place - cut) / self.ramp + 0.5, 0, 1)


@dataclass(frozen=True)
class WindowGrid:
    """Windows of an image, row by row. shape: (y, x) of the image."""

    shape: tuple[int, int]
    side: int
    y: Axis
    x: Axis

    @classmethod
    def of(cls, shape: tuple[int, int], *, side: int = 512, overlap: int = 64) -> WindowGrid:
        """As few windows as overlap by ``overlap`` pixels or more, spread evenly; blended over ``overlap`` pixels.

        An image smaller than a window has one, which reaches beyond it. Raises UsageError for an overlap of more
        than a quarter of a window, where three of them could share a pixel.
        """
        if not 0 <= overlap <= side // 4 or overlap % 2:
            raise UsageError(
                f"an overlap of {overlap} px is not possible for windows of {side} px",
                hint=f"Give an even number up to {side // 4}",
            )
        return cls(shape, side, _blended(shape[0], side, overlap), _blended(shape[1], side, overlap))

    @property
    def rows(self) -> int:
        return len(self.y.starts)

    @property
    def columns(self) -> int:
        return len(self.x.starts)

    def __len__(self) -> int:
        return self.rows * self.columns

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, column = divmod(index, self.columns)
        y, x = self.y.starts[row], self.x.starts[column]
        return Window(index, row, column, Box(y, x, y + self.side, x + self.side))

    def __iter__(self) -> Iterator[Window]:
        return (self[index] for index in range(len(self)))

    def seams(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows and columns at which one window hands over to the next: the first pixel behind each cut."""
        return self.y.cuts, self.x.cuts


class PeerGrid(WindowGrid):
    """The tiles that DeepLIIF cuts for ``--tile-size``.

    They overlap by an eighth of the tile, of which each neighbour gives up half, and the last of a row or column is moved back
    into the image; where they are pasted over each other the later one stays. An axis that fits into one tile has one, and is
    mirrored beyond its end (its last pixel twice), as often as it takes. Tiles that the published program computes twice are
    there once: the result is the same.
    """

    @classmethod
    def of_tiles(cls, shape: tuple[int, int], tile: int) -> PeerGrid:
        """Raises UsageError for a tile that leaves nothing between its margins."""
        if tile < 1:
            raise UsageError(f"--tile-size {tile} is not possible", hint="Give 512 for 40x, 256 for 20x, 128 for 10x")
        return cls(shape, tile, _pasted(shape[0], tile), _pasted(shape[1], tile))


def mirror_index(first: int, last: int, size: int) -> NDArray[np.int64]:
    """Which pixel of an axis of ``size`` stands at ``first <= i < last`` when mirrored copies follow it (its last pixel twice)."""
    place = np.arange(first, last, dtype=np.int64) % (2 * size)
    return np.minimum(place, 2 * size - 1 - place)


def _blended(length: int, side: int, overlap: int) -> Axis:
    if length <= side:
        return Axis(length, side, (0,), (), overlap)
    count = round_up(length - overlap, side - overlap) // (side - overlap)
    starts = tuple((k * (length - side)) // (count - 1) for k in range(count))
    cuts = tuple((after + before + side) // 2 for before, after in pairwise(starts))
    return Axis(length, side, starts, cuts, overlap)


def _pasted(length: int, tile: int) -> Axis:
    margin = tile // 16 if length > tile else 0
    last = max(0, length - tile)
    starts = tuple(dict.fromkeys(min(start, last) for start in range(0, length, tile - 2 * margin)))
    return Axis(length, tile, starts, tuple(start + margin for start in starts[1:]), 0)
