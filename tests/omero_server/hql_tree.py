"""Questions about the tree of a query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .hql_parse import AGGREGATES, Call, HqlError, Operation, Path, Query


def paths(node: Any) -> Iterator[Path]:
    """All paths of an expression, subselects left out."""
    if isinstance(node, Path):
        yield node
    elif isinstance(node, Call):
        for part in node.arguments:
            yield from paths(part)
    elif isinstance(node, Operation) and node.kind not in ("subselect", "scalar", "exists", "case"):
        for part in node.parts:
            yield from paths(part)


def relations(path: Path) -> tuple[str, ...]:
    """The part of a path that must be joined: ids are columns of the table before, lengths and details parts of it."""
    steps = path.steps[:-1]
    if path.steps[-1] in ("id", "value", "unit", "details"):
        steps = steps[:-1]
    return steps[:-1] if steps and steps[-1] == "details" else steps


def conjuncts(node: Any) -> list[Any]:
    """The conditions that all have to hold."""
    if node is None:
        return []
    if isinstance(node, Operation) and node.kind == "and":
        return [part for side in node.parts for part in conjuncts(side)]
    return [node]


def is_aggregate(node: Any) -> bool:
    """Whether an expression is taken over many lines."""
    if isinstance(node, Call):
        return node.kind in AGGREGATES
    return (
        isinstance(node, Operation)
        and node.kind not in ("case", "subselect", "scalar", "exists")
        and any(map(is_aggregate, node.parts))
    )


def is_type(node: Call, argument: Any) -> bool:
    """The last argument of cast() is no value."""
    return node.kind == "cast" and argument is node.arguments[-1]


def check_columns(query: Query, chosen: list[Any]) -> None:
    """What Postgres refuses: columns beside aggregates that are not grouped, distinct ordered by something else."""
    if query.groups or any(is_aggregate(one) for one in chosen):
        for one in [*chosen, *(expression for expression, _ in query.order)]:
            if not is_aggregate(one) and any(path not in query.groups for path in paths(one)):
                raise HqlError(
                    "a selected column must appear in the GROUP BY clause or be used in an aggregate function"
                )
    elif query.distinct:
        selected = {one.steps[0] for one in chosen if isinstance(one, Path) and len(one.steps) == 1}
        for one, _ in query.order:
            if one not in chosen and not (isinstance(one, Path) and one.steps[0] in selected):
                raise HqlError("for SELECT DISTINCT, ORDER BY expressions must appear in select list")
