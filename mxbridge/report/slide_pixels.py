"""Colours of a brightfield slide and of its inferred images, for pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box, LocalImage
from mxbridge.report.pixels import picture_shape, read_reduced
from mxbridge.tasks.mapping.colours import Colours, colours_of, top_of
from mxbridge.tasks.mapping.maps import Maps

LARGEST_MAPS = 40_000_000
"""Pixels of inferred images, which have no pyramid, beyond which only parts of them are shown."""

STRIP_ROWS = 512
"""Rows of inferred images read together."""


class SlidePixels:
    """The slide in 8 bits, whole or in part, at the scale of a picture. Raises NotApplicable for an image of markers."""

    def __init__(self, image: LocalImage) -> None:
        self.image = image
        self.colours: Colours = colours_of(image)
        self._top = top_of(self.colours) if self.colours.deep else 255

    def picture(self, longest: int, box: Box | None = None) -> NDArray[np.uint8]:
        """``(y, x, 3)``. Raises InputError, TooLarge."""
        palette = self.colours.palette
        if palette is None:
            planes = read_reduced(self.image, self.colours.channels, longest, box) * np.float32(255 / self._top)
            return np.ascontiguousarray(np.moveaxis(_eight_bits(planes), 0, -1))
        return self._of_palette(palette, longest, box)

    def _of_palette(self, palette: NDArray[np.uint8], longest: int, box: Box | None) -> NDArray[np.uint8]:
        """Numbers of colours cannot be averaged: each pixel of the picture is the nearest stored one."""
        from mxbridge.stream.reader import level_pixels

        box = Box(0, 0, *self.image.shape) if box is None else box.clip(self.image.shape)
        shape = picture_shape(box.shape, longest)
        rows, columns = _nearest(shape, box.shape)
        out = np.zeros((*shape, 3), np.uint8)
        for first in range(0, box.shape[0], STRIP_ROWS):
            begin, end = np.searchsorted(rows, [first, first + STRIP_ROWS])
            if begin < end:
                strip = Box(box.y0 + first, box.x0, min(box.y1, box.y0 + first + STRIP_ROWS), box.x1)
                stored = level_pixels(self.image, 0, list(self.colours.channels), strip)[0]
                at = stored[rows[begin:end] - first][:, columns]
                out[begin:end] = palette.T[np.minimum(at, palette.shape[1] - 1)]
        return out


def map_picture(maps: Maps, name: str, longest: int, box: Box | None = None) -> NDArray[np.uint8] | None:
    """``(y, x, 3)`` of an inferred image. box: in full-resolution pixels of the slide. None where it is too large to be read
    for a picture. Raises InputError."""
    import cv2

    whole = Box(0, 0, *maps.shape)
    ratio = maps.field.y.ratio, maps.field.x.ratio
    if box is not None:
        seen = Box(*(int(edge * r) for edge, r in zip(box, (*ratio, *ratio), strict=True)))
        seen = Box(seen.y0, seen.x0, max(seen.y1, seen.y0 + 1), max(seen.x1, seen.x0 + 1)).clip(maps.shape)
    else:
        seen = whole
    if 0 in seen.shape or seen.shape[0] * seen.shape[1] > LARGEST_MAPS:
        return None
    shape = picture_shape(seen.shape, longest)
    out = np.zeros((*shape, 3), np.uint8)
    rows = max(1, STRIP_ROWS * shape[0] // seen.shape[0])
    for top in range(0, shape[0], rows):
        bottom = min(shape[0], top + rows)
        y0, y1 = (seen.y0 + edge * seen.shape[0] // shape[0] for edge in (top, bottom))
        planes = maps.read(name, Box(y0, seen.x0, max(y1, y0 + 1), seen.x1))
        stored = np.ascontiguousarray(np.moveaxis(planes, 0, -1))
        out[top:bottom] = cv2.resize(stored, (shape[1], bottom - top), interpolation=cv2.INTER_AREA)
    return out


def _nearest(shape: tuple[int, int], stored: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * side / n).astype(np.int64), side - 1)
        for n, side in zip(shape, stored, strict=True)
    )
    return rows, columns


def _eight_bits(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
