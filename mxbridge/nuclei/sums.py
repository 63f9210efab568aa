"""What is added up over the pixels of a part: exact integers, so that parts of parts can be added in any order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box
from mxbridge.nuclei.parts import Runs

ADDED = ("size", "positive", "negative", "y", "x", "marker", "red", "blue", "density")
LOWEST = ("first", "y0", "x0")
HIGHEST = ("y1", "x1", "marker_max")
FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Planes:
    """The pixels of a block ``(y, x)``: uint8 foreground, red, blue and marker (or None), uint16 density (or None)."""

    foreground: NDArray[np.uint8]
    red: NDArray[np.uint8]
    blue: NDArray[np.uint8]
    marker: NDArray[np.uint8] | None
    density: NDArray[np.uint16] | None


class Sums:
    """One row per part, in int64 columns: :data:`ADDED`, :data:`LOWEST` (first = y * width of the slide + x), :data:`HIGHEST`."""

    def __init__(self, rows: int) -> None:
        self.added = np.zeros((len(ADDED), rows), np.int64)
        self.lowest = np.full((len(LOWEST), rows), FAR, np.int64)
        self.highest = np.full((len(HIGHEST), rows), -1, np.int64)

    def __len__(self) -> int:
        return self.added.shape[1]

    def __getitem__(self, name: str) -> NDArray[np.int64]:
        for names, table in ((ADDED, self.added), (LOWEST, self.lowest), (HIGHEST, self.highest)):
            if name in names:
                return np.asarray(table[names.index(name)])
        raise KeyError(name)

    def put(self, rows: NDArray[np.int64], other: Sums) -> None:
        """Add row k of ``other`` to row ``rows[k]``; rows may repeat."""
        for table, more in zip(self.added, other.added, strict=True):
            np.add.at(table, rows, more)
        for table, more in zip(self.lowest, other.lowest, strict=True):
            np.minimum.at(table, rows, more)
        for table, more in zip(self.highest, other.highest, strict=True):
            np.maximum.at(table, rows, more)

    def take(self, rows: NDArray[np.int64]) -> Sums:
        out = Sums(0)
        out.added, out.lowest, out.highest = self.added[:, rows], self.lowest[:, rows], self.highest[:, rows]
        return out

    @classmethod
    def joined(cls, several: list[Sums]) -> Sums:
        out = cls(0)
        if several:
            out.added = np.concatenate([s.added for s in several], axis=1)
            out.lowest = np.concatenate([s.lowest for s in several], axis=1)
            out.highest = np.concatenate([s.highest for s in several], axis=1)
        return out


def sums_of(runs: Runs, number: NDArray[np.int32], rows: int, planes: Planes, box: Box, width: int) -> Sums:
    """Sums of the parts of a block: row ``number[label] - 1`` for each label; number 0 is left out.

    runs: of the labels of the block. width: of the slide. Every stretch of a row of pixels is reduced first, so that the
    scattered additions are few.
    """
    row = number[runs.labels].astype(np.int64) - 1
    row, starts, lengths = row[row >= 0], runs.starts[row >= 0], runs.lengths[row >= 0]
    out = Sums(rows)
    if not len(row):
        return out
    offset = np.cumsum(lengths) - lengths
    at = np.repeat(starts - offset, lengths) + np.arange(int(lengths.sum()))
    stretches = Sums(0)
    stretches.added = np.stack(_added(at, offset, planes))
    y, x = starts // box.shape[1] + box.y0, starts % box.shape[1] + box.x0
    stretches.added[0] = lengths
    stretches.added[3] = y * lengths
    stretches.added[4] = x * lengths + lengths * (lengths - 1) // 2
    stretches.lowest = np.stack([y * width + x, y, x])
    top = np.full(len(row), -1, np.int64)
    if planes.marker is not None:
        top = np.maximum.reduceat(planes.marker.ravel()[at], offset).astype(np.int64)
    stretches.highest = np.stack([y + 1, x + lengths, top])
    out.put(row, stretches)
    return out


def _added(at: NDArray[np.int64], offset: NDArray[np.int64], planes: Planes) -> list[NDArray[np.int64]]:
    """Columns of :data:`ADDED` per stretch of pixels; what is known without looking at pixels is left 0."""
    nothing = np.zeros(len(offset), np.int64)
    inside = planes.foreground.ravel()[at] != 0
    red, blue = planes.red.ravel()[at], planes.blue.ravel()[at]
    columns = dict.fromkeys(ADDED, nothing)
    columns["positive"] = _stretch_sums(inside & (red >= blue), offset)
    columns["negative"] = _stretch_sums(inside & (red < blue), offset)
    columns["red"], columns["blue"] = _stretch_sums(red * inside, offset), _stretch_sums(blue * inside, offset)
    if planes.marker is not None:
        columns["marker"] = _stretch_sums(planes.marker.ravel()[at], offset)
    if planes.density is not None:
        columns["density"] = _stretch_sums(planes.density.ravel()[at], offset)
    return [columns[name] for name in ADDED]


def _stretch_sums(values: NDArray, offset: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(np.add.reduceat(values, offset, dtype=np.int64))
