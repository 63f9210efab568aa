"""Which rings are holes of which: from even-odd rings to polygons with holes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError

Ring = NDArray[np.float64]


def ring_area(ring: Ring) -> float:
    """Area within one ring, in px²."""
    x, y = (ring - ring[:1]).T  # relative to a corner: far from the origin the products would lose digits
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def nested_polygons(rings: Sequence[Ring]) -> list[list[Ring]]:
    """Outer ring and holes of each polygon. Rings may touch, not cross; a ring within an odd number of others is a hole.

    Whether a ring lies within another is asked of a point inside it, not of a corner: holes of pixel outlines touch the
    outer ring at corners. Raises InputError where rings cross so that a hole has no outer ring.
    """
    if len(rings) == 1:
        return [[rings[0]]]
    areas = np.array([ring_area(ring) for ring in rings])
    low, high = (np.array([end(ring, axis=0) for ring in rings]) for end in (np.min, np.max))
    around = []
    for area, ring in zip(areas, rings, strict=True):
        point = _inner_point(ring)
        near = np.flatnonzero((areas > area) & (low < point).all(axis=1) & (high > point).all(axis=1))
        around.append([int(j) for j in near if _contains(rings[j], point)])
    polygons = {k: [rings[k]] for k in range(len(rings)) if len(around[k]) % 2 == 0}
    for k, outer in enumerate(around):
        if len(outer) % 2:
            shells = [j for j in outer if j in polygons]
            if not shells:
                raise InputError("an outline whose rings cross each other")
            polygons[min(shells, key=lambda j: areas[j])].append(rings[k])
    return list(polygons.values())


def _crossings(ring: Ring, y: float) -> NDArray[np.float64]:
    """Sorted x at which the ring crosses a horizontal line that runs through none of its corners."""
    after = np.roll(ring, -1, axis=0)
    hit = (ring[:, 1] > y) != (after[:, 1] > y)
    a, b = ring[hit], after[hit]
    return np.sort(a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1]))


def _inner_point(ring: Ring) -> tuple[float, float]:
    """A point strictly within the ring (its first corner when the ring has no height)."""
    levels = np.unique(ring[:, 1])
    if len(levels) < 2:
        return float(ring[0, 0]), float(ring[0, 1])
    y = float(levels[:2].mean())
    x = _crossings(ring, y)
    return float(x[:2].mean()), y


def _contains(ring: Ring, point: tuple[float, float]) -> bool:
    x, y = point
    return bool(np.count_nonzero(_crossings(ring, y) > x) % 2)
