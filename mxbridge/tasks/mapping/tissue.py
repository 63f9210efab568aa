"""Where a slide is blank, so that no network runs there. Whoever is in doubt takes it for tissue.

Three rules, the first two for whole-slide windows, the third alone for ``--compat deepliif``:

1. From the low level of a pyramid, before anything else is read: a window is blank where each colour varies by no more than 4
   grey levels over the pixels that it and a margin of one pixel cover. The level is the coarsest with pixels of at most 4 µm,
   and is used only if they are at least four times the model's: the nucleus of a cell, 5 µm wide and 13 grey levels darker than
   its surroundings, then darkens at least one pixel by 4, however it lies.
2. From its own pixels: a window is blank where the published program would say so, and each of its squares of 64 pixels is as
   well, with white among its pixels. (A nucleus hides in the variance of a large empty window; in that of a small square, one
   that is 25 grey levels darker than its surroundings does not. And where glass is white, pale nuclei are all that is not.)
3. The published program's: the variance of the grey values that are neither 0 nor 255 is below 9 (none left: blank).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box, LocalImage
from mxbridge.stream.reader import level_pixels
from mxbridge.stream.resample import Field
from mxbridge.tasks.mapping.colours import Colours, grey

VARIANCE = 9.0
SQUARE = 64
LARGEST_UM = 4.0
SMALLEST_STEP = 4.0
SAME = 4
"""Grey levels, of 255, within which the low level of a blank window stays."""


def is_blank_tile(rgb: NDArray[np.uint8]) -> bool:
    """The third rule. rgb: ``(3, y, x)``."""
    return _still(grey(rgb))


def is_blank_window(rgb: NDArray[np.uint8]) -> bool:
    """The second rule. rgb: ``(3, y, x)``."""
    whole = grey(rgb)
    if not _still(whole):
        return False
    height, width = whole.shape
    return all(
        _still(whole[y : y + SQUARE, x : x + SQUARE], white=True)
        for y in range(0, height, SQUARE)
        for x in range(0, width, SQUARE)
    )


def tissue_share(rgb: NDArray[np.uint8]) -> float:
    """Share of a window's squares that are not blank, 0..1. rgb: ``(3, y, x)``."""
    whole = grey(rgb)
    height, width = whole.shape
    squares = [
        _still(whole[y : y + SQUARE, x : x + SQUARE]) for y in range(0, height, SQUARE) for x in range(0, width, SQUARE)
    ]
    return 1 - sum(squares) / len(squares)


class LowLevel:
    """The first rule on one image. ``level`` is None where no level of the pyramid is of use; then nothing is blank."""

    def __init__(self, colours: Colours, field: Field, top: int = 255) -> None:
        """field: the image in maps' pixels. top: the stored number that stands for white."""
        self._image, self._channels, self._field = colours.image, list(colours.channels), field
        self._same = SAME * top / 255
        self.level = useful_level(colours.image, field) if colours.palette is None else None

    def is_blank(self, box: Box) -> bool:
        """box: of a window, in maps' pixels. Raises InputError."""
        if self.level is None:
            return False
        height, width = (int(n) for n in self._image.levels[self.level].shape[1:])
        box = box.clip(self._field.shape)
        y0, y1 = _covered(box.y0, box.y1, self._field.shape[0], height)
        x0, x1 = _covered(box.x0, box.x1, self._field.shape[1], width)
        pixels = level_pixels(self._image, self.level, self._channels, Box(y0, x0, y1, x1))
        return bool((np.ptp(pixels.reshape(len(pixels), -1).astype(np.float64), axis=1) <= self._same).all())


def useful_level(image: LocalImage, field: Field) -> int | None:
    """The coarsest level with pixels small enough to show a nucleus, where reading it is cheap."""
    if image.pixel_size_um is None:
        return None
    useful = None
    for level in range(1, len(image.levels)):
        steps = image.downsample(level)
        um = max(step * size for step, size in zip(steps, image.pixel_size_um, strict=True))
        in_maps = min(step * scale.ratio for step, scale in zip(steps, (field.y, field.x), strict=True))
        if um <= LARGEST_UM * (1 + 1e-3) and in_maps >= SMALLEST_STEP * (1 - 1e-3):
            useful = level
    return useful


def _covered(first: int, last: int, length: int, low: int) -> tuple[int, int]:
    """Pixels of a level that cover maps' pixels ``first <= i < last`` of ``length``, and one more on either side."""
    step = low / length
    return max(0, math.floor(first * step) - 1), min(low, math.ceil(last * step) + 1)


def _still(values: NDArray[np.uint8], *, white: bool = False) -> bool:
    """Whether grey values vary no more than those of empty glass; black is no part of a picture, nor is white unless it counts."""
    levels = np.arange(1, 256 if white else 255)
    counts = np.bincount(values.ravel(), minlength=256)[levels].astype(np.float64)
    total = counts.sum()
    if not total:
        return True
    mean = (counts @ levels) / total
    return bool((counts @ (levels - mean) ** 2) / total < VARIANCE)
