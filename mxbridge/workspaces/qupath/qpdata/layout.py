"""Where in the bytes of a packed object QuPath's data are: id, measurements, class and outlines."""

from __future__ import annotations

from dataclasses import dataclass

from mxbridge.workspaces.qupath.javastream import (
    Block,
    Item,
    JavaArray,
    JavaObject,
    JavaString,
    Packable,
    Place,
    Shape,
    StreamError,
)
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.qpdata.path_objects import KINDS, OBJECT_ID, is_uuid

MEASUREMENTS, LOCKED, PATH_CLASS = 3, 5, 6
"""Annotations of a packed object; always these, as it has metadata and no children."""

_NO_CHILDREN = b"\0\0\0\0"


@dataclass(frozen=True)
class ListLayout:
    """A FloatList or DoubleList. closed, names, map: where these are (no map: None); values: number of their segment."""

    node: JavaObject
    closed: Place
    names: Place
    map: Place | None
    values: int


@dataclass(frozen=True)
class OutlineLayout:
    """node: of the first such outline. planes: of z and t. corners: segments of x and y for a polygon, else None.
    data: segments of all arrays."""

    node: JavaObject
    z: Place
    t: Place
    corners: tuple[int, int] | None
    data: tuple[int, ...]


@dataclass(frozen=True)
class TextLayout:
    """Where a text is: place of a reference to it, or of the characters of a UUID; or number of the segment it follows."""

    reference: Place | None = None
    uuid: Place | None = None
    segment: int | None = None


@dataclass(frozen=True)
class Layout:
    """id: where its 36 characters begin. keys: references to the keys of the metadata; values: what belongs to them; id_key:
    which of them is that of the id. name: the object's own. texts: references to what must be texts. color, locked, path_class: references, or None where there is none."""

    kind: str
    id: Place
    keys: tuple[Place, ...]
    values: tuple[TextLayout | None, ...]
    id_key: int
    name: TextLayout | None
    texts: tuple[Place, ...]
    color: Place | None
    locked: Place | None
    path_class: Place | None
    measurements: ListLayout | None
    roi: OutlineLayout | None
    nucleus: OutlineLayout | None

    @classmethod
    def of(cls, shape: Shape) -> Layout:
        """Raises LookupError or StreamError for what is better read as nodes."""
        items, kind = shape.items, KINDS[shape.desc.name]
        if len(items) != (10 if kind == "cell" else 9):
            raise LookupError
        name, color, metadata, measurements, count, locked, path_class, roi, probability, *more = items
        if not isinstance(count, Block) or count.data != _NO_CHILDREN or not isinstance(probability, Block):
            raise LookupError
        if len(probability.data) != 8 or probability.long_form:
            raise LookupError
        if not isinstance(name, JavaString | None):
            raise LookupError
        keys, values, id_key = _metadata(shape, metadata)
        identity = values[id_key]
        if identity is None or identity.uuid is None:
            raise LookupError
        called = _text(shape, name, shape.slots[0][0])
        texts = (text.reference for text in (*values, called) if text is not None and text.reference is not None)
        return cls(
            kind,
            identity.uuid,
            keys,
            values,
            id_key,
            called,
            tuple(texts),
            _reference(shape, color, 1),
            _reference(shape, _known(locked, "java.lang.Boolean"), LOCKED),
            _reference(shape, path_class, PATH_CLASS),
            _list(shape, measurements),
            _outline(shape, roi),
            _outline(shape, more[0]) if more else None,
        )


def packable() -> Packable:
    """The objects of which there may be many, and whose layout is known."""

    def fits(shape: Shape) -> bool:
        try:
            Layout.of(shape)
        except (LookupError, StreamError):
            return False
        return True

    return Packable(frozenset((d.CELL, d.DETECTION, d.TILE)), fits)


def _known(item: Item, name: str) -> JavaObject:
    if not isinstance(item, JavaObject) or item.name != name:
        raise LookupError
    return item


def _reference(shape: Shape, item: Item, slot: int) -> Place | None:
    """The place of an item that all objects share with others."""
    if item is None:
        return None
    if not isinstance(item, JavaObject) or shape.brings(item):
        raise LookupError
    return shape.slots[slot][0]


