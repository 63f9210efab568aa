"""Per-cell sums and counts, tile by tile, on disk; added up in grid order, so that a resumed run ends bit for bit the same.

A full-resolution pixel is measured by the tile whose core holds the model pixel nearest to it. Nothing is enlarged to full
resolution: a cell's sum over the nearest-upsampled map is a sum over model pixels weighted by how many of the cell's pixels
each stands for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mxbridge.stream.reader import TileData, TileReader
from mxbridge.stream.records import RecordFile

Number = TypeVar("Number", bound=np.number[Any])

HEAD = struct.Struct("<QQQQ")
SHAPE_ROWS = 5
STRIP_PIXELS = 1 << 20
"""Full-resolution pixels of a tile whose cells are looked up at once: each costs about 40 bytes."""
BLOCK_BYTES = 256 * 1024**2
"""Sums held in memory at once while the records are added up."""


@dataclass(frozen=True)
class CellPixels:
    """Which pixels of a tile belong to which cell.

    cells: int32 ``(n,)`` indices of the cells with pixels in the core, ascending.
    shape: float64 ``(5, n)``: pixels, pixels left in the eroded mask, sums of y + 0.5 and x + 0.5, 1 where it touches the
    border of the image. map_weights: sparse ``(n, core pixels)``, raw_weights: sparse ``(n, level pixels)``: numbers of
    full-resolution pixels.
    """

    cells: NDArray[np.int32]
    shape: NDArray[np.float64]
    map_weights: sparse.csr_matrix
    raw_weights: sparse.csr_matrix


def cell_pixels(data: TileData, inner: NDArray[np.bool_], reader: TileReader) -> CellPixels:
    """Geometry of one tile. inner: the eroded mask ``(y, x)`` of ``data.label_box``.

    Worked through in strips: what is held of a pixel on the way would otherwise be the highest peak of a whole run.
    """
    labels, owned = data.owned_labels, data.owned
    top, left = owned.y0 - data.label_box.y0, owned.x0 - data.label_box.x0
    kept = inner[top : top + labels.shape[0], left : left + labels.shape[1]]
    core, level = data.tile.core, data.level_box.shape
    model_y = reader.field.y.model_pixel(owned.y0, owned.y1) - core.y0
    model_x = reader.field.x.model_pixel(owned.x0, owned.x1) - core.x0
    level_y = np.clip(reader.level_pixel(np.arange(owned.y0, owned.y1), 0) - data.level_box.y0, 0, level[0] - 1)
    level_x = np.clip(reader.level_pixel(np.arange(owned.x0, owned.x1), 1) - data.level_box.x0, 0, level[1] - 1)
    cells, number = _compact(labels)
    n = len(cells)
    shape = np.zeros((SHAPE_ROWS, n))
    map_weights, raw_weights = _no_weights(n, core.shape), _no_weights(n, level)
    high = max(1, STRIP_PIXELS // max(1, labels.shape[1]))
    for first in range(0, labels.shape[0], high):
        rows = slice(first, first + high)
        inside = labels[rows] > 0
        if not inside.any():
            continue
        y, x = (axis.astype(np.int32) for axis in np.nonzero(inside))
        local = number[labels[rows][inside]]
        shape += _shape_of(local, n, y + np.int32(owned.y0 + first), x + np.int32(owned.x0), kept[rows][inside], reader)
        map_weights += _weights(local, n, _places(model_y[rows], model_x, core.shape, y, x), core.shape)
        raw_weights += _weights(local, n, _places(level_y[rows], level_x, level, y, x), level)
    touches = (shape[-1:] > 0).astype(np.float64)
    return CellPixels((cells - 1).astype(np.int32), np.vstack([shape[:-1], touches]), map_weights, raw_weights)


def _shape_of(
    local: NDArray[np.int32],
    n: int,
    y: NDArray[np.int32],
    x: NDArray[np.int32],
    kept: NDArray[np.bool_],
    reader: TileReader,
) -> NDArray[np.float64]:
    """``(5, n)`` of some pixels; the last row counts pixels at the border of the image."""
    height, width = reader.image.shape
    edge = (y == 0) | (x == 0) | (y == height - 1) | (x == width - 1)
    weights = (None, kept, y + 0.5, x + 0.5, edge)
    return np.stack([np.bincount(local, weights=w, minlength=n).astype(np.float64) for w in weights])


@dataclass(frozen=True)
class TileSums:
    """What one tile adds: see :class:`CellPixels` for cells and shape.

    bad: int64 ``(markers, 2)``: pixels that are not finite, and negative pixels, of the level read.
    sums: float64 ``(markers, views + 2, n)``: sums of the map in each view, sum of raw pixels, count of finite raw pixels.
    """

    tile: int
    cells: NDArray[np.int32]
    shape: NDArray[np.float64]
    bad: NDArray[np.int64]
    sums: NDArray[np.float64]

    @classmethod
    def empty(cls, tile: int, markers: int, views: int) -> TileSums:
        """A tile in which no cell has a pixel."""
        nothing = np.zeros((markers, 2), np.int64), np.zeros((markers, views + 2, 0))
        return cls(tile, np.zeros(0, np.int32), np.zeros((SHAPE_ROWS, 0)), *nothing)

    def pack(self) -> bytes:
        markers, columns, n = self.sums.shape
        arrays = (self.cells, self.shape, self.bad, self.sums)
        return HEAD.pack(self.tile, n, markers, columns) + b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)


def raw_sums(raw: NDArray[Any], pixels: CellPixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count ``(n,)`` of the finite raw pixels ``(y, x)`` of each cell."""
    values = raw.ravel().astype(np.float64)
    finite = np.isfinite(values)
    if finite.all():
        return pixels.raw_weights @ values, pixels.shape[0].copy()
    return pixels.raw_weights @ np.where(finite, values, 0.0), pixels.raw_weights @ finite.astype(np.float64)


