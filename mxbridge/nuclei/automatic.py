"""Thresholds found in the slide itself: the smallest nucleus that counts, and the marker brightness that is positive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mxbridge.nuclei.thresholds import SizeLimits

POINTS = 500
"""Where the density of sizes is looked at."""

AT_ONCE = 4096
"""Distinct sizes summed at once: memory does not grow with the slide."""


def automatic_size(sizes: NDArray[np.int64], limits: SizeLimits) -> int:
    """Area in pixels up to which parts are debris, from the areas of all parts ``(n,)``; 0 for fewer than two.

    The first valley in the density of the square roots of the areas (Gaussians of width 1, looked at in 500 points from 0 to
    the largest + 1), kept within ``limits``. Areas are few different numbers, however many nuclei there are. Adapted from
    DeepLIIF, whose choice of the point before the valley and of float32 decides the number.
    """
    if len(sizes) < 2:
        return 0
    density, step = size_density(sizes)
    valley = (density[1:-1] < density[:-2]) & (density[1:-1] < density[2:])
    first = int(np.argmax(valley)) + 1 if valley.any() else 1
    root = (first - 1) * step
    root = max(root, limits.lowest)
    if root > limits.highest:
        root = limits.default
    return round(root * root)


def size_density(sizes: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
    """Density of the square roots of areas at :data:`POINTS` points (not normalised), and the distance of the points."""
    areas, counts = np.unique(sizes, return_counts=True)
    roots = np.sqrt(areas.astype(np.float64))
    step = float((roots[-1] + 1) / POINTS)
    at = np.arange(POINTS) * step
    density = np.zeros(POINTS)
    for first in range(0, len(roots), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        density += np.exp(-0.5 * (at[:, None] - roots[None, part]) ** 2) @ counts[part].astype(np.float64)
    return density.astype(np.float32), step


def automatic_marker(histogram: NDArray[np.int64]) -> int:
    """Brightness above which a nucleus is positive, from how often each of the 256 brightnesses occurs in the slide.

    Nine tenths of the way between the 0.1 and the 99.9 percentile of the pixels that are not 0; 0 where there are none.
    """
    counts = histogram.copy()
    counts[0] = 0
    total = int(counts.sum())
    if not total:
        return 0
    low, high = (round(_percentile(counts, total, percent)) for percent in (0.1, 99.9))
    return round((high - low) * 0.9) + low


def _percentile(counts: NDArray[np.int64], total: int, percent: float) -> float:
    """Between neighbours in rank the percentile is on the line that joins them, as numpy has it."""
    rank = (total - 1) * (percent / 100)
    below = int(rank)
    upto = np.cumsum(counts)
    first, second = (int(np.searchsorted(upto, r, side="right")) for r in (below, min(below + 1, total - 1)))
    return first + (second - first) * (rank - below)
