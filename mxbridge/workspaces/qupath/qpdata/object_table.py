"""All objects of a file as one table: who they are, their classes and measurements, read and edited by row.

Results are put into an image, and cells are read from it, through this table only. Behind a row is either an object of the
tree or a row of the packed objects; nobody else needs to know which.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import UsageError
from mxbridge.workspaces.qupath.javastream import Ints, JavaObject, Rows
from mxbridge.workspaces.qupath.qpdata.classes import SEPARATOR, class_color
from mxbridge.workspaces.qupath.qpdata.measurements import adding, removing
from mxbridge.workspaces.qupath.qpdata.packed import PackedObjects, groups
from mxbridge.workspaces.qupath.qpdata.path_objects import PathObject, Shared

Had = NDArray[np.bool_]
Values = NDArray[np.float64]


class ObjectTable:
    """ids: of every object but the root, depth first, in the order of the file; None where it has none. packed: those
    objects that are kept as bytes. outdated: objects have come, gone or been unpacked since; asking raises RuntimeError."""

    def __init__(
        self,
        root: PathObject,
        packed: PackedObjects,
        shared: Shared,
        check_writable: Callable[[], None],
    ) -> None:
        self.packed, self._shared, self._check_writable = packed, shared, check_writable
        self._lists, self._classes = shared.measurements, shared.classes
        self.outdated = False
        self._objects: dict[int, PathObject] = {}
        rows = array("q")
        waiting = list(reversed(root.members))
        while waiting:
            member = waiting.pop()
            if isinstance(member, Rows):
                rows.extend(range(member.first, member.stop))
            else:
                self._objects[len(rows)] = member
                rows.append(-1)
                waiting.extend(reversed(member.members))
        self._rows: Ints = np.array(rows, np.int64)
        self.ids: tuple[str | None, ...] = tuple(self._all_ids())

    def __len__(self) -> int:
        return len(self._rows)

    def _all_ids(self) -> list[str | None]:
        of_packed = iter(self.packed.ids(self._rows[self._rows >= 0]))
        return [next(of_packed) if row >= 0 else self._objects[k].id for k, row in enumerate(self._rows.tolist())]

    def as_object(self, row: int) -> PathObject:
        """A copy, outside the tree, of a packed object, for what is asked of single objects only."""
        return PathObject(self.packed.pack.node(row), None, self._shared)

    def all(self) -> Ints:
        """Every row."""
        return np.arange(len(self))

    def split(self, which: Ints) -> tuple[list[tuple[int, PathObject]], Ints, Ints]:
        """Of some rows of the table: those of the tree (position among ``which``, object); the positions of the others,
        and their rows among the packed objects."""
        if self.outdated:
            raise RuntimeError("the objects have changed since this table was made: ask the file for its table again")
        rows = self._rows[which]
        loose = [(k, self._objects[int(which[k])]) for k in np.flatnonzero(rows < 0).tolist()]
        at = np.flatnonzero(rows >= 0)
        return loose, at, rows[at]

    def rows_of(self, objects: Sequence[PathObject]) -> Ints:
        """Where objects of the tree are in the table. Raises KeyError for one that is not in the tree any more."""
        places = {id(item): k for k, item in self._objects.items()}
        return np.array([places[id(item)] for item in objects], np.int64)

    def kinds(self, which: Ints) -> NDArray[np.object_]:
        """'annotation', 'detection', 'cell', 'tile' or 'tma core' of each."""
        out = np.empty(len(which), object)
        loose, at, rows = self.split(which)
        for k, item in loose:
            out[k] = item.kind
        out[at] = self.packed.kinds(rows)
        return out

    def having(self, which: Ints, key: str) -> Had:
        """Which have this key in their metadata."""
        out = np.zeros(len(which), bool)
        loose, at, rows = self.split(which)
        for k, item in loose:
            out[k] = key in item.metadata
        out[at] = self.packed.with_key(rows, key)
        return out

    def metadata(self, which: Ints, key: str) -> list[str | None]:
        """What each has under this key in its metadata; None where it has no such key."""
        return self._told(which, lambda item: item.metadata.get(key), lambda rows: self.packed.metadata(rows, key))

    def names(self, which: Ints) -> list[str | None]:
        """The name of each object itself."""
        return self._told(which, lambda item: item.name, self.packed.names)

    def _told(
        self, which: Ints, of_object: Callable[[PathObject], str | None], of_rows: Callable[[Ints], list[str | None]]
    ) -> list[str | None]:
        loose, at, rows = self.split(which)
        out: list[str | None] = [None] * len(which)
        for k, told in zip(at.tolist(), of_rows(rows), strict=True):
            out[k] = told
        for k, item in loose:
            out[k] = of_object(item)
        return out

    def _class_nodes(self, which: Ints) -> list[JavaObject | None]:
        out: list[JavaObject | None] = [None] * len(which)
        loose, at, rows = self.split(which)
        nodes, codes = self.packed.class_nodes(rows)
        for k, code in zip(at.tolist(), codes.tolist(), strict=True):
            out[k] = nodes[code]
        for k, item in loose:
            out[k] = item.path_class
        return out

    def class_names(self, which: Ints) -> list[str | None]:
        """Full names, ``Tumor: CD3``; None without a class."""
        names: dict[int, str | None] = {}
        out = []
        for node in self._class_nodes(which):
            if id(node) not in names:
                names[id(node)] = self._classes.learn(node)
            out.append(names[id(node)])
        return out

    def class_colors(self, which: Ints) -> dict[str, int]:
        """Colours, signed 32-bit ARGB, that the file has for the classes of these objects and those above them."""
        colors: dict[str, int] = {}
        for first in {id(node): node for node in self._class_nodes(which)}.values():
            node, name = first, self._classes.learn(first)
            while isinstance(node, JavaObject) and name and name not in colors:
                color = class_color(node)
                if color is not None:
                    colors[name] = color
                above = node.get("parentClass")
                node, name = above if isinstance(above, JavaObject) else None, name.rpartition(SEPARATOR)[0]
        return colors

    def measurement_names(self, which: Ints) -> set[str]:
        """Names that any of these objects has."""
        loose, _, rows = self.split(which)
        found = {name for head, _ in self.packed.lists(rows) for name in head.names}
        return found.union(*(item.measurements for _, item in loose)) if loose else found

    def columns(self, which: Ints, names: Sequence[str]) -> dict[str, tuple[Had, Values]]:
        """Per name: which objects have such a measurement, and its values (NaN where there is none).

        Raises Unsupported for lists of unknown kind.
        """
        had = np.zeros((len(names), len(which)), bool)
        values = np.full((len(names), len(which)), np.nan)
        loose, at, rows = self.split(which)
        for k, item in loose:
            found = item.measurements
            for j, name in enumerate(names):
                value = found.get(name)
                if value is not None:
                    had[j, k], values[j, k] = True, value
        for head, chosen in self.packed.lists(rows):
            place = {name: k for k, name in enumerate(head.names)}
            there = [j for j, name in enumerate(names) if name in place]
            if there:
                table = self.packed.values(rows[chosen], head, [place[names[j]] for j in there])
                for j, column in zip(there, table.T, strict=True):
                    had[j, at[chosen]], values[j, at[chosen]] = True, column
        return {name: (had[j], values[j]) for j, name in enumerate(names)}

    def set_columns(self, which: Ints, values: Mapping[str, NDArray[np.floating]]) -> None:
        """Add or replace columns: per name, float32 ``(which,)``; NaN is a value like any other.

        float64 keeps its digits in lists that hold doubles, so that old values can be put back exactly. Other values, the
        kind of each list and the order of its names stay. Raises Unsupported for objects whose list is of an unknown kind,
        before anything is changed.
        """
        self._check(which)
        for name, column in values.items():
            if np.shape(column) != (len(which),):
                raise ValueError(f"{name}: {np.shape(column)} values for {len(which)} objects")
        if not values or not len(which):
            return
        loose, at, rows = self.split(which)
        if loose:
            chosen = np.array([k for k, _ in loose])
            columns = {name: np.asarray(column)[chosen] for name, column in values.items()}
            nodes = self._lists.with_columns([item.measurement_list for _, item in loose], columns)
            for (_, item), node in zip(loose, nodes, strict=True):
                item.measurement_list = node
        if len(rows):
            self.packed.edit_lists(rows, adding({name: np.asarray(column)[at] for name, column in values.items()}))

    def remove_columns(self, which: Ints, names: Collection[str]) -> None:
        """Take columns out of these objects, as if they had never been there."""
        self._check(which)
        loose, _, rows = self.split(which)
        nodes = self._lists.without_columns([item.measurement_list for _, item in loose], names)
        for (_, item), node in zip(loose, nodes, strict=True):
            item.measurement_list = node
        self.packed.edit_lists(rows, removing(names))

    def set_class(self, which: Ints, class_name: str | None, colors: Mapping[str, int]) -> None:
        """Give objects a class by its full name (``Tumor: CD3``), or none.

        Classes the file has are shared; new ones, and those above them, get ``colors[full name]`` (signed 32-bit ARGB) or
        a colour made from the name.
        """
        self._check_writable()
        node = None if class_name is None else self._classes.ensure(class_name, colors)
        loose, _, rows = self.split(which)
        for _, item in loose:
            if item.kind == "root":
                raise UsageError("the root object has no class")
            if item.class_name != class_name:
                item.path_class = node
        nodes, codes = self.packed.class_nodes(rows)
        for code, chosen in groups(codes):
            if self._classes.learn(nodes[code]) != class_name:
                self.packed.set_class(rows[chosen], node)

    def _check(self, which: Ints) -> None:
        self._check_writable()
        if len(np.unique(which)) != len(which):
            raise ValueError("an object is named twice")
