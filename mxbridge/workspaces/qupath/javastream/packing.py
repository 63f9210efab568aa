"""Finding objects of known shapes while a stream is read, and putting them into a pack."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mxbridge.workspaces.qupath.javastream.nodes import TC_OBJECT, Item, JavaObject, Rows
from mxbridge.workspaces.qupath.javastream.pack import ROWS_AT_ONCE, Ints, Pack
from mxbridge.workspaces.qupath.javastream.shapes import MAX_HANDLES, NoShape, Shape, ShapeTree, learn

MAX_ENTANGLED = 8
"""Objects of a pack that must be taken out one because of the other; more, and all of the stream becomes nodes.

Each takes up to 2 * HEIGHT calls and a few more, on top of those in which the stream is being read.
"""

_PATIENCE, _SELDOM = 1000, 16
"""Objects in vain, after which only each 16th is looked at for its shape."""

_MOST_VAIN = 4
"""Times the bytes of the stream that may be gone through in vain."""

_count = struct.Struct(">i").unpack_from
_length = struct.Struct(">H").unpack_from


class Entangled(Exception):
    """A stream that has to be read as nodes throughout."""


PACKED = Rows(Pack(b""), 0, 0, [])
"""Stands in the table of handles for everything that is kept as bytes."""


class Handles(Protocol):
    """What a reader needs of a table of handles."""

    def append(self, node: Item, /) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, handle: int, /) -> Item: ...
    def __setitem__(self, handle: int, node: Item, /) -> None: ...


class OwnHandles:
    """The table as it was when handle ``first`` was given out, and what one object adds to it."""

    def __init__(self, before: Handles, first: int) -> None:
        self._before, self._first = before, first
        self.own: list[Item] = []

    def append(self, node: Item, /) -> None:
        self.own.append(node)

    def __len__(self) -> int:
        return self._first + len(self.own)

    def __getitem__(self, handle: int, /) -> Item:
        return self._before[handle] if handle < self._first else self.own[handle - self._first]

    def __setitem__(self, handle: int, node: Item, /) -> None:
        self.own[handle - self._first] = node


Read = Callable[[int, Handles], JavaObject]
"""Makes nodes of the object at a position."""


@dataclass(frozen=True)
class Packable:
    """names: classes of objects worth packing. fits: whether the caller can work with a shape of one of them."""

    names: Collection[str]
    fits: Callable[[Shape], bool]


class Packing:
    """What has been packed so far. handles: the reader's table, in which PACKED stands for what is packed."""

    def __init__(self, data: bytes, packable: Packable, handles: list[Item], read: Read) -> None:
        self.pack = Pack(data)
        self._data = data
        self._packable = packable
        self._handles = handles
        self._read = read
        self._tree = ShapeTree()
        self._considered = self._refused = 0
        self._once: set[int] = set()
        self._vain = 0
        self._order = array("B")
        self._starts = array("q")
        self._marks: list[array[int]] = []
        self._run_rows: list[int] = []
        self._run_handles: list[int] = []
        self._loose: dict[int, JavaObject] = {}
        self._entangled = 0

    def consider(self, node: JavaObject, start: int, end: int, first_handle: int) -> None:
        """Learn the shape of an object that was read as nodes, if it is worth it and has come before.

        Once is not enough: the shapes of a few odd objects must not keep out those of the many that follow.
        """
        if node.desc.name not in self._packable.names or self._tree.full:
            return
        self._considered += 1
        if self._refused > _PATIENCE and self._considered % _SELDOM:
            return
        try:
            shape = learn(self._data, start, end, node, self._handles[first_handle : first_handle + MAX_HANDLES + 1])
        except NoShape:
            self._refused += 1
            return
        key = hash(tuple(shape.segments))
        if key in self._once and self._packable.fits(shape) and self._tree.add(shape):
            self._marks.append(array("q"))
        else:
            self._once.add(key)
            self._refused += 1

    def take(self, at: int, holder: list[Item]) -> int:
        """Pack the objects from position ``at`` on that have a known shape, and append them to ``holder``.

        Returns where the next item begins: at ``at`` when there are none.
        """
        data, order, starts, tree = self._data, self._order, self._starts, self._tree
        first, handles, shapes, end = len(order), 0, tree.shapes, len(data)
        while data[at] == TC_OBJECT and len(order) - first < ROWS_AT_ONCE:
            branches, p = tree.branches, at
            marks: list[int] = []
            shape = -1
            while branches:
                for branch in branches:
                    if branch.match(data, p):
                        break
                else:
                    break
                marks.append(p)
                p += branch.length
                shape = branch.shape
                if not branch.size:
                    break
                if branch.text:
                    size: int = _length(data, p - 2)[0]
                    if not data[p : p + size].isascii():
                        break
                else:
                    size = _count(data, p - 4)[0] * branch.size
                p += size
                if size < 0 or p > end:
                    break
                branches = branch.then
            if shape < 0:
                self._give_up_after(p - at)
                break
            order.append(shape)
            starts.append(at)
            self._marks[shape].extend(marks)
            handles += shapes[shape].handles
            at = p
        if len(order) > first:
            self._run_rows.append(first)
            self._run_handles.append(len(self._handles))
            rows = Rows(self.pack, first, len(order), holder)
            self.pack.parts.append(rows)
            holder.append(rows)
            self._handles += [PACKED] * handles
        return at

    def _give_up_after(self, size: int) -> None:
        """Stop looking for shapes where bytes are gone through again and again in vain: no file of many like objects does it."""
        self._vain += max(0, size)
        if self._vain > _MOST_VAIN * len(self._data):
            self._tree.close()

    def loosen(self, handle: int) -> Item:
        """Make nodes of the packed object that takes this handle, because something refers to a part of it."""
        k = bisect_right(self._run_handles, handle) - 1
        row, at = self._run_rows[k], self._run_handles[k]
        while at + (size := self._tree.shapes[self._order[row]].handles) <= handle:
            at, row = at + size, row + 1
        self._loosen(row, at)
        return self._handles[handle]

    def _loosen(self, row: int, first_handle: int) -> None:
        if self._entangled >= MAX_ENTANGLED:
            raise Entangled
        self.pack.spend(self._tree.shapes[self._order[row]].handles, self._starts[row])
        self._entangled += 1
        found = OwnHandles(self._handles, first_handle)
        self._loose[row] = self._read(self._starts[row], found)
        self._handles[first_handle : len(found)] = found.own
        self._entangled -= 1

    def _all_first_handles(self) -> Ints:
        """Of every packed object: within a run each begins where the one before it ends."""
        sizes = np.array([shape.handles for shape in self._tree.shapes] or [0], np.int64)[
            np.frombuffer(self._order, np.uint8)
        ]
        before = np.cumsum(sizes) - sizes
        run_rows = np.array(self._run_rows, np.int64)
        lengths = np.diff(np.append(run_rows, len(sizes)))
        return np.asarray(before + np.repeat(np.array(self._run_handles, np.int64) - before[run_rows], lengths))

    def finish(self) -> Pack:
        """Check what the packed objects refer to, as a reader of nodes would have. Raises StreamError, Entangled."""
        pack, handles = self.pack, self._handles
        if not len(self._order):
            return pack

        def read(start: int, first_handle: int) -> JavaObject:
            return self._read(start, OwnHandles(handles, first_handle))

        pack.fill(self._tree.shapes, self._order, self._marks, self._all_first_handles(), handles, read)
        waiting: list[int] = []
        for shape in pack.shapes:
            rows = np.flatnonzero(pack.shape_of == shape.number)
            first = pack.first_handles[rows]
            for place, free in zip(shape.references, shape.free, strict=True):
                if not free or not len(rows):
                    continue
                targets = pack.targets(shape, rows, place)
                wrong = (targets < 0) | (targets >= first)
                waiting += rows[wrong].tolist()
                distinct = targets[:1] if (targets == targets[0]).all() else np.unique(targets[~wrong])
                for handle in distinct.tolist():
                    if 0 <= handle < len(handles) and handles[handle] is PACKED:
                        self.loosen(handle)
        for row in dict.fromkeys(waiting):
            if row not in self._loose:
                self._loosen(row, int(pack.first_handles[row]))
        pack.release(self._loose)
        return pack
