"""Annotations, detections, cells, tiles and TMA cores: QuPath's tree of objects on the nodes of the stream."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mxbridge.errors import Unsupported
from mxbridge.workspaces.qupath.javastream import Block, Item, JavaArray, JavaObject, Pack, Rows, StreamError
from mxbridge.workspaces.qupath.javastream.pack import ROWS_AT_ONCE
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.qpdata.classes import PathClasses, class_color
from mxbridge.workspaces.qupath.qpdata.jdk import block_ints, boxed, integer, object_array, required_text, text
from mxbridge.workspaces.qupath.qpdata.measurements import MeasurementLists
from mxbridge.workspaces.qupath.qpdata.rois import ROI

KINDS = {
    d.ROOT: "root",
    d.ANNOTATION: "annotation",
    d.DETECTION: "detection",
    d.CELL: "cell",
    d.TILE: "tile",
    d.TMA_CORE: "tma core",
}

MAX_TREE_DEPTH = 100
"""Objects within objects. QuPath reads them by recursion and cannot open much deeper trees."""

OBJECT_ID = "Object ID"
"""Metadata key under which QuPath 0.4 and later store an object's id."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_uuid(value: str) -> bool:
    return _UUID.fullmatch(value) is not None


@dataclass(frozen=True)
class Shared:
    """What all objects of a file have in common."""

    measurements: MeasurementLists
    classes: PathClasses
    unpack: Callable[[PathObject], None]
    """Makes objects of what their parent keeps as bytes."""


class MisplacedRowsError(Exception):
    """Objects kept as bytes where no QuPath puts objects: the file has to be read as nodes throughout."""


