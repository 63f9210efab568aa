"""Objects that mxbridge adds to an image: recognised by id and metadata, never by name or class, which users change.

The id follows from result key, entry and the object's key, so a rerun makes the same one. Metadata says the key and a hash
of the geometry: an object with another geometry was edited by a user, and is theirs from then on. Everything here is done
on columns of the object table: a slide has a hundred thousand nuclei and more.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Rings
from mxbridge.errors import InputError
from mxbridge.results import NewObjects, Results
from mxbridge.workspaces.qupath.classes import class_colors
from mxbridge.workspaces.qupath.geometry_hash import geometry_hashes
from mxbridge.workspaces.qupath.javastream import Ints
from mxbridge.workspaces.qupath.ledger import MadeObjects, State
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, ManyObjects, NewPathObject, NewROI, ObjectTable, PathObject
from mxbridge.workspaces.qupath.qpdata.outlines import Outlines

KEY = "_mxbridge.key"
OBJECT = "_mxbridge.object"
GEOMETRY = "_mxbridge.geometry"
"""Metadata keys; QuPath hides those with a leading underscore from its measurement tables and keeps them."""

NAMESPACE = uuid.UUID("5f0c1d0e-9a7b-5c1e-8f4d-6d7862726467")

Colors = Mapping[str, int | None]


def object_id(result_key: str, entry_id: str, key: str) -> str:
    return str(uuid.uuid5(NAMESPACE, "\n".join((result_key, entry_id, key))))


def is_made(candidate: PathObject) -> bool:
    """Whether mxbridge made an object once, edited since or not."""
    return KEY in candidate.metadata


@dataclass(frozen=True)
class Put:
    """What was done with the objects of some result keys. removed, added: their ids; one in both has another shape now."""

    state: State
    notes: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    """The objects of one image's results, numbered through. ids: of all. which: number of the part, index in it."""

    parts: tuple[NewObjects, ...]
    ids: list[str]
    number: dict[str, int]
    firsts: list[int]

    @classmethod
    def of(cls, results: Results, entry_id: str) -> _Wanted:
        """Raises InputError where two objects of one result key have the same key."""
        ids = [object_id(part.result_key, entry_id, key) for part in results.objects for key in part.keys]
        number = {identity: k for k, identity in enumerate(ids)}
        if len(number) < len(ids):
            raise InputError(f"the results of {results.image} have objects that share a key")
        firsts = np.cumsum([0, *(len(part) for part in results.objects)]).tolist()
        return cls(results.objects, ids, number, firsts)

    def split(self, numbers: Sequence[int]) -> list[tuple[int, Ints, Ints]]:
        """Number of each part, which of ``numbers`` belong to it, and what they are there."""
        found = np.asarray(numbers, np.int64)
        of = np.searchsorted(self.firsts, found, "right") - 1
        chosen = [(part, np.flatnonzero(of == part)) for part in range(len(self.parts))]
        return [(part, which, found[which] - self.firsts[part]) for part, which in chosen if len(which)]


