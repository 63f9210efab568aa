"""Many objects of a few shapes, kept as the bytes they were read from and as arrays of positions in them.

What an object refers to lies outside the pack: an object that something else refers into is taken out of it and becomes
nodes. Items of an object's own (its annotations) can be replaced in many objects at once; the bytes stay as they are.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mxbridge.workspaces.qupath.javastream.nodes import (
    BASE_HANDLE,
    Item,
    JavaArray,
    JavaObject,
    Part,
    Rows,
    TooManyNodesError,
    Value,
)
from mxbridge.workspaces.qupath.javastream.shapes import Place, Shape

Ints = NDArray[np.int64]
Raw = NDArray[np.uint8]

ROWS_AT_ONCE = 4096
"""Objects that are kept, compared and written together."""

FEW = 6
"""Adjacent objects so few are compared and written as nodes: arrays would cost more than they save."""


@dataclass
class Replaced:
    """What takes the place of one annotation in objects of a pack.

    items: what was put there. values: for an item with an array of its own per object, the bytes of each, ``(objects,
    bytes)``. which: per object of the pack, the item it got, or -1. at: per object its row of the values. in_use: how many
    objects have each item; those that none has any more are forgotten, as many edits of the same objects would fill the memory.
    """

    which: NDArray[np.int32]
    at: NDArray[np.int32]
    items: list[Item] = field(default_factory=list)
    values: list[Raw | None] = field(default_factory=list)
    in_use: list[int] = field(default_factory=list)

    def add(self, rows: Ints, item: Item, values: Raw | None) -> None:
        for number, count in in_use(self.which[rows]):
            self.in_use[number] -= count
            if not self.in_use[number]:
                self.items[number] = self.values[number] = None
        self.which[rows] = len(self.items)
        self.at[rows] = np.arange(len(rows))
        self.items.append(item)
        self.values.append(values)
        self.in_use.append(len(rows))


def in_use(numbers: NDArray[np.int32]) -> list[tuple[int, int]]:
    """The numbers from 0 on that occur, and how often each does."""
    found, counts = np.unique(numbers[numbers >= 0], return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


class Pack:
    """The objects, in the order of the stream. shape_of, starts, first_handles: of each; ends: where its bytes end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.buffer: Raw = np.frombuffer(data, np.uint8)
        self.shapes: list[Shape] = []
        self.handles: list[Item] = []
        self.shape_of: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self.starts: Ints = np.zeros(0, np.int64)
        self.ends: Ints = np.zeros(0, np.int64)
        self.first_handles: Ints = np.zeros(0, np.int64)
        self.marks: list[Ints] = []
        """Per shape ``(objects, segments)``: where each segment of each object begins."""
        self.within: Ints = np.zeros(0, np.int64)
        """Of each object, its row of the marks."""
        self.replaced: dict[int, Replaced] = {}
        self.parts: list[Rows] = []
        """All objects that are still kept as bytes, wherever they stand."""
        self.room = sys.maxsize
        """How many nodes may be made of packed objects."""
        self._loosened = 0
        self._read: Callable[[int, int], JavaObject] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def fill(
        self,
        shapes: list[Shape],
        order: array[int],
        marks: list[array[int]],
        first_handles: Ints,
        handles: list[Item],
        read: Callable[[int, int], JavaObject],
    ) -> None:
        """Take over what a reader has found. read: makes nodes of the object at a position, given its first handle."""
        self.shapes, self.handles, self._read = shapes, handles, read
        self.shape_of = np.frombuffer(order, np.uint8) if len(order) else np.zeros(0, np.uint8)
        count = len(self.shape_of)
        self.starts, self.ends, self.within = (np.zeros(count, np.int64) for _ in range(3))
        self.first_handles = first_handles
        for shape, flat in zip(shapes, marks, strict=True):
            found = np.frombuffer(flat, np.int64).reshape(-1, len(shape.segments)) if len(flat) else None
            self.marks.append(np.zeros((0, len(shape.segments)), np.int64) if found is None else found)
            which = np.flatnonzero(self.shape_of == shape.number)
            self.within[which] = np.arange(len(which))
            self.starts[which] = self.marks[-1][:, 0]
            self.ends[which] = self.marks[-1][:, -1] + shape.segments[-1].length

    def by_shape(self, rows: Ints) -> list[tuple[Shape, Ints]]:
        """Each shape that is among ``rows``, and which of them (indices into ``rows``) have it."""
        shapes = self.shape_of[rows]
        found = np.unique(shapes).tolist()
        if len(found) == 1:
            return [(self.shapes[found[0]], np.arange(len(rows)))]
        return [(self.shapes[number], np.flatnonzero(shapes == number)) for number in found]

    def positions(self, shape: Shape, rows: Ints, place: Place) -> Ints:
        """Bytes from the beginning of the data, of a place in objects that have this shape."""
        segment, offset = place
        return np.asarray(self.marks[shape.number][self.within[rows], segment] + offset)

    def targets(self, shape: Shape, rows: Ints, place: Place) -> Ints:
        """Handles that a reference leads to."""
        return self.int32(self.positions(shape, rows, place) + 1) - BASE_HANDLE

    def int32(self, positions: Ints) -> Ints:
        return self.bytes_at(positions, 4).view(">i4")[:, 0].astype(np.int64)

    def bytes_at(self, positions: Ints, size: int) -> Raw:
        """``(positions, size)``, a copy."""
        if not len(positions):
            return np.zeros((0, size), np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(self.buffer, size)
        return np.ascontiguousarray(windows[positions])

    def data_of(self, shape: Shape, rows: Ints, segment: int) -> tuple[Ints, Ints]:
        """Where the data behind a segment begin, and how many elements they have."""
        begin = self.positions(shape, rows, (segment, shape.segments[segment].length))
        if shape.segments[segment].text:
            raw = self.bytes_at(begin - 2, 2).view(">u2")[:, 0]
            return begin, raw.astype(np.int64)
        return begin, self.int32(begin - 4)

    def slot(self, shape: Shape, rows: Ints, number: int) -> tuple[Ints, Ints, int]:
        """Where an annotation begins and ends, and how many handles it takes."""
        (first, before), (last, after) = shape.slots[number], shape.slots[number + 1]
        return self.positions(shape, rows, first), self.positions(shape, rows, last), after - before

    def references(self, rows: Ints) -> tuple[Ints, Ints, Ints]:
        """Of adjacent objects: positions of handles, the handles, and the rows they belong to; replaced items left out."""
        positions, owners = [], []
        for shape, which in self.by_shape(rows):
            own = rows[which]
            marks = self.marks[shape.number][self.within[own]]
            segments, offsets = np.array(shape.references, np.int64).T
            at = marks[:, segments] + (offsets + 1)
            keep = np.ones(at.shape, bool)
            for number, replaced in self.replaced.items():
                begin, end, _ = self.slot(shape, own, number)
                gone = replaced.which[own] >= 0
                keep &= ~(gone[:, None] & (at >= begin[:, None]) & (at < end[:, None]))
            positions.append(at[keep])
            owners.append(np.broadcast_to(own[:, None], at.shape)[keep])
        found = np.concatenate(positions)
        return found, self.int32(found) - BASE_HANDLE, np.concatenate(owners)

    def replace(self, number: int, rows: Ints, item: Item, values: Raw | None = None) -> None:
        """Put ``item`` in place of an annotation of these objects.

        values: ``(rows, bytes)`` for an object that each of them gets of its own: the data of its one primitive array, which
        must be the last thing it says.
        """
        if number not in self.replaced:
            self.replaced[number] = Replaced(np.full(len(self), -1, np.int32), np.zeros(len(self), np.int32))
        self.replaced[number].add(rows, item, values)

    def replacement(self, number: int, row: int) -> Item:
        """The item that an object has got, with an array of its own where it has one."""
        replaced = self.replaced[number]
        which = int(replaced.which[row])
        item, values = replaced.items[which], replaced.values[which]
        return item if values is None else with_data(item, values[int(replaced.at[row])].tobytes())

    def node(self, row: int) -> JavaObject:
        """One object as nodes, with what was replaced in it. Raises StreamError where the stream says what it must not."""
        assert self._read is not None  # noqa: S101 - filled by the reader
        found = self._read(int(self.starts[row]), int(self.first_handles[row]))
        for number, replaced in self.replaced.items():
            if replaced.which[row] >= 0:
                found.annotations[number] = self.replacement(number, row)
        return found

    def spend(self, nodes: int, position: int) -> None:
        """Take room for the nodes of objects that are to be released. Raises TooManyNodesError where there is not enough."""
        self._loosened += nodes
        if self._loosened > self.room:
            raise TooManyNodesError(self.room, position)

    def selected(self, rows: Ints, reader: Callable[[bytes, list[Item]], Callable[[int, int], JavaObject]]) -> Pack:
        """A pack of these objects alone, in ascending order, side by side; with what was replaced in them."""
        cuts = np.flatnonzero((np.diff(rows) > 1) | (self.starts[rows[1:]] != self.ends[rows[:-1]])) + 1
        runs = [(int(self.starts[run[0]]), int(self.ends[run[-1]])) for run in np.split(rows, cuts) if len(run)]
        out = Pack(b"".join(self.data[begin:end] for begin, end in runs))
        lengths = self.ends[rows] - self.starts[rows]
        out.shapes, out.handles, out.room = self.shapes, self.handles, self.room
        out.shape_of, out.first_handles = self.shape_of[rows], self.first_handles[rows]
        out.ends = np.cumsum(lengths)
        out.starts = out.ends - lengths
        out.within = np.zeros(len(rows), np.int64)
        for shape in self.shapes:
            which = np.flatnonzero(out.shape_of == shape.number)
            moved = (out.starts - self.starts[rows])[which]
            out.marks.append(self.marks[shape.number][self.within[rows[which]]] + moved[:, None])
            out.within[which] = np.arange(len(which))
        for number, old in self.replaced.items():
            out.replaced[number] = Replaced(old.which[rows], old.at[rows], old.items, old.values, old.in_use)
        out._read = reader(out.data, out.handles)
        return out

    def release_rows(self, rows: Ints) -> None:
        """Make nodes of these objects, as they are now. Raises TooManyNodesError before any is made."""
        if len(rows):
            sizes = np.array([shape.handles for shape in self.shapes], np.int64)
            self.spend(int(sizes[self.shape_of[rows]].sum()), int(self.ends[rows[-1]]))
            self.release({row: self.node(row) for row in rows.tolist()})

    def release(self, nodes: dict[int, JavaObject]) -> None:
        """Let these nodes stand for the objects of these rows from now on."""
        if not nodes:
            return
        wanted = np.array(sorted(nodes), np.int64)
        parts: list[Rows] = []
        changed: dict[int, tuple[list[Item], dict[int, list[Item]]]] = {}
        for rows in self.parts:
            low, high = np.searchsorted(wanted, (rows.first, rows.stop))
            if low == high:
                parts.append(rows)
                continue
            split = self._split(rows, wanted[low:high].tolist(), nodes)
            parts += [part for part in split if isinstance(part, Rows)]
            changed.setdefault(id(rows.holder), (rows.holder, {}))[1][id(rows)] = split
        for holder, instead in changed.values():
            holder[:] = [new for item in holder for new in instead.get(id(item), (item,))]
        self.parts = parts

    def _split(self, rows: Rows, gone: list[int], nodes: dict[int, JavaObject]) -> list[Item]:
        parts: list[Item] = []
        first = rows.first
        for row in gone:
            if first < row:
                parts.append(Rows(self, first, row, rows.holder))
            parts.append(nodes[row])
            first = row + 1
        if first < rows.stop:
            parts.append(Rows(self, first, rows.stop, rows.holder))
        return parts


def with_data(item: Item, data: bytes) -> JavaObject:
    """A copy of an object, and of the primitive array in it, with other data in the array."""
    assert isinstance(item, JavaObject)  # noqa: S101 - what Pack.replace was given
    parts = []
    for part in item.parts:
        values: list[Value] = [
            JavaArray(value.desc, data) if isinstance(value, JavaArray) and isinstance(value.values, bytes) else value
            for value in part.values or ()
        ]
        parts.append(Part(part.desc, values, part.annotations))
    return JavaObject(item.desc, parts)
