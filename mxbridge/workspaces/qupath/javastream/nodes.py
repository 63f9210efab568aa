"""The nodes of a stream's tree, and the numbers of the protocol."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeAlias

from mxbridge.workspaces.qupath.javastream.text import decode_text, encode_text

if TYPE_CHECKING:
    from mxbridge.workspaces.qupath.javastream.pack import Pack

MAGIC = b"\xac\xed\x00\x05"
BASE_HANDLE = 0x7E0000

TC_NULL, TC_REFERENCE, TC_CLASSDESC, TC_OBJECT, TC_STRING, TC_ARRAY, TC_CLASS, TC_BLOCK = range(0x70, 0x78)
TC_END, TC_RESET, TC_LONG_BLOCK, TC_EXCEPTION, TC_LONG_STRING, TC_PROXY, TC_ENUM = range(0x78, 0x7F)

WRITES, SERIALIZABLE, EXTERNALIZABLE, BLOCK_DATA, IS_ENUM = 0x01, 0x02, 0x04, 0x08, 0x10
"""Flags of a class descriptor."""

PRIMITIVES = {"B": "b", "C": "H", "D": "d", "F": "f", "I": "i", "J": "q", "S": "h", "Z": "?"}
"""Java's type letters and the ``struct`` letter of each."""

SIZES = {letter: struct.calcsize(">" + code) for letter, code in PRIMITIVES.items()}


class StreamError(ValueError):
    """Bytes that no Java stream has, or parts of the protocol that are refused.

    position: byte offset, or None. node: the node that is wrong, from which ``JavaStream.position`` finds the offset.
    """

    def __init__(self, what: str, position: int | None = None, *, node: Item = None) -> None:
        super().__init__(what)
        self.position = position
        self.node = node


class TooManyNodesError(Exception):
    """A stream with more nodes than the caller has room for, ``nodes``; byte ``position`` was reached."""

    def __init__(self, nodes: int, position: int) -> None:
        super().__init__(f"more than {nodes:,} nodes by byte {position:,}")
        self.nodes, self.position = nodes, position


class JavaString:
    """A string; ``raw`` is its modified UTF-8. ``long_form``: stored with an 8-byte length whatever its size."""

    __slots__ = ("_text", "long_form", "raw")

    def __init__(self, raw: bytes, long_form: bool = False) -> None:
        self.raw = raw
        self.long_form = long_form
        self._text: str | None = None

    @classmethod
    def of(cls, text: str) -> JavaString:
        return cls(encode_text(text))

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = decode_text(self.raw)
        return self._text


class Field:
    """One field of a class. ``signature``: the type of an object or array field (letters L and [), else None."""

    __slots__ = ("letter", "name", "signature")

    def __init__(self, letter: str, name: str, signature: JavaString | None = None) -> None:
        self.letter = letter
        self.name = name
        self.signature = signature

    @property
    def key(self) -> tuple[str, str, str | None]:
        return self.letter, self.name, None if self.signature is None else self.signature.text


class ClassDesc:
    """A class as the stream describes it. ``lineage`` is its chain of classes, base first; known once it is read whole."""

    __slots__ = ("_positions", "annotations", "base", "fields", "flags", "lineage", "name", "uid")

    def __init__(self, name: str, uid: int, flags: int) -> None:
        self.name = name
        self.uid = uid
        self.flags = flags
        self.fields: tuple[Field, ...] = ()
        self.annotations: list[Item] = []
        self.base: ClassDesc | None = None
        self.lineage: tuple[ClassDesc, ...] = ()
        self._positions: dict[str, int] | None = None

    def complete(self, fields: tuple[Field, ...], annotations: list[Item], base: ClassDesc | None) -> None:
        self.fields, self.annotations, self.base = fields, annotations, base
        self.lineage = (*(base.lineage if base else ()), self)

    def position(self, field: str) -> int | None:
        """Index of a field among this class's own."""
        if self._positions is None:
            self._positions = {f.name: i for i, f in enumerate(self.fields)}
        return self._positions.get(field)


