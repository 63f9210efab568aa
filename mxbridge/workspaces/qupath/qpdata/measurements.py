"""The measurement lists of objects: three kinds QuPath writes, read and edited column by column.

A list is never changed in place, because QuPath lets thousands of cells share one list of names: an edited object gets a
new list, whose names are shared with the other edited objects of the same columns. New lists are closed, as QuPath's own
are: an open one with shared names would let QuPath add a name to all cells when a user measures one of them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import Unsupported
from mxbridge.workspaces.qupath.javastream import Item, JavaArray, JavaObject, Part, StreamError
from mxbridge.workspaces.qupath.qpdata.descriptors import (
    DEFAULT_LIST,
    DOUBLE_LIST,
    DOUBLE_MEASUREMENT,
    FLOAT_LIST,
)
from mxbridge.workspaces.qupath.qpdata.jdk import Maker, list_items, numbers, required_text

_NUMERIC = (FLOAT_LIST, DOUBLE_LIST)
_FLOAT_MEASUREMENT = DOUBLE_MEASUREMENT.replace("Double", "Float")
_SINGLE = (DOUBLE_MEASUREMENT, _FLOAT_MEASUREMENT)

Names = tuple[str, ...]
Table = NDArray[np.float64]
"""Values ``(objects, names)``. float64 holds Float and Double lists exactly."""

Edit = Callable[[Names, Table, NDArray[np.int64]], tuple[Names, Table, list[int]]]
"""From names, values and which of all objects these are, to new names, new values, and the column each name had (or -1)."""


def adding(columns: Mapping[str, NDArray[np.floating]]) -> Edit:
    """Add or replace columns: per name ``(objects,)``."""
    wanted = tuple(columns)
    values = np.stack([np.asarray(v) for v in columns.values()], axis=1).astype(np.float64)

    def edit(names: Names, old: Table, which: NDArray[np.int64]) -> tuple[Names, Table, list[int]]:
        merged = (*names, *(n for n in wanted if n not in set(names)))
        new = np.full((len(old), len(merged)), np.nan)
        new[:, : len(names)] = old
        at = {name: k for k, name in enumerate(merged)}
        new[:, [at[name] for name in wanted]] = values[which]
        return merged, new, [*range(len(names)), *(-1 for _ in merged[len(names) :])]

    return edit


def removing(gone: Collection[str]) -> Edit:
    """Take columns out."""
    gone = set(gone)

    def edit(names: Names, old: Table, _which: NDArray[np.int64]) -> tuple[Names, Table, list[int]]:
        keep = [k for k, name in enumerate(names) if name not in gone]
        return tuple(names[k] for k in keep), old[:, keep], keep

    return edit


def changed_rows(names: Names, new_names: Names, old: Table, new: Table) -> NDArray[np.bool_]:
    """Which rows an edit has changed: all of them where it changed the names."""
    if new_names != names:
        return np.ones(len(old), bool)
    return np.asarray(~((old == new) | (np.isnan(old) & np.isnan(new))).all(axis=1))


class MeasurementLists:
    """Reads and makes the measurement lists of one file."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self._read_names: dict[int, tuple[Item, Names]] = {}  # by identity of the list, which is kept alive here
        self._made_names: dict[Names, tuple[JavaObject, JavaObject]] = {}

    def check(self, node: JavaObject) -> None:
        """Raise StreamError where a list of a known kind holds fewer values than names, or no values at all."""
        if node.name in _NUMERIC:
            names, values = self.names_of(node), _values(node)
            if len(values) < len(names):
                raise StreamError(f"a measurement list of {len(names)} names with {len(values)} values")
        elif node.name == DEFAULT_LIST:
            for item in list_items(node.get("list")):
                _single(item)

    def length(self, node: JavaObject | None) -> int:
        """Number of measurements; 0 for an unknown kind of list."""
        if node is None or node.name not in (*_NUMERIC, DEFAULT_LIST):
            return 0
        return len(list_items(node.get("list")) if node.name == DEFAULT_LIST else self.names_of(node))

    def read(self, node: JavaObject | None) -> dict[str, float]:
        """Names and values in the order of the file. Raises Unsupported for an unknown kind of list."""
        if node is None:
            return {}
        if node.name in _NUMERIC:
            return dict(zip(self.names_of(node), _values(node).tolist(), strict=False))
        if node.name == DEFAULT_LIST:
            return dict(_single(item) for item in list_items(node.get("list")))
        raise _unknown(node)

    def with_columns(
        self, nodes: Sequence[JavaObject | None], columns: Mapping[str, NDArray[np.floating]]
    ) -> list[JavaObject | None]:
        """The lists with these columns added or replaced, ``(objects,)`` each; the same node where nothing changes."""
        return self._edited(nodes, adding(columns))

    def without_columns(self, nodes: Sequence[JavaObject | None], names: Collection[str]) -> list[JavaObject | None]:
        """The lists without these columns; None where nothing is left, as QuPath writes an empty list."""
        return self._edited(nodes, removing(names))

    def new_float_list(self, names: Names, values: bytes) -> JavaObject:
        shared, index = self._shared_names(names)
        array = JavaArray(self._maker.classes.desc("[F"), values)
        return self._maker.object(FLOAT_LIST, isClosed=b"\1", map=index, names=shared, values=array)

    def _edited(self, nodes: Sequence[JavaObject | None], edit: Edit) -> list[JavaObject | None]:
        """Edit lists of the same kind and names together, so that 100,000 cells cost a few array operations."""
        groups: dict[tuple[str, Names], list[int]] = {}
        for k, node in enumerate(nodes):
            groups.setdefault(self._group(node), []).append(k)
        out = list(nodes)
        for (kind, names), members in groups.items():
            which = np.asarray(members, np.int64)
            same = [nodes[k] for k in members]
            old = _table(kind, names, same)
            new_names, new, origin = edit(names, old, which)
            changed = changed_rows(names, new_names, old, new)
            raw, size = stored_values(kind, new)
            for k in np.flatnonzero(changed).tolist():
                node, values = same[k], raw[k * size : (k + 1) * size]
                if not new_names:
                    out[members[k]] = None
                elif node is None:
                    out[members[k]] = self.new_float_list(new_names, values)
                elif kind == DEFAULT_LIST:
                    out[members[k]] = self._default_list(node, old[k], new_names, new[k], origin)
                else:
                    out[members[k]] = self.numeric_list(node, names, new_names, values)
        return out

    def _group(self, node: JavaObject | None) -> tuple[str, Names]:
        if node is None:
            return "", ()
        if node.name in _NUMERIC:
            return node.name, self.names_of(node)
        if node.name == DEFAULT_LIST:
            return node.name, tuple(_single(item)[0] for item in list_items(node.get("list")))
        raise _unknown(node)

    def numeric_list(self, node: JavaObject, names: Names, new_names: Names, raw: bytes) -> JavaObject:
        """A copy with other values; names, map and lock only where the columns change."""
        copy = JavaObject(node.desc, [Part(p.desc, list(p.values or ()), p.annotations) for p in node.parts])
        array = node.get("values")
        assert isinstance(array, JavaArray) and isinstance(array.values, bytes)  # noqa: S101 - checked on reading
        if new_names == names:
            copy.put("values", JavaArray(array.desc, raw + array.values[len(raw) :]))
            return copy
        shared, index = self._shared_names(new_names)
        copy.put("values", JavaArray(array.desc, raw))
        copy.put("names", shared)
        copy.put("map", index)
        copy.put("isClosed", b"\1")
        return copy

    def _default_list(
        self, node: JavaObject, old: NDArray, new_names: Names, new: NDArray, origin: list[int]
    ) -> JavaObject:
        """A copy whose unchanged measurements are the nodes that were there."""
        items, before = list_items(node.get("list")), old.tolist()
        elements: list[Item] = []
        for name, value, at in zip(new_names, new.tolist(), origin, strict=True):
            if at >= 0 and (before[at] == value or (math.isnan(before[at]) and math.isnan(value))):
                elements.append(items[at])
            else:
                raw, text = struct.pack(">d", value), self._maker.string(name)
                elements.append(self._maker.object(DOUBLE_MEASUREMENT, value=raw, name=text))
        return self._maker.object(DEFAULT_LIST, list=self._maker.array_list(elements))

    def _shared_names(self, names: Names) -> tuple[JavaObject, JavaObject]:
        """The one list of these names in the file, and the map from name to position that goes with it."""
        if names not in self._made_names:
            strings = [self._maker.string(name) for name in names]
            index = self._maker.hash_map({name: self._maker.integer(k) for k, name in enumerate(names)})
            self._made_names[names] = self._maker.array_list(strings), index
        return self._made_names[names]

    def names_of(self, node: JavaObject) -> Names:
        """Names of a Float or Double list. Raises StreamError."""
        shared = node.get("names")
        known = self._read_names.get(id(shared))
        if known is None:
            known = shared, tuple(required_text(item) for item in list_items(shared))
            self._read_names[id(shared)] = known
        return known[1]


