"""Pixels for pictures of reports: area means of the pyramid level that fits, never a whole slide at full resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box, LocalImage

STRIP_PIXELS = 16_000_000
"""Stored pixels, of all channels asked for, that are read together."""

KEPT_PIXELS = 16_000_000
"""Pixels of a channel that :class:`ChannelPixels` holds whole, so that many small boxes of it cost one reading."""

MOST_PIXELS = 400_000_000
"""Stored pixels of one channel beyond which nobody waits for a picture: such an image lacks a pyramid."""


class TooLarge(ValueError):
    """An image without the pyramid levels that a picture of it could be made of."""


def picture_shape(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    """(y, x) of a picture of a field of ``shape`` pixels whose longer side has at most ``longest`` pixels; never enlarged."""
    ratio = min(1.0, longest / max(*shape, 1))
    return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))


def read_reduced(
    image: LocalImage, channels: Sequence[int], longest: int, box: Box | None = None
) -> NDArray[np.float32]:
    """Means over areas ``(c, y, x)`` float32, in stored units; the longer side has at most ``longest`` pixels.

    box: in full-resolution pixels, clipped to the image; None for all of it. What is not finite counts as 0. Read strip by strip
    from the coarsest level that is fine enough. Raises TooLarge, InputError.
    """
    import cv2

    from mxbridge.stream.reader import level_pixels

    whole = Box(0, 0, *image.shape)
    box = whole if box is None else box.clip(image.shape)
    shape = picture_shape(box.shape, longest)
    level = _level_for(image, box, shape)
    seen = _at_level(image, box, level)
    if seen.shape[0] * seen.shape[1] > MOST_PIXELS:
        raise TooLarge(
            f"{image.name} has no pyramid level from which a picture of {shape[1]} x {shape[0]} pixels can be made"
        )
    out = np.zeros((len(channels), *shape), np.float32)
    rows = max(1, STRIP_PIXELS // max(1, seen.shape[1] * len(channels)) * shape[0] // seen.shape[0])
    for top in range(0, shape[0], rows):
        bottom = min(shape[0], top + rows)
        y0, y1 = (seen.y0 + edge * seen.shape[0] // shape[0] for edge in (top, bottom))
        strip = Box(y0, seen.x0, max(y1, y0 + 1), seen.x1)
        raw = np.nan_to_num(
            level_pixels(image, level, list(channels), strip).astype(np.float32), posinf=0.0, neginf=0.0
        )
        for plane, stored in zip(out, raw, strict=True):
            plane[top:bottom] = cv2.resize(stored, (shape[1], bottom - top), interpolation=cv2.INTER_AREA)
    return out


def _level_for(image: LocalImage, box: Box, shape: tuple[int, int]) -> int:
    """The coarsest level with at least as many pixels as the picture has, along both axes."""
    fine = [0]
    for level in range(1, len(image.levels)):
        seen = _at_level(image, box, level)
        if seen.shape[0] >= shape[0] and seen.shape[1] >= shape[1]:
            fine.append(level)
    return min(fine, key=lambda level: image.levels[level].shape[1])


def _at_level(image: LocalImage, box: Box, level: int) -> Box:
    """The pixels of a level that cover ``box`` (full-resolution pixels), at least one."""
    y, x = image.downsample(level)
    height, width = int(image.levels[level].shape[1]), int(image.levels[level].shape[2])
    y0, x0 = min(round(box.y0 / y), height - 1), min(round(box.x0 / x), width - 1)
    return Box(y0, x0, max(y0 + 1, min(height, round(box.y1 / y))), max(x0 + 1, min(width, round(box.x1 / x))))


@dataclass
class ChannelPixels:
    """Boxes of one image at full resolution. Of a small image the channel last asked for is held whole."""

    image: LocalImage
    _held: tuple[int, NDArray[np.float32]] | None = field(default=None, init=False, repr=False)

    def box(self, channel: int, box: Box) -> NDArray[np.float32]:
        """``(y, x)`` float32 in stored units; 0 beyond the image and where a pixel is not finite. Raises InputError."""
        out = np.zeros(box.shape, np.float32)
        inside = box.clip(self.image.shape)
        if 0 not in inside.shape:
            part = self._read(channel, inside)
            out[inside.y0 - box.y0 : inside.y1 - box.y0, inside.x0 - box.x0 : inside.x1 - box.x0] = part
        return out

    def _read(self, channel: int, box: Box) -> NDArray[np.float32]:
        from mxbridge.stream.reader import level_pixels

        height, width = self.image.shape
        if height * width > KEPT_PIXELS:
            return _finite(level_pixels(self.image, 0, [channel], box)[0])
        if self._held is None or self._held[0] != channel:
            self._held = channel, _finite(level_pixels(self.image, 0, [channel], Box(0, 0, height, width))[0])
        return self._held[1][box.y0 : box.y1, box.x0 : box.x1]


def _finite(stored: NDArray) -> NDArray[np.float32]:
    return np.nan_to_num(stored.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
