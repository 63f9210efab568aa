"""Which nucleus owns a pixel, drawn again on demand: the slide is labelled block by block and never held."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import BoxIndex
from mxbridge.image import Box
from mxbridge.nuclei.parts import cells_and_gaps, foreground_of
from mxbridge.nuclei.source import SegSource
from mxbridge.nuclei.sweep import blocks_of
from mxbridge.nuclei.thresholds import Thresholds

OTHER = -1
"""Pixels of things that are no nuclei: at or below the noise gate, or above the large one."""


@dataclass(frozen=True)
class Patches:
    """Nuclei that were parted, to be painted over what the parts of blocks say.

    renumbered: int32, new number (index + 1) of each nucleus by its old index; 0 for those that were parted.
    boxes: int64 ``(n, 4)`` y0, x0, y1, x1 of these. packed: their pieces, uint16 of the shape of the box, zlib; 0 is not
    theirs. numbers: int32, new number of each piece.
    """

    renumbered: NDArray[np.int32]
    boxes: NDArray[np.int64]
    packed: tuple[bytes, ...]
    numbers: tuple[NDArray[np.int32], ...]
    _index: BoxIndex = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", BoxIndex(self.boxes.astype(np.float64)))

    def applied(self, drawn: NDArray[np.int32], box: Box) -> NDArray[np.int32]:
        """The pixels ``(y, x)`` of a box by their new numbers."""
        out = np.concatenate([[0], self.renumbered, [OTHER]]).astype(np.int32)[drawn]
        for k in self._index.hits(box):
            own = Box(*(int(v) for v in self.boxes[k]))
            pieces = np.frombuffer(zlib.decompress(self.packed[k]), np.uint16).reshape(own.shape)
            both = Box(max(box.y0, own.y0), max(box.x0, own.x0), min(box.y1, own.y1), min(box.x1, own.x1))
            here = pieces[both.y0 - own.y0 : both.y1 - own.y0, both.x0 - own.x0 : both.x1 - own.x0]
            target = out[both.y0 - box.y0 : both.y1 - box.y0, both.x0 - box.x0 : both.x1 - box.x0]
            numbers = np.concatenate([np.zeros(1, np.int32), self.numbers[k]])
            np.copyto(target, numbers[here], where=here > 0)
        return out


@dataclass(frozen=True)
class Atlas:
    """Numbers of the parts of every block, a few bytes per part.

    shape: (y, x) of the slide. block: side of a block.
    cells, gaps: per block, int32: nucleus + 1 for each cell and each open gap of the block by number (see
        :class:`mxbridge.nuclei.parts.Parts`), 0 for background, :data:`OTHER` for what is no nucleus.
    patches: nuclei that were parted after that.
    """

    shape: tuple[int, int]
    block: int
    thresholds: Thresholds
    cells: tuple[NDArray[np.int32], ...]
    gaps: tuple[NDArray[np.int32], ...]
    patches: Patches | None = None
    _kept: OrderedDict[int, NDArray[np.int32]] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    def boxes(self) -> Iterator[Box]:
        return blocks_of(self.shape, self.block)

    def raster(self, source: SegSource, box: Box, keep: int = 1) -> NDArray[np.int32]:
        """Nuclei ``(y, x)`` of a box: index + 1, 0 for background and beyond the slide, :data:`OTHER`.

        source: the one that the nuclei were found in. keep: how many blocks stay in memory for the next call.
        """
        out = np.zeros(box.shape, np.int32)
        across = -(-self.shape[1] // self.block)
        inside = box.clip(self.shape)
        if 0 in inside.shape:
            return out
        for j in range(inside.y0 // self.block, -(-inside.y1 // self.block)):
            for i in range(inside.x0 // self.block, -(-inside.x1 // self.block)):
                corner = (j * self.block, i * self.block)
                drawn = self._drawn(source, j * across + i, corner, keep)
                y0, x0 = max(inside.y0, corner[0]), max(inside.x0, corner[1])
                y1, x1 = min(inside.y1, corner[0] + self.block), min(inside.x1, corner[1] + self.block)
                part = drawn[y0 - corner[0] : y1 - corner[0], x0 - corner[1] : x1 - corner[1]]
                out[y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0] = part
        return out

    def _drawn(self, source: SegSource, index: int, corner: tuple[int, int], keep: int) -> NDArray[np.int32]:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        y, x = corner
        box = Box(y, x, min(y + self.block, self.shape[0]), min(x + self.block, self.shape[1]))
        drawn = self._draw(source, index, box)
        self._kept[index] = drawn
        while len(self._kept) > keep:
            self._kept.popitem(last=False)
        return drawn

    def _draw(self, source: SegSource, index: int, box: Box) -> NDArray[np.int32]:
        wants_gaps = bool(self.gaps[index].any())
        if not (wants_gaps or self.cells[index].any()):
            return np.zeros(box.shape, np.int32)
        cells, gaps = cells_and_gaps(foreground_of(source.seg(box), self.thresholds), gaps=wants_gaps)
        drawn = np.take(self.cells[index][cells.number], cells.image, out=cells.image, mode="clip")
        if gaps is not None:
            drawn += self.gaps[index][gaps.number][gaps.image]
        return drawn if self.patches is None else self.patches.applied(drawn, box)
