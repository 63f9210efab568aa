"""The rows behind the server, with transactions that leave no trace when they fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import omero
from omero.rtypes import rstring, unwrap

from .kinds import CONCRETE, INVERSE, KINDS, ROOTS, Kind


class Row:
    """One object of the database; single-valued fields in `fields` (RTypes or rows), members of collections in `lists`."""

    __slots__ = ("created", "external", "fields", "group", "id", "kind", "lists", "owner", "updated", "version")

    def __init__(self, kind: Kind, row_id: int) -> None:
        self.kind = kind
        self.id = row_id
        self.fields: dict[str, Any] = {}
        self.lists: dict[str, dict[Row, None]] = {}
        self.owner: Row | None = None
        self.group: Row | None = None
        self.created: Row | None = None
        self.updated: Row | None = None
        self.external: Row | None = None
        self.version = 0

    def __repr__(self) -> str:
        return f"{self.kind.name}:{self.id}"

    def value(self, field: str) -> Any:
        """The plain value of a field, a row where it points to one."""
        held = self.fields.get(field)
        return held if isinstance(held, Row) else unwrap(held)

    def members(self, collection: str) -> list[Row]:
        """Rows of a collection in their order."""
        return list(self.lists.get(collection, ()))


class Store:
    """Tables by root kind. Every change goes through `insert`, `assign` and `remove`, which know how to be undone."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[int, Row]] = {}
        self.last_ids: dict[str, int] = {}
        self.lock = threading.RLock()
        self._undo: list[Callable[[], None]] | None = None

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Changes inside hold together: an error takes all of them back. Nested uses join the outermost."""
        with self.lock:
            if self._undo is not None:
                yield
                return
            self._undo = []
            try:
                yield
            except BaseException:
                for step in reversed(self._undo):
                    step()
                raise
            finally:
                self._undo = None

    def rows(self, name: str) -> list[Row]:
        """All rows of a kind or of the kinds below it, by id. Raises KeyError for a name that is not mapped."""
        root = ROOTS[name]
        table = self.tables.get(root, {})
        if name == root:
            return list(table.values())
        below = CONCRETE[name]
        return [row for row in list(table.values()) if row.kind.name in below]

    def get(self, name: str, row_id: int) -> Row | None:
        """A row by kind (or a kind above it) and id."""
        row = self.tables.get(ROOTS[name], {}).get(row_id)
        return row if row is not None and row.kind.name in CONCRETE[name] else None

    def need(self, name: str, row_id: int) -> Row:
        """Like `get`, ValidationException when there is none."""
        row = self.get(name, row_id)
        if row is None:
            raise omero.ValidationException(message=f"{name}:{row_id} does not exist")
        return row

    def word(self, enumeration: str, value: str) -> Row:
        """The row of a fixed vocabulary."""
        for row in self.rows(enumeration):
            if row.value("value") == value:
                return row
        raise omero.ValidationException(message=f"{enumeration} has no value '{value}'")

    def insert(self, name: str, /, **fields: Any) -> Row:
        """A new row; plain strings become rstring."""
        kind = KINDS[name]
        row = Row(kind, self.last_ids.get(kind.root, -1 if kind.root in STARTS_AT_0 else 0) + 1)
        self.last_ids[kind.root] = row.id
        table = self.tables.setdefault(kind.root, {})
        table[row.id] = row
        self._later(lambda: table.pop(row.id, None))
        for field, value in fields.items():
            self.assign(row, field, rstring(value) if isinstance(value, str) else value)
        return row

    def assign(self, row: Row, field: str, value: Any) -> None:
        """Set a field and keep the collections of both ends right."""
        before = row.fields.get(field)
        if before is value and field in row.fields:
            return
        self._unlist(row, field, before)
        row.fields[field] = value
        self._enlist(row, field, value)
        self._later(lambda: self._take_back(row, field, value, before))

    def set_place(self, row: Row, **attributes: Any) -> None:
        """Set owner, group, created, updated, external or version of a row."""
        before = {name: getattr(row, name) for name in attributes}
        for name, value in attributes.items():
            setattr(row, name, value)
        self._later(lambda: [setattr(row, name, value) for name, value in before.items()])

    def remove(self, rows: Iterable[Row]) -> None:
        """Delete rows; references to them are the caller's business."""
        for row in list(rows):
            table = self.tables[row.kind.root]
            table.pop(row.id, None)
            for field, owner in row.fields.items():
                self._unlist(row, field, owner)
            self._later(lambda row=row, table=table: self._put_back(row, table))

    def _put_back(self, row: Row, table: dict[int, Row]) -> None:
        table[row.id] = row
        for field, owner in row.fields.items():
            for members in self._enlist(row, field, owner):
                in_order = sorted(members, key=lambda member: member.id)
                members.clear()
                members.update(dict.fromkeys(in_order))

    def _unlist(self, row: Row, field: str, owner: Any) -> None:
        if isinstance(owner, Row):
            for kind, name in INVERSE.get((row.kind.name, field), ()):
                if kind == owner.kind.name:
                    owner.lists.get(name, {}).pop(row, None)

    def _enlist(self, row: Row, field: str, owner: Any) -> list[dict[Row, None]]:
        changed = []
        if isinstance(owner, Row):
            for kind, name in INVERSE.get((row.kind.name, field), ()):
                if kind == owner.kind.name:
                    changed.append(owner.lists.setdefault(name, {}))
                    changed[-1][row] = None
        return changed

    def _take_back(self, row: Row, field: str, value: Any, before: Any) -> None:
        self._unlist(row, field, value)
        row.fields[field] = before
        self._enlist(row, field, before)

    def _later(self, step: Callable[[], Any]) -> None:
        if self._undo is not None:
            self._undo.append(step)


STARTS_AT_0 = {"Experimenter", "ExperimenterGroup"}
"""root and the system group have id 0."""
