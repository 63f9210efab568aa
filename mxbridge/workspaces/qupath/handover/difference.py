"""What an edit has done to the objects of an image, as lines of an exchange file.

The edit is the one that publishing makes (:mod:`mxbridge.workspaces.qupath.edit`); here the objects before and after it are
compared column by column, so that a live image ends where a published one does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mxbridge.results import Results
from mxbridge.workspaces.qupath.classes import class_colors
from mxbridge.workspaces.qupath.edit import Edited
from mxbridge.workspaces.qupath.handover.exchange_file import Counts, dump
from mxbridge.workspaces.qupath.handover.lines import CLEAR, KEEP, cell_lines, json_value, object_lines
from mxbridge.workspaces.qupath.javastream import Ints
from mxbridge.workspaces.qupath.ledger import State
from mxbridge.workspaces.qupath.made import GEOMETRY, KEY, OBJECT
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, ObjectTable

Columns = dict[str, tuple[NDArray[np.bool_], NDArray[np.float64]]]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Before:
    """Objects before an edit: ids, classes, the measurements that the edit may touch; and the values of the image."""

    ids: tuple[str | None, ...]
    classes: list[str | None]
    columns: Columns
    image_values: dict[str, float]

    @classmethod
    def of(cls, tree: ImageDataFile, names: Sequence[str]) -> Before:
        table, every = tree.table, tree.table.all()
        return cls(table.ids, table.class_names(every), table.columns(every, names), dict(tree.image_values))


def columns_touched(state: State, results: Results) -> list[str]:
    """Names of all measurements that putting these results can change."""
    keys = set(results.result_keys)
    names = [m.name for m in results.measurements]
    names += [name for name, column in state.columns.items() if column.key in keys]
    names += [name for key, made in state.objects.items() if key in keys for name in made.columns]
    names += [name for part in results.objects for name in part.measurements]
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Difference:
    """columns, classes: what the lines refer to by number. ids, values ``(objects, columns)``, measured, taken, codes: of
    objects that are there and change, as :func:`.lines.cell_lines` takes them. removed, added: ids of others."""

    columns: tuple[str, ...]
    classes: tuple[tuple[str, int | None], ...]
    ids: list[str]
    values: NDArray[np.float32]
    measured: Flags
    taken: list[tuple[str, ...]]
    codes: Ints
    removed: tuple[str, ...]
    added: tuple[str, ...]
    image_values: dict[str, float]
    image_removed: tuple[str, ...]

    @property
    def counts(self) -> Counts:
        lines = len(self.ids) + len(self.removed) + len(self.added) + bool(self.image_values) + bool(self.image_removed)
        return Counts(len(self.ids), len(self.removed), len(self.added), Counts().lines + lines)

    @property
    def is_empty(self) -> bool:
        return self.counts == Counts()

    def lines(self, tree: ImageDataFile, results: Results) -> Iterator[str]:
        """All but the first and the last of the file. tree: as it is after the edit."""
        yield from cell_lines(self.ids, self.values, self.measured, self.taken, self.codes)
        for identity in self.removed:
            yield f'{{"id":"{identity}","remove":true}}'
        yield from self._objects(tree.table, results)
        if self.image_values:
            values = ",".join(f"{dump(name)}:{json_value(value)}" for name, value in self.image_values.items())
            yield f'{{"image":{{{values}}}}}'
        if self.image_removed:
            yield dump({"image_remove": self.image_removed})

    def _objects(self, table: ObjectTable, results: Results) -> Iterator[str]:
        rows = _rows(table, self.added)
        told = zip(*(table.metadata(rows, key) for key in (KEY, OBJECT, GEOMETRY)), strict=True)
        found = {(key, name): (k, shape) for k, (key, name, shape) in enumerate(told)}
        number = {name: k for k, (name, _) in enumerate(self.classes)}
        for part in results.objects:
            which = [k for k, key in enumerate(part.keys) if (part.result_key, key) in found]
            of = [found[part.result_key, part.keys[k]] for k in which]
            metadata = [
                {KEY: part.result_key, OBJECT: part.keys[k], GEOMETRY: shape or ""}
                for k, (_, shape) in zip(which, of, strict=True)
            ]
            names = (part.class_names[k] for k in which)
            codes = [KEEP if name is None else number[name] for name in names]
            yield from object_lines(part, which, [self.added[k] for k, _ in of], metadata, codes)


def difference(before: Before, tree: ImageDataFile, edited: Edited) -> Difference:
    """What ``edited`` has made of ``before``; ``tree`` is as it is now."""
    table = tree.table
    was, now = _common_rows(before.ids, table.ids, {*edited.removed, *edited.added})
    names = list(before.columns)
    has, values, differs, drops = _compared(before.columns, table.columns(now, names), was)
    classes = table.class_names(now)
    reclassed = np.array([a != before.classes[b] for a, b in zip(classes, was.tolist(), strict=True)], bool)
    which = np.flatnonzero(differs.any(axis=0) | drops.any(axis=0) | reclassed)
    has, values, drops, measured = (
        has[:, which],
        values[:, which],
        drops[:, which],
        np.asarray(differs[:, which].any(axis=0)),
    )
    told: Flags = np.asarray((has & measured).any(axis=1))
    other = np.flatnonzero(reclassed[which])
    given = [classes[which[k]] for k in other.tolist()]
    added = _rows(table, edited.added)
    listed = _with_colors(table, np.append(now[which[other]], added), [*given, *table.class_names(added)])
    number = {name: k for k, (name, _) in enumerate(listed)}
    codes = np.full(len(which), KEEP, np.int64)
    codes[other] = [CLEAR if name is None else number[name] for name in given]
    image, earlier = tree.image_values, before.image_values
    return Difference(
        columns=tuple(name for name, shown in zip(names, told.tolist(), strict=True) if shown),
        classes=listed,
        ids=[table.ids[row] or "" for row in now[which].tolist()],
        values=values[told].T,
        measured=measured,
        taken=_named(names, drops | (~has & measured & told[:, None])),
        codes=codes,
        removed=edited.removed,
        added=edited.added,
        image_values={n: v for n, v in image.items() if n not in earlier or json_value(v) != json_value(earlier[n])},
        image_removed=tuple(n for n in earlier if n not in image),
    )


def _common_rows(before: Sequence[str | None], now: Sequence[str | None], remade: Collection[str]) -> tuple[Ints, Ints]:
    """Rows, before and now, of the objects that were there all the time."""
    if before == now and not remade:
        return np.arange(len(before)), np.arange(len(now))
    place = {identity: row for row, identity in enumerate(before) if identity is not None and identity not in remade}
    pairs = [(place[i], row) for row, i in enumerate(now) if i in place]
    return tuple(np.array(pairs, np.int64).reshape(-1, 2).T)  # type: ignore[return-value]


def _compared(before: Columns, now: Columns, was: Ints) -> tuple[Flags, NDArray[np.float32], Flags, Flags]:
    """``(columns, objects)``: whether an object has a value now, the value, whether it is new or another one, whether it is
    gone."""
    shape = (len(before), len(was))
    had, has = np.zeros(shape, bool), np.zeros(shape, bool)
    old, new = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for k, name in enumerate(before):
        had[k], old[k] = (column[was] for column in before[name])
        has[k], new[k] = now[name]
    same = had & ((old == new) | (np.isnan(old) & np.isnan(new)))
    return has, new, has & ~same, had & ~has


def _with_colors(table: ObjectTable, rows: Ints, names: Sequence[str | None]) -> tuple[tuple[str, int | None], ...]:
    """Each class and those above it, these first, with the colours that the file has for them."""
    distinct = [name for name in dict.fromkeys(names) if name is not None]
    return tuple(class_colors(distinct, table.class_colors(rows)).items())


def _named(names: Sequence[str], flags: Flags) -> list[tuple[str, ...]]:
    """For each object the names of the columns that are flagged."""
    if not flags.any():
        return [()] * flags.shape[1]
    patterns, of = np.unique(flags, axis=1, return_inverse=True)
    told = [tuple(name for name, flag in zip(names, column, strict=True) if flag) for column in patterns.T.tolist()]
    return [told[k] for k in of.ravel().tolist()]


def _rows(table: ObjectTable, ids: Sequence[str]) -> Ints:
    place = {identity: row for row, identity in enumerate(table.ids)} if ids else {}
    return np.array([place[identity] for identity in ids], np.int64)
