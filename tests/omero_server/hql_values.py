"""Values inside a query: SQL's three truth values, comparisons, arithmetic; each as a function of the bindings."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import omero
from omero.rtypes import unwrap

from .hql_parse import Call, HqlError, Path
from .store import Row

Env = dict[str, Any]
Value = Callable[[Env], Any]
COMPARISONS = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
}  # fmt: skip
ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "||": operator.add}


@dataclass(frozen=True)
class DetailsOf:
    """The `details` of a row on the way to its owner, group or events."""

    row: Row


def plain(held: Any) -> Any:
    """The Python value of a stored field; rows, lengths and named values stay what they are."""
    return unwrap(held) if isinstance(held, omero.RType) else held


def scalar(value: Any) -> Any:
    """What a comparison sees: ids for rows; a collection cannot be compared."""
    if isinstance(value, Row):
        return value.id
    if isinstance(value, list | DetailsOf):
        raise HqlError("illegal attempt to compare or dereference a collection")
    return value


def cast_to(node: Call) -> Callable[[Any], Any]:
    if node.kind != "cast":
        return str
    kind = node.arguments[-1].steps[0].lower() if isinstance(node.arguments[-1], Path) else ""
    known = {"string": str, "long": int, "integer": int, "int": int, "double": float, "float": float}
    if kind not in known:
        raise HqlError(f"cast to '{kind}' is not known here")
    return known[kind]


def order_key(value: Any) -> tuple[bool, Any]:
    return value is None, 0 if value is None else value


def distinct(lines: list[list[Any]], bindings: list[Env]) -> tuple[list[list[Any]], list[Env]]:
    first: dict[tuple, int] = {}
    for n, line in enumerate(lines):
        first.setdefault(tuple(line), n)
    return [lines[n] for n in first.values()], [bindings[n] for n in first.values()]


def flat(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found.extend(map(scalar, value) if isinstance(value, list) else [scalar(value)])
    return found


def and_or(kind: str, left: Value, right: Value) -> Value:
    decisive = kind == "or"

    def both(env: Env) -> bool | None:
        first = left(env)
        if first is decisive:
            return decisive
        second = right(env)
        if second is decisive:
            return decisive
        return None if first is None or second is None else not decisive

    return both


def compare(test: Callable[[Any, Any], bool], left: Value, right: Value) -> Value:
    def compared(env: Env) -> bool | None:
        a, b = scalar(left(env)), scalar(right(env))
        if a is None or b is None:
            return None
        if isinstance(a, str) != isinstance(b, str):
            raise HqlError(f"operator does not exist: {type(a).__name__} and {type(b).__name__}")
        return bool(test(a, b))

    return compared


def is_in(left: Value, right: Value) -> Value:
    def member(env: Env) -> bool | None:
        value, choices = scalar(left(env)), right(env)
        if not choices and choices is not None and not isinstance(choices, str):
            return False
        return None if value is None else value in choices

    return member


def is_like(left: Value, right: Value) -> Value:
    def matches(env: Env) -> bool | None:
        value, pattern = scalar(left(env)), scalar(right(env))
        if value is None or pattern is None:
            return None
        expression = "".join({"%": ".*", "_": "."}.get(sign, re.escape(sign)) for sign in pattern)
        return re.fullmatch(expression, value, re.DOTALL) is not None

    return matches


def arithmetic(apply: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    def computed(env: Env) -> Any:
        a, b = scalar(left(env)), scalar(right(env))
        return None if a is None or b is None else apply(a, b)

    return computed