class PathObject:
    """One object of the tree. Change it through its ImageDataFile only.

    kind: 'annotation', 'detection', 'cell', 'tile', 'tma core' or 'root'. parent is None for the root. members: its
    children, many of them perhaps kept as bytes.
    """

    __slots__ = (
        "_class_at",
        "_count_at",
        "_end",
        "_items",
        "_measurements_at",
        "_shared",
        "kind",
        "members",
        "node",
        "parent",
    )

    def __init__(self, node: JavaObject, parent: PathObject | None, shared: Shared) -> None:
        """Raises StreamError on a layout no QuPath writes, Unsupported on that of a QuPath newer than any release."""
        kind = KINDS.get(node.name)
        if kind is None:
            raise StreamError(f"an object of unknown class {node.name}")
        self.node, self.parent, self.kind = node, parent, kind
        self.members: list[PathObject | Rows] = []
        self._items = items = node.annotations
        self._shared = shared
        if len(items) < 4:
            raise StreamError(f"an object of class {node.name} with too little data")
        third = items[2]
        if isinstance(third, JavaObject) and third.name == "java.util.UUID":
            raise Unsupported("objects are stored in a layout newer than any released QuPath writes")
        has_metadata = isinstance(third, JavaObject) and third.name == d.METADATA
        self._measurements_at = 3 if has_metadata else 2
        self._count_at = self._measurements_at + 1
        self._find_children()
        self._class_at = 0 if kind == "root" else self._check_tail(self._end)
        if kind == "root" and len(items) != self._end:
            raise StreamError("a root object with more data than it should have")
        self._check_head()

    def _count(self) -> int:
        if len(self._items) <= self._count_at:
            raise StreamError("an object without a number of children")
        (count,) = block_ints(self._items[self._count_at], 1)
        return count

    def _find_children(self) -> None:
        """Learn where they end among the items, of which one may stand for many."""
        items, count, at = self._items, self._count(), self._count_at + 1
        if not any(isinstance(item, Rows) for item in items):
            at += count
        else:
            found = 0
            while found < count and at < len(items):
                item = items[at]
                found += len(item) if isinstance(item, Rows) else 1
                at += 1
            outside = (*items[: self._count_at], *items[at:])
            if found > count or any(isinstance(item, Rows) for item in outside):
                raise MisplacedRowsError
            at += count - found
        if count < 0 or at > len(items):
            raise StreamError(f"an object that says it has {count} children, and has not")
        self._end = at

    def _check_head(self) -> None:
        text(self._items[0])
        integer(self._items[1])
        self._all_metadata()
        measurements = self._items[self._measurements_at]
        if measurements is not None and not isinstance(measurements, JavaObject):
            raise StreamError("something else where a measurement list must be")

    def _check_tail(self, at: int) -> int:
        """Check what follows the children; the position of the class, counted from the end of the children."""
        tail = self._items[at:]
        locked = bool(tail) and isinstance(tail[0], JavaObject) and tail[0].name == "java.lang.Boolean"
        rest = tail[1:] if locked else tail
        expected = 4 if self.kind == "cell" else 3
        numbers = b"".join(item.data for item in rest[2:] if isinstance(item, Block))
        blocks = sum(isinstance(item, Block) and len(item.data) > 0 for item in rest[2:])
        right = len(rest) == expected - 1 + blocks and len(numbers) == (9 if self.kind == "tma core" else 8)
        if not right or not all(isinstance(item, JavaObject | None) for item in (*rest[:2], *rest[2 + blocks :])):
            raise StreamError(f"an object of class {self.node.name} in an unknown layout")
        path_class = rest[0]
        assert path_class is None or isinstance(path_class, JavaObject)  # noqa: S101 - checked just above
        self._shared.classes.learn(path_class)
        return int(locked)

    @property
    def children(self) -> list[PathObject]:
        """All of them as objects."""
        if self.packed:
            self._shared.unpack(self)
        return [member for member in self.members if isinstance(member, PathObject)]

    @property
    def packed(self) -> bool:
        """Whether some children are kept as bytes."""
        return any(isinstance(member, Rows) for member in self.members)

    def child_items(self) -> list[Item]:
        return self._items[self._count_at + 1 : self._end]

    def refresh_members(self) -> list[PathObject]:
        """Take up what its children are now, after some were unpacked; the new objects."""
        known = {id(member.node): member for member in self.members if isinstance(member, PathObject)}
        new: list[PathObject] = []
        self._find_children()
        self.members = []
        for item in self.child_items():
            if isinstance(item, JavaObject) and id(item) not in known:
                new.append(PathObject(item, self, self._shared))
                self.members.append(new[-1])
            elif item is not None:
                self.members.append(item if isinstance(item, Rows) else known[id(item)])
        return new

    def replace_members(self, members: list[PathObject | Rows]) -> None:
        count = sum(len(member) if isinstance(member, Rows) else 1 for member in members)
        self._items[self._count_at + 1 : self._end] = [m if isinstance(m, Rows) else m.node for m in members]
        self._items[self._count_at] = Block(struct.pack(">i", count))
        self.members = members
        self._end = self._count_at + 1 + len(members)
        for member in members:
            if isinstance(member, Rows):
                member.holder = self._items
            else:
                member.parent = self

    def append_child(self, child: PathObject) -> None:
        self._items.insert(self._end, child.node)
        self._items[self._count_at] = Block(struct.pack(">i", self._count() + 1))
        self.members.append(child)
        self._end += 1

    def append_rows(self, pack: Pack) -> None:
        """Add all objects of a pack that is nobody else's, last among the children."""
        rows = [Rows(pack, k, min(k + ROWS_AT_ONCE, len(pack)), self._items) for k in range(0, len(pack), ROWS_AT_ONCE)]
        self._items[self._end : self._end] = rows
        self._items[self._count_at] = Block(struct.pack(">i", self._count() + len(pack)))
        self.members += rows
        self._end += len(rows)

    @property
    def depth(self) -> int:
        """Levels above it: 0 for the root."""
        levels, item = 0, self
        while item.parent is not None:
            item, levels = item.parent, levels + 1
        return levels

    def _tail(self, offset: int) -> Item:
        """An item after the children: 0 the class, 1 the ROI."""
        return self._items[self._tail_at() + offset]

    def _tail_at(self) -> int:
        return self._end + self._class_at

    @property
    def id(self) -> str | None:
        """UUID in lower case; None in files of QuPath before 0.4."""
        value = self._all_metadata().get(OBJECT_ID) or ""
        return value.lower() if is_uuid(value) else None

    @property
    def name(self) -> str | None:
        return text(self._items[0])

    @property
    def color(self) -> int | None:
        """The object's own colour, signed 32-bit ARGB; None where it has that of its class."""
        return integer(self._items[1])

    @property
    def metadata(self) -> dict[str, str | None]:
        """In the order of the file, without the id."""
        return {key: value for key, value in self._all_metadata().items() if key != OBJECT_ID}

    @property
    def metadata_node(self) -> JavaObject | None:
        stored = self._items[2]
        return stored if self._measurements_at == 3 and isinstance(stored, JavaObject) else None

    def _all_metadata(self) -> dict[str, str | None]:
        stored = self.metadata_node
        if stored is None:
            return {}
        if len(stored.annotations) != 3:
            raise StreamError("metadata in an unknown layout")
        _, keys, values = stored.annotations
        pairs = zip(object_array(keys), object_array(values), strict=False)
        if len(object_array(keys)) != len(object_array(values)):
            raise StreamError("metadata with more keys than values, or fewer")
        return {required_text(key): text(value) for key, value in pairs}

    @property
    def measurements(self) -> dict[str, float]:
        """In the order of the file. Raises Unsupported for a list of unknown kind."""
        return self._shared.measurements.read(self.measurement_list)

    @property
    def measurement_list(self) -> JavaObject | None:
        node = self._items[self._measurements_at]
        return node if isinstance(node, JavaObject) else None

    @measurement_list.setter
    def measurement_list(self, node: JavaObject | None) -> None:
        self._items[self._measurements_at] = node

    @property
    def locked(self) -> bool:
        return bool(self._class_at and boxed(self._tail(-1)))

    @property
    def path_class(self) -> JavaObject | None:
        node = None if self.kind == "root" else self._tail(0)
        return node if isinstance(node, JavaObject) else None

    @path_class.setter
    def path_class(self, node: JavaObject | None) -> None:
        self._items[self._tail_at()] = node

    @property
    def class_name(self) -> str | None:
        """Full name, ``Tumor: Positive``."""
        return self._shared.classes.learn(self.path_class)

    @property
    def class_color(self) -> int | None:
        """Colour of its class, signed 32-bit ARGB."""
        return None if self.path_class is None else class_color(self.path_class)

    @property
    def roi(self) -> ROI | None:
        node = None if self.kind == "root" else self._tail(1)
        return ROI(node, self._label) if isinstance(node, JavaObject) else None

    @property
    def nucleus(self) -> ROI | None:
        node = self._items[-1] if self.kind == "cell" else None
        return ROI(node, self._label) if isinstance(node, JavaObject) else None

    @property
    def missing(self) -> bool:
        """Whether a TMA core is marked as missing."""
        last = self._items[-1] if self.kind == "tma core" else None
        return isinstance(last, Block) and bool(last.data[-1])

    def _label(self) -> str:
        return f"{self.kind} {self.id or self.name or '(without id)'}"

    def __repr__(self) -> str:
        return f"<{self._label()}, class {self.class_name}, {self._count()} children>"


