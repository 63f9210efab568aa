"""Windows put together: band by band, from the row of windows that settles it and the one before.

Where windows overlap their numbers are blended, weighted by the ramps of the grid; windows that were skipped have no say. Where
none was run the image has the colour of a blank one. With ramps of width 0 this pastes, as the published program does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box
from mxbridge.stream.windows import WindowGrid
from mxbridge.tasks.mapping.maps import CHUNK, GrowingMaps
from mxbridge.tasks.mapping.window_store import Fate, WindowRow

BLOCK = 4 * CHUNK
"""Columns that are put together at once."""


def write_band(
    maps: GrowingMaps,
    grid: WindowGrid,
    before: WindowRow | None,
    here: WindowRow,
    fills: Mapping[str, tuple[int, int, int]],
) -> int:
    """Write the rows of pixels that are settled once the row of windows ``here`` is finished, and say how many pixels no window
    shows. Raises OutputError."""
    y0, y1 = grid.y.settled(here.row)
    rows = [row for row in (before, here) if row is not None and row.row in grid.y.meeting(y0, y1)]
    blank = 0
    for x0 in range(0, grid.shape[1], BLOCK):
        box = Box(y0, x0, y1, min(x0 + BLOCK, grid.shape[1]))
        blank += unseen(grid, rows, box)
        for image in maps.images:
            maps.write(image, box, blended(grid, rows, image, box, fills.get(image, (0, 0, 0))))
    return blank


def unseen(grid: WindowGrid, rows: list[WindowRow], box: Box) -> int:
    """Pixels of ``box`` in which no window that was run has a share."""
    seen = np.zeros(box.shape, bool)
    for row in rows:
        y0, y1 = (min(max(y, box.y0), box.y1) - box.y0 for y in grid.y.support(row.row))
        for column in (c for c in grid.x.meeting(box.x0, box.x1) if row.fates.get(c) == Fate.RUN):
            x0, x1 = (min(max(x, box.x0), box.x1) - box.x0 for x in grid.x.support(column))
            seen[y0:y1, x0:x1] = True
    return int(seen.size - np.count_nonzero(seen))


def blended(
    grid: WindowGrid, rows: list[WindowRow], image: str, box: Box, fill: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """``(3, y, x)`` of ``box``: of each pixel the weighted mean of the windows that show it, to the nearest whole number."""
    out = np.empty((3, *box.shape), np.uint8)
    out[:] = np.asarray(fill, np.uint8)[:, None, None]
    for y0, y1, between_rows in grid.y.pieces(box.y0, box.y1):
        for x0, x1, between_columns in grid.x.pieces(box.x0, box.x1):
            part = Box(y0, x0, y1, x1)
            here = out[:, y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0]
            shown = [
                (row.row, column, _pixels(grid, row, column, image, part))
                for row in rows
                for column in grid.x.meeting(x0, x1)
                if row.row in grid.y.meeting(y0, y1) and row.fates.get(column) == Fate.RUN
            ]
            if between_rows or between_columns:
                _mix(grid, shown, part, here)
            elif shown:
                here[:] = shown[0][2]
    return out


def _pixels(grid: WindowGrid, row: WindowRow, column: int, image: str, part: Box) -> NDArray[np.uint8]:
    """What a window shows in ``part``, of which it has a share everywhere."""
    window = grid[row.row * grid.columns + column].box
    found = row.read(column, image, part.y0 - window.y0, part.y1 - window.y0)
    return found[..., part.x0 - window.x0 : part.x1 - window.x0]


def _mix(
    grid: WindowGrid, shown: Sequence[tuple[int, int, NDArray[np.uint8]]], part: Box, out: NDArray[np.uint8]
) -> None:
    """Weighted mean of what several windows show in ``part``; pixels of ``out`` that none shows stay as they are."""
    total = np.zeros((3, *part.shape), np.float32)
    share = np.zeros(part.shape, np.float32)
    for row, column, pixels in shown:
        weight = grid.y.weights(row, part.y0, part.y1)[:, None] * grid.x.weights(column, part.x0, part.x1)
        total += pixels * weight
        share += weight
    seen = share > 0
    np.divide(total, share, out=total, where=seen)
    np.copyto(out, np.rint(total, out=total).astype(np.uint8), where=seen)


def disagreement(
    grid: WindowGrid, before: WindowRow | None, here: WindowRow, images: Sequence[str]
) -> dict[str, tuple[float, int]]:
    """How far apart windows are at the cuts between them, which blending hides: by image the sum of absolute differences between
    what two neighbours show there, and how many were compared. Of a row of windows, and between it and the row before."""
    found = {}
    for image in images:
        total, count = 0.0, 0
        left = None
        for column in range(grid.columns):
            shown = here.read(column, image) if here.fates.get(column) == Fate.RUN else None
            above = before.read(column, image) if before is not None and before.fates.get(column) == Fate.RUN else None
            for first, second, axis, position in ((left, shown, grid.x, column), (above, shown, grid.y, here.row)):
                if first is None or second is None:
                    continue
                cut = axis.cuts[position - 1]
                at = cut - axis.starts[position - 1], cut - axis.starts[position]
                if at[0] < grid.side:  # they overlap
                    lines = (
                        (first[..., at[0]], second[..., at[1]])
                        if axis is grid.x
                        else (first[:, at[0]], second[:, at[1]])
                    )
                    total += float(np.abs(lines[0].astype(np.int64) - lines[1]).sum())
                    count += lines[0].size
            left = shown
        found[image] = total, count
    return found
