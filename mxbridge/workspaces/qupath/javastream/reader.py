"""Bytes to a tree, with a limit on everything a hostile file could make endless.

Time and memory are proportional to the bytes: every length is compared with the bytes left before anything is allocated,
every item costs at least a byte, and nesting is counted rather than left to the interpreter's stack.
"""

from __future__ import annotations

import gc
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mxbridge.workspaces.qupath.javastream.nodes import (
    BASE_HANDLE,
    BLOCK_DATA,
    EXTERNALIZABLE,
    IS_ENUM,
    MAGIC,
    SERIALIZABLE,
    SIZES,
    TC_ARRAY,
    TC_BLOCK,
    TC_CLASS,
    TC_CLASSDESC,
    TC_END,
    TC_ENUM,
    TC_EXCEPTION,
    TC_LONG_BLOCK,
    TC_LONG_STRING,
    TC_NULL,
    TC_OBJECT,
    TC_PROXY,
    TC_REFERENCE,
    TC_RESET,
    TC_STRING,
    WRITES,
    Block,
    ClassDesc,
    Field,
    Item,
    JavaArray,
    JavaClass,
    JavaEnum,
    JavaObject,
    JavaString,
    Part,
    Rows,
    StreamError,
    TooManyNodesError,
    Value,
)
from mxbridge.workspaces.qupath.javastream.pack import FEW, Pack
from mxbridge.workspaces.qupath.javastream.packing import PACKED, Entangled, Handles, OwnHandles, Packable, Packing
from mxbridge.workspaces.qupath.javastream.shapes import HEIGHT
from mxbridge.workspaces.qupath.javastream.text import decode_text, encode_text

MAX_NESTING = 200
"""Items within items."""

_ENDLESS = sys.maxsize
_CLASS_ABOVE = 5
"""Levels of nesting that a class above a class counts for, because reading it takes more calls than other items do."""

MAX_LINEAGE = 20
"""Classes above a class."""

MAX_FIELDS = 1000
"""Fields of one class."""

_KNOWN_FLAGS = WRITES | SERIALIZABLE | EXTERNALIZABLE | BLOCK_DATA | IS_ENUM
_REFUSED = {TC_RESET: "a reset of the stream", TC_EXCEPTION: "a Java exception", TC_PROXY: "a proxy class"}
_u16 = struct.Struct(">H").unpack_from
_i32 = struct.Struct(">i").unpack_from
_i64 = struct.Struct(">q").unpack_from
_class_head = struct.Struct(">qBH").unpack_from


@dataclass(frozen=True)
class JavaStream:
    """A whole stream.

    classes: every class described in it, by name (the first where there are several of one name). pack: the objects that
    were kept as bytes; empty unless that was asked for.
    """

    items: list[Item]
    classes: dict[str, ClassDesc]
    pack: Pack
    _nodes: list[Item]
    _starts: array[int]

    def position(self, node: Item) -> int | None:
        """Byte offset near the beginning of a node, for messages."""
        found = (start for known, start in zip(self._nodes, self._starts, strict=True) if known is node)
        return next(found, None) if node is not None else None


def read_stream(data: bytes, packable: Packable | None = None, most_nodes: int | None = None) -> JavaStream:
    """Raises StreamError with the byte position of what is wrong.

    packable: objects to keep as bytes where they are many of one shape; their parents hold :class:`Rows` then.
    most_nodes: raise TooManyNodesError where there is more to be kept as nodes.
    """
    if data[:4] != MAGIC:
        raise StreamError("not a Java object stream", 0)
    handles: list[Item] = []
    reader = _Reader(data, len(MAGIC), handles)
    packing = Packing(data, packable or Packable((), lambda _: False), handles, reader.object_at)
    reader.packing = packing if packable else None
    reader.most_handles = packing.pack.room = _ENDLESS if most_nodes is None else most_nodes
    items: list[Item] = []
    with without_garbage_collection():
        try:
            while reader.at < len(data):
                items.append(reader.item(0))
            pack = packing.finish()
        except (IndexError, struct.error):  # a fixed-size field beyond the last byte
            raise StreamError("the data end in the middle of something", len(data)) from None
        except Entangled:
            return read_stream(data, None, most_nodes)
    return JavaStream(items, reader.classes, pack, handles, reader.starts)


