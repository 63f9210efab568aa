"""Objects kept as bytes, seen as QuPath's: ids, classes, measurements and outlines as arrays, one row per object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mxbridge.workspaces.qupath.javastream import (
    Ints,
    Item,
    JavaArray,
    JavaObject,
    Pack,
    Part,
    Place,
    Shape,
    StreamError,
)
from mxbridge.workspaces.qupath.javastream.pack import in_use
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.qpdata.classes import PathClasses
from mxbridge.workspaces.qupath.qpdata.jdk import boxed, integer, required_text, text
from mxbridge.workspaces.qupath.qpdata.layout import (
    MEASUREMENTS,
    PATH_CLASS,
    Layout,
    ListLayout,
    OutlineLayout,
    TextLayout,
)
from mxbridge.workspaces.qupath.qpdata.measurements import (
    Edit,
    MeasurementLists,
    Names,
    Table,
    changed_rows,
    stored_values,
)
from mxbridge.workspaces.qupath.qpdata.path_objects import OBJECT_ID

_EDITED_AT_ONCE = 16384
"""Rows whose values are doubles in memory at one time."""

_ID_SIZE = 36


@dataclass(frozen=True)
class Head:
    """What the measurement lists of many objects have in common. kind: Java class, empty for no list. node: such a list,
    whose values are another's. count: values of each. values: the bytes of all of them, where they replaced those in the
    file, one row per list."""

    kind: str
    names: Names
    node: JavaObject | None
    count: int
    values: NDArray[np.uint8] | None = None

    @property
    def size(self) -> int:
        return 8 if self.kind == d.DOUBLE_LIST else 4


class PackedObjects:
    """The packed objects of one file; rows that a reader of nodes would read otherwise are released from the pack first."""

    def __init__(self, pack: Pack, lists: MeasurementLists, classes: PathClasses) -> None:
        """Raises StreamError where an object is not what QuPath writes."""
        self.pack = pack
        self._lists, self._path_classes = lists, classes
        self._layouts = [Layout.of(shape) for shape in pack.shapes]
        count = len(pack)
        self._odd = np.zeros(count, bool)
        self._heads: list[Head] = [Head("", (), None, 0)]
        self._head_of = np.zeros(count, np.int32)
        self._values_at = np.zeros(count, np.int64)
        self._edited: dict[int, int] = {}
        """Of each head that came with an edit, how many objects still have it."""
        self._classes: list[JavaObject | None] = [None]
        self._class_numbers = {id(None): 0}
        self._class_of = np.zeros(count, np.int32)
        self.spent = 0
        for shape, layout in zip(pack.shapes, self._layouts, strict=True):
            rows = np.flatnonzero(pack.shape_of == shape.number)
            if len(rows):
                self._learn(shape, layout, rows)
        pack.release_rows(np.flatnonzero(self._odd))

    def _learn(self, shape: Shape, layout: Layout, rows: Ints) -> None:
        for place in layout.texts:
            self._check(shape, rows, place, text)
        if layout.color is not None:
            self._check(shape, rows, layout.color, integer)
        if layout.locked is not None:
            self._check(shape, rows, layout.locked, _boolean)
        for k, place in enumerate(layout.keys):
            self._check(shape, rows, place, _key_of_id if k == layout.id_key else _key)
        if layout.path_class is not None:
            self._learn_classes(shape, rows, layout.path_class)
        if layout.measurements is not None:
            self._learn_lists(shape, rows, layout.measurements)
        for outline in (layout.roi, layout.nucleus):
            for segment in outline.data if outline is not None else ():
                _, counts = self.pack.data_of(shape, rows, segment)
                self.spent += int(counts.sum()) * shape.segments[segment].size

    def _check(self, shape: Shape, rows: Ints, place: Place, accept: Callable[[Item], object]) -> None:
        """Mark the rows that refer to something which ``accept`` does not take."""
        for handle, which in groups(self.pack.targets(shape, rows, place)):
            try:
                accept(self.pack.handles[handle])
            except StreamError:
                self._odd[rows[which]] = True

    def _learn_classes(self, shape: Shape, rows: Ints, place: Place) -> None:
        for handle, which in groups(self.pack.targets(shape, rows, place)):
            node, chosen = self.pack.handles[handle], rows[which]
            try:
                if not isinstance(node, JavaObject):
                    raise StreamError("something else where a class of objects must be")
                self._path_classes.learn(node)
                self._class_of[chosen] = self._class_number(node)
            except StreamError:
                self._odd[chosen] = True

    def _class_number(self, node: JavaObject | None) -> int:
        if id(node) not in self._class_numbers:
            self._class_numbers[id(node)] = len(self._classes)
            self._classes.append(node)
        return self._class_numbers[id(node)]

    def _learn_lists(self, shape: Shape, rows: Ints, at: ListLayout) -> None:
        begin, counts = self.pack.data_of(shape, rows, at.values)
        closed = self.pack.bytes_at(self.pack.positions(shape, rows, at.closed), 1)[:, 0]
        names = self.pack.targets(shape, rows, at.names)
        maps = np.zeros(len(rows), np.int64) if at.map is None else self.pack.targets(shape, rows, at.map)
        self._values_at[rows] = begin
        keys = np.column_stack([names, maps, counts, closed])
        if (keys == keys[0]).all():
            alike = np.zeros(len(rows), np.int64)
        else:
            alike = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
        for _, which in groups(alike):
            chosen, (of_names, of_map, count, flag) = rows[which], keys[which[0]].tolist()
            index = None if at.map is None else self.pack.handles[of_map]
            node = _list_like(at.node, self.pack.handles[of_names], index, bytes([flag]), count)
            try:
                found = self._lists.names_of(node)
                if count < len(found):
                    raise StreamError("more names than values")
            except StreamError:
                self._odd[chosen] = True
                continue
            self._head_of[chosen] = len(self._heads)
            self._heads.append(Head(node.name, found, node, count))
            self.spent += 8 * len(found) * len(chosen)

    def unpack(self, rows: Ints) -> None:
        """Make nodes of these objects, as they are now. Raises TooManyNodesError."""
        self.pack.release_rows(rows)

    def kinds(self, rows: Ints) -> NDArray[np.object_]:
        """'cell', 'detection' or 'tile' of each."""
        names = np.array([layout.kind for layout in self._layouts], object)
        return np.asarray(names[self.pack.shape_of[rows]])

    def ids(self, rows: Ints) -> list[str]:
        """UUIDs in lower case."""
        raw = np.zeros((len(rows), _ID_SIZE), np.uint8)
        for shape, which in self.pack.by_shape(rows):
            at = self.pack.positions(shape, rows[which], self._layouts[shape.number].id)
            raw[which] = self.pack.bytes_at(at, _ID_SIZE)
        joined = raw.tobytes().decode("ascii").lower()
        return [joined[k : k + _ID_SIZE] for k in range(0, len(joined), _ID_SIZE)]

    def with_key(self, rows: Ints, key: str) -> NDArray[np.bool_]:
        """Which have this key in their metadata."""
        out = np.zeros(len(rows), bool)
        for shape, which in self.pack.by_shape(rows):
            layout = self._layouts[shape.number]
            for k, place in enumerate(layout.keys):
                if k == layout.id_key:
                    continue
                for handle, having in groups(self.pack.targets(shape, rows[which], place)):
                    if text(self.pack.handles[handle]) == key:
                        out[which[having]] = True
        return out

    def metadata(self, rows: Ints, key: str) -> list[str | None]:
        """What each has under this key in its metadata."""
        out: list[str | None] = [None] * len(rows)
        for shape, which in self.pack.by_shape(rows):
            layout = self._layouts[shape.number]
            for place, value in zip(layout.keys, layout.values, strict=True):
                for handle, having in groups(self.pack.targets(shape, rows[which], place)):
                    if text(self.pack.handles[handle]) == key:
                        found = self._texts(shape, rows[which[having]], value)
                        for k, told in zip(which[having].tolist(), found, strict=True):
                            out[k] = told
        return out

    def names(self, rows: Ints) -> list[str | None]:
        """The name of each object itself."""
        out: list[str | None] = [None] * len(rows)
        for shape, which in self.pack.by_shape(rows):
            found = self._texts(shape, rows[which], self._layouts[shape.number].name)
            for k, told in zip(which.tolist(), found, strict=True):
                out[k] = told
        return out

    def _texts(self, shape: Shape, rows: Ints, at: TextLayout | None) -> Sequence[str | None]:
        if at is None:
            return [None] * len(rows)
        if at.reference is not None:
            out: list[str | None] = [None] * len(rows)
            for handle, which in groups(self.pack.targets(shape, rows, at.reference)):
                told = text(self.pack.handles[handle])
                for k in which.tolist():
                    out[k] = told
            return out
        if at.uuid is not None:
            begin, counts = self.pack.positions(shape, rows, at.uuid), np.full(len(rows), _ID_SIZE)
        else:
            begin, counts = self.pack.data_of(shape, rows, at.segment or 0)
        data = self.pack.data
        return [data[a : a + n].decode("ascii") for a, n in zip(begin.tolist(), counts.tolist(), strict=True)]

    def class_nodes(self, rows: Ints) -> tuple[list[JavaObject | None], NDArray[np.int32]]:
        """The classes in use, and which of them each object has."""
        return self._classes, self._class_of[rows]

    def set_class(self, rows: Ints, node: JavaObject | None) -> None:
        if len(rows):
            self.pack.replace(PATH_CLASS, rows, node)
            self._class_of[rows] = self._class_number(node)

    def lists(self, rows: Ints) -> list[tuple[Head, Ints]]:
        """Kinds and names of the measurement lists, and which of ``rows`` have them."""
        return [(self._heads[k], which) for k, which in groups(self._head_of[rows])]

    def values(self, rows: Ints, head: Head, columns: Sequence[int]) -> Table:
        """Values ``(rows, columns)`` of objects whose lists have this head; columns: positions among its names."""
        letter = ">f8" if head.kind == d.DOUBLE_LIST else ">f4"
        out = np.zeros((len(rows), len(columns)))
        at = self._values_at[rows]
        if head.values is not None:
            return np.asarray(head.values[at].view(letter)[:, list(columns)], np.float64)
        for j, column in enumerate(columns):
            out[:, j] = self.pack.bytes_at(at + column * head.size, head.size).view(letter)[:, 0]
        return out

    def edit_lists(self, rows: Ints, edit: Edit) -> None:
        """Edit the measurement lists as :class:`MeasurementLists` does those of nodes, many at once."""
        for head, which in self.lists(rows):
            for first in range(0, len(which), _EDITED_AT_ONCE):
                chosen = which[first : first + _EDITED_AT_ONCE]
                self._edit(head, rows[chosen], chosen, edit)

    def _edit(self, head: Head, rows: Ints, which: Ints, edit: Edit) -> None:
        old = self.values(rows, head, range(len(head.names)))
        names, new, _ = edit(head.names, old, which)
        keep = changed_rows(head.names, names, old, new)
        rows, new = rows[keep], new[keep]
        if not len(rows):
            return
        if not names:
            self.pack.replace(MEASUREMENTS, rows, None)
            self._set_head(rows, 0)
            return
        raw, size = stored_values(head.kind, new)
        data = np.frombuffer(raw, np.uint8).reshape(len(rows), size)
        if head.node is None:
            node = self._lists.new_float_list(names, raw[:size])
        else:
            data = self._with_rest(head, rows, names, data)
            node = self._lists.numeric_list(head.node, head.names, names, raw[:size])
        self.pack.replace(MEASUREMENTS, rows, node, data)
        self._set_head(rows, len(self._heads))
        self._heads.append(
            Head(node.name, names, node, data.shape[1] // (8 if node.name == d.DOUBLE_LIST else 4), data)
        )
        self._values_at[rows] = np.arange(len(rows))

    def _set_head(self, rows: Ints, number: int) -> None:
        """Give these lists another head; values that no list has any more are forgotten."""
        before = in_use(self._head_of[rows])
        self._head_of[rows] = number
        for old, count in before:
            if old not in self._edited:
                continue
            self._edited[old] -= count
            if not self._edited[old]:
                del self._edited[old]
                self._heads[old] = replace(self._heads[old], values=None)
        if number:
            self._edited[number] = len(rows)

    def _with_rest(self, head: Head, rows: Ints, names: Names, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Values behind those that have names stay where the names stay."""
        rest = (head.count - len(names)) * head.size
        if names != head.names or not rest:
            return data
        if head.values is not None:
            return np.hstack([data, head.values[self._values_at[rows]][:, -rest:]])
        begin = self._values_at[rows] + len(names) * head.size
        return np.hstack([data, self.pack.bytes_at(begin, rest)])

    def plain(self, rows: Ints) -> NDArray[np.bool_]:
        """Which have nothing of their own but an id, a name, a class, values and polygons on the first plane of all channels:
        no metadata, no colour, no lock."""
        out = np.zeros(len(rows), bool)
        for shape, which in self.pack.by_shape(rows):
            layout = self._layouts[shape.number]
            polygons = [outline for outline in (layout.roi, layout.nucleus) if outline is not None]
            if layout.color is not None or len(layout.keys) > 1 or layout.roi is None:
                continue
            if any(outline.corners is None for outline in polygons):
                continue
            well = np.ones(len(which), bool)
            if layout.locked is not None:
                for handle, chosen in groups(self.pack.targets(shape, rows[which], layout.locked)):
                    well[chosen] = not boxed(self.pack.handles[handle])
            for outline in polygons:
                for axis, usual in (("c", -1), ("z", 0), ("t", 0)):
                    place = shape.place(*outline.node.held(axis))
                    well &= self.pack.int32(self.pack.positions(shape, rows[which], place)) == usual
            out[which] = well
        return out

    def outlines(self, rows: Ints, *, nuclei: bool) -> list[tuple[OutlineLayout | None, Shape, Ints]]:
        """Layout of the regions or nuclei, the shape it belongs to, and which of ``rows`` have it."""
        found = []
        for shape, which in self.pack.by_shape(rows):
            layout = self._layouts[shape.number]
            found.append((layout.nucleus if nuclei else layout.roi, shape, which))
        return found


