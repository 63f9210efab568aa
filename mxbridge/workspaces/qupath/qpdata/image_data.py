"""One data.qpdata: read whole, edited, written again with nothing else changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile, InputError, OutputError, SourceError, Unsupported, UsageError
from mxbridge.workspaces.qupath.javastream import (
    Block,
    Ints,
    Item,
    JavaEnum,
    JavaObject,
    JavaString,
    Pack,
    Rows,
    StreamError,
    TooManyNodesError,
    object_reader,
    read_stream,
    same_content,
    without_garbage_collection,
    write_stream,
)
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.qpdata.classes import PathClasses
from mxbridge.workspaces.qupath.qpdata.descriptors import ClassTable
from mxbridge.workspaces.qupath.qpdata.jdk import Maker, boxed, map_items
from mxbridge.workspaces.qupath.qpdata.layout import packable
from mxbridge.workspaces.qupath.qpdata.many_objects import ManyObjects, packed_objects
from mxbridge.workspaces.qupath.qpdata.measurements import MeasurementLists
from mxbridge.workspaces.qupath.qpdata.new_objects import NewPathObject
from mxbridge.workspaces.qupath.qpdata.object_table import ObjectTable
from mxbridge.workspaces.qupath.qpdata.packed import PackedObjects
from mxbridge.workspaces.qupath.qpdata.path_objects import (
    MAX_TREE_DEPTH,
    MisplacedRowsError,
    PathObject,
    Shared,
    exchange,
    read_tree,
)
from mxbridge.workspaces.qupath.qpdata.room import MAX_BYTES, check_file, check_size, most_nodes

__all__ = ["MAX_BYTES", "ImageDataFile"]

MAX_SHARING = 16
"""Outlines and measurements may be, all together, this many times the bytes of the file (objects can share them)."""

MAX_JSON = 64 * 1024**2
"""Longest description of the image that is looked into."""

_HEADER = "Data file version "
_BROKEN = "QuPath would show this image without objects; look for data.qpdata.bkp or a backup beside it"
_SAVE_ONCE = "open and save once in QuPath 0.4 or later"
_NEW_IDS = "give them new ones in QuPath (Objects > Refresh duplicate object IDs) and save"


class ImageDataFile:
    """What QuPath keeps about one image.

    version: 3, or 2 (QuPath 0.2 milestones; read only). qupath_version, server_json: what the file says about the QuPath
    that wrote it and its image server, where it does. image_type: FLUORESCENCE, BRIGHTFIELD_H_E, ... or UNSET. stains: what it
    says about those of a brightfield image, as JSON; None where there are none.
    properties: those with text or number values. root: the tree of objects. writable, why_not_writable: files whose
    objects cannot be told apart are read only. Everything else in the file is kept as it is.
    """

    def __init__(self, data: bytes, path: Path, *, packed: bool = True) -> None:
        """Parse bytes; ``path`` is for messages. Raises BrokenFile, Unsupported.

        packed: keep the many objects of few shapes as bytes and arrays. Without, every object becomes nodes; that is slow,
        and the reference of what a file says.
        """
        self.path = path
        check_size(path, len(data))
        with without_garbage_collection():
            self._parse(data, path, packed=packed)

    def _parse(self, data: bytes, path: Path, *, packed: bool) -> None:
        stream = None
        try:
            stream = read_stream(data, packable() if packed else None, most_nodes(len(data)))
            self._items = stream.items
            self._classes = ClassTable(stream.classes)
            self._maker = Maker(self._classes)
            self._lists = MeasurementLists(self._maker)
            self._path_classes = PathClasses(self._maker)
            self._packed = PackedObjects(stream.pack, self._lists, self._path_classes)
            self._read_items(len(data))
        except MisplacedRowsError:
            self._parse(data, path, packed=False)
        except TooManyNodesError as error:
            raise _too_many(path, error, len(data)) from None
        except StreamError as error:
            position = error.position if stream is None else stream.position(error.node)
            raise BrokenFile(
                path,
                f"not a whole data.qpdata: {error}",
                position=error.position if position is None else position,
                hint=_BROKEN,
            ) from None
        except Unsupported as error:
            raise Unsupported(f"{path}: {error.message}", hint=error.hint) from None

    @classmethod
    def read(cls, path: Path | str) -> ImageDataFile:
        """Raises SourceError, BrokenFile, Unsupported; in time and memory proportional to the file."""
        path = Path(path)
        check_file(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error
        return cls(data, path)

    def _read_items(self, size: int) -> None:
        items = self._items
        self.version = _version(items[0] if items else None)
        self.qupath_version: str | None = None
        self.server_json: str | None = None
        texts = [item for item in items[1:-1] if isinstance(item, JavaString)]
        if texts:
            self._read_description(texts[0].text)
        types = [i for i in items if isinstance(i, JavaEnum) and i.desc.name == d.IMAGE_TYPE]
        self.image_type = types[0].constant.text if types else "UNSET"
        objects = [item for item in items if isinstance(item, JavaObject)]
        self.stains = next((_stains(item) for item in objects if item.name == d.STAINS), None)
        self.properties: dict[str, str | float] = {}
        for item in objects:
            if item.name == "java.util.HashMap":
                self.properties.update(_properties(item))
        hierarchies = [item for item in objects if item.name == d.HIERARCHY]
        if len(hierarchies) != 1:
            raise StreamError("no hierarchy of objects" if not hierarchies else "more than one hierarchy of objects")
        last = items[-1]
        if not isinstance(last, JavaString) or last.text != "EOF":
            raise StreamError("incomplete, the end mark is missing", node=last)
        if any(isinstance(item, JavaString) and item.text == "EOF" for item in items[:-1]):
            raise StreamError("something follows the end mark")
        self._shared = Shared(self._lists, self._path_classes, self._unpack_members)
        budget = MAX_SHARING * size - self._packed.spent
        self.root = read_tree(hierarchies[0].get("rootObject"), self._shared, budget)
        self._table: ObjectTable | None = None
        self._check_ids()

    def _read_description(self, text: str) -> None:
        """The JSON about the image; older files have 'Image path: ...' instead."""
        if not text.startswith("{") or len(text) > MAX_JSON:
            return
        try:
            document = json.loads(text)
            version, server = document.get("qupathVersion"), document.get("server")
            self.server_json = None if server is None else json.dumps(server, ensure_ascii=False)
        except (ValueError, RecursionError):
            raise StreamError("its description of the image is not JSON") from None
        self.qupath_version = version if isinstance(version, str) else None

    def _check_ids(self) -> None:
        ids = self.table.ids
        known = [identity for identity in ids if identity is not None]
        self._ids = set(known)
        without, repeated = len(ids) - len(known), len(known) - len(self._ids)
        self.why_not_writable = ""
        if self.version != 3:
            self.why_not_writable = f"it has data version {self.version}: {_SAVE_ONCE}"
        elif without:
            self.why_not_writable = f"{without} of its objects have no id: {_SAVE_ONCE}"
        elif repeated:
            self.why_not_writable = f"{repeated} of its objects have the id of another one: {_NEW_IDS}"
        self.writable = not self.why_not_writable

    @property
    def table(self) -> ObjectTable:
        """All objects as they are now; to be asked for anew after objects were added, taken out or unpacked."""
        if self._table is None:
            self._table = ObjectTable(self.root, self._packed, self._shared, self._check_writable)
        return self._table

    def _changed_objects(self) -> None:
        """Objects came, went or were unpacked: rows of the table are others now."""
        if self._table is not None:
            self._table.outdated = True
        self._table = None

    def objects(self) -> Iterator[PathObject]:
        """All objects but the root, depth first, in the order of the file. Those kept as bytes are unpacked for it."""
        self._unpack(self.table.split(self.table.all())[2])
        waiting = list(reversed(self.root.children))
        while waiting:
            item = waiting.pop()
            yield item
            waiting.extend(reversed(item.children))

    def get(self, object_id: str) -> PathObject | None:
        """The object with this id; unpacked if need be."""
        identity = object_id.lower()
        if identity not in self._ids:
            return None
        (found,) = self.take(np.array([self.table.ids.index(identity)]))
        return found

    def take(self, which: Ints) -> list[PathObject]:
        """The objects of some rows of the table; unpacked if need be."""
        self._unpack(self.table.split(which)[2])
        return [item for _, item in self.table.split(which)[0]]

    def _unpack_members(self, parent: PathObject) -> None:
        ranges = [np.arange(member.first, member.stop) for member in parent.members if isinstance(member, Rows)]
        self._unpack(np.concatenate(ranges))

    def _unpack(self, rows: Ints) -> None:
        """Make objects of packed ones, as they are now."""
        if not len(rows):
            return
        with without_garbage_collection():
            try:
                self._packed.unpack(rows)
            except TooManyNodesError as error:
                raise _too_many(self.path, error, len(self._packed.pack.data)) from None
            waiting = [self.root]
            while waiting:
                item = waiting.pop()
                if item.packed:
                    item.refresh_members()
                waiting += [member for member in item.members if isinstance(member, PathObject)]
        self._changed_objects()

    def set_fluorescence(self) -> None:
        """Say that the image is fluorescence; stains, which are of colour pictures only, go."""
        kind = JavaEnum(self._classes.desc(d.IMAGE_TYPE), self._maker.string("FLUORESCENCE"))
        for k, item in enumerate(self._items):
            if isinstance(item, JavaEnum) and item.desc.name == d.IMAGE_TYPE:
                self._items[k] = kind
            elif isinstance(item, JavaObject) and item.name == d.STAINS:
                self._items[k] = None
        self.image_type = "FLUORESCENCE"

    @property
    def image_values(self) -> dict[str, float]:
        """Measurements of the image as a whole, which QuPath keeps with the root object."""
        return self.root.measurements

    def set_image_values(self, values: Mapping[str, float]) -> None:
        """Add or replace values of the image as a whole."""
        self._check_writable()
        columns = {name: np.array([value]) for name, value in values.items()}
        if columns:
            (self.root.measurement_list,) = self._lists.with_columns([self.root.measurement_list], columns)

    def remove_image_values(self, names: Collection[str]) -> None:
        """Take values of the image as a whole out, as if they had never been there."""
        self._check_writable()
        (self.root.measurement_list,) = self._lists.without_columns([self.root.measurement_list], names)

    def set_measurements(self, objects: Sequence[PathObject], values: Mapping[str, NDArray[np.floating]]) -> None:
        """Add or replace columns of these objects; see :meth:`ObjectTable.set_columns`."""
        self.table.set_columns(self.table.rows_of(objects), values)

    def remove_measurements(self, objects: Sequence[PathObject], names: Collection[str]) -> None:
        """Take columns out of these objects, as if they had never been there."""
        self.table.remove_columns(self.table.rows_of(objects), names)

    def set_class(self, objects: Sequence[PathObject], class_name: str | None, colors: Mapping[str, int]) -> None:
        """Give objects a class by its full name, or none; see :meth:`ObjectTable.set_class`."""
        if any(item.kind == "root" for item in objects):
            raise UsageError("the root object has no class")
        self.table.set_class(self.table.rows_of(objects), class_name, colors)

    def add_object(self, spec: NewPathObject, parent: PathObject | None = None) -> PathObject:
        """Put a new object, with its children, last among the children of ``parent`` (the root when None).

        Raises InputError when an object of this id is there already or the tree would get too deep for QuPath.
        """
        self._check_writable()
        above = self.root if parent is None else parent
        wanted = list(_with_children(spec, above.depth + 1))
        taken = [s.id for s, _ in wanted if s.id.lower() in self._ids]
        if taken or len({s.id.lower() for s, _ in wanted}) < len(wanted):
            raise InputError(f"{self.path}: there is an object {(taken or [spec.id])[0]} already")
        if max(level for _, level in wanted) > MAX_TREE_DEPTH:
            raise InputError(f"{self.path}: QuPath cannot open objects nested deeper than {MAX_TREE_DEPTH} levels")
        self._changed_objects()
        return self._add(spec, above)

    def _add(self, spec: NewPathObject, above: PathObject) -> PathObject:
        made = PathObject(spec.node(self._maker, self._lists, self._path_classes), above, self._shared)
        above.append_child(made)
        self._ids.add(spec.id.lower())
        for child in spec.children:
            self._add(child, made)
        return made

    def remove_objects(self, objects: Sequence[PathObject]) -> None:
        """Take objects out; their children, unless taken out as well, move up to where they were."""
        self._check_writable()
        for item in objects:
            if item.kind in ("root", "tma core"):
                raise UsageError(f"{self.path}: a {item.kind} cannot be taken out")
        gone = {id(item) for item in objects}
        for above in {id(item.parent): item.parent for item in objects if id(item.parent) not in gone}.values():
            if above is not None:
                above.replace_members(list(_survivors(above, gone)))
        self._ids -= {item.id for item in objects}
        self._changed_objects()

    def replace_objects(self, pairs: Sequence[tuple[PathObject, NewPathObject]]) -> None:
        """Put new objects in the places of others of the same ids; the children of these become theirs."""
        self._check_writable()
        if any(old.kind in ("root", "tma core") or spec.id.lower() != old.id for old, spec in pairs):
            raise UsageError(f"{self.path}: the root, TMA cores and objects of other ids cannot be replaced")
        made = [spec.node(self._maker, self._lists, self._path_classes) for _, spec in pairs]
        exchange(
            [(old, PathObject(node, old.parent, self._shared)) for (old, _), node in zip(pairs, made, strict=True)]
        )
        self._changed_objects()

    def remove_rows(self, which: Ints) -> None:
        """As :meth:`remove_objects`, for rows of the table: packed objects, which have no children, are not unpacked.

        The file is read anew: objects and tables taken from it before are outdated. Raises OutputError when it is not read
        again as it was meant.
        """
        self._check_writable()
        ids, (loose, _, rows) = self.table.ids, self.table.split(which)
        self._ids -= {ids[row] for row in which.tolist()}
        if loose:
            self.remove_objects([item for _, item in loose])
        if not len(rows):
            return
        everything = self._packed.pack
        stay = np.zeros(len(everything), bool)
        for part in everything.parts:
            stay[part.first : part.stop] = True
        stay[rows] = False
        left = everything.selected(np.flatnonzero(stay), object_reader)
        place = np.cumsum(stay) - stay
        waiting = [self.root]
        while waiting:
            item = waiting.pop()
            if item.packed:
                item.replace_members([part for member in item.members for part in _moved(member, stay, place, left)])
            waiting += [member for member in item.members if isinstance(member, PathObject)]
        self._read_anew(f"{len(rows)} objects were not taken out as they were meant to be")

    def add_objects(self, many: ManyObjects) -> None:
        """Put many new objects last among the children of the root: as :meth:`add_object` does one by one, in a fraction of
        the time and memory. The file is read anew: objects and tables taken from it before are outdated.

        Raises InputError when an object of one of these ids is there already, or an outline is none; OutputError when
        what was put together is not read again as it was meant.
        """
        self._check_writable()
        taken = [i for i in many.ids if i.lower() in self._ids]
        if taken or len({i.lower() for i in many.ids}) < len(many):
            raise InputError(f"{self.path}: there is an object {(taken or many.ids)[0]} already")
        if len(many) <= FEW_OBJECTS:
            for k in range(len(many)):
                self.add_object(many.spec(k))
            return
        self.root.append_rows(packed_objects(many, self._maker, self._lists, self._path_classes))
        self._read_anew(f"{len(many)} objects were not put together as they were meant to be")

    def _read_anew(self, wrong: str) -> None:
        """Write what the nodes say now and read that, so that all packed objects lie side by side in one file again."""
        self._changed_objects()
        before, data = self._items, self.to_bytes()
        check_size(self.path, len(data))
        with without_garbage_collection():
            self._parse(data, self.path, packed=True)
            if not same_content(before, self._items):
                raise OutputError(f"{self.path}: {wrong}")

    def to_bytes(self) -> bytes:
        """The file as it is now; byte for byte what was read when nothing was changed."""
        return write_stream(self._items)

    def verify(self, data: bytes) -> None:
        """Read ``data`` again and compare every object and value with this tree. Raises OutputError."""
        try:
            again = ImageDataFile(data, self.path)
        except InputError as error:
            raise OutputError(f"{self.path}: what would be written cannot be read again ({error.message})") from error
        with without_garbage_collection():
            same = same_content(self._items, again._items)
        if not same:
            raise OutputError(f"{self.path}: what would be written is not what was meant")

    def counts(self) -> dict[str, object]:
        """The ``hierarchy`` part of summary.json: numbers of objects by type, of annotations and detections by class."""
        kinds = {"root": 1}
        classes: dict[str, dict[str, int]] = {"annotation": {}, "detection": {}}
        everything = self.table.all()
        kind_of, class_of = self.table.kinds(everything).tolist(), self.table.class_names(everything)
        for (kind, class_name), count in Counter(zip(kind_of, class_of, strict=True)).items():
            kinds[kind] = kinds.get(kind, 0) + count
            if kind != "tma core":
                of = classes["annotation" if kind == "annotation" else "detection"]
                name = class_name or "Unclassified"
                of[name] = of.get(name, 0) + count
        return {
            "nObjects": sum(kinds.values()),
            "objectTypeCounts": {title: kinds[kind] for kind, title in _COUNTED.items() if kind in kinds},
            "annotationClassificationCounts": classes["annotation"],
            "detectionClassificationCounts": classes["detection"],
        }

    def _check_writable(self) -> None:
        if not self.writable:
            reason, _, hint = self.why_not_writable.partition(": ")
            raise Unsupported(f"{self.path}: cannot be written, {reason}", hint=hint.capitalize())


FEW_OBJECTS = 64
"""So few are added one by one."""


def _moved(member: PathObject | Rows, stay: NDArray[np.bool_], place: Ints, left: Pack) -> Iterator[PathObject | Rows]:
    """A child, or those that stay of the ones it stands for, in the pack of all that are left."""
    if isinstance(member, PathObject):
        yield member
    elif count := int(stay[member.first : member.stop].sum()):
        first = int(place[member.first])
        yield Rows(left, first, first + count, member.holder)


_COUNTED = {
    "root": "Root objects",
    "annotation": "Annotations",
    "tile": "Tiles",
    "tma core": "TMA cores",
    "detection": "Detections",
    "cell": "Cells",
}
"""Titles of summary.json, in QuPath's order."""


