"""The shape of an object's bytes: learned from one object that was read as nodes, then found again and again.

Objects of one class with the same parts differ only in numbers, in what they refer to, and in the lengths of their arrays
and texts. A shape says where all these are: fixed segments, each followed (but for the last) by data whose length stands at
the segment's end. Nothing here knows what the objects mean.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mxbridge.workspaces.qupath.javastream.nodes import (
    SIZES,
    TC_NULL,
    TC_REFERENCE,
    Block,
    ClassDesc,
    Item,
    JavaArray,
    JavaObject,
    JavaString,
    Value,
)

Place = tuple[int, int]
"""Where something begins in every object of a shape: number of the segment, bytes from the segment's start."""

MAX_SHAPES = 64
"""Shapes of one file; objects of further ones are read as nodes."""

HEIGHT = 20
"""Items within items of an object that has a shape, at most."""

MAX_HANDLES = 64
"""Nodes within an object that has a shape, at most."""

_MAX_FIXED = 4096
_UUID = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UUID_SIZE = 36

_count = struct.Struct(">i").unpack_from
_length = struct.Struct(">H").unpack_from


class NoShape(Exception):
    """An object of which no other could have the same bytes."""


@dataclass(frozen=True)
class Segment:
    """pattern: of its bytes. size: of one element of the data behind it; 0 behind the last. text: the data are a text,
    whose length has two bytes, instead of an array, whose number of elements has four."""

    pattern: bytes
    length: int
    size: int
    text: bool = False


@dataclass
class Shape:
    """items: what the object it was learned from had as annotations, whatever became of that object since. handles: how
    many an object takes. slots: for each item, where it begins and how many handles were given out before it; one more for
    the end."""

    desc: ClassDesc
    items: tuple[Item, ...]
    handles: int
    number: int = 0
    segments: list[Segment] = field(default_factory=list)
    references: list[Place] = field(default_factory=list)
    free: list[bool] = field(default_factory=list)
    """For each reference whether it may lead to something else in each object; those to classes may not."""
    slots: list[tuple[Place, int]] = field(default_factory=list)
    _places: dict[tuple[int, int], Place] = field(default_factory=dict)
    _data: dict[int, int] = field(default_factory=dict)
    _inline: set[int] = field(default_factory=set)

    def place(self, held_by: Sequence[Value], index: int) -> Place:
        """Where an item or number begins, given the list of the node that holds it."""
        return self._places[id(held_by), index]

    def data_of(self, node: Item) -> int:
        """Number of the segment behind which the data of an array or text lie. Raises KeyError for other nodes."""
        return self._data[id(node)]

    def brings(self, node: Item) -> bool:
        """Whether every object of this shape has its own such node, rather than a reference to one."""
        return id(node) in self._inline


def learn(data: bytes, start: int, end: int, node: JavaObject, new: Sequence[Item]) -> Shape:
    """The shape of ``node``, which ``data[start:end]`` say; new: the nodes that were met first within it, in order.

    Raises NoShape.
    """
    if len(new) > MAX_HANDLES:
        raise NoShape
    walk = _Walk(data, start, Shape(node.desc, tuple(node.annotations), len(new)), {id(n) for n in new})
    walk.item(node, 0)
    walk.cut(0)
    shape = walk.shape
    if walk.at != end or walk.met != len(new) or sum(s.length for s in shape.segments) > _MAX_FIXED:
        raise NoShape
    return shape


