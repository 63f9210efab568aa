"""A small picture of stained tissue whose nuclei are known: discs of hematoxylin, some of them larger and brown of DAB."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mxbridge.stains import H_DAB

STEP, SMALL, LARGE = 32, 6.5, 9.5
"""Pixels: between middles, radius of negative nuclei (133 pixels, 33 µm²) and of positive ones (283 pixels, 71 µm²)."""

LIGHT = 240.0


def nuclei_on_a_grid(shape: tuple[int, int]) -> list[tuple[float, float]]:
    """(y, x) of their middles."""
    rows, columns = (range(STEP // 2, n - STEP // 4, STEP) for n in shape)
    return [(y + 0.5, x + 0.5) for y in rows for x in columns]


def ihc(shape: tuple[int, int] = (128, 160), *, every: int = 3, empty: bool = False) -> np.ndarray:
    """``(3, y, x)`` uint8, to be seen at 0.5 µm per pixel; every so-manieth nucleus is positive."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    amounts = np.zeros((2, *shape))
    for k, (cy, cx) in enumerate(() if empty else nuclei_on_a_grid(shape)):
        positive = k % every == 0
        disc = np.clip((LARGE if positive else SMALL) + 0.5 - np.hypot(y - cy, x - cx), 0, 1)
        amounts[0] += 0.5 * disc
        amounts[1] += (0.8 if positive else 0.0) * disc
    density = np.tensordot(H_DAB.matrix[:2].T, amounts, axes=1)
    return np.round(LIGHT * 10**-density).astype(np.uint8)


def positives(shape: Sequence[int], every: int = 3) -> tuple[int, int]:
    """How many nuclei there are, and how many of them are positive."""
    total = len(nuclei_on_a_grid((shape[0], shape[1])))
    return total, -(-total // every)