def exchange(pairs: Sequence[tuple[PathObject, PathObject]]) -> None:
    """Put objects in the places of others, and the children of these into them."""
    new = {id(old): made for old, made in pairs}
    for above in {id(old.parent): old.parent for old, _ in pairs}.values():
        if above is not None:
            above.replace_members([new.get(id(member), member) for member in above.members])
    for old, made in pairs:
        made.replace_members(list(old.members))


def read_tree(root: Item, shared: Shared, budget: int) -> PathObject:
    """The objects under a root. budget: bytes of coordinates and values that they may hold, counting shared ones again.

    Raises StreamError: an object may appear once, and not deeper than MAX_TREE_DEPTH.
    """
    if not isinstance(root, JavaObject) or root.name != d.ROOT:
        raise StreamError("no root object in the hierarchy")
    reading = _Reading(shared, budget)
    top = reading.object(root, None)
    waiting = [(top, 1)]
    while waiting:
        parent, depth = waiting.pop()
        for node in parent.child_items():
            if not isinstance(node, JavaObject | Rows) or (isinstance(node, JavaObject) and node.name == d.ROOT):
                raise StreamError("something else where an object must be", node=parent.node)
            if depth > MAX_TREE_DEPTH:
                raise StreamError(f"objects nested deeper than {MAX_TREE_DEPTH} levels", node=node)
            if isinstance(node, Rows):
                parent.members.append(node)
                continue
            child = reading.object(node, parent)
            parent.members.append(child)
            waiting.append((child, depth + 1))
    return top


class _Reading:
    """What has been met while a tree is read: shared data must not make a small file a huge one."""

    def __init__(self, shared: Shared, budget: int) -> None:
        self._shared = shared
        self._budget = budget
        self._met: set[int] = set()  # by identity: all nodes live as long as the stream that is being read
        self._checked: set[int] = set()

    def object(self, node: JavaObject, parent: PathObject | None) -> PathObject:
        if id(node) in self._met:
            raise StreamError("an object that appears twice in the tree", node=node)
        self._met.add(id(node))
        try:
            item = PathObject(node, parent, self._shared)
            self._own(item.metadata_node)
            self._check(item.measurement_list)
            self._spend(item)
        except StreamError as error:
            raise StreamError(str(error), node=node) from None
        return item

    def _own(self, metadata: JavaObject | None) -> None:
        """QuPath never shares metadata between objects."""
        for node in () if metadata is None else (metadata, *metadata.annotations[1:]):
            if id(node) in self._met:
                raise StreamError("two objects that share their metadata")
            self._met.add(id(node))

    def _check(self, measurements: JavaObject | None) -> None:
        if measurements is not None and id(measurements) not in self._checked:
            self._checked.add(id(measurements))
            self._shared.measurements.check(measurements)

    def _spend(self, item: PathObject) -> None:
        """Count what objects may share: a script can give two the same outline or measurements."""
        self._budget -= 8 * self._shared.measurements.length(item.measurement_list)
        for roi in (item.roi, item.nucleus):
            for part in roi.node.parts if roi is not None else ():
                for value in part.values or ():
                    if isinstance(value, JavaArray) and isinstance(value.values, bytes):
                        self._budget -= len(value.values)
        if self._budget < 0:
            raise StreamError("objects that share more outlines or measurements than any QuPath would write")
