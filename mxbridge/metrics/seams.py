"""How visible the grid is on which an image was put together from windows.

Across a seam neighbouring pixels come from different windows. The seam score compares the steps there with the steps across lines
parallel to it, inside the windows: the mean absolute difference of the pixels on either side of the seams, divided by that beside
them. An image without seams scores about 1 whatever is on it; a score of 2 says that steps at seams are twice as large as
elsewhere. The lines beside a seam lie at multiples of 32 pixels from it: networks that enlarge by factors of two leave a pattern
of that kind, and equal places of the pattern are compared. Blended windows change over a ramp instead of a line, so pixels
``reach`` apart can be compared as well, centred on the seam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BESIDE = (64, 96, 128, 160)


@dataclass(frozen=True)
class SeamScore:
    """across: mean absolute step across the seams, in grey levels. elsewhere: the same beside them. pairs: steps across."""

    across: float
    elsewhere: float
    pairs: int

    @property
    def score(self) -> float:
        """1 where seams cannot be told from the rest; NaN without seams, infinite where nothing but seams is on the image."""
        if not self.pairs:
            return float("nan")
        if self.elsewhere == 0:
            return 1.0 if self.across == 0 else float("inf")
        return self.across / self.elsewhere


def seam_score(
    read: Callable[[int, int, int, int], NDArray[np.uint8]],
    shape: tuple[int, int],
    rows: Sequence[int],
    columns: Sequence[int],
    *,
    reach: int = 1,
    beside: Sequence[int] = BESIDE,
    piece: int = 4096,
) -> SeamScore:
    """The seam score of an image whose windows meet at these lines.

    read: pixels ``(..., y, x)`` of y0, x0, y1, x1. shape: (y, x). rows, columns: first pixel behind each seam. reach: how far
    apart compared pixels are. beside: distances of the lines before and behind a seam with which it is compared; none may reach the
    next seam. piece: length that is read at once, so that memory does not grow with the image.
    """
    steps = {"across": [0.0, 0.0], "elsewhere": [0.0, 0.0]}
    for seams, length, along, turned in ((rows, shape[0], shape[1], False), (columns, shape[1], shape[0], True)):
        for seam in seams:
            places = [("elsewhere", seam + sign * distance) for distance in beside for sign in (-1, 1)]
            for where, place in [("across", seam), *places]:
                low, high = place - (reach + 1) // 2, place + reach // 2
                if low < 0 or high >= length:
                    continue
                for first in range(0, along, piece):
                    last = min(first + piece, along)
                    total, count = _step(read, low, high, first, last, turned)
                    steps[where][0] += total
                    steps[where][1] += count
    means = {where: total / count if count else 0.0 for where, (total, count) in steps.items()}
    return SeamScore(means["across"], means["elsewhere"], int(steps["across"][1]))


def _step(
    read: Callable[[int, int, int, int], NDArray[np.uint8]], low: int, high: int, first: int, last: int, turned: bool
) -> tuple[float, int]:
    """Sum of absolute differences between two parallel lines, and how many there were."""
    if turned:
        pixels = read(first, low, last, high + 1)
        before, after = pixels[..., :, 0], pixels[..., :, -1]
    else:
        pixels = read(low, first, high + 1, last)
        before, after = pixels[..., 0, :], pixels[..., -1, :]
    difference = np.abs(after.astype(np.float64) - before)
    return float(difference.sum()), difference.size
