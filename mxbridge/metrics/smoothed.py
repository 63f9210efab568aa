"""Scores of images blurred over 64 pixels: what is left to judge where a marker is nearly dark and pixels are noise.

Mean absolute and mean square difference, and how far the two agree where the marker is above its own mean (intersection over
union). Blurred by a square of equal weights; at the border the image is mirrored.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from mxbridge.formats.atomic import make_folder, output_error
from mxbridge.image import Box

SIZE = 64
METRICS = ("smooth_l1", "smooth_l2", "smooth_iou")

MOST_PIXELS = 1 << 22
"""Images up to this size are blurred pixel by pixel; larger ones after taking means of 2x2, 4x4, ... pixels."""

ALIKE = 1e-12
"""Values that differ by less are the same; what rounding leaves of a constant image has no mean to be above."""


def smoothed_scores(measured: NDArray[Any], imputed: NDArray[Any], size: int = SIZE) -> dict[str, float]:
    """:data:`METRICS` of two images ``(y, x)``; NaN pixels count as 0, as a network sees them."""
    first, second = (uniform_filter(np.nan_to_num(a.astype(np.float64)), size) for a in (measured, imputed))
    difference = second - first
    one, two = _above_mean(first), _above_mean(second)
    return {
        "smooth_l1": float(np.abs(difference).mean()),
        "smooth_l2": float((difference * difference).mean()),
        "smooth_iou": float((one & two).sum() / (one | two).sum()),
    }


def _above_mean(blurred: NDArray[np.float64]) -> NDArray[np.bool_]:
    if np.ptp(blurred) < ALIKE:
        return np.ones(blurred.shape, bool)
    return np.asarray(blurred >= blurred.mean())


class SmallCopies:
    """Copies of large planes, reduced to at most :data:`MOST_PIXELS` each by block means, in one file on disk.

    step: side of a block; 1 keeps every pixel.
    """

    def __init__(self, file: Path, shape: tuple[int, int], planes: int) -> None:
        """file: is made, and removed by :meth:`close`. shape: (y, x). Raises OutputError."""
        self.step = step_of(shape)
        self.shape = (-(-shape[0] // self.step), -(-shape[1] // self.step))
        self._file = file
        make_folder(file.parent)
        try:
            with file.open("wb") as stream:
                _reserve(stream, 4 * planes * self.shape[0] * self.shape[1])
            self._sums = np.memmap(file, np.float32, "r+", shape=(planes, *self.shape))
        except OSError as error:
            raise output_error(file, error) from error
        sides = [np.minimum(self.step, n - np.arange(0, n, self.step)) for n in shape]
        self._pixels = np.outer(*sides).astype(np.float32)

    def add(self, plane: int, box: Box, values: NDArray[Any]) -> None:
        """values: ``(y, x)`` of ``box``; each pixel is given once."""
        values = np.nan_to_num(values)
        if self.step == 1:
            self._sums[plane, box.y0 : box.y1, box.x0 : box.x1] = values
            return
        rows, columns = self._cuts(box.y0, box.y1), self._cuts(box.x0, box.x1)
        sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
        y, x = box.y0 // self.step, box.x0 // self.step
        self._sums[plane, y : y + sums.shape[0], x : x + sums.shape[1]] += sums

    def _cuts(self, first: int, last: int) -> NDArray[np.int64]:
        inner = np.arange((first // self.step + 1) * self.step, last, self.step)
        return np.concatenate([[0], inner - first]).astype(np.int64)

    def scores(self, measured: int, imputed: int) -> dict[str, float]:
        """:func:`smoothed_scores` of two planes."""
        return smoothed_scores(self.plane(measured), self.plane(imputed), self.blur)

    def plane(self, number: int) -> NDArray[np.float32]:
        """The reduced plane."""
        return np.asarray(self._sums[number] / self._pixels)

    @property
    def blur(self) -> int:
        """Side of the blur in pixels of the reduced planes."""
        return SIZE // self.step

    def close(self) -> None:
        del self._sums
        self._file.unlink(missing_ok=True)


def _reserve(stream: BinaryIO, size: int) -> None:
    """Make the file ``size`` bytes of zeros that the disk really has: a full disk would otherwise end the program later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, size)
    else:
        stream.truncate(size)


def step_of(shape: tuple[int, int]) -> int:
    """Side of the blocks whose means stand for an image of ``shape``: a power of two, at most half the blur."""
    step = 1
    while math.ceil(shape[0] / step) * math.ceil(shape[1] / step) > MOST_PIXELS and step < SIZE // 2:
        step *= 2
    return step
