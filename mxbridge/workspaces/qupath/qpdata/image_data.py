"""One data.qpdata: read whole, edited, written again with nothing else changed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import BrokenFile, InputError, OutputError, SourceError, Unsupported, UsageError
from mxbridge.workspaces.qupath.javastream import (
    Block,
    Item,
    JavaEnum,
    JavaObject,
    JavaString,
    StreamError,
    read_stream,
    same_content,
    without_garbage_collection,
    write_stream,
)
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.qpdata.classes import PathClasses
from mxbridge.workspaces.qupath.qpdata.descriptors import ClassTable
from mxbridge.workspaces.qupath.qpdata.jdk import Maker, boxed, map_items
from mxbridge.workspaces.qupath.qpdata.measurements import MeasurementLists
from mxbridge.workspaces.qupath.qpdata.new_objects import NewPathObject
from mxbridge.workspaces.qupath.qpdata.path_objects import MAX_TREE_DEPTH, PathObject, Shared, read_tree

MAX_BYTES = 2 * 1024**3
"""Larger files are refused: they would need more than ten times their size in memory."""

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
    that wrote it and its image server, where it does. image_type: FLUORESCENCE, BRIGHTFIELD_H_E, ... or UNSET.
    properties: those with text or number values. root: the tree of objects. writable, why_not_writable: files whose
    objects cannot be told apart are read only. Everything else in the file is kept as it is.
    """

    def __init__(self, data: bytes, path: Path) -> None:
        """Parse bytes; ``path`` is for messages. Raises BrokenFile, Unsupported."""
        self.path = path
        with without_garbage_collection():
            self._parse(data, path)

    def _parse(self, data: bytes, path: Path) -> None:
        stream = None
        try:
            stream = read_stream(data)
            self._items = stream.items
            self._classes = ClassTable(stream.classes)
            self._maker = Maker(self._classes)
            self._lists = MeasurementLists(self._maker)
            self._path_classes = PathClasses(self._maker)
            self._read_items(len(data))
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
        try:
            if path.stat().st_size > MAX_BYTES:
                raise Unsupported(f"{path}: larger than {MAX_BYTES // 1024**3} GB")
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
        self._shared = Shared(self._lists, self._path_classes)
        self.root = read_tree(hierarchies[0].get("rootObject"), self._shared, MAX_SHARING * size)
        self._learn_ids()

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

    def _learn_ids(self) -> None:
        self._by_id: dict[str, PathObject] = {}
        without, repeated = 0, 0
        for item in self.objects():
            identity = item.id
            if identity is None:
                without += 1
            elif self._by_id.setdefault(identity, item) is not item:
                repeated += 1
        self.why_not_writable = ""
        if self.version != 3:
            self.why_not_writable = f"it has data version {self.version}: {_SAVE_ONCE}"
        elif without:
            self.why_not_writable = f"{without} of its objects have no id: {_SAVE_ONCE}"
        elif repeated:
            self.why_not_writable = f"{repeated} of its objects have the id of another one: {_NEW_IDS}"
        self.writable = not self.why_not_writable

    def objects(self) -> Iterator[PathObject]:
        """All objects but the root, depth first, in the order of the file."""
        waiting = list(reversed(self.root.children))
        while waiting:
            item = waiting.pop()
            yield item
            waiting.extend(reversed(item.children))

    def get(self, object_id: str) -> PathObject | None:
        """The object with this id."""
        return self._by_id.get(object_id.lower())

    def set_measurements(self, objects: Sequence[PathObject], values: Mapping[str, NDArray[np.floating]]) -> None:
        """Add or replace columns: per name, float32 ``(objects,)``; NaN is a value like any other.

        float64 keeps its digits in lists that hold doubles, so that old values can be put back exactly.

        Other values, the kind of each list and the order of its names stay. Raises Unsupported for objects whose list is
        of an unknown kind, before anything is changed.
        """
        self._check_writable()
        _check_distinct(objects)
        for name, column in values.items():
            if np.shape(column) != (len(objects),):
                raise ValueError(f"{name}: {np.shape(column)} values for {len(objects)} objects")
        if values and objects:
            self._replace_lists(objects, self._lists.with_columns([o.measurement_list for o in objects], values))

    def remove_measurements(self, objects: Sequence[PathObject], names: Collection[str]) -> None:
        """Take columns out of these objects, as if they had never been there."""
        self._check_writable()
        _check_distinct(objects)
        self._replace_lists(objects, self._lists.without_columns([o.measurement_list for o in objects], names))

    @staticmethod
    def _replace_lists(objects: Sequence[PathObject], lists: list[JavaObject | None]) -> None:
        for item, node in zip(objects, lists, strict=True):
            item.measurement_list = node

    def set_class(self, objects: Sequence[PathObject], class_name: str | None, colors: Mapping[str, int]) -> None:
        """Give objects a class by its full name (``Tumor: CD3``), or none.

        Classes the file has are shared; new ones, and those above them, get ``colors[full name]`` (signed 32-bit ARGB) or
        a colour made from the name.
        """
        self._check_writable()
        node = None if class_name is None else self._path_classes.ensure(class_name, colors)
        for item in objects:
            if item.kind == "root":
                raise UsageError("the root object has no class")
            if item.class_name != class_name:
                item.path_class = node

    def add_object(self, spec: NewPathObject, parent: PathObject | None = None) -> PathObject:
        """Put a new object, with its children, last among the children of ``parent`` (the root when None).

        Raises InputError when an object of this id is there already or the tree would get too deep for QuPath.
        """
        self._check_writable()
        above = self.root if parent is None else parent
        wanted = list(_with_children(spec, _depth(above) + 1))
        taken = [s.id for s, _ in wanted if s.id.lower() in self._by_id]
        if taken or len({s.id.lower() for s, _ in wanted}) < len(wanted):
            raise InputError(f"{self.path}: there is an object {(taken or [spec.id])[0]} already")
        if max(level for _, level in wanted) > MAX_TREE_DEPTH:
            raise InputError(f"{self.path}: QuPath cannot open objects nested deeper than {MAX_TREE_DEPTH} levels")
        return self._add(spec, above)

    def _add(self, spec: NewPathObject, above: PathObject) -> PathObject:
        made = PathObject(spec.node(self._maker, self._lists, self._path_classes), above, self._shared)
        above.append_child(made)
        self._by_id[spec.id.lower()] = made
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
                above.replace_children(list(_survivors(above, gone)))
        for item in objects:
            if item.id is not None:
                self._by_id.pop(item.id, None)

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
        for item in self.objects():
            kinds[item.kind] = kinds.get(item.kind, 0) + 1
            if item.kind != "tma core":
                of = classes["annotation" if item.kind == "annotation" else "detection"]
                name = item.class_name or "Unclassified"
                of[name] = of.get(name, 0) + 1
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


_COUNTED = {
    "root": "Root objects",
    "annotation": "Annotations",
    "tile": "Tiles",
    "tma core": "TMA cores",
    "detection": "Detections",
    "cell": "Cells",
}
"""Titles of summary.json, in QuPath's order."""


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


def _check_distinct(objects: Sequence[PathObject]) -> None:
    if len({id(item) for item in objects}) != len(objects):
        raise ValueError("an object is named twice")


def _depth(item: PathObject) -> int:
    """Levels above an object: 0 for the root."""
    levels = 0
    while item.parent is not None:
        item, levels = item.parent, levels + 1
    return levels


def _with_children(spec: NewPathObject, level: int) -> Iterator[tuple[NewPathObject, int]]:
    yield spec, level
    for child in spec.children:
        yield from _with_children(child, level + 1)


def _survivors(above: PathObject, gone: set[int]) -> Iterator[PathObject]:
    """The children of an object, each one that goes replaced by its own."""
    waiting = list(reversed(above.children))
    while waiting:
        item = waiting.pop()
        if id(item) in gone:
            waiting.extend(reversed(item.children))
        else:
            yield item
