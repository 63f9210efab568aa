"""Outlines of many objects at once, as ragged arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import COORDINATE_LIMIT, Rings
from mxbridge.workspaces.qupath.javastream import Ints, Shape
from mxbridge.workspaces.qupath.qpdata.layout import OutlineLayout
from mxbridge.workspaces.qupath.qpdata.object_table import ObjectTable
from mxbridge.workspaces.qupath.qpdata.packed import PackedObjects
from mxbridge.workspaces.qupath.qpdata.rois import ROI

Ring = NDArray[np.float64]

_AT_ONCE = 16384
"""Objects whose coordinates are handled together."""


class Outlines:
    """Regions, or nuclei, of some objects of a file. flat: which of them are there, on the plane z = 0, t = 0."""

    def __init__(self, table: ObjectTable, which: Ints, *, nuclei: bool = False) -> None:
        """Raises InputError or Unsupported, naming the object, where a region that is flat cannot be read."""
        self._table, self._which, self._nuclei = table, which, nuclei
        self.flat = np.zeros(len(which), bool)
        self._single: dict[int, Sequence[Ring]] = {}
        self._polygons: list[tuple[Ints, Ints, Ints, Ints]] = []
        """Of packed polygons: positions among ``which``, corners of each, and where their x and y begin in the file."""
        loose, at, rows = table.split(which)
        for k, item in loose:
            self._take(k, item.nucleus if nuclei else item.roi)
        packed = table.packed
        for layout, shape, chosen in packed.outlines(rows, nuclei=nuclei):
            if layout is not None:
                self._take_packed(packed, layout, shape, at[chosen], rows[chosen])

    def rings(self) -> Rings:
        """Even-odd rings of every object; none where there is no area."""
        counts = np.zeros(len(self._which), np.int64)
        points = np.zeros(len(self._which), np.int64)
        for k, rings in self._single.items():
            counts[k], points[k] = len(rings), sum(map(len, rings))
        for at, corners, _, _ in self._polygons:
            counts[at], points[at] = 1, corners
        starts = np.concatenate([[0], np.cumsum(points)])
        object_starts = np.concatenate([[0], np.cumsum(counts)])
        ring_starts = np.zeros(object_starts[-1] + 1, np.int64)
        ring_starts[-1] = starts[-1]
        xy = np.empty((int(starts[-1]), 2))
        for k, rings in self._single.items():
            begin = int(starts[k])
            for j, ring in enumerate(rings):
                ring_starts[object_starts[k] + j] = begin
                xy[begin : begin + len(ring)] = ring
                begin += len(ring)
        for at, corners, x, y in self._polygons:
            ring_starts[object_starts[at]] = starts[at]
            self._fill(xy, starts[at], corners, x, y)
        return Rings(xy, ring_starts, object_starts)

    def _fill(self, xy: Ring, starts: Ints, corners: Ints, x: Ints, y: Ints) -> None:
        for first in range(0, len(starts), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            counts = corners[part]
            step = steps(counts)
            target = np.repeat(starts[part], counts) + step
            for column, begin in enumerate((x, y)):
                raw = self._table.packed.pack.bytes_at(np.repeat(begin[part], counts) + 4 * step, 4)
                xy[target, column] = raw.view(">f4")[:, 0]

    def _take(self, k: int, roi: ROI | None) -> None:
        if roi is not None and (self._nuclei or (roi.z == 0 and roi.t == 0)):
            self.flat[k] = True
            self._single[k] = roi.rings

    def _take_packed(self, packed: PackedObjects, layout: OutlineLayout, shape: Shape, at: Ints, rows: Ints) -> None:
        """Polygons as arrays; other kinds, and polygons that are not in order, one by one."""
        well = np.zeros(len(rows), bool)
        if layout.corners is not None:
            if not self._nuclei:
                planes = [packed.pack.positions(shape, rows, place) for place in (layout.z, layout.t)]
                flat = (packed.pack.int32(planes[0]) == 0) & (packed.pack.int32(planes[1]) == 0)
                at, rows = at[flat], rows[flat]
            (x, corners), (y, others) = (packed.pack.data_of(shape, rows, segment) for segment in layout.corners)
            well = (corners == others) & (corners >= 3)
            well &= self._on_image(packed, x, corners, well) & self._on_image(packed, y, corners, well)
            self._polygons.append((at[well], corners[well], x[well], y[well]))
            self.flat[at[well]] = True
        for k, row in zip(at[~well].tolist(), rows[~well].tolist(), strict=True):
            item = self._table.as_object(row)
            self._take(k, item.nucleus if self._nuclei else item.roi)

    @staticmethod
    def _on_image(packed: PackedObjects, begin: Ints, corners: Ints, well: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which have coordinates that are pixels."""
        out = np.zeros(len(begin), bool)
        for first in range(0, len(begin), _AT_ONCE):
            part = np.flatnonzero(well[first : first + _AT_ONCE]) + first
            if not len(part):
                continue
            counts = corners[part]
            places = np.repeat(begin[part], counts) + 4 * steps(counts)
            good = np.abs(packed.pack.bytes_at(places, 4).view(">f4")[:, 0]) <= COORDINATE_LIMIT  # not so for NaN
            out[part] = np.logical_and.reduceat(good, np.cumsum(counts) - counts)
        return out


def steps(counts: Ints) -> Ints:
    """0, 1, 2 ... for each count, one after the other."""
    return np.asarray(np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts))
