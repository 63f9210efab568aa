"""Delete2, Chgrp2 and what goes with a deleted object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import omero
import omero.cmd

from .caller import Caller
from .kinds import CONCRETE, ROOTS, kind_name
from .store import Row, Store

PARTS = {
    "Image": ("pixels", "rois", "wellSamples"),
    "Pixels": ("channels", "planeInfo", "settings", "thumbnails", "pixelsFileMaps"),
    "Roi": ("shapes",),
    "Plate": ("wells", "plateAcquisitions"),
    "Well": ("wellSamples",),
    "Fileset": ("usedFiles", "images"),
    "RenderingDef": ("waveRendering",),
}
"""Collections that have no life of their own."""
CONTENTS = {"Project": ("datasetLinks",), "Dataset": ("imageLinks",), "Screen": ("plateLinks",)}
"""Links whose children go too when nothing else holds them."""


class Refused(Exception):
    """A request that ends in an ERR response."""


def targets(caller: Caller, objects: dict[str, list[int]]) -> list[Row]:
    """The rows a request names; absent ones are an error."""
    found = []
    for name, ids in objects.items():
        kind = kind_name(name.rsplit("/", 1)[-1])
        if kind not in ROOTS:
            raise Refused(f"no such class: {name}")
        for row_id in ids:
            row = caller.world.store.get(kind, row_id)
            if row is None or not caller.may_see(row):
                raise Refused(f"cannot read {kind}:{row_id}")
            found.append(row)
    return found


def excluded_kinds(options: Iterable[Any] | None) -> frozenset[str]:
    """Concrete kinds that a request's child options keep."""
    names = [name for option in options or [] for name in option.excludeType or []]
    return frozenset(one for name in names for one in CONCRETE.get(kind_name(name), ()))


class Deletion:
    """Collects what goes with the targets. Orphans go, unless their kind is kept."""

    def __init__(self, caller: Caller, keep: frozenset[str]) -> None:
        self.caller = caller
        self.store: Store = caller.world.store
        self.keep = keep
        self.going: dict[Row, None] = {}

    def plan(self, rows: list[Row]) -> list[Row]:
        """Everything that goes, the targets first. Raises Refused when a target may not be deleted by the caller."""
        for row in rows:
            if not self.caller.may_delete(row):
                raise Refused(f"not permitted to delete {row}")
            self._take(row)
        return list(self.going)

    def _take(self, row: Row | None) -> None:
        if row is None or row in self.going:
            return
        self.going[row] = None
        for name in PARTS.get(row.kind.name, ()):
            for part in row.members(name):
                self._take(part)
        for name, members in row.lists.items():
            for link in list(members):
                if link.kind.is_link:
                    self._take_link(row, link, contents=name in CONTENTS.get(row.kind.name, ()))
        self._take_referring(row)
        self._take_referred(row)

    def _take_link(self, row: Row, link: Row, *, contents: bool) -> None:
        self.going[link] = None
        child = link.fields["child"]
        is_annotation = child.kind.root == "Annotation" and link.fields["parent"] is row
        if (
            (contents or is_annotation)
            and child.kind.name not in self.keep
            and self._is_orphan(child)
            and self.caller.may_delete(child)
        ):
            self._take(child)

    def _is_orphan(self, child: Row) -> bool:
        return all(link in self.going for link in self._links_to(child))

    def _links_to(self, child: Row) -> list[Row]:
        if child.kind.root == "Annotation":
            return [
                link
                for root, table in self.store.tables.items()
                if root.endswith("AnnotationLink")
                for link in table.values()
                if link.fields.get("child") is child
            ]
        return [
            link
            for members in child.lists.values()
            for link in members
            if link.kind.is_link and link.fields["child"] is child
        ]

    def _take_referring(self, row: Row) -> None:
        if row.kind.root == "Annotation":
            for link in self._links_to(row):
                self.going[link] = None

    def _take_referred(self, row: Row) -> None:
        """Files of annotations, logical channels and statistics that nothing else uses."""
        for name in ("file", "logicalChannel", "statsInfo", "originalFile"):
            target = row.fields.get(name)
            if isinstance(target, Row) and all(user in self.going for user in self._users(target, name)):
                self._take(target)
        if row.external is not None:
            self.going[row.external] = None

    def _users(self, target: Row, name: str) -> list[Row]:
        kinds = {
            "file": "FileAnnotation",
            "logicalChannel": "Channel",
            "statsInfo": "Channel",
            "originalFile": "FilesetEntry",
        }
        return [row for row in self.store.rows(kinds[name]) if row.fields.get(name) is target]

    def check_references(self) -> None:
        """What stays must not point to what goes (required fields only; the others are emptied)."""
        for table in self.store.tables.values():
            for row in table.values():
                if row in self.going:
                    continue
                for name, target in list(row.fields.items()):
                    if isinstance(target, Row) and target in self.going:
                        if name in row.kind.required:
                            raise Refused(f"{row}.{name} still needs {target}")
                        self.store.assign(row, name, None)


def delete(caller: Caller, rows: list[Row], keep: frozenset[str] = frozenset(), *, dry_run: bool = False) -> list[Row]:
    """Delete rows and what goes with them; what went."""
    store = caller.world.store
    with store.all_or_nothing():
        deletion = Deletion(caller, keep)
        going = deletion.plan(rows)
        if not dry_run:
            if any(_may_be_referred_to(row) for row in going):
                deletion.check_references()
            store.remove(going)
    if not dry_run:
        caller.world.forget(going)
    return going


def _may_be_referred_to(row: Row) -> bool:
    return row.kind.root not in ("Roi", "Shape") and not row.kind.is_link


def move(caller: Caller, rows: list[Row], group: Row) -> None:
    """Chgrp2: rows and their parts into another group; links that would cross groups are cut."""
    store = caller.world.store
    if not caller.admin and group.id not in caller.groups:
        raise Refused(f"not a member of group {group.id}")
    with store.all_or_nothing():
        deletion = Deletion(caller, frozenset())
        for row in rows:
            if not caller.rights(row)[4]:
                raise Refused(f"not permitted to move {row}")
        going = deletion.plan(rows)
        moved = set(going)
        crossing = [
            row for row in going if row.kind.is_link and not {row.fields["parent"], row.fields["child"]} <= moved
        ]
        for row in going:
            store.set_place(row, group=group)
        store.remove(crossing)


def deleted_by_kind(rows: list[Row]) -> dict[str, list[int]]:
    """As Delete2Response lists them."""
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(f"ome.model.{row.kind.name}", []).append(row.id)
    return found


def error_response(name: str, message: str) -> Any:
    """An ERR as OMERO's graph requests give it."""
    response = omero.cmd.ERR()
    response.category, response.name = "::omero::cmd::Request", name
    response.parameters = {"message": message}
    return response