def _metadata(shape: Shape, item: Item) -> tuple[tuple[Place, ...], tuple[TextLayout | None, ...], int]:
    """Places of the keys, where the values are, and which of them is the id."""
    stored = _known(item, d.METADATA)
    if not shape.brings(stored) or len(stored.annotations) != 3:
        raise LookupError
    _, keys, values = stored.annotations
    if not isinstance(keys, JavaArray) or not isinstance(values, JavaArray) or keys is values:
        raise LookupError
    names, texts = keys.values, values.values
    if isinstance(names, bytes) or isinstance(texts, bytes) or len(names) != len(texts):
        raise LookupError
    if not shape.brings(keys) or not shape.brings(values):
        raise LookupError
    if not all(isinstance(name, JavaString) and not shape.brings(name) for name in names):
        raise LookupError
    of_id = [k for k, name in enumerate(names) if isinstance(name, JavaString) and name.text == OBJECT_ID]
    if len(of_id) != 1 or not all(isinstance(text, JavaString | None) for text in texts):
        raise LookupError
    (id_key,) = of_id
    found = texts[id_key]
    if not isinstance(found, JavaString) or not shape.brings(found) or not is_uuid(found.text):
        raise LookupError
    told = tuple(_text(shape, text, shape.place(texts, k)) for k, text in enumerate(texts))
    return tuple(shape.place(names, k) for k in range(len(names))), told, id_key


def _text(shape: Shape, item: Item, place: Place) -> TextLayout | None:
    if item is None:
        return None
    if not shape.brings(item):
        return TextLayout(reference=place)
    try:
        return TextLayout(segment=shape.data_of(item))
    except KeyError:  # a UUID: its characters stand among what is the same in all, behind a tag and a length
        return TextLayout(uuid=(place[0], place[1] + 3))


def _list(shape: Shape, item: Item) -> ListLayout | None:
    if item is None:
        return None
    if not isinstance(item, JavaObject) or item.name not in (d.FLOAT_LIST, d.DOUBLE_LIST) or not shape.brings(item):
        raise LookupError
    values, names, index = item.get("values"), item.get("names"), item.get("map")
    letter = "F" if item.name == d.FLOAT_LIST else "D"
    if not isinstance(values, JavaArray) or not shape.brings(values) or values.desc.name != f"[{letter}":
        raise LookupError
    if not isinstance(names, JavaObject) or shape.brings(names) or (index is not None and shape.brings(index)):
        raise LookupError
    if item.parts[-1].annotations is not None or item.held("values") != (item.parts[-1].values, _last(item)):
        raise LookupError
    _check_letter(item, "isClosed", "Z")
    place = shape.place(*item.held("map")) if index is not None else None
    return ListLayout(
        item, shape.place(*item.held("isClosed")), shape.place(*item.held("names")), place, shape.data_of(values)
    )


def _check_letter(item: JavaObject, field: str, letter: str) -> None:
    for part in item.parts:
        at = part.desc.position(field)
        if at is not None and part.desc.fields[at].letter != letter:
            raise LookupError
    item.number(field)


def _last(item: JavaObject) -> int:
    return len(item.parts[-1].values or ()) - 1


def _outline(shape: Shape, item: Item) -> OutlineLayout | None:
    if item is None:
        return None
    if not isinstance(item, JavaObject) or not shape.brings(item):
        raise LookupError
    arrays = [v for part in item.parts for v in part.values or () if isinstance(v, JavaArray)]
    if not all(isinstance(a.values, bytes) and shape.brings(a) for a in arrays):
        raise LookupError
    _check_letter(item, "z", "I")
    _check_letter(item, "t", "I")
    corners = None
    if item.name == d.POLYGON:
        x, y = item.get("x"), item.get("y")
        if not isinstance(x, JavaArray) or not isinstance(y, JavaArray) or {x.letter, y.letter} != {"F"}:
            raise LookupError
        corners = shape.data_of(x), shape.data_of(y)
    z, t = shape.place(*item.held("z")), shape.place(*item.held("t"))
    return OutlineLayout(item, z, t, corners, tuple(shape.data_of(a) for a in arrays))
