"""What a model needs of one tile: stored integers of the wanted channels and the labels of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Cells
from mxbridge.errors import BrokenFile, MxbridgeError
from mxbridge.image import Box, LocalImage, computed
from mxbridge.stream.grid import Grid, Tile
from mxbridge.stream.resample import Field, Scale, Taps, level_step

LABEL_BYTES = 12
"""Kept of each full-resolution pixel of a waiting tile besides the raw numbers: eroded mask, weights of the cells."""


@dataclass(frozen=True)
class TileData:
    """What was read for one tile.

    raw: stored numbers ``(channels, y, x)`` in native byte order, of ``level_box`` (pixels of the level read).
    rows, columns: the way from there to the model's pixels of ``seen``.
    seen: the part of the outer box that lies in the image, in model pixels.
    labels: int32 ``(y, x)`` of ``label_box``, full-resolution pixels: 0 or cell index + 1; one pixel beyond what is seen.
    Empty where no cells were asked for.
    owned: the full-resolution pixels that this tile measures.
    """

    tile: Tile
    seen: Box
    owned: Box
    labels: NDArray[np.int32]
    label_box: Box
    level_box: Box
    rows: Taps
    columns: Taps
    raw: NDArray[Any]

    def without_labels(self) -> TileData:
        """The tile without the largest of its arrays, once everything that follows from labels is known."""
        return replace(self, labels=np.zeros((0, 0), np.int32))

    @property
    def owned_labels(self) -> NDArray[np.int32]:
        """Labels of the owned pixels."""
        y, x = self.label_box.y0, self.label_box.x0
        return self.labels[self.owned.y0 - y : self.owned.y1 - y, self.owned.x0 - x : self.owned.x1 - x]


class LevelReader:
    """Reads the stored pixels behind model pixels.

    level: the coarsest pyramid level whose pixels are no larger than the model's (0 where none is).
    """

    def __init__(self, image: LocalImage, channels: Sequence[int], field: Field) -> None:
        self.image, self.channels, self.field = image, list(channels), field
        self.level = best_level(image, field)
        shape = image.levels[self.level].shape
        self.level_shape = int(shape[1]), int(shape[2])
        self.step = level_step(image.shape[0], self.level_shape[0]), level_step(image.shape[1], self.level_shape[1])

    def pixels(self, box: Box) -> NDArray[Any]:
        """Stored numbers ``(channels, y, x)`` of ``box`` at the level read, in native byte order. Raises InputError."""
        return level_pixels(self.image, self.level, self.channels, box)

    def level_taps(self, seen: Box) -> tuple[Taps, Taps]:
        """From pixels of the level read to model pixels."""
        return (
            self.field.y.taps(seen.y0, seen.y1, self.level_shape[0], self.step[0]),
            self.field.x.taps(seen.x0, seen.x1, self.level_shape[1], self.step[1]),
        )


class TileReader(LevelReader):
    """Reads the tiles of one image for a model's grid, with the labels of its cells where there are any."""

    def __init__(
        self, image: LocalImage, cells: Cells | None, channels: Sequence[int], field: Field, grid: Grid
    ) -> None:
        super().__init__(image, channels, field)
        self.cells, self.grid = cells, grid

    def wanted(self, tile: Tile) -> bool:
        """Whether a cell may have pixels in the core: one look at the index, no pixels."""
        owned = self.field.owned(tile.core)
        return self.cells is not None and 0 not in owned.shape and self.cells.any_in(owned)

    def read(self, tile: Tile, *, empty_too: bool = False) -> TileData | None:
        """Read one tile; None, and no pixels read, if its core holds no cell (unless ``empty_too``). Raises InputError."""
        seen = tile.outer.clip(self.field.shape)
        owned = self.field.owned(tile.core)
        label_box = self.label_box(seen, owned)
        labels = np.zeros((0, 0), np.int32) if self.cells is None else self.cells.raster(label_box)
        y, x = label_box.y0, label_box.x0
        if not empty_too and not labels[owned.y0 - y : owned.y1 - y, owned.x0 - x : owned.x1 - x].any():
            return None
        rows, columns = self.level_taps(seen)
        level_box = Box(rows.start, columns.start, rows.stop, columns.stop)
        return TileData(tile, seen, owned, labels, label_box, level_box, rows, columns, self.pixels(level_box))

    def label_taps(self, seen: Box) -> tuple[Taps, Taps]:
        """From full-resolution pixels to model pixels."""
        shape = self.image.shape
        return self.field.y.taps(seen.y0, seen.y1, shape[0]), self.field.x.taps(seen.x0, seen.x1, shape[1])

    def label_box(self, seen: Box, owned: Box) -> Box:
        """Full-resolution pixels whose labels a tile needs: those it sees and owns, and one more for the erosion."""
        rows, columns = self.label_taps(seen)
        box = Box(
            min(rows.start, owned.y0) if owned.shape[0] else rows.start,
            min(columns.start, owned.x0) if owned.shape[1] else columns.start,
            max(rows.stop, owned.y1),
            max(columns.stop, owned.x1),
        )
        return box.grow(1).clip(self.image.shape)

    def level_pixel(self, labels_at: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
        """The pixel of the level read that holds each full-resolution pixel (axis 0: y, 1: x)."""
        at: NDArray[np.int64] = np.floor((labels_at + 0.5) / self.step[axis]).astype(np.int64)
        return np.minimum(at, np.int64(self.level_shape[axis] - 1))

    def owned_raw(self, data: TileData) -> NDArray[Any]:
        """The part of ``data.raw`` that this tile alone answers for: each stored pixel belongs to one tile."""
        y0, y1 = self._owned_level(data.owned.y0, data.owned.y1, 0)
        x0, x1 = self._owned_level(data.owned.x0, data.owned.x1, 1)
        part = Box(y0, x0, y1, x1).clip((data.level_box.y1, data.level_box.x1))
        y, x = data.level_box.y0, data.level_box.x0
        return data.raw[:, max(0, part.y0 - y) : max(0, part.y1 - y), max(0, part.x0 - x) : max(0, part.x1 - x)]

    def _owned_level(self, first: int, last: int, axis: int) -> tuple[int, int]:
        """Pixels of the level read whose centre lies in the full-resolution pixels ``first <= y < last``."""
        step, size = self.step[axis], self.level_shape[axis]
        low, high = max(0, int(first / step) - 2), min(size, int(last / step) + 2)
        centre = np.minimum(np.floor((np.arange(low, high) + 0.5) * step), self.image.shape[axis] - 1)
        begin, end = np.searchsorted(centre, [first, last])
        return low + int(begin), low + int(end)

    def ahead(self, workers: int, queue_bytes: int) -> int:
        """How many tiles may be read or wait while one is worked on, so that they stay within ``queue_bytes``; at least 1."""
        pixels = self.grid.core + 2 * self.grid.halo
        source = self.image.levels[self.level].dtype.itemsize * len(self.channels)
        per_model_pixel = source / _per_pixel(self.field, self.step)
        if self.cells is not None:
            per_model_pixel += LABEL_BYTES / _per_pixel(self.field, (1.0, 1.0))
        return int(min(2 * workers, max(1, queue_bytes // max(1.0, pixels**2 * per_model_pixel))))


def level_pixels(image: LocalImage, level: int, channels: list[int], box: Box) -> NDArray[Any]:
    """Stored numbers ``(channels, y, x)`` of ``box`` at a level, in native byte order. Raises InputError."""
    block = image.levels[level][channels, box.y0 : box.y1, box.x0 : box.x1]
    try:
        raw = computed(block)
    except MxbridgeError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, EOFError) as error:
        where = image.files[0] if image.files else image.name
        raise BrokenFile(where, f"pixels {tuple(box)} of level {level} cannot be read ({error})") from error
    return np.ascontiguousarray(raw.astype(raw.dtype.newbyteorder("="), copy=False))


def best_level(image: LocalImage, field: Field) -> int:
    """The coarsest level whose pixels are no larger than the model's along both axes; 0 where none is."""
    best = 0
    for level in range(1, len(image.levels)):
        shape = image.levels[level].shape
        fits = [
            level_step(full, reduced) * scale.ratio <= 1 + 1e-3
            for full, reduced, scale in zip(image.shape, shape[1:], (field.y, field.x), strict=True)
        ]
        if all(fits) and shape[1] <= image.levels[best].shape[1]:
            best = level
    return best


def _per_pixel(field: Field, step: tuple[float, float]) -> float:
    """Model pixels per pixel of a level whose pixels are ``step`` full-resolution pixels wide."""
    scales: tuple[Scale, Scale] = (field.y, field.x)
    return scales[0].ratio * step[0] * scales[1].ratio * step[1]
