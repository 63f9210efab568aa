"""Which annotation holds a nucleus: the one that holds its centroid, as QuPath decides it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import BoxIndex, Rings, rasterise
from mxbridge.image import Box

AT_ONCE = 1 << 22
"""Crossings of outlines looked at together."""


@dataclass(frozen=True)
class Regions:
    """Annotations as even-odd outlines in pixels of the segmentation image, in the order in which they were drawn."""

    rings: Rings

    @classmethod
    def scaled(cls, rings: Rings, scale: tuple[float, float]) -> Regions:
        """From outlines in full-resolution pixels; scale: (y, x) pixels of the segmentation per full-resolution pixel."""
        return cls(Rings(rings.xy * (scale[1], scale[0]), rings.ring_starts, rings.object_starts))

    def __len__(self) -> int:
        return len(self.rings)

    @cached_property
    def _index(self) -> BoxIndex:
        return BoxIndex(self.rings.bounds())

    def mask(self, box: Box, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """1 in the pixels ``(y, x)`` of a box whose centres an annotation holds, 0 elsewhere. shape: of the slide."""
        return (rasterise(self.rings, self._index.hits(box), box, shape) > 0).astype(np.uint8)

    def holding(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """int64 ``(m, 2)`` pairs (point, annotation), sorted: which annotations hold which of the points ``(n, 2)`` y, x."""
        order = np.argsort(points[:, 0], kind="stable")
        y, x = points[order, 0], points[order, 1]
        found = []
        for index in range(len(self)):
            inside = np.zeros(len(points), bool)
            for at in _crossings(self.rings.rings_of(index), y, x):
                inside ^= np.bincount(at, minlength=len(points)).astype(np.int64) % 2 == 1
            held = order[inside]
            found.append(np.column_stack([held, np.full(len(held), index)]))
        pairs = np.concatenate([*found, np.zeros((0, 2), np.int64)])
        return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _crossings(
    rings: list[NDArray[np.float64]], y: NDArray[np.float64], x: NDArray[np.float64]
) -> Iterator[NDArray[np.int64]]:
    """Positions of points, sorted by y, once for every edge that passes right of them."""
    starts = [ring for ring in rings if len(ring) >= 3]
    if not starts:
        return
    one = np.concatenate(starts)
    two = np.concatenate([np.roll(ring, -1, axis=0) for ring in starts])
    low, high = np.minimum(one[:, 1], two[:, 1]), np.maximum(one[:, 1], two[:, 1])
    first, last = np.searchsorted(y, low, side="left"), np.searchsorted(y, high, side="left")  # low <= y < high
    counts = last - first
    upto = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        done = upto[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(upto, done + AT_ONCE, side="right")))
        edge = np.repeat(np.arange(begin, end), counts[begin:end])
        at = np.arange(len(edge)) - np.repeat(upto[begin:end] - counts[begin:end] - done, counts[begin:end])
        at += np.repeat(first[begin:end], counts[begin:end])
        a, b = one[edge], two[edge]
        crossing = a[:, 0] + (y[at] - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])  # level edges cross nothing
        yield at[crossing > x[at]]
        begin = end