class _Walk:
    """Goes through an object's nodes in the order of the stream."""

    def __init__(self, data: bytes, start: int, shape: Shape, new: set[int]) -> None:
        self.data, self.at, self.shape, self.new = data, start, shape, new
        self.met = 0
        self._segment_start = start
        self._pattern: list[bytes] = []

    def item(self, value: Value, depth: int) -> None:
        if value is None:
            self._exact(1)
            if self.data[self.at - 1] != TC_NULL:
                raise NoShape
        elif isinstance(value, bytes):
            self._any(len(value))
        elif isinstance(value, Block):
            self._block(value)
        elif id(value) not in self.new or id(value) in self.shape._inline:
            self._reference(value)
        elif depth > HEIGHT:
            raise NoShape
        elif isinstance(value, JavaString):
            self._first(value)
            self._string(value)
        elif isinstance(value, JavaArray):
            self._exact(1)
            self._reference(value.desc)
            self._first(value)
            self._array(value, depth)
        elif isinstance(value, JavaObject):
            self._exact(1)
            self._reference(value.desc)
            self._first(value)
            self._object(value, depth)
        else:
            raise NoShape

    def cut(self, size: int, *, text: bool = False) -> None:
        """End the segment here: what follows has ``size`` bytes per element."""
        length = self.at - self._segment_start
        self.shape.segments.append(Segment(b"".join(self._pattern), length, size, text))
        if size:
            count: int = _length(self.data, self.at - 2)[0] if text else _count(self.data, self.at - 4)[0]
            self.at += count * size
        self._segment_start = self.at
        self._pattern = []

    def _here(self) -> Place:
        return len(self.shape.segments), self.at - self._segment_start

    def _first(self, node: JavaString | JavaArray | JavaObject) -> None:
        self.shape._inline.add(id(node))
        self.met += 1

    def _exact(self, size: int) -> None:
        self._pattern.append(re.escape(self.data[self.at : self.at + size]))
        self.at += size

    def _any(self, size: int) -> None:
        self._pattern.append(b".{%d}" % size)
        self.at += size

    def _reference(self, node: Item) -> None:
        """To a class it must be the same in every object; to itself an object has a reference that no other has."""
        if id(node) in self.new or self.data[self.at] != TC_REFERENCE:
            raise NoShape
        free = not isinstance(node, ClassDesc)
        self.shape.references.append(self._here())
        self.shape.free.append(free)
        if free:
            self._exact(1)
            self._any(4)
        else:
            self._exact(5)

    def _string(self, node: JavaString) -> None:
        if node.long_form:
            raise NoShape
        if _UUID.fullmatch(node.raw):
            self._exact(3)
            self._pattern.append(_UUID.pattern)
            self.at += _UUID_SIZE
            return
        self._exact(1)
        self._any(2)
        self.shape._data[id(node)] = len(self.shape.segments)
        self.cut(1, text=True)

    def _array(self, node: JavaArray, depth: int) -> None:
        if isinstance(node.values, bytes):
            self._any(4)
            self.shape._data[id(node)] = len(self.shape.segments)
            self.cut(SIZES[node.letter])
            return
        self._exact(4)
        self._items(node.values, depth)

    def _items(self, values: Sequence[Value], depth: int) -> None:
        for k, value in enumerate(values):
            self.shape._places[id(values), k] = self._here()
            self.item(value, depth + 1)

    def _object(self, node: JavaObject, depth: int) -> None:
        for part in node.parts:
            self._items(part.values or (), depth)
            if part.annotations is None:
                continue
            if depth:
                self._items(part.annotations, depth)
            else:
                self._slots(part.annotations)
            self._exact(1)

    def _slots(self, annotations: Sequence[Item]) -> None:
        for value in annotations:
            self.shape.slots.append((self._here(), self.met))
            self.item(value, 1)
        self.shape.slots.append((self._here(), self.met))

    def _block(self, block: Block) -> None:
        """Eight bytes are one number, which may be any; shorter and longer ones are counts and must be equal."""
        head = 5 if block.long_form else 2
        self._exact(head)
        if len(block.data) == 8:
            self._any(8)
        else:
            self._exact(len(block.data))


Match = Callable[[bytes, int], object]


class ShapeTree:
    """All shapes of a file, joined where they begin alike, so that trying them all costs little more than one."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self.branches: list[Branch] = []
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether no more shapes are wanted."""
        return self._closed or len(self.shapes) >= MAX_SHAPES

    def close(self) -> None:
        """Find no shape any more."""
        self._closed = True
        self.branches.clear()

    def add(self, shape: Shape) -> bool:
        """False when it is there already."""
        branches = self.branches
        for segment in shape.segments[:-1]:
            found = next((b for b in branches if b.segment == segment), None)
            if found is None:
                branches.append(found := Branch(segment))
            branches = found.then
        if any(b.segment == shape.segments[-1] for b in branches):
            return False
        last = Branch(shape.segments[-1])
        shape.number = last.shape = len(self.shapes)
        branches.append(last)
        self.shapes.append(shape)
        return True


class Branch:
    """One segment of one or more shapes. shape: number of the shape that ends with it, or -1."""

    __slots__ = ("length", "match", "segment", "shape", "size", "text", "then")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.match: Match = re.compile(segment.pattern, re.DOTALL).match
        self.length, self.size, self.text = segment.length, segment.size, segment.text
        self.then: list[Branch] = []
        self.shape = -1
