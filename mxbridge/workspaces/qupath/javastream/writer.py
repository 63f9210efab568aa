"""A tree to bytes. Handles are numbered in the order in which nodes are first met, as Java does it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from mxbridge.workspaces.qupath.javastream.nodes import (
    BASE_HANDLE,
    MAGIC,
    TC_ARRAY,
    TC_BLOCK,
    TC_CLASS,
    TC_CLASSDESC,
    TC_END,
    TC_ENUM,
    TC_LONG_BLOCK,
    TC_LONG_STRING,
    TC_NULL,
    TC_OBJECT,
    TC_REFERENCE,
    TC_STRING,
    Block,
    ClassDesc,
    Item,
    JavaArray,
    JavaClass,
    JavaEnum,
    JavaObject,
    JavaString,
    Rows,
)
from mxbridge.workspaces.qupath.javastream.rewrite import write_rows
from mxbridge.workspaces.qupath.javastream.text import encode_text

_reference = struct.Struct(">Bi").pack
_short_string = struct.Struct(">BH").pack
_count = struct.Struct(">i").pack


def write_stream(items: Sequence[Item]) -> bytes:
    """The whole stream of these top-level items."""
    writer = Writer()
    for item in items:
        writer.item(item)
    return bytes(writer.out)


class Writer:
    """out: the bytes so far. alive: nodes that are in no tree, kept so that none after them gets their identity."""

    def __init__(self) -> None:
        self.out = bytearray(MAGIC)
        self._handles: dict[int, int] = {}  # by identity: the tree holds every node, so no id is used twice
        self._next = 0
        self.alive: list[JavaObject] = []

    def item(self, node: Item) -> None:
        out = self.out
        if node is None:
            out.append(TC_NULL)
            return
        handle = self._handles.get(id(node))
        if handle is not None:
            out += _reference(TC_REFERENCE, BASE_HANDLE + handle)
            return
        if isinstance(node, JavaObject):
            self._object(node)
        elif isinstance(node, JavaString):
            self._string(node)
        elif isinstance(node, Block):
            if node.long_form or len(node.data) > 0xFF:
                out.append(TC_LONG_BLOCK)
                out += _count(len(node.data))
            else:
                out.append(TC_BLOCK)
                out.append(len(node.data))
            out += node.data
        elif isinstance(node, JavaArray):
            self._array(node)
        elif isinstance(node, ClassDesc):
            self._class(node)
        elif isinstance(node, Rows):
            write_rows(self, node)
        elif isinstance(node, JavaEnum):
            out.append(TC_ENUM)
            self.item(node.desc)
            self._assign(node)
            self.item(node.constant)
        else:
            out.append(TC_CLASS)
            self.item(node.desc)
            self._assign(node)

    def handle(self, node: Item) -> int | None:
        """The handle of a node that was written already."""
        return self._handles.get(id(node))

    def rehearse(self, item: JavaObject) -> tuple[bytes, int]:
        """The bytes of an object as they would be now, and how many handles it takes; nothing is written."""
        length, before, known = len(self.out), self._next, len(self._handles)
        self.item(item)
        raw, taken = bytes(self.out[length:]), self._next - before
        del self.out[length:]
        while len(self._handles) > known:
            self._handles.popitem()
        self._next = before
        return raw, taken

    def skip_handles(self, count: int) -> None:
        """Count handles of objects that were copied as bytes, to which nothing refers."""
        self._next += count

    def _assign(self, node: JavaObject | JavaString | JavaArray | JavaEnum | JavaClass | ClassDesc) -> None:
        self._handles[id(node)] = self._next
        self._next += 1

    def _string(self, node: JavaString) -> None:
        self._assign(node)
        if node.long_form or len(node.raw) > 0xFFFF:
            self.out.append(TC_LONG_STRING)
            self.out += struct.pack(">q", len(node.raw))
        else:
            self.out += _short_string(TC_STRING, len(node.raw))
        self.out += node.raw

    def _object(self, node: JavaObject) -> None:
        out, item = self.out, self.item
        out.append(TC_OBJECT)
        item(node.desc)
        self._assign(node)
        for part in node.parts:
            for value in part.values or ():
                if isinstance(value, bytes):
                    out += value
                else:
                    item(value)
            if part.annotations is not None:
                for annotation in part.annotations:
                    item(annotation)
                out.append(TC_END)

    def _array(self, node: JavaArray) -> None:
        self.out.append(TC_ARRAY)
        self.item(node.desc)
        self._assign(node)
        self.out += _count(len(node))
        if isinstance(node.values, bytes):
            self.out += node.values
        else:
            for value in node.values:
                self.item(value)

    def _class(self, node: ClassDesc) -> None:
        out = self.out
        out.append(TC_CLASSDESC)
        self._name(node.name)
        self._assign(node)
        out += struct.pack(">qBH", node.uid, node.flags, len(node.fields))
        for field in node.fields:
            out.append(ord(field.letter))
            self._name(field.name)
            if field.signature is not None:
                self.item(field.signature)
        for annotation in node.annotations:
            self.item(annotation)
        out.append(TC_END)
        self.item(node.base)

    def _name(self, name: str) -> None:
        raw = encode_text(name)
        self.out += struct.pack(">H", len(raw)) + raw
