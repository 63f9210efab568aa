"""Cells: who they are, where they are, and which pixels they own.

Outlines are ragged coordinate arrays with offsets, never a list of geometry objects; labels are rasterised for the box asked
for, never for a whole slide. The rule, for every source of outlines:

- a pixel belongs to a cell when its centre lies inside the outline (even-odd, so holes and multi-part outlines just work);
- where cells overlap, the later cell (higher index) paints over the earlier one, as QuPath draws them;
- coordinates are rounded to 1/256 pixel first, which makes the raster of a box independent of how a slide is tiled:
  no crossing of an edge with a row of pixel centres can then fall closer to a centre than float64 resolves.

Pixel (0, 0) covers coordinates 0 <= x < 1, 0 <= y < 1, as in QuPath and GeoJSON exported by it.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError
from mxbridge.image import Box, computed

if TYPE_CHECKING:
    import dask.array as da

SUBPIXEL = 256
"""Outline coordinates are rounded to 1/SUBPIXEL of a pixel."""

ROWS = 128
"""Rows of labels looked up at once: 64-bit copies of a whole tile at 0.25 µm per pixel would fill half a gigabyte."""

COORDINATE_LIMIT = 1e8
"""Coordinates beyond this many pixels are refused: no slide is that large, and float32 could not hold them."""


@dataclass(frozen=True)
class Rings:
    """Closed rings of many objects in three arrays.

    xy: float64 ``(points, 2)``, columns x and y in full-resolution pixels; a ring need not repeat its first point.
    ring_starts: int64 ``(rings + 1,)``, where each ring begins in ``xy``.
    object_starts: int64 ``(objects + 1,)``, where each object's rings begin in ``ring_starts``. An object may have none.
    """

    xy: NDArray[np.float64]
    ring_starts: NDArray[np.int64]
    object_starts: NDArray[np.int64]

    @classmethod
    def of(cls, objects: Iterable[Sequence[NDArray[np.float64]]]) -> Rings:
        """From one list of ``(points, 2)`` arrays (x, y) per object. Raises InputError on coordinates that are no pixels."""
        points: list[NDArray[np.float64]] = []
        ring_starts, object_starts, n = [0], [0], 0
        for rings in objects:
            for ring in rings:
                ring = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
                points.append(ring)
                n += len(ring)
                ring_starts.append(n)
            object_starts.append(len(ring_starts) - 1)
        xy = np.concatenate(points) if points else np.zeros((0, 2))
        return cls(xy, np.asarray(ring_starts, np.int64), np.asarray(object_starts, np.int64))

    def __post_init__(self) -> None:
        if len(self.xy) and not np.all(np.abs(self.xy) <= COORDINATE_LIMIT):  # NaN and infinity fail this as well
            raise InputError("an outline has coordinates that are not pixels (not finite, or beyond 1e8)")

    def __len__(self) -> int:
        return len(self.object_starts) - 1

    def rings_of(self, index: int) -> list[NDArray[np.float64]]:
        """The rings of one object, each ``(points, 2)``."""
        first, last = self.object_starts[index], self.object_starts[index + 1]
        return [self.xy[self.ring_starts[r] : self.ring_starts[r + 1]] for r in range(first, last)]

    def take(self, which: NDArray[np.int64]) -> Rings:
        """The rings of these objects, in this order."""
        rings, ring_counts = _ranges(self.object_starts, which)
        points, point_counts = _ranges(self.ring_starts, rings)
        starts = (np.concatenate([[0], np.cumsum(counts)]) for counts in (point_counts, ring_counts))
        return Rings(self.xy[points], *starts)

    def bounds(self) -> NDArray[np.float64]:
        """``(objects, 4)``: y0, x0, y1, x1; NaN for an object without points."""
        out = np.full((len(self), 4), np.nan)
        starts = self.ring_starts[self.object_starts]
        filled = np.flatnonzero(starts[1:] > starts[:-1])
        if len(filled):
            at = starts[:-1][filled]
            low, high = np.minimum.reduceat(self.xy, at, axis=0), np.maximum.reduceat(self.xy, at, axis=0)
            out[filled] = np.column_stack([low[:, 1], low[:, 0], high[:, 1], high[:, 0]])
        return out

    def hash_into(self, digest: hashlib._Hash) -> None:
        for array in (self.xy, self.ring_starts, self.object_starts):
            digest.update(np.ascontiguousarray(array).tobytes())


def _ranges(starts: NDArray[np.int64], which: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What lies between starts[k] and starts[k + 1] for each k of ``which``, and how much that is."""
    counts = starts[which + 1] - starts[which]
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(starts[which] - before, counts), counts


