"""Nuclei as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mxbridge.nuclei.atlas import Atlas


@dataclass(frozen=True)
class Nuclei:
    """All nuclei of a slide, in the order of their first pixels, row by row.

    Coordinates are pixels of the segmentation image (the model's scale); pixel (0, 0) covers 0 <= y < 1, 0 <= x < 1.

    shape: (y, x) of the slide.
    first: int64 ``(n, 2)`` y, x of the uppermost pixel, the leftmost of them. Identifies a nucleus of a slide.
    size: int64 ``(n,)`` pixels, with what is enclosed. positive_px, negative_px: how many of them are red / blue.
    marker_max: int64 ``(n,)`` brightest marker pixel, -1 without a marker image. marker_mean: float64, NaN without one.
    probability: float64, red / (red + blue) summed over the pixels above the thresholds: 1 is surely positive.
    density_mean: float64, mean optical density in hundredths; NaN unless its limits were set.
    centroid: float64 ``(n, 2)`` y, x.
    bbox: int64 ``(n, 4)`` y0, x0, y1, x1, half-open.
    touches_edge: reaches the border of the slide and may be cut there.
    region: int64 ``(n,)`` index of the annotation that holds the centroid, of several the last; -1 for none.
    memberships: int64 ``(m, 2)`` pairs (nucleus, annotation) of every annotation that holds a centroid, sorted.
    regions: how many annotations there are, None where none were asked for and the whole slide counts.
    marker_histogram: int64 ``(256,)`` how often the slide, or all annotations together, have each marker brightness, or None.
    atlas: draws the pixels of nuclei again.
    """

    shape: tuple[int, int]
    first: NDArray[np.int64]
    size: NDArray[np.int64]
    positive_px: NDArray[np.int64]
    negative_px: NDArray[np.int64]
    marker_max: NDArray[np.int64]
    marker_mean: NDArray[np.float64]
    probability: NDArray[np.float64]
    density_mean: NDArray[np.float64]
    centroid: NDArray[np.float64]
    bbox: NDArray[np.int64]
    touches_edge: NDArray[np.bool_]
    region: NDArray[np.int64]
    memberships: NDArray[np.int64]
    regions: int | None
    marker_histogram: NDArray[np.int64] | None
    atlas: Atlas

    def __len__(self) -> int:
        return len(self.size)

    def in_region(self, index: int) -> NDArray[np.int64]:
        """Indices of the nuclei whose centroids annotation ``index`` holds, ascending."""
        return np.asarray(self.memberships[self.memberships[:, 1] == index, 0])

    @property
    def peer_centroid(self) -> NDArray[np.int64]:
        """int64 ``(n, 2)`` y, x of the pixel nearest to the mean of pixel numbers, halves to even, as DeepLIIF has it."""
        return np.asarray(np.rint(self.centroid - 0.5), np.int64)
