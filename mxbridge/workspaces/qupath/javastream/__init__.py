"""Java's object stream as data: read it into a tree, change the tree, write it again. No class is ever instantiated.

The tree keeps everything in stream order, so an unchanged tree is written byte for byte as it was read; handles (the
stream's back references) are numbered anew on writing, so nodes can be put in, replaced and taken out freely.

Source: Java Object Serialization Specification, chapter 6 (protocol version 2).
"""

from mxbridge.workspaces.qupath.javastream.compare import same_content
from mxbridge.workspaces.qupath.javastream.nodes import (
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
from mxbridge.workspaces.qupath.javastream.pack import Ints, Pack
from mxbridge.workspaces.qupath.javastream.packing import Packable
from mxbridge.workspaces.qupath.javastream.reader import (
    JavaStream,
    object_reader,
    read_stream,
    without_garbage_collection,
)
from mxbridge.workspaces.qupath.javastream.shapes import Place, Shape
from mxbridge.workspaces.qupath.javastream.text import decode_text, encode_text
from mxbridge.workspaces.qupath.javastream.writer import write_stream

__all__ = [
    "Block",
    "ClassDesc",
    "Field",
    "Ints",
    "Item",
    "JavaArray",
    "JavaClass",
    "JavaEnum",
    "JavaObject",
    "JavaStream",
    "JavaString",
    "Pack",
    "Packable",
    "Part",
    "Place",
    "Rows",
    "Shape",
    "StreamError",
    "TooManyNodesError",
    "Value",
    "decode_text",
    "encode_text",
    "object_reader",
    "read_stream",
    "same_content",
    "without_garbage_collection",
    "write_stream",
]
