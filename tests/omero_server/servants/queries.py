"""IQuery and ITypes."""

from __future__ import annotations

from typing import Any

import omero
import omero.api
from omero.model import IObject
from omero.rtypes import rlist, rmap, robject, unwrap, wrap

from ..caller import Caller
from ..hql_parse import HqlError
from ..hql_run import Answer, Runner, parse
from ..hydrate import Hydration, fetched, whole
from ..kinds import ROOTS, kind_name
from ..servant import Servant, service
from ..store import Row

MOST_PARAMETERS = 32_767
"""Values that Postgres's driver binds in one statement."""


def parameter_values(parameters: Any) -> dict[str, Any]:
    """Named parameters as plain values; objects stand for their ids. Empty lists are refused, as by SQL."""
    found = {}
    for name, held in (parameters.map or {}).items() if parameters else ():
        value = unwrap(held)
        if isinstance(value, IObject):
            value = value.id.val
        if isinstance(value, list):
            if not value:
                raise HqlError(f"the list ':{name}' is empty: 'in ()' is not SQL")
            if len(value) > MOST_PARAMETERS:
                raise HqlError(
                    f"the list ':{name}' is too long: Tried to send an out-of-range integer as a 2-byte value: {len(value)}"
                )
            value = [one.id.val if isinstance(one, IObject) else one for one in value]
        found[name] = value
    return found


def page(parameters: Any) -> tuple[int, int | None]:
    """Offset and limit of a request."""
    window = parameters.theFilter if parameters else None
    if window is None:
        return 0, None
    offset, limit = unwrap(window.offset), unwrap(window.limit)
    return (offset or 0), limit


def find(
    caller: Caller, text: str, values: dict[str, Any], window: tuple[int, int | None] = (0, None)
) -> tuple[Answer, Hydration]:
    """Run a query. With a limit and fetched collections, Hibernate cuts the list of different objects, not of lines."""
    with caller.world.store.lock:
        query = parse(text)
        runner = Runner(caller.world.store, query, values, caller.may_see)
        answer = runner.run()
        offset, limit = window
        collects = any(join.fetch for join in query.joins)
        if collects and (query.distinct or limit is not None):
            first: dict[int, list[Any]] = {}
            for line in answer.lines:
                first.setdefault(id(line[0]), line)
            answer.lines = list(first.values())
        if offset or limit is not None:
            stop = None if limit is None else offset + limit
            answer.lines = answer.lines[offset:stop]
            if not collects:
                answer.bindings = answer.bindings[offset:stop]
        return answer, fetched(caller, runner, answer)


def find_objects(caller: Caller, text: str, window: tuple[int, int | None] = (0, None), **values: Any) -> list[Any]:
    """The first selected object of each line."""
    answer, hydration = find(caller, text, values, window)
    return [hydration.objects[line[0]] if isinstance(line[0], Row) else None for line in answer.lines]


def find_one(caller: Caller, text: str, **values: Any) -> Any:
    """One object or None; several different ones are an error."""
    found = list({id(one): one for one in find_objects(caller, text, **values)}.values())
    if len(found) > 1:
        raise omero.ApiUsageException(message="query did not return a unique result")
    return found[0] if found else None


def _mapped(name: str) -> str:
    kind = kind_name(name)
    if kind not in ROOTS:
        raise omero.ApiUsageException(message=f"{name} is not mapped")
    return kind


@service(omero.api.IQuery, omero.api.IQueryPrx, "getQueryService")
class QueryService(Servant, omero.api.IQuery):
    """Reading by HQL, by id, by a field."""

    def do_findAllByQuery(self, caller: Caller, text: str, parameters: Any) -> list[Any]:
        answer, hydration = find(caller, text, parameter_values(parameters), page(parameters))
        if answer.query.select and len(answer.query.select) > 1:
            raise omero.ApiUsageException(message="findAllByQuery takes one object per line: use projection")
        return [hydration.objects[line[0]] if isinstance(line[0], Row) else None for line in answer.lines]

    def do_findByQuery(self, caller: Caller, text: str, parameters: Any) -> Any:
        found = list({id(one): one for one in self.do_findAllByQuery(caller, text, parameters)}.values())
        if len(found) > 1:
            raise omero.ApiUsageException(message="query did not return a unique result")
        return found[0] if found else None

    def do_projection(self, caller: Caller, text: str, parameters: Any) -> list[list[Any]]:
        answer, hydration = find(caller, text, parameter_values(parameters), page(parameters))

        def sent(value: Any) -> Any:
            if isinstance(value, Row):
                return robject(hydration.objects[value])
            if isinstance(value, list):
                return rlist([sent(one) for one in value])
            if value is None:
                return None
            if isinstance(value, bool | int | float | str):
                return wrap(value)
            raise HqlError(f"a {type(value).__name__} cannot be projected")

        if answer.query.as_map:
            names = [alias or str(n) for n, (_, alias) in enumerate(answer.query.select)]
            return [[rmap(dict(zip(names, map(sent, line), strict=True)))] for line in answer.lines]
        return [[sent(value) for value in line] for line in answer.lines]

    def do_get(self, caller: Caller, kind: str, row_id: int) -> Any:
        return whole(caller, caller.see(_mapped(kind), row_id))

    def do_find(self, caller: Caller, kind: str, row_id: int) -> Any:
        row = caller.world.store.get(_mapped(kind), row_id)
        return whole(caller, row) if row is not None and caller.may_see(row) else None

    def do_findAll(self, caller: Caller, kind: str, window: Any) -> list[Any]:
        return [whole(caller, row) for row in caller.world.store.rows(_mapped(kind)) if caller.may_see(row)]

    def do_findAllByString(
        self, caller: Caller, kind: str, field: str, value: str, _case: bool, window: Any
    ) -> list[Any]:
        rows = caller.world.store.rows(_mapped(kind))
        return [whole(caller, row) for row in rows if caller.may_see(row) and row.value(field) == value]

    def do_findByString(self, caller: Caller, kind: str, field: str, value: str) -> Any:
        found = self.do_findAllByString(caller, kind, field, value, True, None)
        return found[0] if found else None


@service(omero.api.ITypes, omero.api.ITypesPrx, "getTypesService")
class TypesService(Servant, omero.api.ITypes):
    """Vocabularies."""

    def do_allEnumerations(self, caller: Caller, kind: str) -> list[Any]:
        return [whole(caller, row) for row in caller.world.store.rows(_mapped(kind))]

    def do_getEnumeration(self, caller: Caller, kind: str, value: str) -> Any:
        return whole(caller, caller.world.store.word(_mapped(kind), value))
