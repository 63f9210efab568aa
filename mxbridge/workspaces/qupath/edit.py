"""Put results into the objects of one image, and take them out again: in memory, on the object table of ``data.qpdata``.

Every function changes the table only where the task owns something, and returns what the ledger has to remember. Nothing
is written here; a file that needed no change gives back the bytes it was read from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mxbridge.errors import ChangedMeanwhile, InputError
from mxbridge.results import ClassChanges, Results
from mxbridge.workspaces.qupath import made
from mxbridge.workspaces.qupath.classes import class_colors
from mxbridge.workspaces.qupath.ledger import Column, ImageColumn, Reclassed, State, values_sha
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, ObjectTable

Index = Mapping[str, int]
"""Row of the object table that has an id."""

_NOTHING = object()
"""Not even 'no class', which is None."""


@dataclass(frozen=True)
class Edited:
    """What there is of ours after an edit. new_classes: full names the image uses now because of us. removed, added: ids of
    objects that went and came; one in both has another shape now."""

    state: State
    notes: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def index_objects(table: ObjectTable) -> dict[str, int]:
    """Rows by id. Raises InputError when an id occurs twice: then it identifies nothing."""
    index = {identity: row for row, identity in enumerate(table.ids) if identity is not None}
    if len(index) < sum(identity is not None for identity in table.ids):
        twice = [i for i, count in Counter(table.ids).items() if i is not None and count > 1]
        raise InputError(
            f"{len(twice)} object ids occur more than once ({_some(twice)}), so results could land on the wrong object",
            hint="In QuPath, delete the duplicates, or select them and run Objects > Refresh object IDs",
        )
    return index


def put(
    tree: ImageDataFile, state: State, results: Results, *, entry_id: str, known_colors: Mapping[str, int | None]
) -> Edited:
    """Put ``results`` into the file, replacing what the same result keys left earlier and nothing else.

    Raises ChangedMeanwhile when cells of the results are gone, InputError when an id is not unique.
    """
    table = tree.table
    index = index_objects(table)
    _check_cells(results, index)
    keys = set(results.result_keys)
    names = {m.name for m in results.measurements}
    stale = [name for name, column in state.columns.items() if column.key in keys and name not in names]
    state = take_columns(table, state, stale, index)
    now_ids = set(results.cell_ids)
    left = {i for ids in _distinct_ids(state, names) for i in ids if i in index and i not in now_ids}
    state = _put_columns(table, state, results, index)
    state = _put_image_values(tree, state, results, keys)

    notes = (
        [f"{len(left)} other objects lost the values an earlier run gave them: this run replaces it"] if left else []
    )
    new_classes: list[str] = []
    changes = results.class_changes
    for key in keys & set(state.reclassed) - ({changes.result_key} if changes else set()):
        state = restore_classes(table, state, key, index, known_colors)
    if changes is not None:
        state, kept, new_classes = _put_classes(table, state, results, changes, index, known_colors)
        if kept:
            notes.append(f"{kept} cells keep their class: it was changed since they were read")
    objects = made.put_objects(tree, state, results, keys, entry_id, known_colors)
    new_classes += [n for o in results.objects for n in dict.fromkeys(o.class_names) if n is not None]
    notes += objects.notes
    return Edited(objects.state, tuple(notes), tuple(dict.fromkeys(new_classes)), objects.removed, objects.added)


def take(
    tree: ImageDataFile, state: State, keys: Collection[str], *, entry_id: str, known_colors: Mapping[str, int | None]
) -> Edited:
    """Take the results of ``keys`` out of the file: remove what is ours, restore what it replaced, keep users' edits."""
    table = tree.table
    index = index_objects(table)
    state = take_columns(table, state, [n for n, c in state.columns.items() if c.key in keys], index)
    state = _take_image_values(tree, state, [n for n, v in state.image_values.items() if v.key in keys])
    for key in [k for k in state.reclassed if k in keys]:
        state = restore_classes(table, state, key, index, known_colors)
    state, notes = made.take_objects(tree, state, keys, entry_id)
    return Edited(state, tuple(notes))


