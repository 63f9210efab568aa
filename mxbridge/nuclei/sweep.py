"""Blocks joined to one slide: what touches over their borders, and which gaps are enclosed in the end.

Every part of a block gets a row. Rows that touch are remembered as pairs and joined once, when all blocks have been seen; the
numbers are then those of the whole slide, whatever the blocks were.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mxbridge.image import Box
from mxbridge.nuclei.parts import Parts, Runs
from mxbridge.nuclei.sums import Planes, Sums, sums_of

Pairs = NDArray[np.int64]
"""``(n, 2)`` rows that belong together."""

SMALL_GAP = 64
"""A gap of less than 1 / SMALL_GAP of its block is added up at once, in case it turns out to be enclosed by a nucleus; larger
ones are mostly background and are looked at again only if they are not."""

NONE = -1
"""In a line of border pixels: beyond the slide."""


def blocks_of(shape: tuple[int, int], block: int) -> Iterator[Box]:
    """Blocks of at most ``block`` pixels a side, row by row."""
    for y in range(0, shape[0], block):
        for x in range(0, shape[1], block):
            yield Box(y, x, min(y + block, shape[0]), min(x + block, shape[1]))


@dataclass(frozen=True)
class BlockRows:
    """Rows of the parts of one block, by their numbers (0 stands for nothing and is -1).

    cells: row of each cell; specks, which have no row of their own, name the gap that they lie in. speck: which are such.
    gaps: row of each gap that reaches the border. later: numbers of gaps that were not added up.
    """

    box: Box
    cells: NDArray[np.int64]
    speck: NDArray[np.bool_]
    gaps: NDArray[np.int64]
    later: NDArray[np.int64]


class Sweep:
    """Collects blocks in the order of :func:`blocks_of`.

    noise: specks of at most so many pixels that lie whole within a block are not kept apart: they are a part of what
    encloses them or nothing at all, so their sums go to the gap around them.
    """

    def __init__(self, shape: tuple[int, int], noise: int) -> None:
        self.shape = shape
        self.noise = noise
        self.blocks: list[BlockRows] = []
        self._sums: list[Sums] = []
        self._outside: list[NDArray[np.bool_]] = []
        self._same: list[Pairs] = []
        self._touching: list[Pairs] = []
        self._rows = 0
        self._above = np.full(shape[1], NONE, np.int64)
        self._below = np.full(shape[1], NONE, np.int64)
        self._left: NDArray[np.int64] | None = None

    def add(self, box: Box, parts: Parts, planes: Planes) -> None:
        """Take in the next block: its rows, its sums, and what touches within it and over its upper and left border."""
        if box.x0 == 0:
            self._above, self._below = self._below, np.full(self.shape[1], NONE, np.int64)
            self._left = None
        rows = self._numbered(box, parts)
        outside = _gaps_outside(parts, box, self.shape)
        n_rows = int(max(rows.cells.max(initial=-1), rows.gaps.max(initial=-1))) + 1 - self._rows
        sums = Sums(n_rows)
        width = self.shape[1]
        numbers = parts.cells.number
        sums.put(rows.cells[1:] - self._rows, sums_of(parts.runs, numbers, parts.cells.count, planes, box, width))
        undecided = np.flatnonzero(~outside[1:]) + 1
        later = undecided
        if len(undecided):
            runs = Runs.of(parts.gaps.image)
            small = runs.sizes(parts.gaps.count + 1) * SMALL_GAP < box.shape[0] * box.shape[1]
            now = np.where(small & ~outside[parts.gaps.number], parts.gaps.number, 0).astype(np.int32)
            sums.put(rows.gaps[1:] - self._rows, sums_of(runs, now, parts.gaps.count, planes, box, width))
            later = np.setdiff1d(undecided, now)
        rows = BlockRows(box, rows.cells, rows.speck, rows.gaps, later)
        flags = np.zeros(n_rows, bool)
        flags[rows.gaps[1:] - self._rows] = outside[1:]
        self._touching.append(_touching_within(parts, rows, outside))
        self._over_borders(box, parts, rows)
        self.blocks.append(rows)
        self._sums.append(sums)
        self._outside.append(flags)
        self._rows += n_rows

    def _numbered(self, box: Box, parts: Parts) -> BlockRows:
        """Rows: first the cells that are kept apart, then the gaps."""
        labels, between = parts.cells, parts.gaps
        size = np.zeros(labels.count + 1, np.int64)
        size[labels.number] = parts.runs.sizes(labels.count + 1)
        speck = size <= self.noise
        for line in (np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]):
            speck[labels.along(line)] = False
        speck[0] = False
        apart = ~speck
        apart[0] = False
        cells = np.cumsum(apart) - 1 + self._rows
        cells[0] = -1
        gaps = np.arange(-1, between.count) + self._rows + int(apart.sum())
        gaps[0] = -1
        if speck.any():
            first = np.zeros(labels.count + 1, np.int64)
            first[labels.number] = parts.runs.firsts(labels.count + 1)
            cells[speck] = gaps[between.number[between.image.ravel()[first[speck] - 1]]]  # what lies left of a speck
        return BlockRows(box, cells, speck, gaps, np.zeros(0, np.int64))

    def _over_borders(self, box: Box, parts: Parts, rows: BlockRows) -> None:
        top, bottom = (_codes(parts, rows, np.s_[k, :]) for k in (0, -1))
        left, right = (_codes(parts, rows, np.s_[:, k]) for k in (0, -1))
        above = np.pad(self._above, 1, constant_values=NONE)[box.x0 : box.x1 + 2]
        self._join(above, top)
        if self._left is not None:
            self._join(np.pad(self._left, 1, constant_values=NONE), left)
        self._below[box.x0 : box.x1] = bottom
        self._left = right

    def _join(self, before: NDArray[np.int64], line: NDArray[np.int64]) -> None:
        """before: codes of the neighbouring line and one pixel more at both ends; line: codes of this block's border."""
        for shift in (0, 1, 2):
            other = before[shift : shift + len(line)]
            inside = other != NONE
            a, b = other[inside], line[inside]
            both_cells = (a & 1 == 1) & (b & 1 == 1)
            self._same.append(_unique_pairs(a[both_cells] >> 1, b[both_cells] >> 1))
            if shift != 1:
                continue
            both_gaps = (a & 1 == 0) & (b & 1 == 0)
            self._same.append(_unique_pairs(a[both_gaps] >> 1, b[both_gaps] >> 1))
            mixed = (a & 1) != (b & 1)
            gap, cell = np.where(a[mixed] & 1, b[mixed], a[mixed]), np.where(a[mixed] & 1, a[mixed], b[mixed])
            self._touching.append(_unique_pairs(gap >> 1, cell >> 1))

    def joined(self) -> Joined:
        """What the slide consists of, once all blocks are in."""
        outside = np.concatenate([*self._outside, np.zeros(0, bool)])
        same = np.concatenate([*self._same, np.zeros((0, 2), np.int64)])
        first = _components(self._rows, same)
        background = np.zeros(self._rows, bool)
        background[first[outside]] = True
        touching = np.concatenate([*self._touching, np.zeros((0, 2), np.int64)])
        enclosed = touching[~background[first[touching[:, 0]]]]
        return Joined(
            _components(self._rows, np.concatenate([same, enclosed])), background[first], Sums.joined(self._sums)
        )