def _values(node: JavaObject) -> NDArray:
    return numbers(node.get("values"), "F" if node.name == FLOAT_LIST else "D")


def _single(item: Item) -> tuple[str, float]:
    """Name and value of one element of a DefaultMeasurementList."""
    if not isinstance(item, JavaObject) or item.name not in _SINGLE:
        raise StreamError("a measurement of unknown kind")
    return required_text(item.get("name")), float(item.number("value"))


def _table(kind: str, names: Names, nodes: Sequence[JavaObject | None]) -> Table:
    if kind in _NUMERIC:
        rows = [_values(node)[: len(names)] for node in nodes if node is not None]
        return np.stack(rows).astype(np.float64)
    if kind == DEFAULT_LIST:
        rows_of = [[_single(i)[1] for i in list_items(node.get("list"))] for node in nodes if node is not None]
        return np.asarray(rows_of, np.float64).reshape(len(nodes), len(names))
    return np.zeros((len(nodes), 0))


def stored_values(kind: str, values: Table) -> tuple[bytes, int]:
    """The big-endian bytes of a table, and how many of them one row has."""
    letter = ">f8" if kind == DOUBLE_LIST else ">f4"
    return values.astype(letter).tobytes(), values.shape[1] * int(letter[-1])


def _unknown(node: JavaObject) -> Unsupported:
    return Unsupported(
        f"measurements stored as {node.name}, which mxbridge does not know",
        hint="They are kept as they are; ask for other objects, or report this class",
    )
