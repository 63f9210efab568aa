"""From rows to model objects as a client gets them: what was fetched is loaded, everything else is an unloaded proxy."""

from __future__ import annotations

from typing import Any, Protocol

import omero.model
from omero.rtypes import rint, rlong

from .hql_run import Answer, Runner
from .hql_values import DetailsOf
from .kinds import Kind
from .store import Row


class KnowsRights(Protocol):
    """Whoever asks: says what they may do with a row."""

    def permissions(self, row: Row) -> Any: ...


_DETAILS = dict(vars(omero.model.DetailsI()))


def proxy(row: Row | None) -> Any:
    """An unloaded object with an id."""
    return None if row is None else row.kind.make(row.id, False)


def _blank(kind: Kind) -> Any:
    """A loaded, empty object; made without its constructor, which costs ten times as much."""
    made = kind.make.__new__(kind.make)
    held = vars(made)
    held.update(kind.blank)
    for name in kind.collections:
        held[f"_{name}Seq"] = []
        held[f"_{name}Loaded"] = False
    return made


class Hydration:
    """One answer's objects: every row appears once, however often it was found."""

    def __init__(self, caller: KnowsRights) -> None:
        self.caller = caller
        self.objects: dict[Row, Any] = {}
        self.collections: dict[tuple[Row, str], dict[Row, None]] = {}
        self._proxies: dict[Row, Any] = {}

    def load(self, row: Row | None) -> None:
        """This row goes out loaded."""
        if row is not None and row not in self.objects:
            self.objects[row] = _blank(row.kind)

    def gather(self, owner: Row, collection: str, member: Row | None) -> None:
        """This collection goes out loaded, with this member if there is one."""
        members = self.collections.setdefault((owner, collection), {})
        if member is not None:
            members[member] = None

    def refer(self, row: Row | None) -> Any:
        """The loaded object of a row, or a proxy."""
        if row is None:
            return None
        found = self.objects.get(row) or self._proxies.get(row)
        if found is None:
            found = self._proxies[row] = proxy(row)
        return found

    def finish(self) -> None:
        """Fill the fields of all loaded objects."""
        for row, made in self.objects.items():
            held = vars(made)
            held["_id"] = rlong(row.id)
            held["_loaded"] = True
            if "_version" in held and not row.kind.is_global:
                held["_version"] = rint(row.version)
            for name in row.kind.fields:
                value = row.fields.get(name)
                held["_" + name] = self.refer(value) if isinstance(value, Row) else value
            held["_details"] = self._details(row)
        for (owner, collection), members in self.collections.items():
            held = vars(self.objects[owner])
            held[f"_{collection}Seq"] = [self.refer(member) for member in members]
            held[f"_{collection}Loaded"] = True

    def _details(self, row: Row) -> Any:
        details = omero.model.DetailsI.__new__(omero.model.DetailsI)
        held = vars(details)
        held.update(_DETAILS)
        held["_owner"] = self.refer(row.owner)
        held["_group"] = self.refer(row.group)
        held["_creationEvent"] = self.refer(row.created)
        held["_updateEvent"] = self.refer(row.updated)
        held["_externalInfo"] = self.refer(row.external)
        held["_permissions"] = self.caller.permissions(row)
        return details


def whole(caller: KnowsRights, row: Row, *also: Row) -> Any:
    """One loaded object, with these rows loaded beside it."""
    hydration = Hydration(caller)
    for one in (row, *also):
        hydration.load(one)
    hydration.finish()
    return hydration.objects[row]


def fetched(caller: KnowsRights, runner: Runner, answer: Answer) -> Hydration:
    """The objects of an answer: selected rows loaded, fetch joins followed."""
    hydration = Hydration(caller)
    for line in answer.lines:
        for value in line:
            if isinstance(value, Row):
                hydration.load(value)
    for join in answer.query.joins:
        if not join.fetch:
            continue
        start, *middle = join.path.steps[:-1]
        name = join.path.steps[-1]
        for env in answer.bindings:
            owner = env[start]
            for step in middle:
                owner = runner.step(owner, step)
            owner = owner.row if isinstance(owner, DetailsOf) else owner
            if not isinstance(owner, Row) or owner not in hydration.objects:
                continue
            member = env[join.alias]
            if name in owner.kind.collections:
                hydration.gather(owner, name, member)
            if isinstance(member, Row):
                hydration.load(member)
    hydration.finish()
    return hydration
