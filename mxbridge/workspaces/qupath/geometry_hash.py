"""Hashes of outlines, by which an edited object is told from one that is as it was made."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Rings

_AT_ONCE = 16384
"""Objects whose corners are sorted together."""


def geometry_hashes(outlines: Rings, nuclei: Rings | None = None) -> list[str]:
    """32 hex digits for each object: the same for the same rings, wherever a ring begins, whichever way it runs, whether it
    repeats a corner, and in whatever order the rings stand, at QuPath's float32 precision."""
    out: list[str] = []
    for first in range(0, len(outlines), _AT_ONCE):
        last = min(first + _AT_ONCE, len(outlines))
        parts = [_ring_bytes(outlines, first, last)]
        parts.append([[]] * (last - first) if nuclei is None else _ring_bytes(nuclei, first, last))
        for lines in zip(*parts, strict=True):
            told = b"".join(len(of).to_bytes(4, "big") + b"".join(sorted(of)) for of in lines)
            out.append(hashlib.sha256(told).hexdigest()[:32])
    return out


def _ring_bytes(rings: Rings, first: int, last: int) -> list[list[bytes]]:
    """The canonical bytes of each ring of each object."""
    starts = rings.ring_starts[rings.object_starts[first] : rings.object_starts[last] + 1]
    xy = rings.xy[starts[0] : starts[-1]].astype(np.float32) + np.float32(0)  # no negative zero
    ring = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    before = np.arange(-1, len(xy) - 1)
    filled = starts[:-1] < starts[1:]
    before[starts[:-1][filled] - starts[0]] = starts[1:][filled] - starts[0] - 1  # around the corner
    turns = (xy != xy[before]).any(axis=1)
    xy, counts = xy[turns], np.bincount(ring[turns], minlength=len(filled))
    ends = np.cumsum(counts)
    data = xy[_canonical_order(xy, counts)].tobytes()
    lines = [data[8 * (end - n) : 8 * end] for end, n in zip(ends.tolist(), counts.tolist(), strict=True)]
    of = (rings.object_starts[first : last + 1] - rings.object_starts[first]).tolist()
    return [lines[a:b] for a, b in pairwise(of)]


def _canonical_order(xy: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the corners: each ring from its leftmost (then topmost) corner on, in the direction whose bytes come first."""
    ring = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    begin, size = first[ring], counts[ring]
    step = np.arange(len(ring)) - begin
    leftmost = np.lexsort((xy[:, 1], xy[:, 0], ring))[begin] - begin  # sorted, each ring stays in its place
    forward, backward = begin + (leftmost + step) % size, begin + (leftmost - step) % size
    a, b = (np.ascontiguousarray(xy[which]).view(">u4").ravel() for which in (forward, backward))
    differ = np.append(np.flatnonzero(a != b), len(a))
    first_in = differ[np.searchsorted(differ, 2 * first)]  # first difference at or behind the beginning of each ring
    told = np.flatnonzero(first_in < 2 * (first + counts))
    turned = np.zeros(len(counts), bool)
    turned[told] = b[first_in[told]] < a[first_in[told]]
    return np.asarray(np.where(turned[ring], backward, forward))
