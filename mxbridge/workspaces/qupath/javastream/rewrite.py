"""Writing the objects of a pack: copied as bytes, with the handles they refer to numbered anew."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from mxbridge.workspaces.qupath.javastream.nodes import (
    BASE_HANDLE,
    TC_NULL,
    TC_REFERENCE,
    Item,
    JavaArray,
    JavaObject,
    Rows,
)
from mxbridge.workspaces.qupath.javastream.pack import FEW, Ints, Pack, with_data

Cut = tuple[int, int, bytes]
"""Bytes of the source from, to, and what is written instead."""


class Output(Protocol):
    """The part of a writer that this needs."""

    out: bytearray
    alive: list[JavaObject]

    def item(self, node: Item) -> None: ...
    def handle(self, node: Item) -> int | None: ...
    def rehearse(self, item: JavaObject) -> tuple[bytes, int]: ...
    def skip_handles(self, count: int) -> None: ...


def write_rows(writer: Output, rows: Rows) -> None:
    """An object that is the first to refer to something not yet written is written as nodes, the others as bytes."""
    pack, first = rows.pack, rows.first
    if len(rows) <= FEW:
        for row in range(rows.first, rows.stop):
            _write_node(writer, pack.node(row))
        return
    references = _References(pack, rows)
    for row in sorted({*references.first_uses(writer), *_first_new_items(writer, rows)}):
        _copy(writer, pack, first, row, references)
        _write_node(writer, pack.node(row))
        first = row + 1
    _copy(writer, pack, first, rows.stop, references)


def _write_node(writer: Output, node: JavaObject) -> None:
    writer.alive.append(node)
    writer.item(node)


class _References:
    """Everything that some adjacent objects refer to."""

    def __init__(self, pack: Pack, rows: Rows) -> None:
        self.positions, handles, self.owners = pack.references(np.arange(rows.first, rows.stop))
        distinct, self._which = np.unique(handles, return_inverse=True)
        self._nodes = [pack.handles[handle] for handle in distinct.tolist()]
        self._first = np.full(len(distinct), rows.stop, np.int64)
        np.minimum.at(self._first, self._which, self.owners)

    def first_uses(self, writer: Output) -> Iterator[int]:
        """The first object that refers to each node that is not yet written."""
        for k, node in enumerate(self._nodes):
            if writer.handle(node) is None:
                yield int(self._first[k])

    def renumbered(self, writer: Output, first: int, stop: int) -> tuple[Ints, Ints]:
        """Positions of the handles in objects ``first`` to ``stop``, and their new values."""
        now = np.array([-1 if (handle := writer.handle(n)) is None else handle for n in self._nodes], np.int64)
        within = (self.owners >= first) & (self.owners < stop)
        handles = now[self._which[within]]
        assert (handles >= 0).all()  # noqa: S101 - first_uses has seen to it
        return self.positions[within], handles + BASE_HANDLE


def _first_new_items(writer: Output, rows: Rows) -> Iterator[int]:
    """For each thing put into these objects that needs something not yet written, the first object that has it."""
    for replaced in rows.pack.replaced.values():
        which = replaced.which[rows.first : rows.stop]
        for number in np.unique(which).tolist():
            if number < 0:
                continue
            item, values = replaced.items[number], replaced.values[number]
            needed = [item] if values is None else _shared(item)
            if any(node is not None and writer.handle(node) is None for node in needed):
                yield rows.first + int(np.argmax(which == number))


def _shared(item: Item) -> list[Item]:
    """What the copies of an object have in common."""
    assert isinstance(item, JavaObject)  # noqa: S101 - what Pack.replace was given
    found: list[Item] = [item.desc]
    for part in item.parts:
        for value in part.values or ():
            if isinstance(value, JavaArray):
                found.append(value.desc)
            elif not isinstance(value, bytes):
                found.append(value)
    return found


def _copy(writer: Output, pack: Pack, first: int, stop: int, references: _References) -> None:
    if first == stop:
        return
    begin, end = int(pack.starts[first]), int(pack.ends[stop - 1])
    positions, handles = references.renumbered(writer, first, stop)
    span = pack.buffer[begin:end].copy()
    span[(positions - begin)[:, None] + np.arange(4)] = handles.astype(">u4").view(np.uint8).reshape(-1, 4)
    rows = np.arange(first, stop)
    sizes = np.array([shape.handles for shape in pack.shapes], np.int64)
    taken = int(sizes[pack.shape_of[rows]].sum())
    cuts: list[Cut] = []
    for number in pack.replaced:
        more, change = _cuts(writer, pack, number, rows)
        cuts += more
        taken += change
    writer.skip_handles(taken)
    if not cuts:
        writer.out += span.tobytes()
        return
    cuts.sort()
    source, at = span.data, begin
    parts: list[memoryview | bytes] = []
    for start, after, raw in cuts:
        parts += [source[at - begin : start - begin], raw]
        at = after
    parts.append(source[at - begin :])
    writer.out += b"".join(parts)


def _cuts(writer: Output, pack: Pack, number: int, rows: Ints) -> tuple[list[Cut], int]:
    """What is put in place of an annotation of these objects, and how many more handles that takes."""
    replaced = pack.replaced[number]
    cuts: list[Cut] = []
    change = 0
    for shape, which in pack.by_shape(rows):
        own = rows[which]
        own = own[replaced.which[own] >= 0]
        starts, ends, before = pack.slot(shape, own, number)
        for k in np.unique(replaced.which[own]).tolist():
            chosen = replaced.which[own] == k
            item, values = replaced.items[k], replaced.values[k]
            if values is None:
                raw, size, after, data = _reference(writer, item), 0, 0, b""
            else:
                table = values[replaced.at[own[chosen]]]
                raw, after = writer.rehearse(with_data(item, table[0].tobytes()))
                size, data = table.shape[1], table.tobytes()
                raw = raw[: len(raw) - size]
            change += (after - before) * int(chosen.sum())
            places = zip(starts[chosen].tolist(), ends[chosen].tolist(), strict=True)
            cuts += [(a, b, raw + data[j * size : (j + 1) * size]) for j, (a, b) in enumerate(places)]
    return cuts, change


def _reference(writer: Output, item: Item) -> bytes:
    if item is None:
        return bytes((TC_NULL,))
    return struct.pack(">Bi", TC_REFERENCE, BASE_HANDLE + (writer.handle(item) or 0))
