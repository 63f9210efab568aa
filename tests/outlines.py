"""Areas of outlines, for tests: written independently of what the package does with rings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Rings


def areas(rings: Rings) -> NDArray[np.float64]:
    """``(objects,)`` even-odd areas in px² of rings that nest or lie apart but do not cross."""
    return np.array([_area(rings.rings_of(k)) for k in range(len(rings))])


def _area(rings: list[NDArray[np.float64]]) -> float:
    """Even-odd area of rings that nest or lie apart but do not cross: a ring inside an odd number of others is a hole."""
    total = 0.0
    for i, ring in enumerate(rings):
        if len(ring) < 3:
            continue
        x, y = ring[:, 0], ring[:, 1]
        size = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        depth = sum(_contains(other, ring[0]) for j, other in enumerate(rings) if j != i and len(other) >= 3)
        total += -size if depth % 2 else size
    return float(total)


def _contains(ring: NDArray[np.float64], point: NDArray[np.float64]) -> bool:
    (x, y), nxt = ring.T, np.roll(ring, -1, axis=0)
    crosses = (y > point[1]) != (nxt[:, 1] > point[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = (nxt[:, 0] - x) * (point[1] - y) / (nxt[:, 1] - y) + x
    return bool(np.count_nonzero(crosses & (point[0] < at)) % 2)
