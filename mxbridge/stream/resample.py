"""From stored pixels to the pixels a model wants, and back: the same numbers however an image is cut into tiles.

Model pixel i covers full-resolution pixels ``[i / s, (i + 1) / s)`` with ``s = um_image / um_model`` along each axis. Every
weight is a function of i alone and every sum runs over the same few source pixels in the same order, so that a tile holds
bit for bit what the whole image would hold there. Shrinking averages areas; enlarging interpolates between pixel centres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mxbridge.image import Box

if TYPE_CHECKING:
    from torch import Tensor

SNAP = 1e-6
"""Edges this close to a pixel border lie on it: 1 / 0.325 times an integer is not exact in floating point."""
MASK_TOLERANCE = 1e-5
"""A pixel covered to 0.5 less this counts as half covered, so that rounding never decides a tie."""


@dataclass(frozen=True)
class Taps:
    """One axis of a resampling: output pixel k is ``sum(weight[k, j] * source[start + index[k, j]])``.

    start, stop: the source pixels needed. index: int64 ``(outputs, taps)``. weight: float32 of that shape, rows add to 1.
    """

    start: int
    stop: int
    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    @property
    def identity(self) -> bool:
        return self.index.shape[1] == 1 and self.stop - self.start == len(self.index)


@dataclass(frozen=True)
class Scale:
    """How one axis of an image is seen by a model.

    full: pixels at full resolution. ratio: model pixels per full-resolution pixel (``um_image / um_model``).
    """

    full: int
    ratio: float

    @property
    def size(self) -> int:
        """Model pixels; the last may cover less than the others."""
        return max(1, math.ceil(self.full * self.ratio - SNAP))

    def taps(self, first: int, last: int, source: int, downsample: float = 1.0) -> Taps:
        """Weights of the model pixels ``first <= i < last`` over an axis of ``source`` pixels.

        downsample: full-resolution pixels per source pixel (1 for the full resolution itself).
        """
        step = 1.0 / (self.ratio * downsample)
        place = np.arange(first, last, dtype=np.float64)
        if step < 1 - 1e-9:
            index, weight = _linear(place, step, source)
        else:
            index, weight = _area(place, step, source)
        start, stop = int(index.min()), int(index.max()) + 1
        return Taps(start, stop, index - start, weight.astype(np.float32))

    def model_pixel(self, first: int, last: int) -> NDArray[np.int64]:
        """The model pixel nearest to each full-resolution pixel ``first <= y < last``."""
        centre = (np.arange(first, last, dtype=np.float64) + 0.5) * self.ratio
        return np.minimum(np.floor(centre + SNAP * self.ratio).astype(np.int64), self.size - 1)

    def owned(self, first: int, last: int) -> tuple[int, int]:
        """The full-resolution pixels whose nearest model pixel is one of ``first <= i < last`` (may be none)."""
        low = max(0, math.floor(first / self.ratio) - 2)
        high = self.full if last >= self.size else min(self.full, math.ceil(last / self.ratio) + 2)
        at = self.model_pixel(low, high)
        begin, end = np.searchsorted(at, [first, last])
        return low + int(begin), low + int(end)


@dataclass(frozen=True)
class Field:
    """An image seen at a model's scale, both axes."""

    y: Scale
    x: Scale

    @classmethod
    def of(cls, shape: tuple[int, int], um_image: tuple[float, float], um_model: float) -> Field:
        """shape: full-resolution (y, x). um_image: (y, x) µm per pixel. um_model: µm per pixel of the model."""
        return cls(Scale(shape[0], um_image[0] / um_model), Scale(shape[1], um_image[1] / um_model))

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) at the model's scale."""
        return self.y.size, self.x.size

    def owned(self, core: Box) -> Box:
        """Full-resolution pixels that belong to ``core`` (model pixels): each belongs to exactly one core of a grid."""
        y0, y1 = self.y.owned(core.y0, core.y1)
        x0, x1 = self.x.owned(core.x0, core.x1)
        return Box(y0, x0, y1, x1)


def resample(image: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """``(..., y, x)`` source pixels ``rows.start:rows.stop, columns.start:columns.stop`` -> model pixels, float32."""
    return _along(_along(image.float(), rows, -2), columns, -1)


def at_least_half(cover: Tensor) -> Tensor:
    """Binary float32 mask of the model pixels that are covered to one half or more."""
    return (cover >= 0.5 - MASK_TOLERANCE).float()


def reflect_index(first: int, last: int, size: int) -> NDArray[np.int64]:
    """Which pixel of an axis of ``size`` stands at each place ``first <= i < last`` when it is mirrored beyond its ends."""
    if size == 1:
        return np.zeros(last - first, np.int64)
    period = 2 * (size - 1)
    place = np.arange(first, last, dtype=np.int64) % period
    return np.minimum(place, period - place)


def pad_by_reflection(image: Tensor, seen: Box, outer: Box, shape: tuple[int, int]) -> Tensor:
    """``(..., y, x)`` of ``seen`` -> of ``outer``: mirrored beyond the right and bottom border of an image of ``shape``."""
    import torch

    if seen == outer:
        return image
    rows = torch.from_numpy(reflect_index(outer.y0, outer.y1, shape[0]) - seen.y0).to(image.device)
    columns = torch.from_numpy(reflect_index(outer.x0, outer.x1, shape[1]) - seen.x0).to(image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def level_step(full: int, reduced: int) -> float:
    """Full-resolution pixels per pixel of a pyramid level; levels made by an integer factor get exactly that."""
    factor = max(1, round(full / reduced))
    if reduced in (full // factor, -(-full // factor)):
        return float(factor)
    return full / reduced


def _along(image: Tensor, taps: Taps, axis: int) -> Tensor:
    """Weighted sum along one axis, one tap after another."""
    import torch

    if taps.identity:
        return image
    index = torch.from_numpy(taps.index).to(image.device)
    weight = torch.from_numpy(taps.weight).to(image.device)
    shape = (-1, 1) if axis == -2 else (-1,)
    total = image.index_select(axis, index[:, 0]) * weight[:, 0].view(shape)
    for tap in range(1, index.shape[1]):
        total += image.index_select(axis, index[:, tap]) * weight[:, tap].view(shape)
    return total


def _area(place: NDArray[np.float64], step: float, source: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Overlap of ``[i * step, (i + 1) * step)`` with each source pixel, as a share of what exists of it."""
    low = np.minimum(_snap(place * step), source)
    high = np.minimum(_snap((place + 1) * step), source)
    beyond = low >= high  # a level that was rounded down has nothing here: its last pixel stands in
    low, high = np.where(beyond, source - 1, low), np.where(beyond, source, high)
    begin = np.floor(low).astype(np.int64)
    count = int((np.ceil(high).astype(np.int64) - begin).max())
    index = begin[:, None] + np.arange(count)
    overlap = np.minimum(index + 1, high[:, None]) - np.maximum(index, low[:, None])
    weight = np.maximum(overlap, 0) / (high - low)[:, None]
    return np.where(weight > 0, index, begin[:, None]), weight


def _linear(place: NDArray[np.float64], step: float, source: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The two source pixels whose centres lie on either side of each model pixel's centre."""
    centre = _snap((place + 0.5) * step) - 0.5
    begin = np.floor(centre).astype(np.int64)
    share = centre - begin
    index = np.clip(np.stack([begin, begin + 1], axis=1), 0, source - 1)
    return index, np.stack([1 - share, share], axis=1)


def _snap(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    nearest = np.round(edges)
    return np.where(np.abs(edges - nearest) < SNAP, nearest, edges)
