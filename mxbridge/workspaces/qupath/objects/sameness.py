"""Whether an object in a file says the same as one that is in the image already, whoever rounded its coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mxbridge.workspaces.geojson import Geometry, GeoObject

Ring = NDArray[np.float64]

TOLERANCE = 0.0051
"""Pixels: QuPath rounds to two decimals."""


def same_object(there: GeoObject, told: GeoObject) -> bool:
    """Colours of classes do not count: they are the project's."""
    return (
        there.kind == told.kind
        and there.name == told.name
        and there.color == told.color
        and there.class_name == told.class_name
        and there.locked == told.locked
        and there.metadata == told.metadata
        and _same_values(there.measurements, told.measurements)
        and _same_geometry(there.geometry, told.geometry)
        and (there.nucleus is None) == (told.nucleus is None)
        and (there.nucleus is None or told.nucleus is None or _same_geometry(there.nucleus, told.nucleus))
    )


def _same_values(there: dict[str, float], told: dict[str, float]) -> bool:
    if there.keys() != told.keys():
        return False
    with np.errstate(over="ignore"):  # beyond float32 is infinite in QuPath, too
        ours, theirs = (np.array([one[name] for name in there], np.float64).astype(np.float32) for one in (there, told))
    return np.array_equal(ours, theirs, equal_nan=True)


def _same_geometry(there: Geometry, told: Geometry) -> bool:
    if there.plane != told.plane or there.ellipse != told.ellipse:
        return False
    if there.ellipse:  # each program draws it with another number of corners
        return _close(_bounds(there.rings), _bounds(told.rings))
    lines = [sum(map(len, one.points)) for one in (there, told)]
    if lines[0] or lines[1]:
        return lines[0] == lines[1] and _close(np.concatenate(there.points), np.concatenate(told.points))
    rings = list(told.rings)
    if len(rings) != len(there.rings):
        return False
    for ring in there.rings:
        match = next((k for k, other in enumerate(rings) if _same_ring(ring, other)), None)
        if match is None:
            return False
        del rings[match]
    return True


def _same_ring(ring: Ring, other: Ring) -> bool:
    """Whether two rings have the same corners, wherever they begin and whichever way they go round."""
    if len(ring) != len(other) or not len(ring):
        return len(ring) == len(other)
    if not _close(_bounds([ring]), _bounds([other])):
        return False
    for start in np.flatnonzero((np.abs(other - ring[0]) <= TOLERANCE).all(axis=1))[:8].tolist():
        turned = np.roll(other, -start, axis=0)
        if _close(ring, turned) or _close(ring, np.roll(turned[::-1], 1, axis=0)):
            return True
    return False


def _bounds(rings: Sequence[Ring]) -> Ring:
    every = np.concatenate(list(rings)) if rings else np.zeros((1, 2))
    return np.stack([every.min(axis=0), every.max(axis=0)])


def _close(a: Ring, b: Ring) -> bool:
    return a.shape == b.shape and bool((np.abs(a - b) <= TOLERANCE).all())
