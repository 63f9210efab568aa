"""A picture of a slide with the outlines of its nuclei, small enough to look at; read strip by strip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Rings
from mxbridge.formats.atomic import write_atomically
from mxbridge.image import Box, LocalImage
from mxbridge.stream.resample import Field, Scale
from mxbridge.tasks.mapping.colours import ColourReader, colours_of

OVERLAY = "overlay.png"
LONGEST = 4096
"""Pixels on the longer side of the picture."""

STRIP = 256
"""Rows of the picture that are read at once."""

POSITIVE, NEGATIVE = (255, 0, 0), (0, 0, 255)
BITS = 4
"""Of a coordinate behind the point, as OpenCV takes them."""

AT_ONCE = 20_000
"""Outlines handed to OpenCV together."""


def write_overlay(
    path: Path, image: LocalImage, outlines: Rings, positive: NDArray[np.bool_], *, longest: int = LONGEST
) -> None:
    """image: colours. outlines: of the nuclei in full-resolution pixels. positive: one for each. Raises OutputError."""
    ratio = min(1.0, longest / max(image.shape))
    field = Field(Scale(image.shape[0], ratio), Scale(image.shape[1], ratio))
    reader = ColourReader(colours_of(image), field)
    height, width = field.shape
    strips = [reader.read(Box(y, 0, min(y + STRIP, height), width)) for y in range(0, height, STRIP)]
    picture = np.ascontiguousarray(np.moveaxis(np.concatenate(strips, axis=1), 0, -1))
    draw(picture, outlines, positive, ratio)
    write_png(path, picture)


def draw(picture: NDArray[np.uint8], outlines: Rings, positive: NDArray[np.bool_], ratio: float) -> None:
    """Outlines onto ``(y, x, 3)``, the negative ones first. ratio: pixels of the picture per full-resolution pixel."""
    import cv2

    points = np.round((outlines.xy * ratio - 0.5) * (1 << BITS)).astype(np.int32)
    is_positive = np.repeat(positive, np.diff(outlines.object_starts))
    for which, color in ((~is_positive, NEGATIVE), (is_positive, POSITIVE)):
        rings = np.flatnonzero(which)
        for first in range(0, len(rings), AT_ONCE):
            chosen = rings[first : first + AT_ONCE]
            lines = [points[outlines.ring_starts[r] : outlines.ring_starts[r + 1]] for r in chosen]
            cv2.polylines(picture, lines, isClosed=True, color=color, thickness=1, lineType=cv2.LINE_AA, shift=BITS)


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """``(y, x, 3)`` or ``(y, x)`` uint8. Raises OutputError."""
    from PIL import Image

    with write_atomically(path) as part:
        Image.fromarray(np.ascontiguousarray(picture)).save(part, format="PNG", compress_level=3)
