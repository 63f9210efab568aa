"""Outlines of labels along pixel edges, from their corners: block by block, and all rings of many objects at once.

Every corner of an outline has one edge that lies level and one that stands. Sorted along rows, corners pair up to level
edges; sorted along columns, to upright ones; following both in turn goes round a ring. Where two pixels of a label meet at a
point only, the rings part there, so a ring never crosses itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mxbridge.cells import Rings

AT_ONCE = 1 << 20
"""Corners that are joined to rings together: joining takes ten times the room of what it joins."""


@dataclass(frozen=True)
class Corners:
    """Corners ``(n,)`` of outlines. label: > 0. y, x: the point. right, down: where the level and upright edge go from it."""

    label: NDArray[np.int32]
    y: NDArray[np.int32]
    x: NDArray[np.int32]
    right: NDArray[np.bool_]
    down: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, which: NDArray | slice) -> Corners:
        return Corners(self.label[which], self.y[which], self.x[which], self.right[which], self.down[which])

    @classmethod
    def joined(cls, several: list[Corners]) -> Corners:
        empty = (
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, bool),
            np.zeros(0, bool),
        )
        columns = zip(*((c.label, c.y, c.x, c.right, c.down) for c in several), strict=True)
        return cls(*(np.concatenate(column) for column in columns)) if several else cls(*empty)


def corners_of(labels: NDArray[np.int32], y0: int, x0: int) -> Corners:
    """Corners at the points between the pixels of ``labels`` ``(y, x)``; labels <= 0 have none.

    The point right of and below pixel (0, 0) lies at (y0, x0): blocks that overlap by one row and column of pixels, and
    lines of zeros around the slide, give every corner once.
    """
    upright = labels[:, 1:] != labels[:, :-1]
    level = labels[1:] != labels[:-1]
    at = np.flatnonzero((upright[1:] | upright[:-1]) & (level[:, 1:] | level[:, :-1]))
    width = labels.shape[1]
    py, px = at // (width - 1), at % (width - 1)
    base = py * width + px
    flat = labels.ravel()
    four = {(down, right): flat[base + down * width + right] for down in (0, 1) for right in (0, 1)}
    found = []
    for (down, right), own in four.items():
        beside, above, across = four[down, 1 - right], four[1 - down, right], four[1 - down, 1 - right]
        tip = (own > 0) & (beside != own) & (above != own)
        notch = (beside > 0) & (beside == above) & (beside == across) & (own != beside)
        for corner, label in ((tip, own), (notch, beside)):
            k = np.flatnonzero(corner)
            sides = np.full(len(k), bool(right)), np.full(len(k), bool(down))
            found.append(Corners(label[k], (py[k] + y0).astype(np.int32), (px[k] + x0).astype(np.int32), *sides))
    return Corners.joined(found)


def rings_of_corners(corners: Corners, objects: int) -> Rings:
    """Rings of the labels 1 .. ``objects`` in that order; of each, the ring with the uppermost, leftmost corner first.

    A ring begins at that corner and goes right. Coordinates are x, y.
    """
    if not len(corners):
        return Rings(np.zeros((0, 2)), np.zeros(1, np.int64), np.zeros(objects + 1, np.int64))
    corners = corners.take(np.lexsort((corners.right, corners.x, corners.y, corners.label)))
    n = len(corners)
    level = np.arange(n) ^ 1  # neighbours in the order along rows
    along = np.lexsort((corners.down, corners.y, corners.x, corners.label))
    upright = np.empty(n, np.int64)
    upright[along] = along[np.arange(n) ^ 1]
    graph = coo_matrix(
        (np.ones(2 * n, bool), (np.tile(np.arange(n), 2), np.concatenate([level, upright]))), shape=(n, n)
    )
    rings, ring = connected_components(graph, directed=False)
    start = np.full(rings, n, np.int64)
    np.minimum.at(start, ring, np.arange(n))
    rank = _ranks(upright[level], start[ring], int(np.bincount(ring).max()))
    position = np.where(rank >= 0, 2 * rank, 2 * rank[level] + 1)
    order = np.lexsort((position, start[ring]))
    xy = np.column_stack([corners.x[order], corners.y[order]]).astype(np.float64)
    ring_starts = np.concatenate([[0], np.cumsum(np.bincount(ring)[np.argsort(start)])])
    owner = corners.label[np.sort(start)]
    object_starts = np.searchsorted(owner, np.arange(1, objects + 2))
    return Rings(xy, ring_starts.astype(np.int64), object_starts.astype(np.int64))


def _ranks(after: NDArray[np.int64], start: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """How many steps of ``after`` lead from the start of its ring to each corner; -1 for those never reached.

    Every ring is walked from its start by every other corner; the rest lie on walks the other way round. Distances to the
    last corner of a walk are doubled until all are known: as many rounds as the longest ring has bits.
    """
    n = len(after)
    last = after == start
    ahead = np.where(last, np.arange(n), after)
    steps = (~last).astype(np.int64)
    for _ in range(longest.bit_length()):
        steps += steps[ahead]
        ahead = ahead[ahead]
    reached = last[ahead]
    length = steps[start]
    return np.where(reached, length - steps, -1)


class RingCollector:
    """Rings of many objects from the corners of blocks; what is complete is joined, so that little waits.

    ends: int64 ``(objects,)`` for each object, numbered from 1 among the corners, a row below which it has no corner.
    """

    def __init__(self, ends: NDArray[np.int64]) -> None:
        self._ends = ends
        self._waiting: list[Corners] = []
        self._settled: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]] = []

    def add(self, corners: Corners) -> None:
        self._waiting.append(corners)

    def settle(self, row: int) -> None:
        """All corners above ``row`` have been added: join those of the objects that end there."""
        corners = Corners.joined(self._waiting)
        corners = corners.take(np.argsort(corners.label, kind="stable"))
        ready = self._ends[corners.label - 1] < row
        self._waiting = [corners.take(~ready)]
        corners = corners.take(ready)
        cuts = np.flatnonzero(np.diff(corners.label, prepend=0)) if len(corners) else np.zeros(0, np.int64)
        first = 0
        while first < len(corners):
            later = cuts[cuts >= first + AT_ONCE]
            last = int(later[0]) if len(later) else len(corners)
            part = corners.take(slice(first, last))
            labels, number = np.unique(part.label, return_inverse=True)
            dense = Corners((number + 1).astype(np.int32), part.y, part.x, part.right, part.down)
            rings = rings_of_corners(dense, len(labels))
            lengths, counts = np.diff(rings.ring_starts), np.diff(rings.object_starts)
            self._settled.append((labels.astype(np.int64) - 1, counts, lengths, rings.xy.astype(np.int32)))
            first = last

    def rings(self) -> Rings:
        """Rings of all objects in their order, once everything is settled."""
        counts = np.zeros(len(self._ends), np.int64)
        for index, n_rings, _, _ in self._settled:
            counts[index] = n_rings
        object_starts = np.concatenate([[0], np.cumsum(counts)])
        places = [_ranges(object_starts[index], n_rings) for index, n_rings, _, _ in self._settled]
        lengths = np.zeros(int(object_starts[-1]), np.int64)
        for place, (_, _, n_points, _) in zip(places, self._settled, strict=True):
            lengths[place] = n_points
        ring_starts = np.concatenate([[0], np.cumsum(lengths)])
        xy = np.empty((int(ring_starts[-1]), 2))
        for place, (_, _, n_points, points) in zip(places, self._settled, strict=True):
            xy[_ranges(ring_starts[place], n_points)] = points
        self._settled.clear()
        return Rings(xy, ring_starts, object_starts)


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """``starts[0], starts[0] + 1, ...``, ``lengths[0]`` of them, then those of the next start, and so on."""
    return np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))