def put_objects(
    tree: ImageDataFile,
    state: State,
    results: Results,
    keys: Collection[str],
    entry_id: str,
    known_colors: Colors,
) -> Put:
    """Make the objects of ``keys`` in the tree those of ``results``; edited ones are kept, of the others only what is
    another is touched. A class that a user has given to one of them since stays as well, and with it an object that is not
    wanted any more, or not in this shape."""
    table, wanted = tree.table, _Wanted.of(results, entry_id)
    hashes = [geometry_hashes(o.outlines, o.nuclei) for o in results.objects]
    rows, ids = _ours(table, keys, entry_id, wanted.number)
    geometry, edited = _geometry(table, rows)
    flat = [(part, k) for part, objects in enumerate(results.objects) for k in range(len(objects))]
    staying: list[tuple[int, int]] = []
    stale: list[int] = []
    given = _given_classes(state)
    by_class = _reclassed(table, state, rows, ids)
    kept: dict[str, list[str]] = {}
    done: set[int] = set()
    for row, identity, shape, by_hand, *told in zip(
        rows.tolist(), ids, geometry, edited.tolist(), table.kinds(rows).tolist(), table.names(rows), strict=True
    ):
        number = wanted.number.get(identity)
        part, k = flat[number] if number is not None else (0, 0)
        if by_hand:
            done |= {number} if number is not None else set()
        elif (
            number is not None
            and shape == hashes[part][k]
            and told == [results.objects[part].kind, results.objects[part].names[k]]
        ):
            done.add(number)
            staying.append((row, number))
        elif row in by_class:
            kept.setdefault(table.metadata(np.array([row], np.int64), KEY)[0] or "", []).append(identity)
            done |= {number} if number is not None else set()
        else:
            stale.append(row)
    reclassed = _follow(table, state, wanted, staying, known_colors)
    deleted = _deleted_by_user(state, results, set(ids)) & set(wanted.ids)
    gone = tuple(table.ids[row] or "" for row in stale)
    if stale:
        tree.remove_rows(np.array(stale, np.int64))
    missing = [k for k, identity in enumerate(wanted.ids) if k not in done and identity not in deleted]
    for number, _, which in wanted.split(missing):
        _add(tree, wanted, number, which, hashes[number], known_colors)
    objects = {key: made for key, made in state.objects.items() if key not in keys}
    notes = _edited_note(int(edited.sum()) + sum(map(len, kept.values())))
    notes += [f"{reclassed} objects keep the class they were given in QuPath"] if reclassed else []
    notes += [f"{len(deleted)} objects stay deleted, as they were deleted in QuPath"] if deleted else []
    state = replace(state, objects=objects | _remembered(wanted, results.run_id, kept, given))
    return Put(state, tuple(notes), gone, tuple(wanted.ids[k] for k in missing))


def take_objects(tree: ImageDataFile, state: State, keys: Collection[str], entry_id: str) -> tuple[State, list[str]]:
    """Take the objects of ``keys`` out, but for those whose outline a user has edited; classes of a user's go with theirs."""
    rows, ids = _ours(tree.table, keys, entry_id)
    _, edited = _geometry(tree.table, rows)
    reclassed = _reclassed(
        tree.table, state, rows[~edited], [i for i, by_hand in zip(ids, edited, strict=True) if not by_hand]
    )
    if not edited.all():
        tree.remove_rows(rows[~edited])
    objects = {key: made for key, made in state.objects.items() if key not in keys}
    notes = _edited_note(int(edited.sum()))
    notes += [f"{len(reclassed)} of the objects taken out had been given another class in QuPath"] if reclassed else []
    return replace(state, objects=objects), notes


def objects_held(table: ObjectTable, results: Results, entry_id: str) -> bool:
    """Whether every object of ``results`` is there as it was made, and no other one of its keys."""
    wanted = _Wanted.of(results, entry_id)
    rows, ids = _ours(table, results.result_keys, entry_id, wanted.number)
    place = {identity: row for row, identity in zip(rows.tolist(), ids, strict=True)}
    if any(identity not in place for identity in wanted.ids):
        return False
    others = np.array([row for identity, row in place.items() if identity not in wanted.number], np.int64)
    if not _geometry(table, others)[1].all():
        return False
    for number, _, k in wanted.split(range(len(wanted.ids))):
        part, first = wanted.parts[number], wanted.firsts[number]
        own = np.array([place[identity] for identity in wanted.ids[first : first + len(part)]], np.int64)
        told = zip(table.kinds(own).tolist(), table.names(own), table.class_names(own), strict=True)
        if any(found != (part.kind, *meant) for found, *meant in zip(told, part.names, part.class_names, strict=True)):
            return False
        if _other_columns(table, own, part, k) or not _have_outlines(table, own, part):
            return False
    return True