def held(tree: ImageDataFile, results: Results, *, entry_id: str) -> bool:
    """Whether the file has exactly these values, classes and objects."""
    table = tree.table
    index = index_objects(table)
    if any(cell not in index for cell in results.cell_ids):
        return False
    cells = _rows(index, results.cell_ids)
    now = table.columns(cells, [m.name for m in results.measurements])
    if not all(now[m.name][0].all() and _same(now[m.name][1], m.values) for m in results.measurements):
        return False
    values = {v.name: v.value for v in results.image_values}
    if _other_values(tree, values) or len(values) < len(results.image_values):
        return False
    changes = results.class_changes
    if changes is not None and table.class_names(cells) != list(changes.names):
        return False
    return made.objects_held(tree.table, results, entry_id)


def others_have_values(tree: ImageDataFile, state: State, results: Results) -> bool:
    """Whether cells that are not of these results have values of the same result keys, of an earlier run on more of the image."""
    keys, cells = set(results.result_keys), set(results.cell_ids)
    distinct = {column.ids for column in state.columns.values() if column.key in keys}
    others = {identity for ids in distinct for identity in ids if identity not in cells}
    return bool(others) and any(identity in others for identity in tree.table.ids)


def lost(tree: ImageDataFile, state: State) -> list[str]:
    """Names of measurements and result keys in the ledger of which nothing is left in the tree."""
    table = tree.table
    index = index_objects(table)
    gone = []
    together: dict[tuple[str, ...], list[str]] = {}
    for name, column in state.columns.items():
        together.setdefault(column.ids, []).append(name)
    for ids, names in together.items():
        cells = _rows(index, (i for i in ids if i in index))
        there = table.measurement_names(cells)
        gone += [name for name in names if name not in there and len(cells)]
    gone += [name for name in state.image_values if name not in tree.image_values]
    shown = {cell: key for key, record in state.reclassed.items() for cell in record.ids}
    for key, record in state.reclassed.items():
        changed = [
            (i, old, new)
            for i, old, new in zip(record.ids, record.old, record.new, strict=True)
            if i in index and shown[i] == key and new != old
        ]
        classes = table.class_names(_rows(index, (i for i, _, _ in changed)))
        now = [
            (new, current, state.original_class(i, current) == old)
            for (i, old, new), current in zip(changed, classes, strict=True)
        ]
        if now and all(current != new and older for new, current, older in now):
            gone.append(f"classes of {key}")
    for key, record_of_objects in state.objects.items():
        if record_of_objects.ids and not any(i in index for i in record_of_objects.ids):
            gone.append(f"objects of {key}")
    return gone


def take_columns(
    table: ObjectTable,
    state: State,
    names: Sequence[str],
    index: Index,
    only: Collection[str] | None = None,
) -> State:
    """Undo measurements of ours: remove them, or put back the values they replaced. only: restrict to these cells."""
    remaining = dict(state.columns)
    removals: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        column = remaining.pop(name)
        at = [k for k, i in enumerate(column.ids) if i in index and (only is None or i in only)]
        bare = tuple(column.ids[k] for k in at if not column.had[k])
        removals.setdefault(bare, []).append(name)
        back = [k for k in at if column.had[k]]
        if back:
            table.set_columns(_rows(index, (column.ids[k] for k in back)), {name: column.previous[back]})
    for cells, group in removals.items():
        if cells:
            table.remove_columns(_rows(index, cells), group)
    return replace(state, columns=remaining)


def restore_classes(
    table: ObjectTable,
    state: State,
    key: str,
    index: Index,
    known_colors: Mapping[str, int | None],
    only: Collection[str] | None = None,
) -> State:
    """Take a result's classes off: what an earlier result gave shows again, else the class from before us.

    Cells that have another class by now, a user's or that of a later result, keep it. only: restrict to these cells.
    """
    record = state.reclassed[key]
    place = list(state.reclassed).index(key)
    given = [dict(zip(r.ids, r.new, strict=True)) for r in state.reclassed.values()]
    current = _classes_by_id(table, index, record.ids)
    groups: dict[str | None, list[int]] = {}
    for cell, old, new in zip(record.ids, record.old, record.new, strict=True):
        if current.get(cell, _NOTHING) != new or (only is not None and cell not in only):
            continue
        if any(later.get(cell, _NOTHING) == new for later in given[place + 1 :]):
            continue
        back = next((earlier[cell] for earlier in reversed(given[:place]) if cell in earlier), old)
        if back != new:
            groups.setdefault(back, []).append(index[cell])
    _set_classes(table, groups, {**known_colors, **record.colors})
    return replace(state, reclassed={k: r for k, r in state.reclassed.items() if k != key})