def bad_pixels(raw: NDArray[Any]) -> tuple[int, int]:
    """How many pixels are not finite, and how many are negative."""
    if not np.issubdtype(raw.dtype, np.floating):
        return 0, int(np.count_nonzero(raw < 0)) if np.issubdtype(raw.dtype, np.signedinteger) else 0
    return int(np.count_nonzero(~np.isfinite(raw))), int(np.count_nonzero(raw < 0))


@dataclass(frozen=True)
class _Block:
    """Where the sums of one tile lie within the record file."""

    tile: int
    record: int
    start: int
    n: int


class CellSums:
    """Sums of all cells, kept in a record file and added up in grid order.

    One record holds the tiles that went through the network together: whole or not at all.
    """

    def __init__(self, records: RecordFile, *, cells: int, markers: int, views: int) -> None:
        self.records, self.cells, self.markers, self.views = records, cells, markers, views
        self._blocks: list[_Block] = []
        for record, payload in enumerate(records):
            self._index(record, payload)

    @property
    def done(self) -> set[int]:
        """Indices of the tiles that are on disk."""
        return {block.tile for block in self._blocks}

    def add(self, tiles: list[TileSums]) -> None:
        """Append the sums of some tiles as one record. Raises OutputError."""
        payload = b"".join(tile.pack() for tile in tiles)
        self.records.append(payload)
        self._index(len(self.records) - 1, payload)

    def shape(self) -> NDArray[np.float64]:
        """``(5, cells)``: see :class:`CellPixels`; the last row counts tiles in which the cell touches the border."""
        total = np.zeros((SHAPE_ROWS, self.cells))
        for block in self._ordered():
            cells = self._read(block, 0, 4 * block.n, np.int32)
            rows = self._read(block, 4 * block.n, 8 * SHAPE_ROWS * block.n, np.float64)
            total[:, cells] += rows.reshape(SHAPE_ROWS, block.n)
        return total

    def bad(self) -> NDArray[np.int64]:
        """``(markers, 2)``: pixels that are not finite, negative pixels, in the tiles read."""
        total = np.zeros((self.markers, 2), np.int64)
        for block in self._ordered():
            start = (4 + 8 * SHAPE_ROWS) * block.n
            total += self._read(block, start, 16 * self.markers, np.int64).reshape(self.markers, 2)
        return total

    def sums(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Blocks of markers with their sums ``(markers of the block, views + 2, cells)``, within bounded memory."""
        columns = self.views + 2
        at_once = int(max(1, BLOCK_BYTES // max(1, 8 * columns * self.cells)))
        for first in range(0, self.markers, at_once):
            part = slice(first, min(first + at_once, self.markers))
            total = np.zeros((part.stop - first, columns, self.cells))
            for block in self._ordered():
                cells = self._read(block, 0, 4 * block.n, np.int32)
                start = (4 + 8 * SHAPE_ROWS) * block.n + 16 * self.markers + 8 * columns * block.n * first
                values = self._read(block, start, 8 * columns * block.n * len(total), np.float64)
                total[:, :, cells] += values.reshape(len(total), columns, block.n)
            yield part, total

    def _ordered(self) -> list[_Block]:
        return sorted(self._blocks, key=lambda block: block.tile)

    def _read(self, block: _Block, start: int, length: int, dtype: type[Number]) -> NDArray[Number]:
        return np.frombuffer(self.records.read(block.record, block.start + start, length), dtype)

    def _index(self, record: int, payload: bytes) -> None:
        at = 0
        while at < len(payload):
            tile, n, markers, columns = HEAD.unpack_from(payload, at)
            at += HEAD.size
            self._blocks.append(_Block(tile, record, at, n))
            at += (4 + 8 * SHAPE_ROWS) * n + 16 * markers + 8 * columns * n * markers


def _compact(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The labels above 0 that occur, ascending, and the position of each label among them."""
    present = np.zeros(int(labels.max(initial=0)) + 1, bool)
    for row in labels:
        present[row] = True
    present[0] = False
    return np.flatnonzero(present).astype(np.int32), np.cumsum(present, dtype=np.int32) - np.int32(1)


def _places(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    shape: tuple[int, int],
    y: NDArray[np.int32],
    x: NDArray[np.int32],
) -> NDArray[np.int32] | NDArray[np.int64]:
    """Flat index, within ``shape``, of the pixel (rows[y], columns[x])."""
    if shape[0] * shape[1] < 2**31:
        return (rows * shape[1]).astype(np.int32)[y] + columns.astype(np.int32)[x]
    return (rows * shape[1])[y] + columns[x]


def _no_weights(n: int, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((n, shape[0] * shape[1]))


def _weights(
    local: NDArray[np.int32], n: int, at: NDArray[np.int32] | NDArray[np.int64], shape: tuple[int, int]
) -> sparse.csr_matrix:
    """Sparse counts ``(n, pixels of shape)`` of pairs (cell, pixel); float32 on the way, which holds them exactly."""
    pairs = sparse.coo_matrix((np.ones(len(local), np.float32), (local, at)), shape=(n, shape[0] * shape[1]))
    return pairs.tocsr().astype(np.float64)
