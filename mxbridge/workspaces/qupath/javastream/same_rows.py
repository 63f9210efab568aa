"""Comparing packed objects of two streams: all bytes but handles at once, and what the handles lead to pair by pair."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mxbridge.workspaces.qupath.javastream.nodes import (
    BASE_HANDLE,
    TC_NULL,
    TC_REFERENCE,
    Item,
    JavaArray,
    JavaObject,
    Part,
    Rows,
    Value,
)
from mxbridge.workspaces.qupath.javastream.pack import FEW, Ints, Pack, Raw
from mxbridge.workspaces.qupath.javastream.shapes import Place, Shape


@dataclass
class Same:
    """What is left to show after the bytes were found equal. pairs: nodes that must be the same. as_nodes: rows of the two
    packs that are better compared as nodes."""

    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    as_nodes: list[tuple[int, int]] = field(default_factory=list)


def same_rows(a: Pack, first_a: int, b: Pack, first_b: int, count: int) -> Same | None:
    """Compare ``count`` objects from a row of each pack on; None when they differ.

    Items replaced in ``a`` are compared with what the objects of ``b``, as the reader found them, say there.
    """
    out = Same()
    rows_a, rows_b = np.arange(first_a, first_a + count), np.arange(first_b, first_b + count)
    edited = any((replaced.which[rows_b] >= 0).any() for replaced in b.replaced.values())
    if edited or count <= FEW:  # both changed in memory is rare
        out.as_nodes = list(zip(rows_a.tolist(), rows_b.tolist(), strict=True))
        return out
    spans_a, spans_b = _Span(a, rows_a), _Span(b, rows_b)
    for number in a.replaced:
        which = np.flatnonzero(a.replaced[number].which[rows_a] >= 0)
        if len(which):
            if not _same_replaced(a, rows_a[which], b, rows_b[which], number, out):
                return None
            spans_a.leave_out(number, which)
            spans_b.leave_out(number, which)
    if spans_a.rest() != spans_b.rest():
        return None
    (at_a, handles_a), (at_b, handles_b) = spans_a.references(), spans_b.references()
    if not np.array_equal(at_a, at_b):
        return None
    _pair(a, handles_a, b, handles_b, out)
    return out


class _Span:
    """The bytes of adjacent objects, handles blanked, without the items left out."""

    def __init__(self, pack: Pack, rows: Ints) -> None:
        self.pack, self.rows = pack, rows
        self._begin, self._end = int(pack.starts[rows[0]]), int(pack.ends[rows[-1]])
        self._from: list[Ints] = []
        self._to: list[Ints] = []

    def leave_out(self, number: int, which: Ints) -> None:
        for shape, chosen in self.pack.by_shape(self.rows[which]):
            begin, end, _ = self.pack.slot(shape, self.rows[which][chosen], number)
            self._from.append(begin)
            self._to.append(end)

    def _cuts(self) -> tuple[Ints, Ints]:
        if not self._from:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        begin, end = np.concatenate(self._from), np.concatenate(self._to)
        order = np.argsort(begin)
        return begin[order], end[order]

    def _all_references(self) -> tuple[Ints, Ints]:
        """Sorted positions of all handles outside what is left out, and the handles."""
        found = [np.zeros(0, np.int64)]
        for shape, which in self.pack.by_shape(self.rows):
            found += [self.pack.positions(shape, self.rows[which], place) + 1 for place in shape.references]
        at = np.sort(np.concatenate(found))
        begin, end = self._cuts()
        if len(begin):
            k = np.searchsorted(begin, at, "right") - 1
            at = at[(k < 0) | (at >= end[np.maximum(k, 0)])]
        return at, self.pack.int32(at)

    def rest(self) -> bytes:
        blank = self.pack.buffer[self._begin : self._end].copy()
        at, _ = self._all_references()
        blank[(at - self._begin)[:, None] + np.arange(4)] = 0
        begin, end = self._cuts()
        source = blank.data
        edges = zip([self._begin, *end.tolist()], [*begin.tolist(), self._end], strict=True)
        return b"".join([source[p - self._begin : q - self._begin] for p, q in edges])

    def references(self) -> tuple[Ints, Ints]:
        """Positions of handles in :meth:`rest`, and the handles."""
        at, handles = self._all_references()
        begin, end = self._cuts()
        gone = np.concatenate([[0], np.cumsum(end - begin)])
        return at - self._begin - gone[np.searchsorted(end, at, "right")], handles


def _pair(a: Pack, handles_a: Ints, b: Pack, handles_b: Ints, out: Same) -> None:
    """What the handles of both lead to must be the same nodes."""
    for both in np.unique((handles_a - BASE_HANDLE) << 32 | (handles_b - BASE_HANDLE)).tolist():
        out.pairs.append((a.handles[both >> 32], b.handles[both & 0xFFFFFFFF]))


def _same_replaced(a: Pack, rows_a: Ints, b: Pack, rows_b: Ints, number: int, out: Same) -> bool:
    """Whether objects of ``b`` say what was put in place of an annotation of those of ``a``."""
    replaced = a.replaced[number]
    for k in np.unique(replaced.which[rows_a]).tolist():
        item, values = replaced.items[k], replaced.values[k]
        chosen = np.flatnonzero(replaced.which[rows_a] == k)
        for shape, which in b.by_shape(rows_b[chosen]):
            seen = _Seen(b, shape, rows_b[chosen[which]], out)
            if values is None:
                begin, end, _ = b.slot(shape, seen.rows, number)
                length = 1 if item is None else 5
                if (end - begin != length).any() or not seen.item(shape.slots[number][0], item):
                    return False
            elif not seen.object(shape.items[number], item, values[replaced.at[rows_a[chosen[which]]]]):
                return False
    return True


class _Seen:
    """What a reader found in objects of one shape, to be compared with what was meant."""

    def __init__(self, pack: Pack, shape: Shape, rows: Ints, out: Same) -> None:
        self.pack, self.shape, self.rows, self._out = pack, shape, rows, out

    def item(self, place: Place, meant: Item) -> bool:
        """Whether each has null, or a reference to the node that is meant."""
        at = self.pack.positions(self.shape, self.rows, place)
        tag = TC_NULL if meant is None else TC_REFERENCE
        if (self.pack.buffer[at] != tag).any():
            return False
        if meant is not None:
            targets = np.unique(self.pack.targets(self.shape, self.rows, place))
            self._out.pairs += [(meant, self.pack.handles[handle]) for handle in targets.tolist()]
        return True

    def object(self, found: Item, meant: Item, data: Raw) -> bool:
        """Whether each has an object of its own like ``meant``, with its row of ``data`` in the array."""
        if not isinstance(found, JavaObject) or not isinstance(meant, JavaObject) or not self.shape.brings(found):
            return False
        self._out.pairs.append((meant.desc, found.desc))
        if len(found.parts) != len(meant.parts):
            return False
        return all(self._part(p, q, data) for p, q in zip(found.parts, meant.parts, strict=True))

    def _part(self, found: Part, meant: Part, data: Raw) -> bool:
        values, wanted = found.values or [], meant.values or []
        if len(values) != len(wanted) or found.annotations is not None or meant.annotations is not None:
            return False
        return all(self._value(values, k, wanted[k], data) for k in range(len(values)))

    def _value(self, values: list[Value], k: int, meant: Value, data: Raw) -> bool:
        place, found = self.shape.place(values, k), values[k]
        if isinstance(meant, bytes):
            at = self.pack.positions(self.shape, self.rows, place)
            return bool((self.pack.bytes_at(at, len(meant)) == np.frombuffer(meant, np.uint8)).all())
        if not (isinstance(meant, JavaArray) and isinstance(meant.values, bytes)):
            return not isinstance(meant, Rows) and self.item(place, meant)
        if not isinstance(found, JavaArray) or not self.shape.brings(found):
            return False
        self._out.pairs.append((meant.desc, found.desc))
        segment = self.shape.data_of(found)
        at, counts = self.pack.data_of(self.shape, self.rows, segment)
        size = data.shape[1]
        if (counts * self.shape.segments[segment].size != size).any():
            return False
        return not size or bool((self.pack.bytes_at(at, size) == data).all())