def without_gone(tree: ImageDataFile, results: Results) -> tuple[Results, list[str]]:
    """The results without those cells that are not in the file any more, and the ids of these."""
    index = index_objects(tree.table)
    gone = [cell for cell in results.cell_ids if cell not in index]
    if not gone:
        return results, gone
    stay = np.array([k for k, cell in enumerate(results.cell_ids) if cell in index], np.int64)
    changes = results.class_changes
    if changes is not None:
        names, bases = (tuple(told[k] for k in stay) for told in (changes.names, changes.base_names))
        changes = replace(changes, names=names, base_names=bases)
    return replace(
        results,
        cell_ids=tuple(results.cell_ids[k] for k in stay),
        measurements=tuple(replace(m, values=m.values[stay]) for m in results.measurements),
        class_changes=changes,
    ), gone


def _check_cells(results: Results, index: Index) -> None:
    if len(set(results.cell_ids)) != len(results.cell_ids):
        raise InputError(f"the results of {results.image} name a cell twice")
    gone = [cell for cell in results.cell_ids if cell not in index]
    if gone:
        raise ChangedMeanwhile(
            f"{len(gone)} of {len(results.cell_ids)} cells of {results.image} are not in the project any more: {_some(gone)}",
            hint="The image was segmented or edited again since the run read it; run again",
        )
    for measurement in results.measurements:
        if len(measurement.values) != len(results.cell_ids):
            raise InputError(f"{measurement.name}: {len(measurement.values)} values for {len(results.cell_ids)} cells")


def _put_columns(table: ObjectTable, state: State, results: Results, index: Index) -> State:
    cells = _rows(index, results.cell_ids)
    now_ids = set(results.cell_ids)
    columns = dict(state.columns)
    changed: dict[str, NDArray[np.float32]] = {}
    places: dict[tuple[str, ...], NDArray[np.int64]] = {}
    now = table.columns(cells, [m.name for m in results.measurements])
    for measurement in results.measurements:
        name, values = measurement.name, np.asarray(measurement.values, np.float32)
        had, previous = now[name]
        if not (had.all() and _same(previous, values)):
            changed[name] = values
        earlier = columns.get(name)
        if earlier is not None:
            if earlier.ids not in places:  # columns of one run share their cells
                place = {i: k for k, i in enumerate(earlier.ids)}
                places[earlier.ids] = np.array([place.get(i, -1) for i in results.cell_ids], np.int64)
            at = places[earlier.ids]
            leaving = set(earlier.ids) - now_ids
            if leaving:
                take_columns(table, state, [name], index, only=leaving)
            had = np.where(at >= 0, earlier.had[at], had) if len(earlier.ids) else had
            previous = np.where(at >= 0, earlier.previous[at], previous) if len(earlier.ids) else previous
        columns[name] = Column(
            measurement.result_key,
            results.run_id,
            results.cell_ids,
            had,
            np.where(had, previous, np.nan),
            values_sha(results.cell_ids, values),
        )
    if changed:
        table.set_columns(cells, changed)
    return replace(state, columns=columns)


def _put_image_values(tree: ImageDataFile, state: State, results: Results, keys: Collection[str]) -> State:
    """Values of the image as a whole are measurements of the root object, where QuPath shows them."""
    values = {v.name: v.value for v in results.image_values}
    if len(values) < len(results.image_values):
        raise InputError(f"the results of {results.image} name a value of the image twice")
    earlier = state.image_values
    state = _take_image_values(tree, state, [n for n, v in earlier.items() if v.key in keys and n not in values])
    before = tree.image_values
    own = {
        v.name: ImageColumn(
            v.result_key, results.run_id, earlier[v.name].previous if v.name in earlier else before.get(v.name)
        )
        for v in results.image_values
    }
    if other := _other_values(tree, values):
        tree.set_image_values(other)
    return replace(state, image_values=state.image_values | own)


