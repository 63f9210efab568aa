"""Whether two trees are the same: same nodes in the same order, same values, same things shared."""

from __future__ import annotations

from collections.abc import Sequence

from mxbridge.workspaces.qupath.javastream.nodes import (
    Block,
    ClassDesc,
    JavaArray,
    JavaClass,
    JavaEnum,
    JavaObject,
    JavaString,
    Value,
)


def same_content(first: Sequence[Value], second: Sequence[Value]) -> bool:
    """True when both trees would be read by Java as the same objects. Iterative; each node is visited once."""
    pairs: dict[int, int] = {}
    backwards: dict[int, int] = {}
    waiting: list[tuple[Value, Value]] = []
    if not _compare(first, second, waiting):
        return False
    while waiting:
        a, b = waiting.pop()
        if id(a) in pairs or id(b) in backwards:
            if pairs.get(id(a)) != id(b) or backwards.get(id(b)) != id(a):
                return False
            continue
        pairs[id(a)], backwards[id(b)] = id(b), id(a)
        if not _same_node(a, b, waiting):
            return False
    return True


def _compare(first: Sequence[Value], second: Sequence[Value], waiting: list[tuple[Value, Value]]) -> bool:
    """Compare item by item what has no identity of its own; the other pairs go to ``waiting``."""
    if len(first) != len(second):
        return False
    for a, b in zip(first, second, strict=True):
        if type(a) is not type(b):
            return False
        if a is None or isinstance(a, bytes):
            if a != b:
                return False
        elif isinstance(a, Block) and isinstance(b, Block):
            if a.data != b.data:
                return False
        else:
            waiting.append((a, b))
    return True


def _same_node(a: Value, b: Value, waiting: list[tuple[Value, Value]]) -> bool:  # noqa: PLR0911 - one per kind of node
    """Compare what a node says itself; the nodes it holds go to ``waiting``."""
    if isinstance(a, JavaObject) and isinstance(b, JavaObject):
        waiting.append((a.desc, b.desc))
        if len(a.parts) != len(b.parts):
            return False
        for p, q in zip(a.parts, b.parts, strict=True):
            same_kind = (p.values is None) == (q.values is None) and (p.annotations is None) == (q.annotations is None)
            if not same_kind or not _compare(p.values or (), q.values or (), waiting):
                return False
            if not _compare(p.annotations or (), q.annotations or (), waiting):
                return False
        return True
    if isinstance(a, JavaString) and isinstance(b, JavaString):
        return a.raw == b.raw
    if isinstance(a, JavaArray) and isinstance(b, JavaArray):
        waiting.append((a.desc, b.desc))
        if isinstance(a.values, bytes) or isinstance(b.values, bytes):
            return a.values == b.values
        return _compare(a.values, b.values, waiting)
    if isinstance(a, ClassDesc) and isinstance(b, ClassDesc):
        signatures = [f.signature for f in a.fields], [f.signature for f in b.fields]
        said = (a.name, a.uid, a.flags, [f.key for f in a.fields]) == (
            b.name,
            b.uid,
            b.flags,
            [f.key for f in b.fields],
        )
        held = [*signatures[0], *a.annotations, a.base], [*signatures[1], *b.annotations, b.base]
        return said and _compare(*held, waiting)
    if isinstance(a, JavaEnum) and isinstance(b, JavaEnum):
        return _compare([a.desc, a.constant], [b.desc, b.constant], waiting)
    return isinstance(a, JavaClass) and isinstance(b, JavaClass) and _compare([a.desc], [b.desc], waiting)