def _too_many(path: Path, error: TooManyNodesError, size: int) -> Unsupported:
    return Unsupported(
        f"{path}: its objects are too many, and too different from each other, for the memory of this machine "
        f"(more than {error.nodes:,} parts of objects, by byte {error.position:,} of {size:,})",
        hint="Run on a machine (or in a container) with more memory, or divide the image into several entries",
    )


def _version(first: Item) -> int:
    data = first.data if isinstance(first, Block) else b""
    header = data[2:].decode("ascii", "replace")
    if len(data) < 2 or int.from_bytes(data[:2], "big") != len(data) - 2 or not header.startswith(_HEADER):
        raise StreamError("a Java object stream, but not one of QuPath", 4)
    number = header.removeprefix(_HEADER)
    if number not in ("2", "3"):
        raise Unsupported(
            f"data version {number[:20]} is not one that mxbridge knows",
            hint="It reads versions 2 and 3 (QuPath 0.2 to 0.8)",
        )
    return int(number)


def _stains(node: JavaObject) -> str | None:
    found = [item.text for item in node.annotations if isinstance(item, JavaString)]
    return found[0] if found and len(found[0]) <= MAX_JSON else None


def _properties(node: JavaObject) -> dict[str, str | float]:
    """Entries of the map with a text or a number; others are kept in the file and not shown."""
    found: dict[str, str | float] = {}
    for key, value in map_items(node):
        if not isinstance(key, JavaString):
            continue
        if isinstance(value, JavaString):
            found[key.text] = value.text
        elif isinstance(value, JavaObject) and value.name in ("java.lang.Double", "java.lang.Integer"):
            found[key.text] = float(boxed(value) or 0)
    return found


def _with_children(spec: NewPathObject, level: int) -> Iterator[tuple[NewPathObject, int]]:
    yield spec, level
    for child in spec.children:
        yield from _with_children(child, level + 1)


def _survivors(above: PathObject, gone: set[int]) -> Iterator[PathObject | Rows]:
    """The children of an object, each one that goes replaced by its own."""
    waiting = list(reversed(above.members))
    while waiting:
        item = waiting.pop()
        if isinstance(item, PathObject) and id(item) in gone:
            waiting.extend(reversed(item.members))
        else:
            yield item