def groups(values: NDArray[np.integer]) -> list[tuple[int, Ints]]:
    """Each distinct value and where it is; in time proportional to the values, however many are distinct."""
    if not len(values):
        return []
    if (values == values[0]).all():
        return [(int(values[0]), np.arange(len(values)))]
    order = np.argsort(values, kind="stable")
    cuts = np.flatnonzero(np.diff(values[order])) + 1
    return [(int(values[part[0]]), part) for part in np.split(order, cuts)]


def _boolean(item: Item) -> None:
    if not isinstance(item, JavaObject) or item.name != "java.lang.Boolean":
        raise StreamError("something else where a Boolean must be")


def _key(item: Item) -> None:
    if required_text(item) == OBJECT_ID:
        raise StreamError("an id in another place than usual")


def _key_of_id(item: Item) -> None:
    if required_text(item) != OBJECT_ID:
        raise StreamError("something else in the place of the id")


def _list_like(node: JavaObject, names: Item, index: Item, closed: bytes, count: int) -> JavaObject:
    """A list with these parts and as many values."""
    copy = JavaObject(node.desc, [Part(p.desc, list(p.values or ()), p.annotations) for p in node.parts])
    values = node.get("values")
    assert isinstance(values, JavaArray)  # noqa: S101 - a ListLayout has seen it
    size = 8 if node.name == d.DOUBLE_LIST else 4
    copy.put("values", JavaArray(values.desc, bytes(count * size)))
    copy.put("names", names)
    copy.put("map", index)
    copy.put("isClosed", closed)
    return copy
