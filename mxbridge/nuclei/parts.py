"""One block of a segmentation image: which pixels belong together, as far as the block alone can tell.

Pixels of nuclei hold together over corners, what lies between them over edges only, as on a chessboard where black walks like
a king and white like a rook. What is enclosed by a nucleus belongs to it; a gap that reaches the border of the block may or
may not be enclosed by something larger.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mxbridge.nuclei.thresholds import Thresholds


@dataclass(frozen=True)
class Runs:
    """Stretches of equal labels in the rows of an image, in reading order: where they start in the flat image, how many
    pixels they have, and the label (0 for none)."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int32]

    @classmethod
    def of(cls, image: NDArray[np.int32]) -> Runs:
        change = np.empty(image.shape, bool)
        change[:, 0] = True
        np.not_equal(image[:, 1:], image[:, :-1], out=change[:, 1:])
        starts = np.flatnonzero(change)
        return cls(starts, np.diff(starts, append=image.size), image.ravel()[starts])

    def sizes(self, labels: int) -> NDArray[np.int64]:
        """Pixels of each label below ``labels``."""
        return np.bincount(self.labels, self.lengths, labels).astype(np.int64)

    def firsts(self, labels: int) -> NDArray[np.int64]:
        """Where each label comes first in the flat image."""
        first = np.zeros(labels, np.int64)
        first[self.labels[::-1]] = self.starts[::-1]  # of repeated positions the last stays
        return first


@dataclass(frozen=True)
class Labels:
    """An image ``(y, x)`` of int32 labels in no particular order, 0 for none; ``number`` counts them from 1 in a fixed one."""

    image: NDArray[np.int32]
    number: NDArray[np.int32]

    @property
    def count(self) -> int:
        return len(self.number) - 1

    def along(self, where: tuple) -> NDArray[np.int32]:
        """Numbers of some of the pixels."""
        return np.asarray(self.number[self.image[where]])


@dataclass(frozen=True)
class Parts:
    """What a block ``(y, x)`` consists of.

    filled: uint8, 255 where the thresholds say nucleus and in the gaps that this encloses.
    cells: of ``filled``, numbered by first pixel; runs: theirs.
    gaps: of the rest, all of which reach the border of the block, in the order in which they are met along it.
    """

    filled: NDArray[np.uint8]
    cells: Labels
    runs: Runs
    gaps: Labels


def foreground_of(seg: NDArray[np.uint8], thresholds: Thresholds) -> NDArray[np.uint8]:
    """255 in ``(y, x)`` where red + blue is above the threshold and green is not, 0 elsewhere."""
    red, green, blue = (np.ascontiguousarray(plane) for plane in seg)
    total = cv2.add(red, blue, dtype=cv2.CV_16U)
    bright = cv2.inRange(total, float(thresholds.seg + 1), 510.0)
    inner = cv2.inRange(green, 0.0, float(thresholds.green))
    return np.asarray(cv2.bitwise_and(bright, inner))


def parts_of(foreground: NDArray[np.uint8]) -> Parts:
    """Labels of a block; numbers do not depend on the order in which the library happens to label."""
    filled = _without_holes(foreground)
    cells, runs = _cells(filled)
    return Parts(filled, cells, runs, _gaps(filled))


def cells_and_gaps(foreground: NDArray[np.uint8], *, gaps: bool) -> tuple[Labels, Labels | None]:
    """Those of :func:`parts_of`, the gaps only if they are wanted."""
    filled = _without_holes(foreground)
    return _cells(filled)[0], _gaps(filled) if gaps else None


def _without_holes(foreground: NDArray[np.uint8]) -> NDArray[np.uint8]:
    outside = cv2.copyMakeBorder(cv2.bitwise_not(foreground), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=255)
    cv2.floodFill(outside, None, (0, 0), 0)  # flows over edges, not over corners; what it does not reach is enclosed
    return np.bitwise_or(foreground, np.asarray(outside, np.uint8)[1:-1, 1:-1])


def _cells(filled: NDArray[np.uint8]) -> tuple[Labels, Runs]:
    count, labels = cv2.connectedComponents(filled, connectivity=8, ltype=cv2.CV_32S)
    image = np.asarray(labels, np.int32)
    runs = Runs.of(image)
    return Labels(image, _counted(np.arange(1, count), runs.firsts(count)[1:], count)), runs


def _gaps(filled: NDArray[np.uint8]) -> Labels:
    count, labels = cv2.connectedComponents(cv2.bitwise_not(filled), connectivity=4, ltype=cv2.CV_32S)
    image = np.asarray(labels, np.int32)
    line = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    present, first = np.unique(line, return_index=True)
    return Labels(image, _counted(present[present > 0], first[present > 0], count))


def _counted(which: NDArray, first: NDArray[np.int64], labels: int) -> NDArray[np.int32]:
    """Numbers of the labels in ``which``, counted from 1 in the order of ``first``."""
    numbers = np.zeros(labels, np.int32)
    numbers[which[np.argsort(first, kind="stable")]] = np.arange(1, len(which) + 1)
    return numbers
