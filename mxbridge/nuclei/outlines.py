"""Outlines of nuclei, and of cells around them, block by block and independent of the blocks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mxbridge.cells import Rings
from mxbridge.errors import UsageError
from mxbridge.image import Box
from mxbridge.nuclei.corners import RingCollector, corners_of
from mxbridge.nuclei.found import Nuclei
from mxbridge.nuclei.source import SegSource

AROUND = 24
"""Blocks kept while cells are grown: a block, its neighbours, and those that the next row of blocks wants again."""

FURTHEST = 512
"""Cells are grown by at most so many pixels."""


def outlines(
    source: SegSource,
    nuclei: Nuclei,
    keep: NDArray[np.bool_],
    *,
    expand_px: float = 0,
    tell: Callable[[int, int], None] | None = None,
) -> tuple[Rings, Rings | None]:
    """Outlines of the nuclei in ``keep`` ``(n,)``, in their order, along pixel edges in pixels of the segmentation image.

    The area of an outline is the number of pixels exactly; parts that meet at corners only are rings of their own.
    expand_px: also outlines of cells, that is of all pixels at most so far from a nucleus, each given to the nearest one (the
    distance is between pixel centres); None for 0. source: the one the nuclei were found in. Raises UsageError for a
    distance beyond 512 pixels.
    """
    if not 0 <= expand_px <= FURTHEST:
        raise UsageError(f"cells cannot be grown by {expand_px:g} pixels of the model's scale", hint=f"0 to {FURTHEST}")
    number = np.zeros(len(nuclei) + 2, np.int32)  # the last is for what is no nucleus, numbered -1
    number[1 : len(nuclei) + 1][keep] = np.arange(1, int(keep.sum()) + 1)
    halo = math.ceil(expand_px)
    ends = nuclei.bbox[keep, 2]
    own, grown = RingCollector(ends), RingCollector(ends + halo)
    seams, grown_seams = Seams(nuclei.shape), Seams(nuclei.shape)
    boxes = list(nuclei.atlas.boxes())
    for done, box in enumerate(boxes, 1):
        around = box.grow(halo)
        labels = number[nuclei.atlas.raster(source, around, keep=AROUND if halo else 1)]
        inner = np.s_[halo : halo + box.shape[0], halo : halo + box.shape[1]]
        own.add(corners_of(seams.with_neighbours(labels[inner], box), box.y0, box.x0))
        if expand_px:
            cells = expanded(labels, expand_px)
            grown.add(corners_of(grown_seams.with_neighbours(cells[inner], box), box.y0, box.x0))
        if box.x1 == nuclei.shape[1]:
            row = box.y1 if box.y1 < nuclei.shape[0] else box.y1 + 2 * FURTHEST
            own.settle(row)
            grown.settle(row)
        if tell is not None:
            tell(done, len(boxes))
    return own.rings(), grown.rings() if expand_px else None


class Seams:
    """The last lines of the blocks before, so that every block is drawn once; blocks come row by row."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._above = np.zeros(shape[1] + 1, np.int32)  # one zero left of the slide
        self._left = np.zeros(0, np.int32)
        self._corner = np.int32(0)

    def with_neighbours(self, block: NDArray[np.int32], box: Box) -> NDArray[np.int32]:
        """The block and a line of pixels left of it and above it, and zeros wherever the slide ends."""
        end = (int(box.y1 == self._shape[0]), int(box.x1 == self._shape[1]))
        out = np.pad(block, ((1, end[0]), (1, end[1])))
        out[0, : block.shape[1] + 1] = self._above[box.x0 : box.x1 + 1]
        if box.x0:
            out[0, 0] = self._corner  # the line above has been overwritten there
            out[1 : 1 + len(self._left), 0] = self._left
        self._corner = self._above[box.x1]
        self._above[box.x0 + 1 : box.x1 + 1] = block[-1]
        self._left = block[:, -1].copy()
        return out


def expanded(labels: NDArray[np.int32], distance: float) -> NDArray[np.int32]:
    """Labels ``(y, x)`` grown by at most ``distance`` pixels; of labels equally near, the choice depends on their pixels alone."""
    if not labels.any():
        return labels
    far, (y, x) = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    return np.where(far <= distance, labels[y, x], 0).astype(np.int32)
