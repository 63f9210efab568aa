"""Windows whose statistics stand for those of a whole slide: a few with much tissue, chosen by a seed, not beside each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.stream.windows import Window, WindowGrid
from mxbridge.tasks.mapping.maps import SEED
from mxbridge.tasks.mapping.tissue import tissue_share

MUCH = 0.5
"""Share of squares with tissue in it that a window of the sample should have."""
LOOKS = 600
"""After so many windows no more are looked at, as soon as one with tissue is found."""


@dataclass(frozen=True)
class SlideSample:
    """windows: in grid order. pixels: uint8 ``(n, 3, side, side)``. share: of squares with tissue, per window."""

    windows: tuple[Window, ...]
    pixels: NDArray[np.uint8]
    share: tuple[float, ...]

    def describe(self) -> dict[str, Any]:
        """For the provenance: which windows, and a hash of what they showed."""
        return {
            "windows": [window.index for window in self.windows],
            "boxes": [list(window.box) for window in self.windows],
            "tissue": [round(share, 3) for share in self.share],
            "sha256": hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest(),
            "seed": SEED,
        }


def choose_sample(grid: WindowGrid, read: Callable[[Window], NDArray[np.uint8] | None], count: int) -> SlideSample:
    """The same windows whenever it is asked. read: colours of a window, None where it is skipped. Raises InputError.

    First come windows half full of tissue that are no neighbours, then the others, the fullest first; fewer than ``count``
    where there are no more. Empty where every window is skipped.
    """
    taken: list[tuple[Window, float, NDArray[np.uint8]]] = []
    others: list[tuple[Window, float, NDArray[np.uint8]]] = []
    looked = 0
    for index in np.random.default_rng(SEED).permutation(len(grid)):
        window = grid[int(index)]
        pixels = read(window)
        if pixels is None:
            continue
        looked += 1
        share = tissue_share(pixels)
        beside = any(abs(window.row - t.row) <= 1 and abs(window.column - t.column) <= 1 for t, _, _ in taken)
        if share >= MUCH and not beside:
            taken.append((window, share, pixels))
        else:
            others = sorted([*others, (window, share, pixels)], key=lambda other: -other[1])[:count]
        if len(taken) == count or (looked >= LOOKS and (taken or others[0][1] > 0)):
            break
    chosen = sorted([*taken, *others][:count], key=lambda one: one[0].index)
    pixels = np.stack([p for _, _, p in chosen]) if chosen else np.zeros((0, 3, grid.side, grid.side), np.uint8)
    return SlideSample(tuple(w for w, _, _ in chosen), pixels, tuple(s for _, s, _ in chosen))