class Part:
    """What one class of an object's lineage stored.

    values: one item per field; primitives as their big-endian bytes (so that every NaN survives). None for externalizable.
    annotations: what its writeObject or writeExternal added; None where there is none.
    """

    __slots__ = ("annotations", "desc", "values")

    def __init__(self, desc: ClassDesc, values: list[Value] | None, annotations: list[Item] | None) -> None:
        self.desc = desc
        self.values = values
        self.annotations = annotations


class JavaObject:
    __slots__ = ("desc", "parts")

    def __init__(self, desc: ClassDesc, parts: list[Part]) -> None:
        self.desc = desc
        self.parts = parts

    @property
    def name(self) -> str:
        """Full name of its class."""
        return self.desc.name

    @property
    def annotations(self) -> list[Item]:
        """Of its own class (the last of the lineage). Raises StreamError where it has none."""
        found = self.parts[-1].annotations if self.parts else None
        if found is None:
            raise StreamError(f"an object of class {self.name} has no data of its own")
        return found

    def get(self, field: str) -> Item:
        """An object field. Raises StreamError when there is none of that name."""
        part, at = self.held(field)
        value = part[at]
        if isinstance(value, bytes):
            raise StreamError(f"field {field} of class {self.name} holds no object")
        return value

    def number(self, field: str) -> int | float | bool:
        """A primitive field. Raises StreamError when there is none of that name."""
        for part in reversed(self.parts):
            at = part.desc.position(field)
            if at is not None and part.values is not None:
                value = part.values[at]
                if isinstance(value, bytes):
                    return unpack(part.desc.fields[at].letter, value)
        raise StreamError(f"an object of class {self.name} has no number {field}")

    def put(self, field: str, value: Value) -> None:
        part, at = self.held(field)
        part[at] = value

    def held(self, field: str) -> tuple[list[Value], int]:
        """The list that holds a field, and its index there. Raises StreamError when there is none of that name."""
        for part in reversed(self.parts):
            at = part.desc.position(field)
            if at is not None and part.values is not None:
                return part.values, at
        raise StreamError(f"an object of class {self.name} has no field {field}")


class JavaArray:
    """``values``: the big-endian bytes of primitives, or a list of items."""

    __slots__ = ("desc", "values")

    def __init__(self, desc: ClassDesc, values: bytes | list[Item]) -> None:
        self.desc = desc
        self.values = values

    @property
    def letter(self) -> str:
        """Type letter of the elements: one of PRIMITIVES, ``L`` or ``[``."""
        return self.desc.name[1]

    def __len__(self) -> int:
        return len(self.values) // SIZES[self.letter] if isinstance(self.values, bytes) else len(self.values)


class JavaEnum:
    __slots__ = ("constant", "desc")

    def __init__(self, desc: ClassDesc, constant: JavaString) -> None:
        self.desc = desc
        self.constant = constant


class JavaClass:
    """A class literal."""

    __slots__ = ("desc",)

    def __init__(self, desc: ClassDesc) -> None:
        self.desc = desc


class Block:
    """Primitive data between objects. ``long_form``: stored with a 4-byte length whatever its size. Has no handle."""

    __slots__ = ("data", "long_form")

    def __init__(self, data: bytes, long_form: bool = False) -> None:
        self.data = data
        self.long_form = long_form


class Rows:
    """Objects that are kept as bytes, one after the other: stands for as many items among the annotations of an object.

    first, stop: which objects of the pack these are. holder: the annotations among which they stand.
    """

    __slots__ = ("first", "holder", "pack", "stop")

    def __init__(self, pack: Pack, first: int, stop: int, holder: list[Item]) -> None:
        self.pack, self.first, self.stop, self.holder = pack, first, stop, holder

    def __len__(self) -> int:
        return self.stop - self.first


Item: TypeAlias = JavaObject | JavaString | JavaArray | JavaEnum | JavaClass | ClassDesc | Block | Rows | None
Value: TypeAlias = Item | bytes


def unpack(letter: str, raw: bytes) -> int | float | bool:
    (value,) = struct.unpack(">" + PRIMITIVES[letter], raw)
    number: int | float | bool = value
    return number
