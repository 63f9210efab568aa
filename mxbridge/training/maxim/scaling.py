"""How the markers' stored numbers become 0..1, found on training pixels alone.

Quantiles are exact over the pixels that are looked at, in memory that does not grow with them: numbers of up to 16 bits are
counted, wider ones by the upper and then the lower half of their bit patterns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile, InputError
from mxbridge.image import Box, LocalImage, computed
from mxbridge.models.scaling import PEER, Scaling
from mxbridge.progress import SILENT, Progress
from mxbridge.stream.quantile import BINS, patterns
from mxbridge.training.maxim.settings import parse_scaling

MOST_PIXELS = 64_000_000
"""Looked at per channel; of more, a choice of blocks that is always the same."""
CHOICE = 36
"""Seed of that choice. Every n-th block would be the same column of a slide that is n blocks wide."""
BLOCK = 512
"""Side of a block in pixels."""
SATURATED = 0.01
"""Share of pixels at one and the same highest number above which people are warned."""
LOWEST_TOP = 255
"""A highest number below this is a count, not the end of a camera's range."""


@dataclass(frozen=True)
class Source:
    """A training region of one image in full-resolution pixels, and the channels of the markers there."""

    image: LocalImage
    channels: tuple[int, ...]
    box: Box


@dataclass(frozen=True)
class Found:
    """Of one marker's training pixels. share: quantile of all that are finite. foreground: of those above zero; NaN where
    there are none. top: share at the highest number, of integers from LOWEST_TOP on (cameras of 12 bits end at 4095). broken:
    share that is not finite. varied: not all equal."""

    share: float
    foreground: float
    top: float
    broken: float
    varied: bool


def fit_scalings(
    sources: Sequence[Source], markers: Sequence[str], text: str, cap: float, progress: Progress = SILENT
) -> dict[str, Scaling]:
    """Scalings by marker. text: ``linear``, ``arcsinh:5``, ``peer``. cap: quantile of the pixels that becomes 1; for a marker
    so sparse that this is 0, the quantile of the pixels above zero.

    Warns of channels of which more than 1 % is saturated. Raises InputError naming the channels without signal.
    """
    found = _look(sources, len(markers), cap, progress)
    flat = [m for m, f in zip(markers, found, strict=True) if not (f.varied and f.foreground > 0)]
    if flat:
        raise InputError(
            f"no signal in {', '.join(flat)}: all training pixels are equal or not above zero",
            hint="Leave such a channel out (--inputs, or a panel with keep = no)",
        )
    scalings = {}
    for marker, f in zip(markers, found, strict=True):
        if f.top > SATURATED:
            progress.warning(f"{marker}: {f.top:.1%} of the training pixels are saturated")
        if f.broken > 0:
            progress.warning(f"{marker}: {f.broken:.2%} of the training pixels are no numbers; they are read as 0")
        scalings[marker] = parse_scaling(text, f.share if f.share > 0 else f.foreground)
    if PEER in scalings.values() and any(s.image.dtype != np.uint8 for s in sources):
        raise InputError(
            "scaling peer divides by 255: it is for 8-bit images", hint="Use --scaling linear or arcsinh:5"
        )
    return scalings


def _look(sources: Sequence[Source], markers: int, cap: float, progress: Progress) -> list[Found]:
    total = sum(s.box.shape[0] * s.box.shape[1] for s in sources)
    share = min(1.0, MOST_PIXELS / max(1, total))
    if share < 1:
        progress.note(f"the scaling is found on {share:.2%} of the training pixels, in blocks of {BLOCK} x {BLOCK}")
    counts = np.zeros((markers, BINS), np.int64)
    seen = np.zeros((3, markers), np.int64)  # all, finite, above zero
    lowest, highest = np.full(markers, np.inf), np.full(markers, -np.inf)
    whole = all(s.image.dtype.kind in "biu" and s.image.dtype.itemsize <= 2 for s in sources)
    for plane, k in _planes(sources, share):
        finite = np.isfinite(plane)
        values = plane if finite.all() else plane[finite]
        pattern = _pattern(values, whole)
        counts[k] += np.bincount(pattern if whole else pattern >> 16, minlength=BINS)
        seen[:, k] += (plane.size, values.size, pattern.size)
        if values.size:
            lowest[k], highest[k] = min(lowest[k], values.min()), max(highest[k], values.max())
    wanted = [_ranks(int(seen[1, k]), int(seen[2, k]), cap) for k in range(markers)]
    if whole:
        values_at = [[float(_at(counts[k], r)) for r in ranks] for k, ranks in enumerate(wanted)]
    else:
        values_at = _second_pass(sources, share, counts, wanted)
    return [
        Found(
            share=values[0] if len(values) else 0.0,
            foreground=values[1] if len(values) else float("nan"),
            top=counts[k][int(highest[k])] / max(1, seen[0, k]) if whole and highest[k] >= LOWEST_TOP else 0.0,
            broken=1 - seen[1, k] / max(1, seen[0, k]),
            varied=bool(highest[k] > lowest[k]),
        )
        for k, values in enumerate(values_at)
    ]


