"""IUpdate's work: a graph of model objects becomes rows, as strictly as the mapping facts allow."""

from __future__ import annotations

from typing import Any

import omero
import omero.model
from omero.model import IObject
from omero.rtypes import rint, rlong, unwrap

from .caller import USER_GROUP, Caller, Change
from .hydrate import proxy
from .kinds import kind_of
from .store import Row

SHORT = 255
SHORT_FIELDS = {
    "Image.name", "Dataset.name", "Project.name", "Plate.name", "Screen.name", "Roi.name", "OriginalFile.name", "LogicalChannel.name",
    "Annotation.ns",
}  # fmt: skip
"""varchar(255) in OMERO's schema."""


class GraphSave:
    """One save: objects are visited once, new rows first, then what they point to; checks come at the end."""

    def __init__(self, caller: Caller, change: Change) -> None:
        self.caller = caller
        self.store = caller.world.store
        self.change = change
        self.saved: dict[int, Row] = {}
        self.touched: dict[Row, None] = {}
        self.pairs: list[tuple[Any, Row]] = []

    def all(self, objects: list[Any]) -> list[Row]:
        """Save these graphs; their rows."""
        rows = [self.save(one) for one in objects]
        for row in self.touched:
            self._check(row)
        return rows

    def save(self, given: Any) -> Row:
        """One object and what hangs on it."""
        if given is None:
            raise omero.ValidationException(message="a null object cannot be saved")
        if id(given) in self.saved:
            return self.saved[id(given)]
        kind = kind_of(given)
        if given._id is not None:
            row = self._known(given)
            self.saved[id(given)] = row
            if given._loaded and not kind.is_global:
                if given._version is not None and given._version.val < row.version:
                    raise omero.OptimisticLockException(message=f"{row} was changed by somebody else meanwhile")
                self._fill(row, given, new=False)
            return row
        if not given._loaded:
            raise omero.ValidationException(message=f"an unloaded {kind.name} without id cannot be saved")
        if kind.is_enumeration:
            row = self.store.word(kind.name, unwrap(given._value))
            self.saved[id(given)] = row
            return row
        if kind.is_global and kind.name != "ExternalInfo" and not self.caller.full_admin:
            raise omero.SecurityViolation(message=f"{kind.name} is a system type")
        self._check_place(given)
        row = self.change.insert(kind.name)
        self.saved[id(given)] = row
        self._fill(row, given, new=True)
        return row

    def _known(self, given: Any) -> Row:
        kind = kind_of(given)
        row = self.store.get(kind.name, given._id.val)
        if row is None or not self._visible(row):
            raise omero.ValidationException(message=f"{kind.name}:{given._id.val} does not exist or cannot be seen")
        return row

    def _visible(self, row: Row) -> bool:
        return self.caller.may_see(row)

    def _check_place(self, given: Any) -> None:
        details = given._details
        group = details._group if details is not None else None
        if group is not None and group._id.val != self.caller.group_id:
            raise omero.SecurityViolation(
                message=f"a new object says group {group._id.val}, the call says {self.caller.group_id}"
            )

    def _fill(self, row: Row, given: Any, *, new: bool) -> None:
        self.pairs.append((given, row))
        different = {}
        for name in row.kind.fields:
            value = getattr(given, "_" + name)
            value = self.save(value) if isinstance(value, IObject) else value
            if new or not same(value, row.fields.get(name)):
                different[name] = value
        if different and not new:
            if not self.caller.may_edit(row):
                raise omero.SecurityViolation(message=f"Updating {row} not allowed.")
            self.change.touch(row)
        for name, value in different.items():
            self.store.assign(row, name, value)
        if different or new:
            self.touched[row] = None
        details = given._details
        if details is not None and details._externalInfo is not None:
            external = self.save(details._externalInfo)
            if row.external is not external:
                self.store.set_place(row, external=external)
        for name in row.kind.collections:
            if getattr(given, f"_{name}Loaded"):
                for member in getattr(given, f"_{name}Seq"):
                    self.save(member)

    # -- what a database would refuse -----------------------------------------------------------------------------------

    def _check(self, row: Row) -> None:
        kind = row.kind
        for name in kind.required:
            if row.fields.get(name) is None:
                raise omero.ValidationException(
                    message=f"not-null property references a null or transient value: ome.model.{kind.name}.{name}"
                )
        for base in kind.names:
            for name in kind.fields:
                if f"{base}.{name}" in SHORT_FIELDS and len(row.value(name) or "") > SHORT:
                    raise omero.ValidationException(
                        message=f"value too long for type character varying(255): {kind.name}.{name}"
                    )
        for name, target in row.fields.items():
            if isinstance(target, Row):
                self._check_reference(row, name, target)
            elif isinstance(target, omero.RString) and "\0" in target.val:
                raise omero.ValidationException(
                    message=f'invalid byte sequence for encoding "UTF8": 0x00 in {kind.name}.{name}'
                )
        if kind.is_link:
            self._check_unique(row)
        for pair in row.value("mapValue") or [] if "mapValue" in kind.fields else []:
            if pair is None or pair.name is None or pair.value is None:
                raise omero.ValidationException(message=f"{row}: a name or value of mapValue is null")

    def _check_reference(self, row: Row, name: str, target: Row) -> None:
        if target.kind.is_global or target.group is None or target.group.id == USER_GROUP or row.group is None:
            return
        if self.store.get(target.kind.name, target.id) is not target:
            raise omero.ValidationException(message=f"{row}.{name}: {target} does not exist")
        if target.group is not row.group:
            raise omero.SecurityViolation(message=f"{row} and {target} are in different groups")
        if target in self.touched or target.owner is self.caller.user:
            return
        annotating = (
            row.kind.name.endswith("AnnotationLink") or (row.kind.name == "Roi" and name == "image") or name == "roi"
        )
        allowed = self.caller.may_annotate(target) if annotating else self.caller.may_link(target)
        if not allowed and row.kind.name != "StatsInfo":
            raise omero.SecurityViolation(message=f"Cannot link to {target}: not permitted by its group's permissions")

    def _check_unique(self, row: Row) -> None:
        parent, child = row.fields["parent"], row.fields["child"]
        for other in parent.lists.get(_link_collection(row), {}):
            if (
                other is not row
                and other.kind is row.kind
                and other.fields["child"] is child
                and other.owner is row.owner
            ):
                raise omero.ValidationException(
                    message=f"duplicate key value violates unique constraint {row.kind.name.lower()}_parent_key: {parent}, {child}"
                )

    # -- the way back -----------------------------------------------------------------------------------------------------

    def answer(self) -> None:
        """Ids, versions and details for the objects that came, so that they can be sent back."""
        for given, row in self.pairs:
            given._id = rlong(row.id)
            if hasattr(given, "_version") and not row.kind.is_global:
                given._version = rint(row.version)
            details = given._details
            if details is not None:
                details._owner, details._group = proxy(row.owner), proxy(row.group)
                details._creationEvent, details._updateEvent = proxy(row.created), proxy(row.updated)
                details._permissions = self.caller.permissions(row)


def _link_collection(link: Row) -> str:
    parent = link.fields["parent"]
    for name, member in parent.kind.collections.items():
        if member == (link.kind.name, "parent"):
            return name
    return ""


def same(one: Any, other: Any) -> bool:
    """Whether two stored values are equal."""
    if isinstance(one, Row) or isinstance(other, Row):
        return one is other
    if one is None or other is None:
        return one is other
    if isinstance(one, list):
        return [(p.name, p.value) for p in one] == [(p.name, p.value) for p in other]
    if hasattr(one, "_unit"):
        return bool(one._unit == other._unit and one._value == other._value)
    if isinstance(one, omero.RType):
        return bool(unwrap(one) == unwrap(other))
    return bool(one == other)
