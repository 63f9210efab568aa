"""Exact quantiles of the foreground of an image of any size, from histograms, in memory that does not grow with it.

Foreground is what is finite and above zero. Numbers of up to 16 bits are counted in one pass; 32-bit integers and floating
point numbers (as float32, in which a network sees them) in two: positive float32 sort like their bit patterns, so the upper
and then the lower 16 bits of the pattern are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile
from mxbridge.image import Box, LocalImage, computed
from mxbridge.stream.ahead import read_ahead

BINS = 1 << 16
BLOCK_BYTES = 2 * 1024**2
"""Stored numbers read at once (one chunk of one channel is always read whole). Counting needs about ten times as much; with
64 MiB this step had the highest peak of a whole run."""


@dataclass(frozen=True)
class Foreground:
    """Of one channel: pixels above zero, and their quantile (NaN where there are none)."""

    pixels: int
    quantile: float


@dataclass(frozen=True)
class Block:
    """A part of some channels of an image. channels: positions among those asked for."""

    channels: tuple[int, ...]
    box: Box


def foreground_quantiles(
    image: LocalImage,
    channels: Sequence[int],
    quantile: float,
    *,
    readers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Foreground]:
    """``numpy.quantile(x[x > 0], quantile)`` (linear) of each channel at full resolution. Raises InputError."""
    small = image.dtype.kind in "biu" and image.dtype.itemsize <= 2
    passes = 1 if small else 2
    step = _Progress(progress, passes * sum(1 for _ in blocks(image, len(channels))))
    counts = np.zeros((len(channels), BINS), np.int64)
    for block, raw in _read(image, channels, readers):
        for k, plane in zip(block.channels, raw, strict=True):
            pattern = patterns(plane)
            counts[k] += np.bincount(pattern if small else pattern >> 16, minlength=BINS)
        step()
    totals = [int(c.sum()) for c in counts]
    if small:
        return [
            _interpolate(n, quantile, [_rank(c, r) for r in _ranks(n, quantile)])
            for n, c in zip(totals, counts, strict=True)
        ]
    wanted = [[_rank(c, r) for r in _ranks(n, quantile)] for n, c in zip(totals, counts, strict=True)]
    lower = [{upper: np.zeros(BINS, np.int64) for upper in uppers} for uppers in wanted]
    for block, raw in _read(image, channels, readers):
        for k, plane in zip(block.channels, raw, strict=True):
            pattern = patterns(plane)
            for upper, count in lower[k].items():
                count += np.bincount(pattern[pattern >> 16 == upper] & 0xFFFF, minlength=BINS)
        step()
    out = []
    for k, n in enumerate(totals):
        values = []
        for rank, upper in zip(_ranks(n, quantile), wanted[k], strict=True):
            before = int(counts[k][:upper].sum())
            values.append(_number((upper << 16) | _rank(lower[k][upper], rank - before), image.dtype))
        out.append(_interpolate(n, quantile, values))
    return out


def patterns(plane: NDArray[Any]) -> NDArray[np.int64]:
    """The foreground of ``plane`` as non-negative integers that sort like its values."""
    if plane.dtype.kind in "biu" and plane.dtype.itemsize <= 4:
        found: NDArray[np.int64] = plane[plane > 0].astype(np.int64)
        return found
    with np.errstate(over="ignore"):
        values = plane.astype(np.float32).ravel()
    foreground = values[np.isfinite(values) & (values > 0)]
    return foreground.view(np.uint32).astype(np.int64)


def blocks(image: LocalImage, channels: int) -> Iterator[Block]:
    """Parts of level 0 that follow its chunks and hold no more than BLOCK_BYTES, for all channels or one by one."""
    level = image.levels[0]
    size = int(level.dtype.itemsize)
    chunk_y, chunk_x = max(level.chunks[1]), max(level.chunks[2])
    together = max(1, min(channels, BLOCK_BYTES // max(1, size * chunk_y * chunk_x)))
    wide = (
        max(1, min(-(-image.shape[1] // chunk_x), BLOCK_BYTES // max(1, size * together * chunk_y * chunk_x))) * chunk_x
    )
    high = max(1, BLOCK_BYTES // max(1, size * together * chunk_y * wide)) * chunk_y
    for y, x in product(range(0, image.shape[0], high), range(0, image.shape[1], wide)):
        box = Box(y, x, y + high, x + wide).clip(image.shape)
        for first in range(0, channels, together):
            yield Block(tuple(range(first, min(first + together, channels))), box)


def _read(image: LocalImage, channels: Sequence[int], readers: int) -> Iterator[tuple[Block, NDArray[Any]]]:
    level = image.levels[0]

    def read(block: Block) -> tuple[Block, NDArray[Any]]:
        box = block.box
        part = level[[channels[k] for k in block.channels], box.y0 : box.y1, box.x0 : box.x1]
        try:
            return block, computed(part)
        except (OSError, ValueError, RuntimeError, KeyError, IndexError, EOFError) as error:
            where = image.files[0] if image.files else image.name
            raise BrokenFile(where, f"pixels {tuple(box)} cannot be read ({error})") from error

    with closing(read_ahead(blocks(image, len(channels)), read, workers=readers, ahead=readers)) as stream:
        yield from stream


def _ranks(n: int, quantile: float) -> tuple[int, ...]:
    """The order statistics (from 0) between which the quantile lies; none of nothing."""
    if n == 0:
        return ()
    low = int(np.floor(quantile * (n - 1)))
    return low, min(low + 1, n - 1)


def _rank(counts: NDArray[np.int64], rank: int) -> int:
    """The value that stands at ``rank`` when all that was counted is sorted."""
    return int(np.searchsorted(np.cumsum(counts), rank, side="right"))


def _interpolate(n: int, quantile: float, values: Sequence[float]) -> Foreground:
    if n == 0:
        return Foreground(0, float("nan"))
    share = quantile * (n - 1) - np.floor(quantile * (n - 1))
    low, high = (float(v) for v in values)
    value = low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)
    return Foreground(n, float(value))


def _number(pattern: int, dtype: np.dtype[Any]) -> float:
    if dtype.kind in "biu" and dtype.itemsize <= 4:
        return float(pattern)
    return float(np.array(pattern, np.uint32).view(np.float32))


class _Progress:
    def __init__(self, report: Callable[[int, int], None] | None, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def __call__(self) -> None:
        self.done += 1
        if self.report is not None:
            self.report(self.done, self.total)