@dataclass(frozen=True)
class Cells(ABC):
    """Cells of one image.

    ids: identity of each cell within its image (QuPath UUID, label number as text); unique, in a stable order.
    classes: class name of each cell, or None.
    shape: (y, x) of the image at full resolution.
    """

    ids: tuple[str, ...]
    classes: tuple[str | None, ...]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def raster(self, box: Box) -> NDArray[np.int32]:
        """Labels ``(y, x)`` of ``box``: 0 is background, k + 1 is the cell at index k. Outside the image: 0."""

    @abstractmethod
    def any_in(self, box: Box) -> bool:
        """False only when no cell can have a pixel in ``box``."""

    @abstractmethod
    def geometry_hash(self) -> str:
        """Hash of ids and shapes: changes when a cell moves, appears or goes."""

    @abstractmethod
    def bounds(self) -> NDArray[np.float64]:
        """``(cells, 4)``: y0, x0, y1, x1 in pixels; NaN for a cell without an outline."""

    @abstractmethod
    def take(self, which: NDArray[np.int64]) -> Cells:
        """These cells only, in their order; which: ascending."""


@dataclass(frozen=True)
class OutlineCells(Cells):
    """Cells given by outlines (QuPath, GeoJSON, OMERO ROIs). names: what people call each, None for one without; () for none."""

    outlines: Rings
    nuclei: Rings | None = None
    names: tuple[str | None, ...] = ()
    _index: BoxIndex = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = self.names or (None,) * len(self.ids)
        if not len(self.outlines) == len(self.classes) == len(names) == len(self.ids):
            raise InputError("ids, classes, names and outlines of cells differ in number")
        object.__setattr__(self, "_index", BoxIndex(self.outlines.bounds()))

    def raster(self, box: Box) -> NDArray[np.int32]:
        return rasterise(self.outlines, self._index.hits(box), box, self.shape)

    def any_in(self, box: Box) -> bool:
        return len(self._index.hits(box)) > 0

    def geometry_hash(self) -> str:
        digest = hashlib.sha256("\n".join(self.ids).encode())
        self.outlines.hash_into(digest)
        return digest.hexdigest()

    def bounds(self) -> NDArray[np.float64]:
        return self.outlines.bounds()

    def take(self, which: NDArray[np.int64]) -> OutlineCells:
        return OutlineCells(
            ids=tuple(self.ids[k] for k in which),
            classes=tuple(self.classes[k] for k in which),
            shape=self.shape,
            outlines=self.outlines.take(which),
            nuclei=None if self.nuclei is None else self.nuclei.take(which),
            names=tuple(self.names[k] for k in which) if self.names else (),
        )


@dataclass(frozen=True)
class LabelCells(Cells):
    """Cells given by a label image ``(y, x)`` of integers; ``values[k]`` is the pixel value of the cell at index k.

    values must be sorted; they may be any int64 (24-bit ids, CellProfiler's stretched labels decoded beforehand).
    boxes: ``(cells, 4)`` y0, x0, y1, x1 in pixels.
    """

    labels: da.Array
    values: NDArray[np.int64]
    boxes: NDArray[np.int64]
    content_hash: str
    _index: BoxIndex = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", BoxIndex(self.boxes.astype(float)))

    def raster(self, box: Box) -> NDArray[np.int32]:
        out = np.zeros(box.shape, np.int32)
        inside = box.clip(self.shape)
        if 0 in inside.shape or not len(self.values):
            return out
        stored = computed(self.labels[inside.y0 : inside.y1, inside.x0 : inside.x1])
        part = out[inside.y0 - box.y0 : inside.y1 - box.y0, inside.x0 - box.x0 : inside.x1 - box.x0]
        for first in range(0, len(stored), ROWS):
            rows = slice(first, first + ROWS)
            block = stored[rows]
            if not block.any():
                continue
            block = block.astype(np.int64)
            if self._without_gaps:
                inside_values = (block >= self.values[0]) & (block <= self.values[-1])
                part[rows] = np.where(inside_values, block - (self.values[0] - 1), 0)
                continue
            at = np.minimum(np.searchsorted(self.values, block), len(self.values) - 1)
            part[rows] = np.where((self.values[at] == block) & (block != 0), at + 1, 0)
        return out

    @property
    def _without_gaps(self) -> bool:
        """Whether the values are consecutive positive numbers, as most masks have them: then nothing has to be searched."""
        return bool(self.values[0] > 0 and self.values[-1] - self.values[0] + 1 == len(self.values))

    def any_in(self, box: Box) -> bool:
        return len(self._index.hits(box)) > 0

    def geometry_hash(self) -> str:
        return hashlib.sha256(("\n".join(self.ids) + self.content_hash).encode()).hexdigest()

    def bounds(self) -> NDArray[np.float64]:
        return self.boxes.astype(np.float64)

    def take(self, which: NDArray[np.int64]) -> LabelCells:
        ids, classes = (tuple(of[k] for k in which) for of in (self.ids, self.classes))
        return replace(self, ids=ids, classes=classes, values=self.values[which], boxes=self.boxes[which])


