"""Segmentation images for tests: random ones with everything that goes wrong at borders, and a slide made by a formula."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box
from mxbridge.nuclei.source import ArraySource


def coloured(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.uint8]:
    """``(3, y, x)``: red or blue where ``mask``, green elsewhere, never near a threshold."""
    red = rng.integers(0, 2, mask.shape).astype(bool)
    picture = np.zeros((3, *mask.shape), np.uint8)
    picture[0] = np.where(mask & red, 200, 10)
    picture[2] = np.where(mask & ~red, 200, 10)
    picture[1] = np.where(mask, 20, 200)
    return picture


def tangled(seed: int, height: int, width: int) -> ArraySource:
    """Rings, rings within rings, spirals, combs, blobs and noise, over each other."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(0, 12)):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        kind, radius = rng.integers(0, 4), int(rng.integers(1, max(2, min(height, width) // 2)))
        if kind == 0:
            cv2.circle(mask, centre, radius, 1, thickness=int(rng.integers(1, 3)))
            cv2.circle(mask, centre, radius // 2, 1, thickness=1)
        elif kind == 1:
            cv2.circle(mask, centre, radius // 3, 1, thickness=-1)
        elif kind == 2:
            turn = np.linspace(0, 6 * np.pi, 200)
            spiral = np.column_stack([np.cos(turn), np.sin(turn)]) * (turn / turn[-1] * radius)[:, None] + centre
            cv2.polylines(mask, [spiral.astype(np.int32)], isClosed=False, color=1, thickness=1)
        else:
            cv2.rectangle(mask, centre, (centre[0] + radius, centre[1] + radius // 2), int(rng.integers(0, 2)), -1)
    noise = rng.random((height, width)) < rng.choice([0.0, 0.02, 0.3, 0.5])
    filled = mask.astype(bool) ^ noise
    marker = rng.integers(0, 256, (height, width)).astype(np.uint8)
    border = rng.integers(0, 256, (height, width)).astype(np.float32)
    original = rng.integers(0, 256, (3, height, width)).astype(np.uint8)
    return ArraySource(coloured(filled, rng), marker, border, original)


@dataclass(frozen=True)
class FormulaSlide:
    """A slide of any size that is computed where it is looked at: a nucleus in every square of 32 pixels.

    Every seventh has a hole, every fifth is positive, every eleventh is a speck of two by two pixels, and every thirteenth is
    joined to its right neighbour by a bridge.
    """

    shape: tuple[int, int]
    step: int = 32

    def seg(self, box: Box) -> NDArray[np.uint8]:
        y, x = np.arange(box.y0, box.y1, dtype=np.int32)[:, None], np.arange(box.x0, box.x1, dtype=np.int32)[None]
        number = (y // self.step) * 1009 + (x // self.step)
        v, u = y % self.step - 16, x % self.step - 16
        far = v * v + u * u
        mask = far <= 64 + number % 50
        mask &= (number % 7 != 0) | (far > 9)
        mask &= (number % 11 != 0) | ((np.abs(2 * v + 1) < 2) & (np.abs(2 * u + 1) < 2))
        mask |= (v == 0) & np.where(u >= 0, number % 13 == 0, (number - 1) % 13 == 0)
        positive = number % 5 == 0
        picture = np.empty((3, *box.shape), np.uint8)
        picture[0] = np.where(mask & positive, 210, 0)
        picture[1] = np.where(mask, 0, 90)
        picture[2] = np.where(mask & ~positive, 190, 0)
        return picture

    def marker(self, box: Box) -> NDArray[np.uint8] | None:
        y, x = np.arange(box.y0, box.y1)[:, None], np.arange(box.x0, box.x1)[None]
        return ((y * 3 + x * 7) % 251).astype(np.uint8)

    def separating(self, box: Box) -> NDArray[np.float32] | None:
        return None

    def density(self, box: Box) -> NDArray[np.uint16] | None:
        return None

    def whole(self) -> ArraySource:
        box = Box(0, 0, *self.shape)
        return ArraySource(self.seg(box), self.marker(box))
