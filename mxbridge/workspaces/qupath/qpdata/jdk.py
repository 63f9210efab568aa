"""The JDK's own objects inside data.qpdata: numbers, strings, lists and maps, read from and made as stream nodes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mxbridge.workspaces.qupath.javastream import (
    Block,
    Item,
    JavaArray,
    JavaEnum,
    JavaObject,
    JavaString,
    Part,
    StreamError,
    Value,
)
from mxbridge.workspaces.qupath.qpdata.descriptors import ClassTable

_UNMODIFIABLE = ("java.util.Collections$UnmodifiableList", "java.util.Collections$UnmodifiableRandomAccessList")


def text(item: Item) -> str | None:
    if item is None or isinstance(item, JavaString):
        return None if item is None else item.text
    raise StreamError("something else where a text must be")


def required_text(item: Item) -> str:
    found = text(item)
    if found is None:
        raise StreamError("no text where one must be")
    return found


def boxed(item: Item) -> float | int | bool | None:
    """The value of an Integer, Double, Boolean, ...; None for null."""
    if item is None:
        return None
    if isinstance(item, JavaObject) and item.name.startswith("java.lang."):
        return item.number("value")
    raise StreamError("something else where a number must be")


def integer(item: Item) -> int | None:
    """The value of an Integer; None for null."""
    value = boxed(item)
    if value is None or isinstance(value, int):
        return value
    raise StreamError("something else where a whole number must be")


def object_array(item: Item) -> list[Item]:
    if isinstance(item, JavaArray) and isinstance(item.values, list):
        return item.values
    raise StreamError("something else where an array of objects must be")


def numbers(item: Item, letters: str) -> NDArray:
    """A primitive array whose element type is one of ``letters`` (F, D, B), big-endian, without a copy."""
    if isinstance(item, JavaArray) and item.letter in letters and isinstance(item.values, bytes):
        return np.frombuffer(item.values, {"F": ">f4", "D": ">f8", "B": ">u1"}[item.letter])
    raise StreamError("something else where an array of numbers must be")


def block_ints(item: Item, count: int) -> tuple[int, ...]:
    """A block that holds exactly ``count`` 4-byte integers."""
    if not isinstance(item, Block) or len(item.data) != 4 * count:
        raise StreamError("something else where a count must be")
    return struct.unpack(f">{count}i", item.data)


def list_items(item: Item, depth: int = 0) -> list[Item]:
    """The elements of any of the lists QuPath uses. Raises StreamError for another class."""
    if not isinstance(item, JavaObject) or depth > 4:
        raise StreamError("something else where a list must be")
    if item.name in ("java.util.ArrayList", "java.util.CollSer"):
        if not item.annotations:
            raise StreamError("a list without a length")
        (count,) = block_ints(item.annotations[0], 1)
        if count != len(item.annotations) - 1:
            raise StreamError(f"a list of {count} items that holds {len(item.annotations) - 1}")
        if item.name == "java.util.ArrayList" and item.number("size") != count:
            raise StreamError("a list whose two lengths differ")
        return item.annotations[1:]
    if item.name in _UNMODIFIABLE:
        return list_items(item.get("list"), depth + 1)
    if item.name == "java.util.Arrays$ArrayList":
        return object_array(item.get("a"))
    if item.name == "java.util.Collections$SingletonList":
        return [item.get("element")]
    if item.name == "java.util.Collections$EmptyList":
        return []
    raise StreamError(f"a list of unknown class {item.name}")


def map_items(item: Item) -> list[tuple[Item, Item]]:
    """Keys and values of a HashMap or LinkedHashMap. Raises StreamError for another class."""
    if not isinstance(item, JavaObject) or item.desc.lineage[0].name != "java.util.HashMap":
        raise StreamError("something else where a map must be")
    stored = item.parts[0].annotations if item.parts else None
    if not stored:
        raise StreamError("a map without a size")
    _, size = block_ints(stored[0], 2)
    if size * 2 != len(stored) - 1:
        raise StreamError(f"a map of {size} entries that holds {(len(stored) - 1) / 2:g}")
    return list(zip(stored[1::2], stored[2::2], strict=True))


class Maker:
    """Makes nodes for one file. Equal texts and numbers are one node, as QuPath's own files mostly have it."""

    def __init__(self, classes: ClassTable) -> None:
        self.classes = classes
        self._strings: dict[str, JavaString] = {}
        self._integers: dict[int, JavaObject] = {}
        self._booleans: dict[bool, JavaObject] = {}

    def string(self, value: str) -> JavaString:
        if value not in self._strings:
            self._strings[value] = JavaString.of(value)
        return self._strings[value]

    def optional_string(self, value: str | None) -> JavaString | None:
        return None if value is None else self.string(value)

    def integer(self, value: int) -> JavaObject:
        if value not in self._integers:
            self._integers[value] = self.object("java.lang.Integer", value=struct.pack(">i", value))
        return self._integers[value]

    def boolean(self, value: bool) -> JavaObject:
        if value not in self._booleans:
            self._booleans[value] = self.object("java.lang.Boolean", value=struct.pack(">?", value))
        return self._booleans[value]

    def double(self, value: float) -> JavaObject:
        return self.object("java.lang.Double", value=struct.pack(">d", value))

    def object(self, name: str, annotations: list[Item] | None = None, /, **fields: Value) -> JavaObject:
        """A serializable object. Fields by name; annotations go to the first class of the lineage (HashMap, ArrayList)."""
        desc = self.classes.desc(name)
        parts = [Part(cls, [fields[f.name] for f in cls.fields], None) for cls in desc.lineage]
        if annotations is not None:
            parts[0].annotations = annotations
        return JavaObject(desc, parts)

    def external(self, name: str, annotations: list[Item]) -> JavaObject:
        """An externalizable object."""
        desc = self.classes.desc(name)
        return JavaObject(desc, [Part(desc, None, annotations)])

    def enum(self, name: str, constant: str) -> JavaEnum:
        return JavaEnum(self.classes.desc(name), self.string(constant))

    def floats(self, values: Sequence[float] | NDArray) -> JavaArray:
        return JavaArray(self.classes.desc("[F"), np.asarray(values, ">f4").tobytes())

    def bytes(self, values: bytes) -> JavaArray:
        return JavaArray(self.classes.desc("[B"), values)

    def objects(self, values: list[Item]) -> JavaArray:
        return JavaArray(self.classes.desc("[Ljava.lang.Object;"), values)

    def array_list(self, values: Sequence[Item]) -> JavaObject:
        size = struct.pack(">i", len(values))
        return self.object("java.util.ArrayList", [Block(size), *values], size=size)

    def hash_map(self, entries: Mapping[str, Item], *, linked: bool = False) -> JavaObject:
        buckets = 16
        while buckets * 3 // 4 < len(entries):
            buckets *= 2
        fields: dict[str, Value] = {
            "loadFactor": struct.pack(">f", 0.75),
            "threshold": struct.pack(">i", buckets * 3 // 4 if entries else 0),
        }
        stored: list[Item] = [Block(struct.pack(">ii", buckets, len(entries)))]
        for key, value in entries.items():
            stored += [self.string(key), value]
        if linked:
            return self.object("java.util.LinkedHashMap", stored, accessOrder=b"\0", **fields)
        return self.object("java.util.HashMap", stored, **fields)