def _take_image_values(tree: ImageDataFile, state: State, names: Collection[str]) -> State:
    """Undo values of ours: remove them, or put back what they replaced."""
    if names:
        there = tree.image_values
        back = {n: v.previous for n in names if n in there and (v := state.image_values[n]).previous is not None}
        tree.remove_image_values([n for n in names if n not in back])
        tree.set_image_values(back)
    return replace(state, image_values={n: v for n, v in state.image_values.items() if n not in names})


def _other_values(tree: ImageDataFile, values: Mapping[str, float]) -> dict[str, float]:
    """Those of these values that the image lacks, or has otherwise; float32, as QuPath keeps them."""
    now = tree.image_values
    return {n: v for n, v in values.items() if n not in now or not _same(np.array([now[n]]), np.array([v]))}


def _put_classes(
    table: ObjectTable,
    state: State,
    results: Results,
    changes: ClassChanges,
    index: Index,
    known_colors: Mapping[str, int | None],
) -> tuple[State, int, list[str]]:
    """Returns the state, how many cells a user has classed otherwise meanwhile, and the classes given."""
    earlier = state.reclassed.get(changes.result_key)
    leaving = set(earlier.ids if earlier else ()) - set(results.cell_ids)
    if leaving:
        restore_classes(table, state, changes.result_key, index, known_colors, only=leaving)
    others = {k: r for k, r in state.reclassed.items() if k != changes.result_key}
    below = {cell for record in others.values() for cell in record.ids}
    groups: dict[str | None, list[int]] = {}
    recorded: list[tuple[str, str | None, str | None]] = []
    colors = {name: color for record in state.reclassed.values() for name, color in record.colors.items()}
    kept, overruled = 0, set()
    classes = table.class_names(_rows(index, results.cell_ids))
    for cell, name, base, current in zip(results.cell_ids, changes.names, changes.base_names, classes, strict=True):
        if current not in (base, name) and state.original_class(cell, current) != base:
            kept += 1
            continue
        if state.gave_class(cell, current):
            old = state.original_class(cell, current)
        else:  # an equal class that no ledger knows may be ours all the same
            old = base if current == name else current
            overruled.add(cell)
        if current != name:
            groups.setdefault(name, []).append(index[cell])
        if old != name or (cell in below and cell not in overruled):
            recorded.append((cell, old, name))
    replaced = table.class_colors(np.array([row for rows in groups.values() for row in rows], np.int64))
    colors = replaced | colors
    _set_classes(table, groups, known_colors)
    cells, before, after = zip(*recorded, strict=True) if recorded else ((), (), ())
    record = Reclassed(results.run_id, cells, before, after, colors)
    given = [name for name in dict.fromkeys(record.new) if name is not None]
    others = {key: _but(other, overruled & below) for key, other in others.items()}
    return replace(state, reclassed={**others, changes.result_key: record}), kept, given


def _but(record: Reclassed, cells: Collection[str]) -> Reclassed:
    """The record without cells that a user has classed otherwise since: its classes never show again there."""
    if not cells:
        return record
    stay = [k for k, cell in enumerate(record.ids) if cell not in cells]
    ids, old, new = (tuple(column[k] for k in stay) for column in (record.ids, record.old, record.new))
    return replace(record, ids=ids, old=old, new=new)


def _distinct_ids(state: State, names: Collection[str]) -> set[tuple[str, ...]]:
    """The cells of these columns; columns of one run have the same."""
    return {column.ids for name in names if (column := state.columns.get(name)) is not None}


def _set_classes(
    table: ObjectTable, groups: Mapping[str | None, list[int]], known_colors: Mapping[str, int | None]
) -> None:
    for name, rows in groups.items():
        table.set_class(np.array(rows, np.int64), name, {} if name is None else class_colors([name], known_colors))


def _classes_by_id(table: ObjectTable, index: Index, ids: Sequence[str]) -> dict[str, str | None]:
    """The class of each of these objects that is there."""
    there = [i for i in ids if i in index]
    return dict(zip(there, table.class_names(_rows(index, there)), strict=True))


def _rows(index: Index, ids: Iterable[str]) -> NDArray[np.int64]:
    return np.array([index[i] for i in ids], np.int64)


def _same(a: NDArray[np.floating], b: NDArray[np.floating]) -> bool:
    return np.array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32), equal_nan=True)


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
