"""Means and covariances of the values of markers and of their means over 3x3 pixels, summed over any number of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError

ROWS = 64
"""Rows of a block whose features are held in double precision."""

Plane = NDArray[np.float32]


class MomentSums:
    """Sums and products of the features of pixels, shifted so that small variances stay exact.

    The features are the values of all markers, then their 3x3 means. n: pixels so far.
    """

    def __init__(self, markers: int) -> None:
        self.n = 0
        self._shift: NDArray[np.float64] | None = None
        self._sum = np.zeros(2 * markers)
        self._product = np.zeros((2 * markers, 2 * markers))

    def add(self, unit: Plane) -> None:
        """unit: ``(markers, y + 2, x + 2)``, one pixel more on each side; pixels with a feature that is not finite are left out."""
        for first in range(0, unit.shape[1] - 2, ROWS):
            strip = unit[:, first : first + ROWS + 2]
            values = np.concatenate([strip[:, 1:-1, 1:-1], means_3x3(strip)])
            features = values.reshape(len(values), -1).astype(np.float64)
            finite = np.isfinite(features).all(axis=0)
            if not finite.all():
                features = features[:, finite]
            if not features.shape[1]:
                continue
            if self._shift is None:
                self._shift = features.mean(axis=1)
            features -= self._shift[:, None]
            self.n += features.shape[1]
            self._sum += features.sum(axis=1)
            self._product += features @ features.T

    @property
    def mean(self) -> NDArray[np.float64]:
        """``(2 markers,)``. Raises InputError when there were no pixels."""
        return self._need_pixels() + self._sum / self.n

    @property
    def products(self) -> NDArray[np.float64]:
        """Sums of products of deviations from the mean ``(2 markers, 2 markers)``; divided by n they are the covariance."""
        self._need_pixels()
        return np.asarray(self._product - np.outer(self._sum, self._sum) / self.n)

    def _need_pixels(self) -> NDArray[np.float64]:
        if self._shift is None:
            raise InputError("the images have no pixels to fit anything to")
        return self._shift


def means_3x3(unit: Plane) -> Plane:
    """Means over 3x3 pixels ``(c, y, x)`` of planes ``(c, y + 2, x + 2)``."""
    rows = unit[:, :-2] + unit[:, 1:-1] + unit[:, 2:]
    return np.asarray((rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / np.float32(9))