class BoxIndex:
    """Which boxes meet a query box: a coarse bucket grid over sorted arrays, a few bytes per cell."""

    BUCKET = 1024

    def __init__(self, boxes: NDArray[np.float64]) -> None:
        """boxes: ``(n, 4)`` y0, x0, y1, x1; rows with NaN meet nothing."""
        self._boxes = boxes
        valid = np.flatnonzero(~np.isnan(boxes).any(axis=1))
        rows: dict[tuple[int, int], list[NDArray[np.int64]]] = {}
        low = np.floor(boxes[valid, :2] / self.BUCKET).astype(np.int64)
        high = np.floor(boxes[valid, 2:] / self.BUCKET).astype(np.int64)
        small = np.all(high - low <= 64, axis=1)
        self._large = valid[~small]  # a few huge outlines are compared one by one instead of filling every bucket
        valid, low, high = valid[small], low[small], high[small]
        for dy in range(int((high - low)[:, 0].max(initial=0)) + 1):
            for dx in range(int((high - low)[:, 1].max(initial=0)) + 1):
                reach = (low[:, 0] + dy <= high[:, 0]) & (low[:, 1] + dx <= high[:, 1])
                keys = low[reach] + (dy, dx)
                order = np.lexsort((keys[:, 1], keys[:, 0]))
                keys, members = keys[order], valid[reach][order]
                cuts = np.flatnonzero(np.any(np.diff(keys, axis=0), axis=1)) + 1
                for start, group in zip(np.r_[0, cuts], np.split(members, cuts), strict=True):
                    if len(group):
                        rows.setdefault((int(keys[start, 0]), int(keys[start, 1])), []).append(group)
        self._buckets = {key: np.concatenate(groups) for key, groups in rows.items()}

    def hits(self, box: Box) -> NDArray[np.int64]:
        """Indices, ascending, of the boxes that meet ``box``."""
        size = self.BUCKET
        span = [
            self._buckets.get((by, bx))
            for by in range(box.y0 // size, (box.y1 - 1) // size + 1)
            for bx in range(box.x0 // size, (box.x1 - 1) // size + 1)
        ]
        near = [s for s in span if s is not None] + [self._large]
        found = np.unique(np.concatenate(near)).astype(np.int64)
        b = self._boxes[found]
        meets = (b[:, 0] < box.y1) & (b[:, 2] > box.y0) & (b[:, 1] < box.x1) & (b[:, 3] > box.x0)
        return found[meets]


@cache
def _expect_no_map() -> None:
    """rasterio warns of pixels without a place on Earth; it means to silence that itself, but not for several threads."""
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


def rasterise(rings: Rings, which: NDArray[np.int64], box: Box, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Labels ``(y, x)`` int32 of ``box``: index + 1 of the objects in ``which``, painted in that order.

    Pixels outside an image of ``shape`` stay 0, whatever an outline claims.
    """
    from rasterio.features import rasterize

    _expect_no_map()

    out = np.zeros(box.shape, np.int32)
    inside = box.clip(shape)
    if 0 in inside.shape or not len(which):
        return out
    shift = (inside.x0, inside.y0)
    shapes = []
    for k in which:
        # fmt: off
        parts = [
            np.round(ring * SUBPIXEL) / SUBPIXEL - shift for ring in rings.rings_of(int(k)) if len(ring) >= 3
        ]
        # fmt: on
        closed = [np.vstack([p, p[:1]]).tolist() for p in parts]
        if closed:
            shapes.append(({"type": "Polygon", "coordinates": closed}, int(k) + 1))
    if shapes:
        painted = rasterize(shapes, out_shape=inside.shape, fill=0, dtype=np.int32)
        out[inside.y0 - box.y0 : inside.y1 - box.y0, inside.x0 - box.x0 : inside.x1 - box.x0] = painted
    return out
