"""Small parts of an image at full resolution: where to look, and how it looks there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box
from mxbridge.report.cell_pictures import NEGATIVE, POSITIVE, Painting

CELLS_ACROSS = 12
"""Cells along the side of a crop that is made to be zoomed into."""

CELL_SHARE = 0.4
"""Of the side of a gallery picture that a cell of usual size takes."""

SMALLEST, LARGEST = 16, 512
"""Full-resolution pixels along the side of a crop."""


def cell_size(boxes: NDArray[np.float64]) -> float:
    """Usual length of a cell's box in pixels; 20 where nothing is known."""
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    known = sides[np.isfinite(sides)]
    return float(np.median(known)) if known.size else 20.0


def crop_side(boxes: NDArray[np.float64]) -> int:
    """Pixels along the side of a crop for zooming."""
    return int(np.clip(round(cell_size(boxes) * CELLS_ACROSS), 4 * SMALLEST, LARGEST))


def card_side(boxes: NDArray[np.float64], cell: int) -> int:
    """Pixels along the side of a gallery picture, so that an unusually large cell fits, too."""
    own = float(np.nan_to_num((boxes[cell, 2:] - boxes[cell, :2]).max()))
    return int(np.clip(round(max(cell_size(boxes) / CELL_SHARE, 1.3 * own)), SMALLEST, LARGEST))


def centred(middle: tuple[float, float], side: int, shape: tuple[int, int]) -> Box:
    """A square around (y, x), moved into the image where it can be; an image smaller than that is taken whole."""
    corner = []
    for at, length in zip(middle, shape, strict=True):
        corner.append(0 if length <= side else int(np.clip(round(at - side / 2), 0, length - side)))
    return Box(corner[0], corner[1], min(shape[0], corner[0] + side), min(shape[1], corner[1] + side))


def densest(centroids: NDArray[np.float64], wanted: NDArray[np.bool_], side: int, shape: tuple[int, int]) -> Box:
    """The square of ``side`` pixels with the most of the ``wanted`` cells, of all cells where none is wanted.

    centroids: ``(cells, 2)`` y, x in full-resolution pixels. Squares half a side apart are looked at; of several the first.
    """
    known = np.isfinite(centroids).all(axis=1)
    points = centroids[known & wanted]
    points = points if len(points) else centroids[known]
    if not len(points):
        return centred((shape[0] / 2, shape[1] / 2), side, shape)
    step = max(1.0, side / 2)
    grid = np.clip(np.floor(points / step), 0, None).astype(np.int64)
    counts: dict[tuple[int, int], int] = {}
    for y, x in grid.tolist():
        for place in ((y, x), (y - 1, x), (y, x - 1), (y - 1, x - 1)):  # the squares of 2 x 2 that it lies in
            counts[place] = counts.get(place, 0) + 1
    best = min(counts, key=lambda place: (-counts[place], place))
    return centred(((best[0] + 1) * step, (best[1] + 1) * step), side, shape)


def enlarged(picture: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """``(y, x, 3)`` so that its longer side has ``longest`` pixels."""
    import cv2

    scale = longest / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size, interpolation=how))


def with_calls(picture: NDArray[np.uint8], painting: Painting, positive: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A crop with cells outlined by their calls, the positive ones more strongly."""
    return painting.outlined(painting.outlined(picture, ~positive, NEGATIVE), positive, POSITIVE, thick=2)
