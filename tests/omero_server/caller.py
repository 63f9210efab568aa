"""Who calls, in which group, and what they may see and do there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import omero
import omero.model
from omero.rtypes import rtime

from .store import Row

if TYPE_CHECKING:
    from .sessions import Session
    from .world import World

USER_GROUP = 1
"""The group every user is in; what lies there everyone may read."""


class Change:
    """One transaction: the event its rows are stamped with, made when first needed."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self._event: Row | None = None

    @property
    def event(self) -> Row:
        if self._event is None:
            self._event = self.caller.world.new_event(self.caller.user, self.caller.session.row)
        return self._event

    def insert(self, kind: str, /, **fields: Any) -> Row:
        """A row owned by the caller, in the group of the call."""
        row = self.caller.world.store.insert(kind, **fields)
        self.caller.world.store.set_place(
            row, owner=self.caller.user, group=self.caller.write_group(), created=self.event, updated=self.event
        )
        return row

    def assign(self, row: Row, /, **fields: Any) -> None:
        """Change fields of a row: new version, new update event."""
        for name, value in fields.items():
            self.caller.world.store.assign(row, name, value)
        self.touch(row)

    def touch(self, row: Row) -> None:
        """The row counts as changed by this transaction."""
        self.caller.world.store.set_place(row, updated=self.event, version=row.version + 1)


class Caller:
    """The rights of one call: its session's user in the group that the call's context names (-1: all of them)."""

    def __init__(self, world: World, session: Session, context: dict[str, str]) -> None:
        self.world = world
        self.session = session
        self.user = session.user
        self.admin = world.is_admin(self.user)
        self.full_admin = self.admin and not world.is_light(self.user)
        self.groups = world.groups_of(self.user)
        self.group_id = self._group(context.get("omero.group", ""))
        self.context = context
        self._rights: dict[tuple[Row | None, Row | None], tuple[bool, ...]] = {}
        self._permissions: dict[tuple[Row | None, tuple[bool, ...]], Any] = {}

    def _group(self, text: str) -> int:
        if not text:
            return self.session.group.id
        try:
            group_id = int(text)
        except ValueError as error:
            raise omero.ApiUsageException(message=f"omero.group is not a number: '{text}'") from error
        if group_id < 0:
            return -1
        if self.world.store.get("ExperimenterGroup", group_id) is None:
            raise omero.ApiUsageException(message=f"No such group: {group_id}")
        if not self.admin and group_id not in self.groups:
            raise omero.SecurityViolation(message=f"User {self.user.id} is not a member of group {group_id}")
        return group_id

    def may_see(self, row: Row) -> bool:
        """Whether a query of this call finds the row."""
        group = row.group
        if row.kind.is_global or group is None or group.id == USER_GROUP:
            return True
        if self.group_id >= 0 and group.id != self.group_id:
            return False
        return self.admin or row.owner is self.user or (group.id in self.groups and self.world.mode(group)[2] == "r")

    def rights(self, row: Row) -> tuple[bool, ...]:
        """Whether the caller may link, edit, delete, annotate, move, give away."""
        key = (row.owner, row.group)
        found = self._rights.get(key)
        if found is None:
            found = self._rights[key] = self._find_rights(row)
        return found

    def _find_rights(self, row: Row) -> tuple[bool, ...]:
        if self.full_admin:
            return (True,) * 6
        group = row.group
        if group is None or row.kind.is_global:
            return (False,) * 6
        if row.owner is self.user and (group.id in self.groups):
            return (True,) * 5 + (False,)
        if self.world.leads(self.user, group):
            return (True,) * 6
        letter = self.world.mode(group)[3] if group.id in self.groups else "-"
        everything, annotate = letter == "w", letter in "aw"
        return (everything, everything, everything, annotate, False, False)

    def may_link(self, row: Row) -> bool:
        return self.rights(row)[0]

    def may_edit(self, row: Row) -> bool:
        return self.rights(row)[1]

    def may_delete(self, row: Row) -> bool:
        return self.rights(row)[2]

    def may_annotate(self, row: Row) -> bool:
        return self.rights(row)[3]

    def permissions(self, row: Row) -> Any:
        """omero.model.Permissions as `canEdit()` and its like read them: six restrictions in OMERO's order."""
        group = row.group if row.kind.name != "ExperimenterGroup" else row
        rights = self.rights(row)
        made = self._permissions.get((group, rights))
        if made is None:
            made = omero.model.PermissionsI(self.world.mode(group) if group is not None else "rw----")
            made._restrictions = [not allowed for allowed in rights]
            made._extendedRestrictions = []
            self._permissions[group, rights] = made
        return made

    def see(self, kind: str, row_id: int) -> Row:
        """The row if the caller may see it, else the ValidationException that clients know."""
        row = self.world.store.get(kind, row_id)
        if row is None or not self.may_see(row):
            raise omero.ValidationException(
                message=f"The requested object (ome.model.{kind},{row_id}) is not available."
            )
        return row

    def write_group(self) -> Row:
        """The group that new rows go into."""
        if self.group_id < 0:
            raise omero.SecurityViolation(message="omero.group=-1 is for reading: new objects need a group")
        return self.world.store.need("ExperimenterGroup", self.group_id)

    @contextmanager
    def change(self) -> Iterator[Change]:
        """All or nothing; refused in group -1."""
        self.write_group()
        if self.admin and not self.full_admin and self.group_id not in self.groups:
            raise omero.SecurityViolation(message=f"User {self.user.id} may not write in group {self.group_id}")
        with self.world.store.all_or_nothing():
            yield Change(self)


def now() -> Any:
    """The server's time as OMERO keeps it."""
    import time

    return rtime(time.time() * 1000)
