"""Masks as OMERO keeps them: one object's pixels as bits over its bounding box, most significant bit first.

Rows follow one another without padding; only the last byte is filled up. Pure numpy: every object is visited within its own
box, so the time follows the area of the objects, not their number times the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mxbridge.cells import Cells, LabelCells, OutlineCells, Rings, rasterise
from mxbridge.errors import InputError
from mxbridge.image import Box

TILE = 1024
"""Cells of a label image are visited in squares of this side."""


@dataclass(frozen=True)
class Mask:
    """One object. box: in pixels of the image; bits: ``ceil(height * width / 8)`` bytes."""

    box: Box
    bits: bytes


def packed(pixels: NDArray[np.bool_], y: int, x: int) -> Mask:
    """The mask of ``pixels`` (y, x), whose first pixel lies at (y, x) of the image."""
    height, width = pixels.shape
    return Mask(Box(y, x, y + height, x + width), np.packbits(pixels.ravel()).tobytes())


def unpacked(bits: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """Pixels ``(y, x)`` of a mask. Raises InputError when there are not exactly the bytes that such a box needs."""
    needed = (height * width + 7) // 8
    if height < 1 or width < 1 or len(bits) != needed:
        raise InputError(f"a mask of {width} x {height} pixels needs {max(0, needed)} bytes, it has {len(bits)}")
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=height * width)
    return flat.reshape(height, width).astype(bool)


def masks_of_raster(labels: NDArray[np.integer], y: int = 0, x: int = 0) -> Iterator[tuple[int, Mask]]:
    """Every label (ascending) of a raster ``(y, x)``, 0 being background, with its mask.

    y, x: where the raster's first pixel lies in the image. Labels must be below 2**31 and dense enough to be counted:
    give them numbers in order first. Raises InputError on negative ones.
    """
    if labels.size and labels.min() < 0:
        raise InputError("labels below 0 are no objects")
    for k, place in enumerate(ndimage.find_objects(labels.astype(np.int32, copy=False)), 1):
        if place is not None:
            yield k, packed(labels[place] == k, y + place[0].start, x + place[1].start)


def masks_of_cells(cells: Cells) -> Iterator[tuple[int, Mask]]:
    """Index and mask of every cell that has a pixel in the image, always in the same order (not that of the cells).

    Outlines are rasterised one by one, each whole, also where a later cell lies over it; of label images a pixel has one
    owner anyway.
    """
    if isinstance(cells, OutlineCells):
        yield from masks_of_outlines(cells.outlines, cells.shape)
    elif isinstance(cells, LabelCells):
        yield from _masks_of_labels(cells)
    else:
        raise InputError("these cells have neither outlines nor labels")


def _masks_of_labels(cells: LabelCells) -> Iterator[tuple[int, Mask]]:
    """By where the cells' boxes begin, so that the label image is read once and not cell by cell."""
    places: dict[tuple[int, int, int], list[int]] = {}
    for k, (y0, x0, y1, x1) in enumerate(cells.boxes.tolist()):
        alone = k + 1 if max(y1 - y0, x1 - x0) > TILE else 0
        places.setdefault((y0 // TILE, x0 // TILE, alone), []).append(k)
    for place in sorted(places):
        boxes = cells.boxes[places[place]]
        around = Box(*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
        block = cells.raster(around)
        for k, (y0, x0, y1, x1) in zip(places[place], boxes.tolist(), strict=True):
            own = block[y0 - around.y0 : y1 - around.y0, x0 - around.x0 : x1 - around.x0] == k + 1
            yield k, packed(own, y0, x0)


def masks_of_outlines(outlines: Rings, shape: tuple[int, int]) -> Iterator[tuple[int, Mask]]:
    """Index and mask of every outline that owns a pixel of an image of ``shape`` (y, x), by the rule of ``cells``."""
    bounds = outlines.bounds()
    for k in range(len(outlines)):
        if np.isnan(bounds[k]).any():
            continue
        low, high = np.floor(bounds[k, :2]).astype(int), np.ceil(bounds[k, 2:]).astype(int)
        box = Box(int(low[0]), int(low[1]), int(high[0]), int(high[1])).clip(shape)
        if 0 in box.shape:
            continue
        pixels = rasterise(outlines, np.array([k]), box, shape) > 0
        trimmed = ndimage.find_objects(pixels.view(np.uint8))
        if trimmed:
            rows, columns = trimmed[0]
            yield k, packed(pixels[rows, columns], box.y0 + rows.start, box.x0 + columns.start)
