"""The two pictures that people know from DeepLIIF: outlines on the original, and classes as areas. Pixel for pixel the same.

Borders lie outside the nuclei: first the background that shares an edge with a nucleus, then twice all background around
that. Three oddities are kept because the pictures are to be the same: the first pixel of a nucleus is drawn as border; the
background that only this pixel touches is not; and where borders meet, the earlier nucleus, or the pixel further up and left,
has it. Adapted from DeepLIIF.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import InputError
from mxbridge.image import Box
from mxbridge.nuclei.found import Nuclei
from mxbridge.nuclei.judge import Judged
from mxbridge.nuclei.source import SegSource

NOTHING, POSITIVE, NEGATIVE, POSITIVE_BORDER, NEGATIVE_BORDER = range(5)
"""What :func:`drawing` says of a pixel."""

AREAS = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255), (0, 255, 0), (0, 255, 0)], np.uint8)
LINES = np.array([(0, 0, 0), (0, 0, 0), (0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)

BORDER = 3
"""Pixels between a nucleus and the outer rim of its border."""

KEPT = 24
"""Blocks kept while parts of a slide are drawn: those above are still there when the next row of blocks wants their rim."""

EDGES = ((-1, 0), (0, -1), (0, 1), (1, 0))
AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def pictures(
    source: SegSource, nuclei: Nuclei, judged: Judged, original: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Overlay and refined segmentation, uint8 ``(3, y, x)``. original: the stained image ``(3, y, x)`` at the same scale.

    They are held whole; :func:`drawing` gives the same pixels of a part. Raises InputError where the sizes differ.
    """
    if original.shape != (3, *nuclei.shape):
        size, own = original.shape[:0:-1], nuclei.shape[::-1]
        raise InputError(f"the original has {size[0]}x{size[1]} pixels, its segmentation {own[0]}x{own[1]}")
    overlay, refined = original.copy(), np.zeros((3, *nuclei.shape), np.uint8)
    for box in nuclei.atlas.boxes():
        here = np.s_[:, box.y0 : box.y1, box.x0 : box.x1]
        codes = drawing(source, nuclei, judged, box)
        for plane, colours in zip(refined[here], AREAS.T, strict=True):
            plane[:] = cv2.LUT(codes, np.pad(colours, (0, 256 - len(colours))))
        y, x = _places(codes >= POSITIVE_BORDER)
        for plane, colours in zip(overlay[here], LINES.T, strict=True):
            plane[y, x] = colours[codes[y, x]]
    return overlay, refined


def drawing(source: SegSource, nuclei: Nuclei, judged: Judged, box: Box) -> NDArray[np.uint8]:
    """What to draw in the pixels ``(y, x)`` of a box: :data:`NOTHING`, :data:`POSITIVE`, ... :data:`NEGATIVE_BORDER`."""
    wide = box.grow(BORDER).clip(nuclei.shape)
    labels = nuclei.atlas.raster(source, wide, keep=KEPT)
    kind = np.zeros(len(nuclei) + 2, np.uint8)
    kind[1:-1] = np.where(judged.positive, POSITIVE, NEGATIVE) * judged.keep
    codes = kind[labels]
    background = labels == 0
    first = nuclei.first - (wide.y0, wide.x0)
    here = judged.keep & np.all((first >= 0) & (first < wide.shape), axis=1)
    y, x = first[here].T
    codes[y, x] = NOTHING
    _edge(codes, labels, background)
    codes[y, x] = kind[1:-1][here] + 2
    for _ in range(BORDER - 1):
        _widen(codes, background)
    return codes[box.y0 - wide.y0 :, box.x0 - wide.x0 :][: box.shape[0], : box.shape[1]]


def _edge(codes: NDArray[np.uint8], labels: NDArray[np.int32], background: NDArray[np.bool_]) -> None:
    """Give background beside nuclei to the earliest of them."""
    cross = np.array([(0, 1, 0), (1, 1, 1), (0, 1, 0)], np.uint8)
    positive, negative = (_beside(codes == code, cross) & background for code in (POSITIVE, NEGATIVE))
    y, x = _places(positive & negative)
    best = np.full(len(y), np.iinfo(np.int32).max)
    choice = np.zeros(len(y), np.uint8)
    for ny, nx, valid in _neighbours(y, x, EDGES, codes.shape):
        label = labels[ny, nx]
        better = valid & (codes[ny, nx] != NOTHING) & (codes[ny, nx] <= NEGATIVE) & (label < best)
        best[better], choice[better] = label[better], codes[ny, nx][better]
    codes[positive] = POSITIVE_BORDER
    codes[negative & ~positive] = NEGATIVE_BORDER
    codes[y, x] = choice + 2


def _widen(codes: NDArray[np.uint8], background: NDArray[np.bool_]) -> None:
    """Give background around borders to the first border in reading order."""
    square = np.ones((3, 3), np.uint8)
    free = background & (codes == NOTHING)
    positive, negative = (_beside(codes == code, square) & free for code in (POSITIVE_BORDER, NEGATIVE_BORDER))
    y, x = _places(positive & negative)
    choice = np.zeros(len(y), np.uint8)
    for ny, nx, valid in _neighbours(y, x, AROUND, codes.shape):
        code = codes[ny, nx]
        take = valid & (choice == NOTHING) & (code >= POSITIVE_BORDER)
        choice[take] = code[take]
    codes[positive] = POSITIVE_BORDER
    codes[negative & ~positive] = NEGATIVE_BORDER
    codes[y, x] = choice


def _beside(where: NDArray[np.bool_], shape: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return cv2.dilate(where.view(np.uint8), shape, borderType=cv2.BORDER_CONSTANT, borderValue=0).view(bool)


def _places(where: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    at = np.flatnonzero(where)
    return at // where.shape[1], at % where.shape[1]


def _neighbours(
    y: NDArray[np.int64], x: NDArray[np.int64], steps: tuple[tuple[int, int], ...], shape: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]:
    """Neighbours of some pixels, step by step, and whether they lie within ``shape``; those beyond are moved into it."""
    for dy, dx in steps:
        ny, nx = y + dy, x + dx
        valid = (ny >= 0) & (ny < shape[0]) & (nx >= 0) & (nx < shape[1])
        yield np.clip(ny, 0, shape[0] - 1), np.clip(nx, 0, shape[1] - 1), valid