def _ranks(finite: int, above: int, cap: float) -> list[int]:
    """Ranks among the pixels above zero of the quantile of all pixels (-1 where that is not above zero) and of those."""
    if above == 0:
        return []
    return [max(-1, round(cap * (finite - 1)) - (finite - above)), round(cap * (above - 1))]


def _at(counts: NDArray[np.int64], rank: int) -> int:
    """The pattern at a rank; 0 for rank -1."""
    return 0 if rank < 0 else int(np.searchsorted(np.cumsum(counts), rank, side="right"))


def _second_pass(
    sources: Sequence[Source], share: float, counts: NDArray[np.int64], wanted: Sequence[Sequence[int]]
) -> list[list[float]]:
    """The values at the ranks, whose upper halves the counts tell and whose lower halves are counted now."""
    uppers = [[_at(counts[k], r) for r in ranks] for k, ranks in enumerate(wanted)]
    lower = [{u: np.zeros(BINS, np.int64) for u in us} for us in uppers]
    for plane, k in _planes(sources, share):
        pattern = _pattern(plane[np.isfinite(plane)], False)
        for upper, count in lower[k].items():
            count += np.bincount(pattern[pattern >> 16 == upper] & 0xFFFF, minlength=BINS)
    out = []
    for k, ranks in enumerate(wanted):
        values = []
        for rank, upper in zip(ranks, uppers[k], strict=True):
            low = _at(lower[k][upper], rank - int(counts[k][:upper].sum())) if rank >= 0 else 0
            values.append(float(np.array((upper << 16) | low, np.uint32).view(np.float32)) if rank >= 0 else 0.0)
        out.append(values)
    return out


def _pattern(values: NDArray[Any], whole: bool) -> NDArray[np.int64]:
    """Values above zero as integers that sort like them: themselves, or the bits of float32."""
    return patterns(values if whole else values.astype(np.float32))


def _planes(sources: Sequence[Source], share: float) -> Iterator[tuple[NDArray[Any], int]]:
    """Stored numbers ``(y, x)`` of one block and marker after the other, of a share of the blocks, always the same."""
    for source, part in _chosen(sources, share):
        for k, plane in enumerate(_read(source.image, source.channels, part)):
            yield plane, k


def _chosen(sources: Sequence[Source], share: float) -> list[tuple[Source, Box]]:
    """At least one block, in the order of the sources."""
    every = [
        (source, Box(y, x, min(y + BLOCK, source.box.y1), min(x + BLOCK, source.box.x1)))
        for source in sources
        for y in range(source.box.y0, source.box.y1, BLOCK)
        for x in range(source.box.x0, source.box.x1, BLOCK)
    ]
    count = len(every) if share >= 1 else max(1, round(share * len(every)))
    drawn = np.random.default_rng(CHOICE).permutation(len(every))[:count]
    return [every[k] for k in sorted(drawn.tolist())]


def _read(image: LocalImage, channels: Sequence[int], box: Box) -> NDArray[Any]:
    """``(c, y, x)``, all channels at once: in many files they are decoded together."""
    block = image.levels[0][list(channels), box.y0 : box.y1, box.x0 : box.x1]
    try:
        return computed(block)
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, EOFError) as error:
        where = image.files[0] if image.files else image.name
        raise BrokenFile(where, f"pixels {tuple(box)} cannot be read ({error})") from error
