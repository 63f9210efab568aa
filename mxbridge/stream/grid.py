"""Tiles in pure integers: which pixels a tile answers for (its core) and which the network must see for that (its outer box).

Cores start at multiples of the network's stride, so that its poolings fall on the same pixels in every tile as in one pass
over the whole image. An outer box is the core and a halo of true neighbours; it ends where the padded image ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mxbridge.errors import UsageError
from mxbridge.image import Box


@dataclass(frozen=True)
class Tile:
    """core: inside the image. outer: inside the padded image, sides multiples of the stride. Both in the grid's pixels."""

    index: int
    core: Box
    outer: Box

    @property
    def core_in_outer(self) -> Box:
        """The core, counted from the first pixel of the outer box."""
        y, x = self.outer.y0, self.outer.x0
        return Box(self.core.y0 - y, self.core.x0 - x, self.core.y1 - y, self.core.x1 - x)


@dataclass(frozen=True)
class Grid:
    """Tiles of an image, row by row; every pixel lies in exactly one core.

    shape: (y, x) of the image. stride, halo: of the network; halo is a multiple of stride.
    core: side of a core, a multiple of stride. minimum: smallest side of the padded image.
    """

    shape: tuple[int, int]
    stride: int
    halo: int
    core: int
    minimum: int = 1

    def __post_init__(self) -> None:
        if (
            min(self.shape) < 1
            or self.stride < 1
            or self.halo % self.stride
            or self.core % self.stride
            or self.core < 1
        ):
            raise ValueError(f"no grid: {self}")

    @classmethod
    def of_tiles(cls, shape: tuple[int, int], *, stride: int, halo: int, tile: int, minimum: int = 1) -> Grid:
        """The grid whose outer boxes are at most ``tile`` wide; one tile for an image that fits into it.

        Raises UsageError when that leaves no core.
        """
        core = (tile - 2 * halo) // stride * stride
        if core < stride:
            raise UsageError(
                f"a tile of {tile} px is too small for this network, which looks {halo} px around each pixel",
                hint=f"Use --tile {2 * halo + stride} or more",
            )
        grid = cls(shape, stride, halo, core, minimum)
        if max(grid.padded) <= tile:
            return cls(shape, stride, halo, max(grid.padded), minimum)
        return grid

    @property
    def padded(self) -> tuple[int, int]:
        """(y, x) of the image after padding on the right and at the bottom."""
        return self._padded(self.shape[0]), self._padded(self.shape[1])

    def _padded(self, length: int) -> int:
        return max(round_up(length, self.stride), round_up(self.minimum, self.stride))

    @property
    def rows(self) -> int:
        return -(-self.shape[0] // self.core)

    @property
    def columns(self) -> int:
        return -(-self.shape[1] // self.core)

    def __len__(self) -> int:
        return self.rows * self.columns

    def __getitem__(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, column = divmod(index, self.columns)
        y0, y1, outer_y0, outer_y1 = self._span(row, self.shape[0])
        x0, x1, outer_x0, outer_x1 = self._span(column, self.shape[1])
        return Tile(index, Box(y0, x0, y1, x1), Box(outer_y0, outer_x0, outer_y1, outer_x1))

    def __iter__(self) -> Iterator[Tile]:
        return (self[index] for index in range(len(self)))

    def _span(self, position: int, length: int) -> tuple[int, int, int, int]:
        """First and last of the core, then of the outer box, along one axis."""
        first = position * self.core
        last = min(first + self.core, length)
        outer_last = min(round_up(last, self.stride) + self.halo, self._padded(length))
        return first, last, max(0, first - self.halo), outer_last


def round_up(length: int, step: int) -> int:
    return -(-length // step) * step