def _ours(
    table: ObjectTable, keys: Collection[str], entry_id: str, known: Collection[str] = ()
) -> tuple[Ints, list[str]]:
    """Rows and ids of the very objects we added under these keys: a copy made by a user has our metadata, but another id.

    known: ids that are ours.
    """
    everything = table.all()
    rows = everything[table.having(everything, KEY)] if keys else everything[:0]
    told = [table.metadata(rows, key) for key in (KEY, OBJECT)]
    chosen = []
    for row, key, name in zip(rows.tolist(), *told, strict=True):
        identity = table.ids[row]
        if identity is None or key is None or name is None or key not in keys:
            continue
        if identity in known or identity == object_id(key, entry_id, name):
            chosen.append((row, identity))
    return np.array([row for row, _ in chosen], np.int64), [identity for _, identity in chosen]


def _geometry(table: ObjectTable, rows: Ints) -> tuple[list[str | None], NDArray[np.bool_]]:
    """The hash of each of our objects as it was made, and whether a user has changed its shape since.

    Raises InputError, Unsupported where the outline of one of them cannot be read.
    """
    made = table.metadata(rows, GEOMETRY)
    now = geometry_hashes(Outlines(table, rows).rings(), Outlines(table, rows, nuclei=True).rings())
    return made, np.array([a != b for a, b in zip(made, now, strict=True)], bool)


def _have_outlines(table: ObjectTable, rows: Ints, part: NewObjects) -> bool:
    """Whether these objects have the outlines and nuclei of a part; compared as they are before hashes are made."""
    now = Outlines(table, rows).rings(), Outlines(table, rows, nuclei=True).rings()
    bare = Rings(np.zeros((0, 2)), np.zeros(1, np.int64), np.zeros(len(part) + 1, np.int64))
    meant = part.outlines, bare if part.nuclei is None else part.nuclei
    simple = np.all([np.diff(rings.object_starts) <= 1 for rings in meant], axis=0)
    for a, b in zip(now, meant, strict=True):  # a ring may have been written closed
        simple &= np.diff(a.ring_starts[a.object_starts]) == np.diff(b.ring_starts[b.object_starts])
    which = np.flatnonzero(simple)
    if all(_same_rings(a.take(which), b.take(which)) for a, b in zip(now, meant, strict=True)):
        which = np.flatnonzero(~simple)
    else:
        which = np.arange(len(part))
    told, wanted = (geometry_hashes(*(rings.take(which) for rings in both)) for both in (now, meant))
    return told == wanted


def _same_rings(a: Rings, b: Rings) -> bool:
    return (
        np.array_equal(a.object_starts, b.object_starts)
        and np.array_equal(a.ring_starts, b.ring_starts)
        and np.array_equal(a.xy.astype(np.float32), b.xy.astype(np.float32))
    )


def _follow(
    table: ObjectTable, state: State, wanted: _Wanted, staying: Sequence[tuple[int, int]], known_colors: Colors
) -> int:
    """Give objects that stay the values and classes they have now; how many keep the class a user gave them."""
    given = _given_classes(state)
    reclassed = 0
    rows = np.array([row for row, _ in staying], np.int64)
    for number, which, k in wanted.split([number for _, number in staying]):
        part, own = wanted.parts[number], rows[which]
        groups: dict[str | None, list[int]] = {}
        for row, current, j in zip(own.tolist(), table.class_names(own), k.tolist(), strict=True):
            identity = table.ids[row] or ""
            if current == part.class_names[j]:
                continue
            if identity in given and current != given[identity]:
                reclassed += 1
            else:
                groups.setdefault(part.class_names[j], []).append(row)
        for name, of_class in groups.items():
            table.set_class(np.array(of_class, np.int64), name, _colors([name], known_colors))
        earlier = state.objects.get(part.result_key)
        gone = set(earlier.columns if earlier else ()) - set(part.measurements)
        if gone & table.measurement_names(own):
            table.remove_columns(own, gone)
        if other := _other_columns(table, own, part, k):
            table.set_columns(own, {name: part.measurements[name][k] for name in other})
    return reclassed


def _given_classes(state: State) -> dict[str, str | None]:
    """Which class we gave to each object we made, by id."""
    return {
        identity: name
        for made in state.objects.values()
        for identity, name in zip(made.ids, made.classes, strict=False)
    }


