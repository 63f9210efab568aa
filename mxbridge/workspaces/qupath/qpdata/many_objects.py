"""Very many new objects of a few sorts, put together as bytes: a slide has a hundred thousand nuclei and more.

A few objects of each sort (class, kind of outline) are made as nodes, written and read again; what the reader keeps of the
last of them as bytes is the pattern for all: their ids, texts, values and outlines take the places of its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Rings
from mxbridge.errors import InputError
from mxbridge.workspaces.qupath.javastream import (
    Block,
    Ints,
    Item,
    JavaArray,
    JavaObject,
    JavaStream,
    Pack,
    Rows,
    Shape,
    Value,
    encode_text,
    object_reader,
    read_stream,
    write_stream,
)
from mxbridge.workspaces.qupath.javastream.pack import Raw
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.qpdata.classes import PathClasses
from mxbridge.workspaces.qupath.qpdata.jdk import Maker, required_text
from mxbridge.workspaces.qupath.qpdata.layout import Layout, OutlineLayout, packable
from mxbridge.workspaces.qupath.qpdata.measurements import MeasurementLists
from mxbridge.workspaces.qupath.qpdata.new_objects import NewPathObject
from mxbridge.workspaces.qupath.qpdata.rois import NewROI
from mxbridge.workspaces.qupath.qpdata.wkb import write_wkb

_AT_ONCE = 8192
"""Objects that are put together at one time."""

_PATTERNS = 4
"""Objects made of each sort: the first may bring a class, the next two show that they have one shape, the last is packed."""

Data = tuple[Ints, Raw]
"""Number of elements of each object, and the bytes of all of them."""


@dataclass(frozen=True)
class ManyObjects:
    """Objects to put into the tree, one column per property; see NewPathObject for what these are.

    nuclei: only of cells; an object without rings there has none. metadata: one text for all, or one for each.
    measurements: float32 ``(objects,)``.
    """

    kind: Literal["detection", "cell", "tile"]
    ids: Sequence[str]
    outlines: Rings
    nuclei: Rings | None
    class_names: Sequence[str | None]
    class_colors: Mapping[str, int]
    metadata: Mapping[str, str | Sequence[str]]
    measurements: Mapping[str, NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.ids)

    def spec(self, k: int) -> NewPathObject:
        """One of them. Raises InputError for an outline that is none."""
        nucleus = [] if self.nuclei is None else self.nuclei.rings_of(k)
        return NewPathObject(
            self.kind,
            self.ids[k],
            NewROI.of_rings(self.outlines.rings_of(k)),
            nucleus=NewROI.of_rings(nucleus) if nucleus else None,
            class_name=self.class_names[k],
            class_colors=self.class_colors,
            metadata={key: told if isinstance(told, str) else told[k] for key, told in self.metadata.items()},
            measurements={name: float(values[k]) for name, values in self.measurements.items()},
        )


def packed_objects(many: ManyObjects, maker: Maker, lists: MeasurementLists, classes: PathClasses) -> Pack:
    """All of them, in their order; what they refer to are nodes of the file that ``maker`` makes nodes for."""
    sorts, sort_of = _sorts(many)
    patterns, stream = _patterns(many, [int(np.argmax(sort_of == k)) for k in range(len(sorts))], maker, lists, classes)
    outlines = _Outlines(many.outlines)
    nuclei = None if many.nuclei is None else _Outlines(many.nuclei)
    chunks: list[bytes] = []
    starts: list[Ints] = []
    marks = [array("q") for _ in stream.pack.shapes]
    at = 0
    for first in range(0, len(many), _AT_ONCE):
        which = np.arange(first, min(first + _AT_ONCE, len(many)))
        parts = [
            _Part(pattern, which[chosen], chosen, pattern.data(many, which[chosen], outlines, nuclei))
            for number, pattern in enumerate(patterns)
            if len(chosen := np.flatnonzero(sort_of[which] == number))
        ]
        raw, begin, found = _put_together(many, parts, len(which))
        chunks.append(raw)
        starts.append(begin + at)
        for shape in stream.pack.shapes:  # the marks of one shape are in the order of its objects
            same = [(part.places, table) for part, table in zip(parts, found, strict=True) if part.shape is shape]
            if same:
                order = np.argsort(np.concatenate([places for places, _ in same]))
                marks[shape.number].frombytes((np.concatenate([table for _, table in same])[order] + at).tobytes())
        at += len(raw)
    shape_of = np.array([pattern.shape.number for pattern in patterns], np.uint8)[sort_of]
    pack = Pack(b"".join(chunks))
    handles = _own_handles(stream, patterns)
    above = np.full(len(many), len(handles), np.int64)
    order_of = array("B", shape_of.tobytes())
    pack.fill(stream.pack.shapes, order_of, marks, above, handles, object_reader(pack.data, handles))
    return pack


def _sorts(many: ManyObjects) -> tuple[list[tuple], NDArray[np.int64]]:
    """The distinct sorts of objects, and which of them each is. Raises InputError for outlines that are none."""
    rings = [np.minimum(np.diff(many.outlines.object_starts), 2)]
    rings.append(np.zeros_like(rings[0]) if many.nuclei is None else np.minimum(np.diff(many.nuclei.object_starts), 2))
    if (rings[0] < 1).any():
        raise InputError("an outline needs rings of at least three different points")
    code = {name: k for k, name in enumerate(dict.fromkeys(many.class_names))}
    keys = np.column_stack([np.array([code[name] for name in many.class_names], np.int64), *rings])
    distinct, which = np.unique(keys, axis=0, return_inverse=True)
    return [tuple(key) for key in distinct.tolist()], which.ravel().astype(np.int64)


class _Outlines:
    """Outlines as QuPath stores them: the corners of a single ring as two arrays, of several as a geometry."""

    def __init__(self, rings: Rings) -> None:
        """Raises InputError for a ring of fewer than three points."""
        self._rings = rings
        self._begin, self._end = rings.ring_starts[:-1], rings.ring_starts[1:].copy()
        filled = np.flatnonzero(self._end > self._begin)
        closed = (rings.xy[self._begin[filled]] == rings.xy[self._end[filled] - 1]).all(axis=1)
        self._end[filled] -= closed & (self._end[filled] - self._begin[filled] > 1)
        if (self._end - self._begin < 3).any():
            raise InputError("an outline needs rings of at least three different points")

    def corners(self, which: Ints, axis: int) -> Data:
        """x (axis 0) or y of objects of one ring each."""
        ring = self._rings.object_starts[which]
        counts = self._end[ring] - self._begin[ring]
        values = self._rings.xy[np.repeat(self._begin[ring], counts) + _steps(counts), axis]
        return counts, values.astype(">f4").view(np.uint8)

    def geometry(self, which: Ints) -> Data:
        texts = [write_wkb(NewROI.of_rings(self._rings.rings_of(k)).polygons) for k in which.tolist()]
        return np.array([len(text) for text in texts], np.int64), np.frombuffer(b"".join(texts), np.uint8)


class _Pattern:
    """One object as bytes, and where in it what differs is. node: the same object as it was made."""

    def __init__(self, pack: Pack, row: int, node: JavaObject) -> None:
        self.node, self.row, self.shape = node, row, pack.shapes[pack.shape_of[row]]
        self.layout = Layout.of(self.shape)
        begin, end = int(pack.starts[row]), int(pack.ends[row])
        self._marks = pack.marks[self.shape.number][pack.within[row]] - begin
        self._raw = pack.buffer[begin:end]
        keys = [pack.handles[int(pack.targets(self.shape, np.array([row]), place)[0])] for place in self.layout.keys]
        self._keys = [required_text(key) for key in keys]

    def fixed(self, segment: int) -> Raw:
        start = int(self._marks[segment])
        return self._raw[start : start + self.shape.segments[segment].length]

    def data(self, many: ManyObjects, which: Ints, outlines: _Outlines, nuclei: _Outlines | None) -> dict[int, Data]:
        """What stands behind each segment, of objects of this sort."""
        found: dict[int, Data] = {}
        for key, place in zip(self._keys, self.layout.values, strict=True):
            if place is not None and place.segment is not None:
                told = many.metadata[key]
                found[place.segment] = _texts([told if isinstance(told, str) else told[k] for k in which.tolist()])
        if self.layout.measurements is not None:
            values = np.column_stack([many.measurements[name][which] for name in many.measurements])
            values = np.where(np.isnan(values), np.float32(np.nan), values).astype(">f4")
            counts = np.full(len(which), values.shape[1], np.int64)
            found[self.layout.measurements.values] = counts, values.view(np.uint8).ravel()
        _take_outlines(found, self.layout.roi, outlines, which)
        if nuclei is not None:
            _take_outlines(found, self.layout.nucleus, nuclei, which)
        if set(found) != set(range(len(self.shape.segments) - 1)):
            raise RuntimeError("a new object has data that nobody knows")
        return found


@dataclass(frozen=True)
class _Part:
    """Objects of one sort in a chunk. which: of all objects. places: in the chunk. data: behind each segment."""

    pattern: _Pattern
    which: Ints
    places: Ints
    data: dict[int, Data]

    @property
    def shape(self) -> Shape:
        return self.pattern.shape

    def sizes(self) -> Ints:
        """Bytes of each object."""
        total = np.full(len(self.which), sum(segment.length for segment in self.shape.segments), np.int64)
        for number, (counts, _) in self.data.items():
            total += counts * self.shape.segments[number].size
        return total


def _put_together(many: ManyObjects, parts: Sequence[_Part], count: int) -> tuple[bytes, Ints, list[Ints]]:
    """The bytes of a chunk, where each object begins, and for each part where the segments of each object begin."""
    sizes = np.zeros(count, np.int64)
    for part in parts:
        sizes[part.places] = part.sizes()
    starts = np.cumsum(sizes) - sizes
    out = np.empty(int(sizes.sum()), np.uint8)
    found = []
    for part in parts:
        at = starts[part.places].copy()
        marks = np.empty((len(at), len(part.shape.segments)), np.int64)
        ids_in, ids_at = part.pattern.layout.id
        for number, segment in enumerate(part.shape.segments):
            marks[:, number] = at
            block = np.tile(part.pattern.fixed(number), (len(at), 1))
            if number == ids_in:
                block[:, ids_at : ids_at + 36] = _characters([many.ids[k] for k in part.which.tolist()])
            counts, raw = part.data.get(number, (None, None))
            if counts is not None:
                size = 2 if segment.text else 4
                block[:, -size:] = counts.astype(f">u{size}").view(np.uint8).reshape(-1, size)
            out[at[:, None] + np.arange(segment.length)] = block
            at += segment.length
            if counts is not None and raw is not None:
                sizes_of = counts * segment.size
                out[np.repeat(at, sizes_of) + _steps(sizes_of)] = raw
                at += sizes_of
        found.append(marks)
    return out.tobytes(), starts, found


def _patterns(
    many: ManyObjects, firsts: Sequence[int], maker: Maker, lists: MeasurementLists, classes: PathClasses
) -> tuple[list[_Pattern], JavaStream]:
    """One pattern for each sort, made of the first object of it, and the stream they were read from."""
    nodes: list[Item] = []
    for sort, k in enumerate(firsts):
        found = many.spec(k)
        for copy in range(_PATTERNS):
            own = {key: f"{sort} {copy} {key}" for key, told in many.metadata.items() if not isinstance(told, str)}
            identity = f"{sort:08x}-0000-4000-8000-{copy:012x}"
            spec = NewPathObject(**{**vars(found), "id": identity, "metadata": {**found.metadata, **own}})
            nodes.append(spec.node(maker, lists, classes))
    holder = maker.external(d.METADATA, [Block(len(nodes).to_bytes(4, "big")), *nodes])
    stream = read_stream(write_stream([holder]), packable())
    (again,) = stream.items
    rows: list[int] = []
    for item in again.annotations[1:] if isinstance(again, JavaObject) else ():
        rows += range(item.first, item.stop) if isinstance(item, Rows) else [-1]
    patterns = []
    for sort in range(len(firsts)):
        last = sort * _PATTERNS + _PATTERNS - 1
        node = nodes[last]
        if len(rows) != len(nodes) or rows[last] < 0 or not isinstance(node, JavaObject):
            raise RuntimeError("a new object has no shape")
        patterns.append(_Pattern(stream.pack, rows[last], node))
    return patterns, stream


def _own_handles(stream: JavaStream, patterns: Sequence[_Pattern]) -> list[Item]:
    """What the patterns refer to: the nodes they were made with, in place of those that were read."""
    made: dict[int, Item] = {}
    for pattern in patterns:
        waiting: list[tuple[Value, Value]] = [(stream.pack.node(pattern.row), pattern.node)]
        while waiting:
            read, own = waiting.pop()
            if read is None or own is None or isinstance(read, bytes) or isinstance(own, bytes) or id(read) in made:
                continue
            made[id(read)] = own
            if isinstance(read, JavaArray) and isinstance(own, JavaArray):
                waiting.append((read.desc, own.desc))
                if isinstance(read.values, list) and isinstance(own.values, list):
                    waiting += zip(read.values, own.values, strict=True)
            elif isinstance(read, JavaObject) and isinstance(own, JavaObject):
                waiting.append((read.desc, own.desc))
                for theirs, mine in zip(read.parts, own.parts, strict=True):
                    waiting.append((theirs.desc, mine.desc))
                    waiting += zip(theirs.values or (), mine.values or (), strict=True)
                    waiting += zip(theirs.annotations or (), mine.annotations or (), strict=True)
    return [made.get(id(item), item) for item in stream.pack.handles]


def _take_outlines(found: dict[int, Data], at: OutlineLayout | None, outlines: _Outlines, which: Ints) -> None:
    if at is None:
        return
    if at.corners is None:
        (segment,) = at.data
        found[segment] = outlines.geometry(which)
    else:
        for axis, segment in enumerate(at.corners):
            found[segment] = outlines.corners(which, axis)


def _texts(texts: Sequence[str]) -> Data:
    joined = "".join(texts)
    if joined.isascii() and "\0" not in joined:
        return np.array([len(text) for text in texts], np.int64), np.frombuffer(joined.encode("ascii"), np.uint8)
    raw = [encode_text(text) for text in texts]
    return np.array([len(text) for text in raw], np.int64), np.frombuffer(b"".join(raw), np.uint8)


def _characters(ids: Sequence[str]) -> Raw:
    return np.frombuffer("".join(ids).encode("ascii"), np.uint8).reshape(len(ids), 36)


def _steps(counts: Ints) -> Ints:
    """0, 1, 2 ... for each count, one after the other."""
    return np.asarray(np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts))
