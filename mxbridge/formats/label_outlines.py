"""Outlines of label masks: exact polygons along pixel edges, region by region, so that the mask never has to be in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import LabelCells, OutlineCells, Rings
from mxbridge.image import Box

Outline = list[NDArray[np.float64]]

TILE = 2048
"""Cells are visited in squares of this side, so that every block of the mask is read about once."""


def labels_to_outlines(cells: LabelCells, nuclei: LabelCells | None = None) -> OutlineCells:
    """The same cells with outlines instead of pixels; ids and order stay.

    Outlines follow the pixel edges, so their area is the number of pixels exactly; holes and separate parts of a label
    are rings of their own. nuclei: a second mask; a cell gets the nucleus that shares most pixels with it, cut at the
    cell's border, and none where nothing overlaps.
    """
    outlines: list[Outline] = [[] for _ in cells.ids]
    nucleus: list[Outline] = [[] for _ in cells.ids]
    for members, box in _groups(cells):
        block = cells.raster(box)
        block[~np.isin(block, members + 1)] = 0
        _trace(block, box, outlines)
        if nuclei is not None:
            _trace(_chosen_nuclei(block, nuclei.raster(box)), box, nucleus)
    return OutlineCells(
        ids=cells.ids,
        classes=cells.classes,
        shape=cells.shape,
        outlines=Rings.of(outlines),
        nuclei=None if nuclei is None else Rings.of(nucleus),
    )


def _groups(cells: LabelCells) -> Iterator[tuple[NDArray[np.int64], Box]]:
    """Cells grouped by where their boxes begin, with a box that holds them whole; giants stand alone."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for k, (y0, x0, y1, x1) in enumerate(cells.boxes.tolist()):
        alone = k + 1 if max(y1 - y0, x1 - x0) > TILE // 4 else 0
        groups.setdefault((y0 // TILE, x0 // TILE, alone), []).append(k)
    for key in sorted(groups):
        members = np.asarray(groups[key], np.int64)
        low, high = cells.boxes[members, :2].min(axis=0), cells.boxes[members, 2:].max(axis=0)
        yield members, Box(int(low[0]), int(low[1]), int(high[0]), int(high[1]))


def _chosen_nuclei(block: NDArray[np.int32], nuclei: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels of cells where the chosen nucleus of that cell lies; of equal nuclei the lower number is chosen."""
    both = (block > 0) & (nuclei > 0)
    if not both.any():
        return np.zeros_like(block)
    pairs, counts = np.unique(np.stack([block[both], nuclei[both]]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    first = order[np.r_[True, np.diff(pairs[0][order]) != 0]]
    best = np.zeros(int(block.max()) + 1, np.int32)
    best[pairs[0][first]] = pairs[1][first]
    return np.where(both & (best[block] == nuclei), block, 0).astype(np.int32)


def _trace(block: NDArray[np.int32], box: Box, outlines: list[Outline]) -> None:
    """Append the rings (x, y) of every label in ``block`` to the outline of its cell."""
    from rasterio.features import shapes

    corner = np.array([box.x0, box.y0])
    for geometry, label in shapes(block, mask=block > 0, connectivity=4):
        for ring in geometry["coordinates"]:
            outlines[int(label) - 1].append(np.asarray(ring[:-1], np.float64) + corner)