def object_reader(data: bytes, handles: list[Item]) -> Callable[[int, int], JavaObject]:
    """Makes nodes of objects in bytes that were put together from those of a stream: given the position of an object and
    a handle above all that it refers to. handles: what the references lead to."""
    reader = _Reader(data, 0, handles)
    return lambda start, first_handle: reader.object_at(start, OwnHandles(handles, first_handle))


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For making millions of nodes, none of them garbage: collecting meanwhile would double the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Reader:
    def __init__(self, data: bytes, at: int, handles: Handles) -> None:
        self.data = data
        self.at = at
        self.handles = handles
        self.starts = array("Q")
        self.classes: dict[str, ClassDesc] = {}
        self.packing: Packing | None = None
        self.most_handles = _ENDLESS
        self._packed_handles = 0
        self._above: _Reader | None = None

    def object_at(self, start: int, handles: Handles) -> JavaObject:
        """Read one of the objects that were packed, as nodes."""
        reader = _Reader(self.data, start + 1, handles)
        reader._above = self
        return reader._object(1)

    def loosen(self, handle: int) -> Item:
        """What has this handle, which lies within an object that was packed."""
        reader = self._above or self
        assert reader.packing is not None  # noqa: S101 - nothing else puts PACKED into the table
        return reader.packing.loosen(handle)

    def item(self, depth: int) -> Item:  # noqa: PLR0911 - one return per kind of item, the frequent ones first
        at = self.at
        tag = self.data[at]
        if tag == TC_NULL:
            self.at = at + 1
            return None
        if tag == TC_REFERENCE:
            self.at = at + 5
            handle: int = _i32(self.data, at + 1)[0] - BASE_HANDLE
            if not 0 <= handle < len(self.handles):
                raise StreamError("a back reference to something that does not exist", at)
            found = self.handles[handle]
            return self.loosen(handle) if found is PACKED else found
        if depth >= MAX_NESTING:
            raise StreamError(f"nested deeper than {MAX_NESTING} levels", at)
        self.at = at + 1
        if tag == TC_OBJECT:
            return self._object(depth + 1)
        if tag == TC_STRING:
            return self._string(_u16(self.data, at + 1)[0], at + 3, False)
        if tag == TC_BLOCK:
            return Block(self._bytes(self.data[at + 1], at + 2))
        if tag == TC_ARRAY:
            return self._array(depth + 1)
        return self._rare_item(tag, at, depth + 1)

    def _rare_item(self, tag: int, at: int, depth: int) -> Item:
        if tag == TC_CLASSDESC:
            return self._new_class(depth)
        if tag == TC_LONG_STRING:
            return self._string(_i64(self.data, at + 1)[0], at + 9, True)
        if tag == TC_LONG_BLOCK:
            return Block(self._bytes(_i32(self.data, at + 1)[0], at + 5), True)
        if tag == TC_ENUM:
            desc = self._class(depth)
            slot = self._assign(None)
            constant = self.item(depth)
            if not isinstance(constant, JavaString):
                raise StreamError("an enum constant without a name", at)
            self.handles[slot] = value = JavaEnum(desc, constant)
            return value
        if tag == TC_CLASS:
            literal = JavaClass(self._class(depth))
            self._assign(literal)
            return literal
        if tag in _REFUSED:
            raise StreamError(f"{_REFUSED[tag]} in the data, which is not accepted", at)
        raise StreamError(f"unknown kind of item (0x{tag:02x})", at)

    def _assign(self, node: Item) -> int:
        self.handles.append(node)
        self.starts.append(self.at)
        self._check_count()
        return len(self.handles) - 1

    def _check_count(self) -> None:
        if len(self.handles) > self.most_handles:
            raise TooManyNodesError(self.most_handles - self._packed_handles, self.at)

    def _bytes(self, length: int, start: int) -> bytes:
        if length < 0 or length > len(self.data) - start:
            raise StreamError(f"a length of {length} bytes, but only {max(0, len(self.data) - start)} follow", self.at)
        self.at = start + length
        return self.data[start : start + length]

    def _string(self, length: int, start: int, long_form: bool) -> JavaString:
        text = JavaString(self._bytes(length, start), long_form)
        if not text.raw.isascii():
            self._decode(text.raw, start)
        self.handles.append(text)
        self.starts.append(start)
        self._check_count()
        return text

    @staticmethod
    def _decode(raw: bytes, at: int) -> str:
        try:
            return decode_text(raw)
        except ValueError as error:
            raise StreamError(str(error), at) from None

    def _object(self, depth: int) -> JavaObject:
        start = self.at - 1
        desc = self._class(depth)
        parts: list[Part] = []
        node = JavaObject(desc, parts)
        self._assign(node)
        data, item = self.data, self.item
        if desc.flags & EXTERNALIZABLE:
            self._external(node, start, depth)
            return node
        for cls in desc.lineage:
            if not cls.flags & SERIALIZABLE:
                continue
            values: list[Value] = []
            for field in cls.fields:
                size = SIZES.get(field.letter)
                values.append(item(depth) if size is None else self._bytes(size, self.at))
            part = Part(cls, values, None)
            if cls.flags & WRITES:
                part.annotations = annotations = []
                while data[self.at] != TC_END:
                    annotations.append(item(depth))
                self.at += 1
            parts.append(part)
        return node

    def _external(self, node: JavaObject, start: int, depth: int) -> None:
        """What an object's writeExternal wrote. Only here may objects be packed."""
        data, item, first_handle = self.data, self.item, len(self.handles) - 1
        packing = self.packing if depth + HEIGHT + _CLASS_ABOVE < MAX_NESTING else None
        annotations: list[Item] = []
        while data[self.at] != TC_END:
            if packing is not None and data[self.at] == TC_OBJECT:
                at = packing.take(self.at, annotations)
                if at != self.at:
                    taken, rows = len(self.handles) - len(self.starts), annotations[-1]
                    self.starts.extend([self.at] * taken)
                    if (
                        isinstance(rows, Rows) and len(rows) > FEW
                    ):  # fewer become nodes when they are compared and written
                        self._packed_handles += taken
                        self.most_handles += taken
                    self._check_count()
                    self.at = at
                    continue
            annotations.append(item(depth))
        self.at += 1
        node.parts.append(Part(node.desc, None, annotations))
        if packing is not None:
            packing.consider(node, start, self.at, first_handle)

    def _array(self, depth: int) -> JavaArray:
        start = self.at
        desc = self._class(depth)
        if len(desc.name) < 2 or desc.name[0] != "[":
            raise StreamError(f"an array of class {desc.name}, which is no array class", start)
        node = JavaArray(desc, b"")
        self._assign(node)
        count: int = _i32(self.data, self.at)[0]
        size = SIZES.get(desc.name[1])
        if size is not None:
            node.values = self._bytes(count * size, self.at + 4)
            return node
        if not 0 <= count <= len(self.data) - self.at - 4:
            raise StreamError(f"an array of {count} items, which the data cannot hold", self.at)
        if count > self.most_handles - self._packed_handles:
            raise TooManyNodesError(self.most_handles - self._packed_handles, self.at)
        self.at += 4
        node.values = values = []
        for _ in range(count):
            values.append(self.item(depth))
        return node

    def _class(self, depth: int) -> ClassDesc:
        """The class descriptor of what follows: new, or a reference to one that was read whole."""
        at = self.at
        if self.data[at] not in (TC_CLASSDESC, TC_REFERENCE):
            raise StreamError(_REFUSED.get(self.data[at], "no class where there must be one"), at)
        desc = self.item(depth)
        if not isinstance(desc, ClassDesc) or not desc.lineage:
            raise StreamError("a back reference that should be a class and is none", at)
        return desc

    def _name(self) -> str:
        """A class or field name. Only its canonical bytes are accepted, so that writing it again gives the same."""
        start = self.at + 2
        raw = self._bytes(_u16(self.data, self.at)[0], start)
        name = self._decode(raw, start)
        if encode_text(name) != raw:
            raise StreamError("a name that is not modified UTF-8", start)
        return name

    def _new_class(self, depth: int) -> ClassDesc:
        start = self.at
        name = self._name()
        uid, flags, count = _class_head(self.data, self.at)
        self.at += 11
        if flags & ~_KNOWN_FLAGS or (flags & SERIALIZABLE and flags & EXTERNALIZABLE):
            raise StreamError(f"class {name} with unknown flags (0x{flags:02x})", start)
        if flags & EXTERNALIZABLE and not flags & BLOCK_DATA:
            raise StreamError(f"class {name} written with protocol 1, which is not accepted", start)
        if count > MAX_FIELDS:
            raise StreamError(f"class {name} with {count} fields", start)
        desc = ClassDesc(name, uid, flags)
        self._assign(desc)
        fields = tuple(self._field(depth) for _ in range(count))
        annotations: list[Item] = []
        while self.data[self.at] != TC_END:
            annotations.append(self.item(depth))
        self.at += 1
        base: ClassDesc | None = None
        if self.data[self.at] == TC_NULL:
            self.at += 1
        else:
            base = self._class(depth + _CLASS_ABOVE)
            if len(base.lineage) > MAX_LINEAGE:
                raise StreamError(f"class {name} has more than {MAX_LINEAGE} classes above it", start)
        desc.complete(fields, annotations, base)
        self.classes.setdefault(name, desc)
        return desc

    def _field(self, depth: int) -> Field:
        at = self.at
        letter = chr(self.data[at])
        self.at += 1
        name = self._name()
        if letter in SIZES:
            return Field(letter, name)
        if letter not in "L[":
            raise StreamError(f"field {name} of an unknown type", at)
        signature = self.item(depth) if self.data[self.at] in (TC_STRING, TC_LONG_STRING, TC_REFERENCE) else None
        if not isinstance(signature, JavaString):
            raise StreamError(f"field {name} without a type", at)
        return Field(letter, name, signature)
