"""Whether two trees are the same: same nodes in the same order, same values, same things shared.

Objects that are nodes in one tree and bytes of a pack in the other are compared as nodes, packed ones as arrays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mxbridge.workspaces.qupath.javastream.nodes import (
    Block,
    ClassDesc,
    Item,
    JavaArray,
    JavaClass,
    JavaEnum,
    JavaObject,
    JavaString,
    Rows,
    Value,
)
from mxbridge.workspaces.qupath.javastream.same_rows import same_rows


def same_content(first: Sequence[Value], second: Sequence[Value]) -> bool:
    """True when both trees would be read by Java as the same objects. Iterative; each node is visited once."""
    pairs: dict[int, int] = {}
    backwards: dict[int, int] = {}
    waiting = _Waiting()
    if not _compare(first, second, waiting):
        return False
    while waiting.pairs:
        a, b = waiting.pairs.pop()
        if id(a) in pairs or id(b) in backwards:
            if pairs.get(id(a)) != id(b) or backwards.get(id(b)) != id(a):
                return False
            continue
        pairs[id(a)], backwards[id(b)] = id(b), id(a)
        if not _same_node(a, b, waiting):
            return False
    return True


class _Waiting:
    """Pairs of nodes to compare yet. alive: nodes made for the comparison; their identities must not be used again."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Value, Value]] = []
        self.alive: list[JavaObject] = []


def _compare(first: Sequence[Value], second: Sequence[Value], waiting: _Waiting) -> bool:
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
            waiting.pairs.append((a, b))
    return True


def _compare_annotations(first: Sequence[Item], second: Sequence[Item], waiting: _Waiting) -> bool:
    """As :func:`_compare`, where one item may stand for many objects."""
    if not any(isinstance(item, Rows) for item in (*first, *second)):
        return _compare(first, second, waiting)
    if sum(map(_width, first)) != sum(map(_width, second)):
        return False
    left, right = (deque((item, 0) for item in items) for items in (first, second))
    while left:
        (a, i), (b, j) = left.popleft(), right.popleft()
        if isinstance(a, Rows) and isinstance(b, Rows):
            size = min(len(a) - i, len(b) - j)
            same = same_rows(a.pack, a.first + i, b.pack, b.first + j, size)
            if same is None:
                return False
            waiting.pairs += same.pairs
            for m, n in same.as_nodes:
                waiting.alive += [x := a.pack.node(m), y := b.pack.node(n)]
                waiting.pairs.append((x, y))
        else:
            size = 1
            if not _compare([_as_node(a, i, waiting)], [_as_node(b, j, waiting)], waiting):
                return False
        if isinstance(a, Rows) and i + size < len(a):
            left.appendleft((a, i + size))
        if isinstance(b, Rows) and j + size < len(b):
            right.appendleft((b, j + size))
    return not right


def _width(item: Item) -> int:
    return len(item) if isinstance(item, Rows) else 1


def _as_node(item: Item, offset: int, waiting: _Waiting) -> Item:
    if not isinstance(item, Rows):
        return item
    waiting.alive.append(item.pack.node(item.first + offset))
    return waiting.alive[-1]


def _same_node(a: Value, b: Value, waiting: _Waiting) -> bool:  # noqa: PLR0911 - one per kind of node
    """Compare what a node says itself; the nodes it holds go to ``waiting``."""
    if isinstance(a, JavaObject) and isinstance(b, JavaObject):
        waiting.pairs.append((a.desc, b.desc))
        if len(a.parts) != len(b.parts):
            return False
        for p, q in zip(a.parts, b.parts, strict=True):
            same_kind = (p.values is None) == (q.values is None) and (p.annotations is None) == (q.annotations is None)
            if not same_kind or not _compare(p.values or (), q.values or (), waiting):
                return False
            if not _compare_annotations(p.annotations or [], q.annotations or [], waiting):
                return False
        return True
    if isinstance(a, JavaString) and isinstance(b, JavaString):
        return a.raw == b.raw
    if isinstance(a, JavaArray) and isinstance(b, JavaArray):
        waiting.pairs.append((a.desc, b.desc))
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