def _reclassed(table: ObjectTable, state: State, rows: Ints, ids: Sequence[str]) -> set[int]:
    """Which of these objects of ours were given another class since, neither by us nor by another result."""
    given = _given_classes(state)
    return {
        row
        for row, identity, name in zip(rows.tolist(), ids, table.class_names(rows), strict=True)
        if identity in given and name != given[identity] and not state.gave_class(identity, name)
    }


def _other_columns(table: ObjectTable, rows: Ints, part: NewObjects, which: Ints) -> list[str]:
    """Names of our measurements that some of these objects lack, or have with another value."""
    now = table.columns(rows, list(part.measurements))
    return [
        name
        for name, values in part.measurements.items()
        if not (now[name][0].all() and np.array_equal(now[name][1].astype(np.float32), values[which], equal_nan=True))
    ]


def _add(
    tree: ImageDataFile, wanted: _Wanted, number: int, which: Ints, geometry: Sequence[str], known_colors: Colors
) -> None:
    """Add objects of one part: annotations and objects with names one by one, all others at once."""
    part = wanted.parts[number]
    ids = wanted.ids[wanted.firsts[number] :]
    colors = _colors(part.class_names, known_colors)
    named = np.array([part.kind == "annotation" or part.names[k] is not None for k in which.tolist()], bool)
    for k in which[named].tolist():
        nucleus = [] if part.nuclei is None else part.nuclei.rings_of(k)
        spec = NewPathObject(
            part.kind,
            ids[k],
            NewROI.of_rings(part.outlines.rings_of(k)),
            nucleus=NewROI.of_rings(nucleus) if nucleus else None,
            class_name=part.class_names[k],
            class_colors=colors,
            name=part.names[k],
            metadata={KEY: part.result_key, OBJECT: part.keys[k], GEOMETRY: geometry[k]},
            measurements={name: float(values[k]) for name, values in part.measurements.items()},
        )
        tree.add_object(spec)
    rest = which[~named]
    if not len(rest) or part.kind == "annotation":
        return
    chosen = rest.tolist()
    tree.add_objects(
        ManyObjects(
            part.kind,
            [ids[k] for k in chosen],
            part.outlines.take(rest),
            None if part.nuclei is None else part.nuclei.take(rest),
            [part.class_names[k] for k in chosen],
            colors,
            {KEY: part.result_key, OBJECT: [part.keys[k] for k in chosen], GEOMETRY: [geometry[k] for k in chosen]},
            {name: values[rest] for name, values in part.measurements.items()},
        )
    )


def _deleted_by_user(state: State, results: Results, present: set[str]) -> set[str]:
    """Objects of this very run that are gone while others of it are there: lost publications lose all of them."""
    gone: set[str] = set()
    for made in state.objects.values():
        if made.run_id == results.run_id and any(i in present for i in made.ids):
            gone |= {i for i in made.ids if i not in present}
    return gone


def _remembered(
    wanted: _Wanted, run_id: str, kept: Mapping[str, Sequence[str]], given: Mapping[str, str | None]
) -> dict[str, MadeObjects]:
    """For the ledger, by result key. kept: ids of objects that stay for the class somebody gave them."""
    made: dict[str, MadeObjects] = {}
    for part, first in zip(wanted.parts, wanted.firsts, strict=False):
        before = made.get(part.result_key, MadeObjects(run_id, (), (), ()))
        made[part.result_key] = MadeObjects(
            run_id,
            (*before.ids, *wanted.ids[first : first + len(part)]),
            (*before.classes, *part.class_names),
            tuple(dict.fromkeys((*before.columns, *part.measurements))),
        )
    for key, identities in kept.items():
        before = made.get(key, MadeObjects(run_id, (), (), ()))
        more = [identity for identity in identities if identity not in wanted.number]
        ids, classes = (*before.ids, *more), (*before.classes, *(given[identity] for identity in more))
        made[key] = replace(before, ids=ids, classes=classes)
    return made


def _colors(names: Sequence[str | None], known: Colors) -> dict[str, int]:
    return class_colors([name for name in dict.fromkeys(names) if name is not None], known)


def _edited_note(count: int) -> list[str]:
    return [f"{count} objects were kept because they were edited in QuPath"] if count else []
