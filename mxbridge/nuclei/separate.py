"""Nuclei that touch, parted where they are narrow or where an image says that one ends: watershed, nucleus by nucleus.

Whether and where a nucleus is parted depends on its own pixels and on the separating image around them, never on blocks.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import UsageError
from mxbridge.image import Box
from mxbridge.nuclei.atlas import Atlas, Patches
from mxbridge.nuclei.parts import Runs
from mxbridge.nuclei.source import SegSource
from mxbridge.nuclei.sums import Planes, Sums, sums_of

STEPS = 16
"""Depths are whole numbers of 1 / STEPS pixel, so that rounding decides nothing."""

BLUR = 2.0
"""Standard deviation, in pixels, over which the separating image is smoothed."""

MARGIN = math.ceil(4 * BLUR)


@dataclass(frozen=True)
class Separation:
    """How nuclei that touch are parted.

    depth: how much deeper, in pixels, the insides of two nuclei must lie than the neck between them.
    border: by how many pixels full brightness of the separating image makes a place shallower; 0 takes outlines only.
    largest: nuclei whose bounding box is longer, in pixels, stay as they are: they are no nuclei.
    """

    depth: float = 1.5
    border: float = 4.0
    largest: int = 512

    def __post_init__(self) -> None:
        if not (0 < self.depth < 1000 and 0 <= self.border < 1000 and 1 <= self.largest <= 4096):
            raise UsageError(f"nuclei cannot be parted so: {self}")


@dataclass(frozen=True)
class _Parted:
    """What becomes of one nucleus: its index, its pieces ``(y, x)`` uint16 counted from 1 within its bounding box."""

    index: int
    pieces: NDArray[np.uint16]


def separated(
    source: SegSource, sums: Sums, atlas: Atlas, planes_of: Callable[[Box], Planes], how: Separation
) -> tuple[Sums, Atlas]:
    """Sums and atlas with every nucleus replaced by its pieces, in the order of first pixels.

    planes_of: gives the pixels of a box.
    """
    boxes = np.column_stack([sums[name] for name in ("y0", "x0", "y1", "x1")])
    rows, parted = [], []
    for members, window in _windows(boxes, atlas, how):
        labels = atlas.raster(source, window, keep=4)
        found = list(_parted(source, labels, members, boxes, window, how))
        if found:
            rows.append(_sums_of_pieces(found, boxes, window, planes_of(window), atlas.shape[1]))
            parted += found
    whole = np.ones(len(sums), bool)
    whole[[p.index for p in parted]] = False
    pieces = Sums.joined(rows)
    everything = Sums.joined([sums.take(np.flatnonzero(whole)), pieces])
    order = np.argsort(everything["first"], kind="stable")
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(1, len(order) + 1)
    renumbered = np.zeros(len(sums), np.int32)
    renumbered[whole] = number[: int(whole.sum())]
    numbers_of_pieces = np.split(number[int(whole.sum()) :], np.cumsum([int(p.pieces.max()) for p in parted])[:-1])
    patches = Patches(
        renumbered,
        boxes[[p.index for p in parted]],
        tuple(zlib.compress(p.pieces.tobytes(), 1) for p in parted),
        tuple(numbers_of_pieces) if parted else (),
    )
    return everything.take(order), replace(atlas, patches=patches)


def _windows(boxes: NDArray[np.int64], atlas: Atlas, how: Separation) -> Iterator[tuple[NDArray[np.int64], Box]]:
    """Nuclei by the block in which their boxes begin, and a window that holds them and the margin around them."""
    fit = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) <= how.largest)
    block = boxes[fit, :2] // atlas.block
    order = np.lexsort((block[:, 1], block[:, 0]))
    cuts = np.flatnonzero(np.any(np.diff(block[order], axis=0), axis=1)) + 1
    for members in np.split(fit[order], cuts):
        if len(members):
            low, high = boxes[members, :2].min(axis=0), boxes[members, 2:].max(axis=0)
            yield members, Box(*map(int, (*low, *high))).grow(MARGIN).clip(atlas.shape)


def _parted(
    source: SegSource,
    labels: NDArray[np.int32],
    members: NDArray[np.int64],
    boxes: NDArray[np.int64],
    window: Box,
    how: Separation,
) -> Iterator[_Parted]:
    """Members of a window that have more than one inside."""
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed

    own = np.zeros(max(int(labels.max()), int(members.max()) + 1) + 2, bool)
    own[members + 1] = True
    mask = own[labels]
    depth = _depth(source, mask, window, how)
    level = reconstruction(depth - round(how.depth * STEPS), depth)  # type: ignore[no-untyped-call]
    tops = local_maxima(level)  # type: ignore[no-untyped-call]
    _, insides = cv2.connectedComponents((tops & mask).astype(np.uint8), connectivity=8)
    there = np.flatnonzero(insides)
    pairs = np.unique(np.column_stack([labels.ravel()[there], insides.ravel()[there]]), axis=0)
    several, counts = np.unique(pairs[:, 0], return_counts=True)
    for number in several[counts > 1]:
        y0, x0, y1, x1 = boxes[number - 1]
        here = np.s_[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0]
        inside = labels[here] == number
        _, seeds = np.unique(insides[here] * inside, return_inverse=True)
        pieces = watershed(-depth[here], seeds.reshape(inside.shape), connectivity=2, mask=inside)  # type: ignore[no-untyped-call]
        yield _Parted(int(number) - 1, _by_first_pixel(pieces))


def _depth(source: SegSource, mask: NDArray[np.bool_], window: Box, how: Separation) -> NDArray[np.int32]:
    """How deep inside a nucleus a pixel lies, in 1 / STEPS pixel, at least 1; 0 outside."""
    far = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    far = np.minimum(far, how.largest)  # nothing is far from the outside where there is no outside
    border = source.separating(window) if how.border else None
    if border is not None:
        grey = np.clip(np.round(border), 0, 255).astype(np.uint8)  # of integers, smoothing is the same in every window
        smooth = cv2.GaussianBlur(grey, (2 * MARGIN + 1,) * 2, BLUR, borderType=cv2.BORDER_REPLICATE)
        far -= smooth * (how.border / 255)
    return np.where(mask, np.maximum(np.round(far * STEPS), 1), 0).astype(np.int32)


def _by_first_pixel(pieces: NDArray[np.int32]) -> NDArray[np.uint16]:
    present, first, place = np.unique(pieces, return_index=True, return_inverse=True)
    rank = np.zeros(len(present), np.uint16)
    filled = np.flatnonzero(present)
    rank[filled[np.argsort(first[filled])]] = np.arange(1, len(filled) + 1)
    return rank[place].reshape(pieces.shape)


def _sums_of_pieces(parted: list[_Parted], boxes: NDArray[np.int64], window: Box, planes: Planes, width: int) -> Sums:
    labels = np.zeros(window.shape, np.int32)
    before = 0
    for p in parted:
        y0, x0, y1, x1 = boxes[p.index]
        here = labels[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0]
        here[p.pieces > 0] = p.pieces[p.pieces > 0].astype(np.int32) + before
        before += int(p.pieces.max())
    return sums_of(Runs.of(labels), np.arange(before + 1, dtype=np.int32), before, planes, window, width)
