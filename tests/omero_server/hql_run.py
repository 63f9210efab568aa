"""Run a parsed query over the store: candidates by id or by relation, joins, conditions with SQL's three truth values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import omero.model

from .hql_parse import AGGREGATES, Call, HqlError, Literal, Operation, Parameter, Parser, Path, Query
from .hql_tree import check_columns, conjuncts, is_aggregate, is_type, paths, relations
from .hql_values import (
    ARITHMETIC,
    COMPARISONS,
    DetailsOf,
    Env,
    Value,
    and_or,
    arithmetic,
    cast_to,
    compare,
    distinct,
    flat,
    is_in,
    is_like,
    order_key,
    plain,
    scalar,
)
from .kinds import CONCRETE, INVERSE, KINDS, ROOTS, kind_name
from .store import Row, Store


class Answer:
    """What a query found: the selected values per line, and the bindings behind each line (for fetching)."""

    def __init__(self, query: Query, lines: list[list[Any]], bindings: list[Env]) -> None:
        self.query = query
        self.lines = lines
        self.bindings = bindings


class Runner:
    """One query (or subselect) made ready: `visible` says which rows the caller may see."""

    def __init__(
        self,
        store: Store,
        query: Query,
        parameters: dict[str, Any],
        visible: Callable[[Row], bool],
        outer: Iterable[str] = (),
    ) -> None:
        self.store = store
        self.query = query
        self.parameters = parameters
        self.visible = visible
        self.outer = frozenset(outer)
        self.aliases = [alias for _, alias in query.sources] + [join.alias for join in query.joins]
        self.correlated = False
        self._check_fetches()

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, env: Env | None = None) -> Answer:
        """All lines in order."""
        query = self.query
        bindings = self._bindings(env or {})
        chosen = [expression for expression, _ in query.select] or [Path((alias,)) for _, alias in query.sources]
        check_columns(query, chosen)
        if query.groups or any(is_aggregate(expression) for expression in chosen):
            return Answer(query, self._grouped(chosen, bindings), [])
        for expression, descending in reversed(query.order):
            key = self.compile(expression)
            try:
                bindings.sort(key=lambda one: order_key(scalar(key(one))), reverse=descending)
            except TypeError as error:
                raise HqlError(f"order by: {error}") from error
        values = [self.compile(expression) for expression in chosen]
        lines = [[value(one) for value in values] for one in bindings]
        if query.distinct and not any(join.fetch for join in query.joins):
            lines, bindings = distinct(lines, bindings)
        return Answer(query, lines, bindings)

    def _bindings(self, env: Env) -> list[Env]:
        waiting = [(self._needs(part), part) for part in conjuncts(self.query.where)]
        bound = set(self.outer)
        found = [dict(env)]
        for source, alias in self.query.sources:
            found = [{**one, alias: row} for one in found for row in self._source(source, alias, one)]
            bound.add(alias)
            found = self._filter(found, waiting, bound)
        for join in self.query.joins:
            if join.path.steps[0] not in bound:
                raise HqlError(f"undefined alias '{join.path.steps[0]}' in the join of {'.'.join(join.path.steps)}")
            follow = self.compile(join.path)
            condition = self.compile(join.condition) if join.condition is not None else None
            found = list(self._joined(found, join, follow, condition))
            bound.add(join.alias)
            found = self._filter(found, waiting, bound)
        return self._inner_joined(self._filter(found, waiting, None))

    def _inner_joined(self, found: list[Env]) -> list[Env]:
        """A path through an empty relation drops the line, as the inner join does that Hibernate makes of it."""
        query = self.query
        nodes = [expression for expression, _ in query.select] + [expression for expression, _ in query.order]
        for steps in dict.fromkeys(relations(path) for node in [*nodes, query.where] for path in paths(node)):
            if len(steps) > 1 and steps[0] in self.aliases:
                follow = self.compile(Path(steps))
                found = [one for one in found if follow(one) is not None]
        return found

    def _filter(self, found: list[Env], waiting: list, bound: set[str] | None) -> list[Env]:
        ready = [pair for pair in waiting if bound is None or pair[0] <= bound]
        for pair in ready:
            waiting.remove(pair)
            holds = self.compile(pair[1])
            found = [one for one in found if holds(one) is True]
        return found

    def _joined(self, found: list[Env], join: Any, follow: Value, condition: Value | None) -> Iterator[Env]:
        for one in found:
            target = follow(one)
            members = target if isinstance(target, list) else [] if target is None else [target]
            lines = [{**one, join.alias: member} for member in members]
            if condition is not None:
                lines = [line for line in lines if condition(line) is True]
            if lines or not join.outer:
                yield from lines
            else:
                yield {**one, join.alias: None}

    def _source(self, source: Any, alias: str, env: Env) -> Iterable[Any]:
        first, _, rest = str(source).partition(".")
        if first in env and rest:
            self.correlated = self.correlated or first in self.outer
            members = self.compile(Path(tuple(source.split("."))))(env)
            return members if isinstance(members, list) else [members]
        kind = kind_name(str(source))
        if kind not in ROOTS:
            raise HqlError(f"{source} is not mapped")
        candidates = self._narrowed(kind, alias)
        if candidates is None:
            candidates = self.store.rows(kind)
        return [row for row in candidates if self.visible(row)]

    def _narrowed(self, kind: str, alias: str) -> list[Row] | None:
        """Rows that a condition `alias.<relations>.id = / in` leaves, found without walking the table."""
        for part in conjuncts(self.query.where):
            if not (isinstance(part, Operation) and part.kind in ("=", "in") and isinstance(part.parts[0], Path)):
                continue
            steps, wanted = part.parts[0].steps, part.parts[1]
            constant = isinstance(wanted, Literal | Parameter) or (
                isinstance(wanted, Operation) and wanted.kind == "list"
            )
            if steps[0] != alias or steps[-1] != "id" or not constant:
                continue
            values = self.compile(wanted)({})
            ids = list(values) if isinstance(values, list | frozenset) else [values]
            found = self._by_relation(kind, steps[1:], ids)
            if found is not None:
                return found
        return None

    def _by_relation(self, kind: str, steps: tuple[str, ...], ids: list[Any]) -> list[Row] | None:
        if steps == ("id",):
            found = {self.store.get(kind, one) for one in ids if isinstance(one, int)}
            return sorted((row for row in found if row is not None), key=lambda row: row.id)
        owners = {owner for name in CONCRETE.get(kind, ()) for owner in INVERSE.get((name, steps[0]), ())}
        if not owners:
            return None
        members: dict[Row, None] = {}
        for owner, collection in owners:
            rows = self._by_relation(owner, steps[1:], ids)
            if rows is None:
                return None
            for row in rows:
                members.update(row.lists.get(collection, {}))
        return sorted((row for row in members if row.kind.name in CONCRETE[kind]), key=lambda row: row.id)

    def _grouped(self, chosen: list[Any], bindings: list[Env]) -> list[list[Any]]:
        keys = [self.compile(group) for group in self.query.groups]
        groups: dict[tuple, list[Env]] = {}
        for one in bindings:
            groups.setdefault(tuple(scalar(key(one)) for key in keys), []).append(one)
        if not groups and not keys:
            groups[()] = []
        if self.query.having is not None:
            groups = {k: g for k, g in groups.items() if self._aggregated(self.query.having, g) is True}
        order = [(lambda g, e=e: order_key(scalar(self._aggregated(e, g))), d) for e, d in self.query.order]
        listed = list(groups.values())
        for key, descending in reversed(order):
            listed.sort(key=key, reverse=descending)
        return [[self._aggregated(expression, group) for expression in chosen] for group in listed]

    def _aggregated(self, expression: Any, group: list[Env]) -> Any:
        if isinstance(expression, Call) and expression.kind in AGGREGATES:
            value = self.compile(expression.arguments[0])
            found = [one for one in (scalar(value(env)) for env in group) if one is not None]
            if expression.distinct:
                found = list(dict.fromkeys(found))
            if expression.kind == "count":
                return len(found)
            if not found:
                return None
            return (
                sum(found) / len(found)
                if expression.kind == "avg"
                else {"max": max, "min": min, "sum": sum}[expression.kind](found)
            )
        if isinstance(expression, Operation) and is_aggregate(expression):
            parts = tuple(Literal(scalar(self._aggregated(part, group))) for part in expression.parts)
            return self.compile(Operation(expression.kind, parts))({})
        return self.compile(expression)(group[0]) if group else None

    # -- expressions --------------------------------------------------------------------------------------------------

    def compile(self, node: Any) -> Value:
        """A function from bindings to the value of an expression."""
        if isinstance(node, Path):
            return self._path(node)
        if isinstance(node, Literal):
            return lambda env: node.value
        if isinstance(node, Parameter):
            if node.name not in self.parameters:
                raise HqlError(f"Not all named parameters have been set: [{node.name}]")
            value = self.parameters[node.name]
            return lambda env: value
        if isinstance(node, Call):
            return self._call(node)
        return self._operation(node)

    def _path(self, node: Path) -> Value:
        steps = node.steps
        if steps[0] in self.aliases or steps[0] in self.outer:
            start = steps[0]
            self.correlated = self.correlated or start not in self.aliases
            steps = steps[1:]
            self._check_property(start, steps)
        elif len(steps) == 1 and steps[0] in ROOTS:
            return lambda env: steps[0]
        elif len(self.query.sources) == 1 and self._has(kind_name(str(self.query.sources[0][0])), steps[0]):
            start = self.query.sources[0][1]
        else:
            raise HqlError(f"undefined alias or property: {'.'.join(steps)}")
        if not steps:
            return lambda env: env[start]

        def follow(env: Env) -> Any:
            value = env[start]
            for step in steps:
                value = self.step(value, step)
            return value

        return follow

    def _check_property(self, alias: str, steps: tuple[str, ...]) -> None:
        """A wrong property is an error even when there is no row to ask for it."""
        for source, name in self.query.sources:
            kind = kind_name(str(source))
            if name == alias and steps and kind in ROOTS and not self._has(kind, steps[0]):
                raise HqlError(f"could not resolve property: {steps[0]} of: {kind}")

    @staticmethod
    def _has(kind: str, name: str) -> bool:
        return name in ("id", "details", "class", "version") or any(
            name in KINDS[one].fields or name in KINDS[one].collections for one in CONCRETE.get(kind, ())
        )

    def step(self, value: Any, name: str) -> Any:
        """One step of a path."""
        if value is None:
            return None
        if isinstance(value, Row):
            return self._row_step(value, name)
        if isinstance(value, DetailsOf):
            row = value.row
            places = {
                "owner": row.owner, "group": row.group, "creationEvent": row.created, "updateEvent": row.updated,
                "externalInfo": row.external, "permissions": 0,
            }  # fmt: skip
            if name not in places:
                raise HqlError(f"could not resolve property: {name} of details")
            return places[name]
        if isinstance(value, list):
            raise HqlError("illegal attempt to dereference collection")
        if name == "value" and hasattr(value, "_value"):
            return plain(value._value)
        if name == "unit" and hasattr(value, "_unit"):
            return str(value._unit)
        if isinstance(value, omero.model.NamedValue) and name in ("name", "value"):
            return getattr(value, name)
        raise HqlError(f"could not resolve property: {name} of {type(value).__name__}")

    def _row_step(self, row: Row, name: str) -> Any:
        if name == "id":
            return row.id
        if name in row.kind.fields:
            return plain(row.fields.get(name))
        if name in row.kind.collections:
            return [member for member in row.lists.get(name, ()) if self.visible(member)]
        if name == "details":
            return DetailsOf(row)
        if name == "class":
            return row.kind.name
        if name == "version":
            return row.version
        if self._has(row.kind.root, name):  # a property of a sister class: no value here
            return None
        raise HqlError(f"could not resolve property: {name} of: {row.kind.name}")

    def _operation(self, node: Operation) -> Value:
        kind, parts = node.kind, node.parts
        if kind in ("subselect", "scalar", "exists"):
            return self._nested(kind, parts[0])
        if kind == "case":
            branches = [(self.compile(condition), self.compile(result)) for condition, result in parts[0]]
            otherwise = self.compile(parts[1])
            return lambda env: next((r(env) for c, r in branches if c(env) is True), otherwise(env))
        compiled = [self.compile(part) for part in parts]
        if kind in ("and", "or"):
            return and_or(kind, *compiled)
        if kind == "not":
            return lambda env: None if (held := compiled[0](env)) is None else not held
        if kind == "is null":
            return lambda env: compiled[0](env) is None
        if kind == "is empty":
            return lambda env: not compiled[0](env)
        if kind == "list" and all(isinstance(part, Literal | Parameter) for part in parts):
            fixed = frozenset(flat(value({}) for value in compiled))
            return lambda env: fixed
        if kind == "list":
            return lambda env: flat(value(env) for value in compiled)
        if kind == "in":
            return is_in(*compiled)
        if kind == "like":
            return is_like(*compiled)
        if kind in COMPARISONS:
            return compare(COMPARISONS[kind], *compiled)
        return arithmetic(ARITHMETIC[kind], *compiled)

    def _nested(self, kind: str, query: Query) -> Value:
        inner = Runner(self.store, query, self.parameters, self.visible, [*self.outer, *self.aliases])
        once: list[Any] = []

        def lines(env: Env) -> list[list[Any]]:
            if once:
                return once[0]
            found = inner.run(env).lines
            if not inner.correlated:
                once.append(found)
            return found

        if kind == "exists":
            return lambda env: bool(lines(env))
        if kind == "scalar":
            return lambda env: (lines(env) or [[None]])[0][0]
        return lambda env: [scalar(line[0]) for line in lines(env)]

    def _call(self, node: Call) -> Value:
        if node.kind in AGGREGATES:
            raise HqlError(f"{node.kind}() stands only in select, having and order by here")
        compiled = [self.compile(argument) for argument in node.arguments if not is_type(node, argument)]
        if node.kind == "size":
            return lambda env: len(compiled[0](env) or [])
        if node.kind == "elements":
            return compiled[0]
        if node.kind == "coalesce":
            return lambda env: next((found for value in compiled if (found := value(env)) is not None), None)
        if node.kind == "index":
            return self._index(node)
        simple = {
            "lower": lambda a: str(a).lower(), "upper": lambda a: str(a).upper(), "length": len, "str": str, "trim": lambda a: str(a).strip(),
            "cast": cast_to(node), "abs": abs, "concat": lambda *a: "".join(map(str, a)), "mod": operator.mod,
            "nullif": lambda a, b: None if a == b else a,
        }[node.kind]  # fmt: skip

        def apply(env: Env) -> Any:
            values = [scalar(value(env)) for value in compiled]
            return None if any(value is None for value in values) else simple(*values)

        return apply

    def _index(self, node: Call) -> Value:
        argument = node.arguments[0]
        joins = [join for join in self.query.joins if isinstance(argument, Path) and argument.steps == (join.alias,)]
        if not joins:
            raise HqlError("index() takes the alias of a joined collection")
        owner = self.compile(Path(joins[0].path.steps[:-1]))
        collection = joins[0].path.steps[-1]

        def position(env: Env) -> Any:
            member = env[joins[0].alias]
            if member is None:
                return None
            held = owner(env)
            members = list(held.lists.get(collection, ())) or plain(held.fields.get(collection)) or []
            return next(n for n, one in enumerate(members) if one is member)

        return position

    # -- what a query refers to -----------------------------------------------------------------------------------------

    def _needs(self, node: Any) -> frozenset[str]:
        """Aliases that must be bound before a condition can be tested."""
        if isinstance(node, Path):
            first = node.steps[0]
            known = first in self.aliases or first in self.outer
            return frozenset([first if known else self.query.sources[0][1]])
        if isinstance(node, Operation) and node.kind in ("subselect", "scalar", "exists"):
            return frozenset(self.aliases)
        parts = node.arguments if isinstance(node, Call) else node.parts if isinstance(node, Operation) else ()
        if isinstance(node, Operation) and node.kind == "case":
            parts = (*(part for branch in node.parts[0] for part in branch), node.parts[1])
        return frozenset().union(*(self._needs(part) for part in parts))

    def _check_fetches(self) -> None:
        """Hibernate's rule: what is fetched must belong to something selected."""
        if not any(join.fetch for join in self.query.joins):
            return
        selected = {expression.steps[0] for expression, _ in self.query.select if isinstance(expression, Path)}
        if not self.query.select:
            selected = {alias for _, alias in self.query.sources}
        for join in self.query.joins:
            if join.fetch and join.path.steps[0] not in selected:
                raise HqlError(
                    "query specified join fetching, but the owner of the fetched association was not present in the "
                    f"select list [{'.'.join(join.path.steps)}]"
                )
            if join.fetch:
                selected.add(join.alias)


def parse(text: str) -> Query:
    """The tree of a query text."""
    return Parser(text).whole()