@dataclass(frozen=True)
class Joined:
    """Per row: the whole that it belongs to, whether it is background, and its sums."""

    whole: NDArray[np.int64]
    background: NDArray[np.bool_]
    sums: Sums


def _gaps_outside(parts: Parts, box: Box, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which gaps, by number, reach the border of the slide."""
    outside = np.zeros(parts.gaps.count + 1, bool)
    edges = (box.y0 == 0, box.y1 == shape[0], box.x0 == 0, box.x1 == shape[1])
    for at_edge, line in zip(edges, (np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]), strict=True):
        if at_edge:
            outside[parts.gaps.along(line)] = True
    outside[0] = False
    return outside


def _codes(parts: Parts, rows: BlockRows, where: tuple) -> NDArray[np.int64]:
    """Rows of a line of pixels, doubled, and odd for cells."""
    cell, gap = parts.cells.along(where), parts.gaps.along(where)
    return np.where(cell > 0, rows.cells[cell] * 2 + 1, rows.gaps[gap] * 2)


def _touching_within(parts: Parts, rows: BlockRows, outside: NDArray[np.bool_]) -> Pairs:
    """Pairs (gap, cell) of rows that share an edge of pixels; gaps that are background anyway are left out."""
    if not np.any(~outside[1:]):
        return np.zeros((0, 2), np.int64)
    found = []
    width = parts.filled.shape[1]
    for step, one, two in ((1, np.s_[:, :-1], np.s_[:, 1:]), (width, np.s_[:-1, :], np.s_[1:, :])):
        change = np.zeros(parts.filled.shape, bool)
        np.not_equal(parts.filled[one], parts.filled[two], out=change[one])
        at = np.flatnonzero(change)
        cell, gap = (
            labels.number[np.maximum(labels.image.ravel()[at], labels.image.ravel()[at + step])]
            for labels in (parts.cells, parts.gaps)
        )
        use = ~outside[gap] & ~rows.speck[cell]
        found.append(_unique_pairs(rows.gaps[gap[use]], rows.cells[cell[use]]))
    return np.concatenate(found)


def _unique_pairs(a: NDArray[np.int64], b: NDArray[np.int64]) -> Pairs:
    if not len(a):
        return np.zeros((0, 2), np.int64)
    low = int(b.min())
    span = int(b.max()) - low + 1
    keys = np.unique(a * span + (b - low))
    return np.column_stack([keys // span, keys % span + low])


def _components(rows: int, pairs: Pairs) -> NDArray[np.int64]:
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(rows, rows))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)
