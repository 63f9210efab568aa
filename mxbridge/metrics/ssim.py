"""Structural similarity in both usual conventions, tile by tile: equal to that of the whole image.

``ssim_uniform7``: windows of 7x7 equal weights, sample covariance (scikit-image's default). ``ssim_gauss11``: Gaussian of 1.5 px,
11x11, population covariance (the original paper's). Range 1, K1 = .01, K2 = .03; the mean over windows inside the image.

A window belongs to the tile that holds its last pixel. What it reaches of earlier tiles is kept: 10 rows of the image and 10
columns of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from mxbridge.image import Box

UNIFORM, GAUSS = "ssim_uniform7", "ssim_gauss11"
RADIUS = {UNIFORM: 3, GAUSS: 5}
REACH = 2 * max(RADIUS.values())
"""Rows and columns that the largest window has besides its last pixel."""

C1, C2 = 0.01**2, 0.03**2
SIGMA = 1.5
SAMPLE = 49 / 48
"""From population to sample variance of 7x7 pixels."""

Planes = NDArray[np.float32]
Doubles = NDArray[np.float64]


class SsimSums:
    """Similarity of some images to one measured image, all of one size, given tile by tile in the order of a grid."""

    def __init__(self, width: int, images: int) -> None:
        self.images = images
        self._total = {kind: np.zeros(images) for kind in RADIUS}
        self._windows = dict.fromkeys(RADIUS, 0)
        self._above = np.zeros((images + 1, 0, width), np.float32)
        self._below = self._above
        self._left = np.zeros((images + 1, 0, 0), np.float32)
        self._band = (0, 0)
        self._next = 0

    def add(self, box: Box, measured: NDArray[Any], others: Sequence[NDArray[Any]]) -> None:
        """The next tile. box: where it lies. measured, each of others: ``(y, x)``; windows with NaN count for nothing.

        Raises ValueError for a tile that is not the next one of its row or the first of the next row.
        """
        self._turn_to(box)
        planes = np.stack([measured, *others]).astype(np.float32, copy=False)
        tall = np.concatenate([self._above[:, :, box.x0 : box.x1], planes], axis=1)
        kept = tall[:, -REACH:]
        self._below[:, -kept.shape[1] :, box.x0 : box.x1] = kept
        whole = np.concatenate([self._left, tall], axis=2) if box.x0 else tall
        high, wide = self._above.shape[1], whole.shape[2] - planes.shape[2]
        self._left = whole[:, :, -REACH:].copy()
        for kind, radius in RADIUS.items():
            part = whole[:, max(0, high - 2 * radius) :, max(0, wide - 2 * radius) :]
            if min(part.shape[1:]) > 2 * radius:
                self._measure(kind, part)

    def values(self) -> dict[str, Doubles]:
        """``(images,)`` of each convention; NaN where no window fits into the image."""
        return {
            kind: total / self._windows[kind] if self._windows[kind] else np.full(self.images, math.nan)
            for kind, total in self._total.items()
        }

    def _turn_to(self, box: Box) -> None:
        width = self._above.shape[2]
        if box.x0 == 0 and box.y0 == self._band[1] and self._next in (0, width):
            self._above = self._below
            rows = min(REACH, self._above.shape[1] + box.shape[0])
            self._below = np.zeros((self.images + 1, rows, width), np.float32)
            self._band = (box.y0, box.y1)
        elif (box.y0, box.y1) != self._band or box.x0 != self._next:
            raise ValueError(f"tile {tuple(box)} is not the next one after {self._band} x {self._next}")
        self._next = box.x1

    def _measure(self, kind: str, planes: Planes) -> None:
        truth = planes[0].astype(np.float64)
        broken = ~np.isfinite(truth)
        counted = None
        if broken.any():
            counted = _valid(kind, broken.astype(np.float64)) < 1e-9
            truth[broken] = 0
        first = _moments(kind, truth)
        self._windows[kind] += int(counted.sum()) if counted is not None else first.mean.size
        for k, plane in enumerate(planes[1:]):
            other = plane.astype(np.float64)
            if counted is not None:
                other[broken] = 0
            similar = _similarity(kind, truth, first, other)
            self._total[kind][k] += similar[counted].sum() if counted is not None else similar.sum()


class _Moments(NamedTuple):
    mean: Doubles
    square: Doubles


def _similarity(kind: str, truth: Doubles, first: _Moments, other: Doubles) -> Doubles:
    """Of every window inside both planes."""
    value = float(other.flat[0])
    if (other == value).all():  # many baselines are, and need no filter
        second = _Moments(np.full_like(first.mean, value), np.full_like(first.mean, value * value))
        product = first.mean * value
    else:
        second, product = _moments(kind, other), _valid(kind, truth * other)
    factor = SAMPLE if kind == UNIFORM else 1.0
    squares = first.mean * first.mean + second.mean * second.mean
    both = first.mean * second.mean
    above = (2 * both + C1) * (2 * factor * (product - both) + C2)
    return np.asarray(above / ((squares + C1) * (factor * (first.square + second.square - squares) + C2)))


def _moments(kind: str, plane: Doubles) -> _Moments:
    return _Moments(_valid(kind, plane), _valid(kind, plane * plane))


def _valid(kind: str, plane: Doubles) -> Doubles:
    """Weighted means of the windows inside a plane."""
    radius = RADIUS[kind]
    for axis in (0, 1):
        if kind == UNIFORM:
            plane = uniform_filter1d(plane, 2 * radius + 1, axis=axis)
        else:
            plane = gaussian_filter1d(plane, SIGMA, axis=axis, radius=radius)
        plane = plane[radius:-radius] if axis == 0 else plane[:, radius:-radius]
    return plane
