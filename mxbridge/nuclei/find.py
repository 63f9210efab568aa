"""Nuclei of a slide from its segmentation image, block by block.

The result is that of one look at the whole slide, bit for bit, whatever the blocks: a nucleus that crosses their borders is
one nucleus. Memory grows with a block and with a few hundred bytes per part.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import UsageError
from mxbridge.image import Box
from mxbridge.nuclei.atlas import OTHER, Atlas
from mxbridge.nuclei.found import Nuclei
from mxbridge.nuclei.parts import Runs, foreground_of, parts_of
from mxbridge.nuclei.regions import Regions
from mxbridge.nuclei.separate import Separation, separated
from mxbridge.nuclei.source import SegSource
from mxbridge.nuclei.sums import Planes, Sums, sums_of
from mxbridge.nuclei.sweep import Joined, Sweep, blocks_of
from mxbridge.nuclei.thresholds import Thresholds

BLOCK = 1024
"""Pixels a side of a block: large enough for few seams, small enough to stay near the processor."""


def find_nuclei(
    source: SegSource,
    thresholds: Thresholds,
    *,
    inside: Regions | None = None,
    separate: Separation | None = None,
    block: int = BLOCK,
    tell: Callable[[int, int], None] | None = None,
) -> Nuclei:
    """All nuclei of a slide, those inside annotations and all others; :func:`mxbridge.nuclei.judge.judge` chooses.

    Of thresholds, those that concern pixels apply here (seg, green, noise, large_noise); the others only say whether optical
    densities are read. Adapted from DeepLIIF's post-processing, whose sizes, classes and order this has.

    inside: annotations, in pixels of the segmentation image; the marker is looked at inside of them only. separate: how to part nuclei that touch, None to leave them.
    tell: called with blocks done and blocks in all. Raises UsageError where thresholds want a picture that is not there.
    """
    boxes = list(blocks_of(source.shape, block))
    sweep = Sweep(source.shape, thresholds.noise)
    histogram: NDArray[np.int64] | None = None
    for done, box in enumerate(boxes, 1):
        planes = planes_of(source, box, thresholds)
        if planes.marker is not None:
            counts = _histogram(planes.marker, None if inside is None else inside.mask(box, source.shape))
            histogram = counts if histogram is None else histogram + counts
        sweep.add(box, parts_of(planes.foreground), planes)
        if tell is not None:
            tell(done, len(boxes))
    joined = sweep.joined()
    _look_again(source, thresholds, sweep, joined)
    sums, atlas = _wholes(source, thresholds, block, sweep, joined)
    if separate is not None:
        sums, atlas = separated(source, sums, atlas, lambda box: planes_of(source, box, thresholds), separate)
    return _nuclei(source.shape, sums, atlas, histogram, inside)


def planes_of(source: SegSource, box: Box, thresholds: Thresholds) -> Planes:
    """The pixels of a box. Raises UsageError for limits of optical density without the image it is of."""
    seg = source.seg(box)
    density = source.density(box) if thresholds.needs_density else None
    if thresholds.needs_density and density is None:
        raise UsageError("limits of optical density need the image that was stained, not only its segmentation")
    red, blue = np.ascontiguousarray(seg[0]), np.ascontiguousarray(seg[2])
    marker = source.marker(box)
    marker = None if marker is None else np.ascontiguousarray(marker)
    return Planes(foreground_of(seg, thresholds), red, blue, marker, density)


def _histogram(marker: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> NDArray[np.int64]:
    """How often each brightness occurs, where mask is not 0."""
    counts = np.zeros(256, np.int64)
    rows = max(1, (1 << 23) // marker.shape[1])  # counted in float32, which is exact up to 2^24
    for first in range(0, len(marker), rows):
        counted = cv2.calcHist([marker[first : first + rows]], [0], _rows(mask, first, rows), [256], [0, 256])
        counts += counted.ravel().astype(np.int64)
    return counts


def _rows(mask: NDArray[np.uint8] | None, first: int, rows: int) -> NDArray[np.uint8] | None:
    return None if mask is None else mask[first : first + rows]


def _look_again(source: SegSource, thresholds: Thresholds, sweep: Sweep, joined: Joined) -> None:
    """Add up the large gaps that turned out to be enclosed."""
    for rows in sweep.blocks:
        wanted = rows.later[~joined.background[rows.gaps[rows.later]]] if len(rows.later) else rows.later
        if not len(wanted):
            continue
        planes = planes_of(source, rows.box, thresholds)
        parts = parts_of(planes.foreground)
        numbers = parts.gaps.number
        chosen = np.where(np.isin(numbers, wanted), numbers, 0).astype(np.int32)
        found = sums_of(Runs.of(parts.gaps.image), chosen, parts.gaps.count, planes, rows.box, sweep.shape[1])
        joined.sums.put(rows.gaps[wanted], found.take(wanted - 1))


def _wholes(source: SegSource, thresholds: Thresholds, block: int, sweep: Sweep, joined: Joined) -> tuple[Sums, Atlas]:
    """Sums of the nuclei in their order, and where they are."""
    sums = Sums(int(joined.whole.max(initial=-1)) + 1)
    sums.put(joined.whole, joined.sums)
    real = np.zeros(len(sums), bool)
    real[joined.whole[~joined.background]] = True
    large = np.inf if thresholds.large_noise is None else thresholds.large_noise
    wanted = np.flatnonzero(real & (sums["size"] > thresholds.noise) & (sums["size"] < large))
    wanted = wanted[np.argsort(sums["first"][wanted], kind="stable")]
    numbers = np.full(len(sums), OTHER, np.int32)
    numbers[~real] = 0
    numbers[wanted] = np.arange(1, len(wanted) + 1)
    cells, gaps = [], []
    for rows in sweep.blocks:
        cell = np.zeros(len(rows.cells), np.int32)
        cell[1:] = numbers[joined.whole[rows.cells[1:]]]
        cell[rows.speck & (cell == 0)] = OTHER
        gap = np.zeros(len(rows.gaps), np.int32)
        gap[1:] = numbers[joined.whole[rows.gaps[1:]]]
        cells.append(cell)
        gaps.append(gap)
    return sums.take(wanted), Atlas(source.shape, block, thresholds, tuple(cells), tuple(gaps))


def _nuclei(
    shape: tuple[int, int],
    sums: Sums,
    atlas: Atlas,
    histogram: NDArray[np.int64] | None,
    inside: Regions | None,
) -> Nuclei:
    size = np.maximum(sums["size"], 1)
    centroid = np.column_stack([sums["y"] / size, sums["x"] / size]) + 0.5
    bbox = np.column_stack([sums[name] for name in ("y0", "x0", "y1", "x1")])
    region = np.full(len(sums), -1, np.int64)
    pairs = np.zeros((0, 2), np.int64) if inside is None else inside.holding(centroid)
    region[pairs[:, 0]] = pairs[:, 1]  # of repeated positions the last stays, which is the last annotation
    colour = np.maximum(sums["red"] + sums["blue"], 1)
    unknown = np.full(len(sums), np.nan)
    return Nuclei(
        shape=shape,
        first=np.column_stack([sums["first"] // shape[1], sums["first"] % shape[1]]),
        size=sums["size"],
        positive_px=sums["positive"],
        negative_px=sums["negative"],
        marker_max=sums["marker_max"],
        marker_mean=unknown if histogram is None else sums["marker"] / size,
        probability=sums["red"] / colour,
        density_mean=sums["density"] / size if atlas.thresholds.needs_density else unknown,
        centroid=centroid,
        bbox=bbox,
        touches_edge=(bbox[:, :2] == 0).any(axis=1) | (bbox[:, 2:] == shape).any(axis=1),
        region=region,
        memberships=pairs,
        regions=None if inside is None else len(inside),
        marker_histogram=histogram,
        atlas=atlas,
    )
