"""Objects that mxbridge adds to an image: recognised by id and metadata, never by name or class, which users change.

The id follows from result key, entry and the object's key, so a rerun makes the same one. Metadata says the key and a hash
of the geometry: an object with another geometry was edited by a user, and is theirs from then on.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mxbridge.results import NewObject, Results
from mxbridge.workspaces.qupath.classes import class_colors
from mxbridge.workspaces.qupath.ledger import MadeObjects, State
from mxbridge.workspaces.qupath.qpdata import ROI, ImageDataFile, NewPathObject, NewROI, PathObject

KEY = "_mxbridge.key"
OBJECT = "_mxbridge.object"
GEOMETRY = "_mxbridge.geometry"
"""Metadata keys; QuPath hides those with a leading underscore from its measurement tables and keeps them."""

NAMESPACE = uuid.UUID("5f0c1d0e-9a7b-5c1e-8f4d-6d7862726467")


def object_id(result_key: str, entry_id: str, key: str) -> str:
    return str(uuid.uuid5(NAMESPACE, "\n".join((result_key, entry_id, key))))


def is_made(candidate: PathObject) -> bool:
    """Whether mxbridge made an object once, edited since or not."""
    return KEY in candidate.metadata


def made_objects(tree: ImageDataFile) -> list[PathObject]:
    """The objects that mxbridge made once, edited since or not, in the order of the file."""
    everything = tree.table.all()
    return tree.take(everything[tree.table.having(everything, KEY)])


def is_ours(candidate: PathObject, entry_id: str) -> bool:
    """Whether it is the very object we added here: a copy made by a user has our metadata, but another id."""
    told = candidate.metadata
    key, name = told.get(KEY), told.get(OBJECT)
    return key is not None and name is not None and candidate.id == object_id(key, entry_id, name)


def is_edited(candidate: PathObject) -> bool:
    """Whether a user has changed the shape of an object of ours."""
    return candidate.metadata.get(GEOMETRY) != geometry_hash(_rings(candidate.roi), _rings(candidate.nucleus))


def geometry_hash(rings: Sequence[Any], nucleus: Sequence[Any] = ()) -> str:
    """Hash of outlines ``(points, 2)``, whatever the order and direction of rings, at QuPath's float32 precision."""
    digest = hashlib.sha256()
    for part in (rings, nucleus):
        lines = sorted(_canonical(np.asarray(ring, np.float32).reshape(-1, 2)) for ring in part)
        digest.update(len(lines).to_bytes(4, "big") + b"".join(lines))
    return digest.hexdigest()[:32]


def put_objects(
    tree: ImageDataFile,
    state: State,
    results: Results,
    keys: Collection[str],
    entry_id: str,
    known_colors: Mapping[str, int | None],
) -> tuple[State, list[str]]:
    """Make the objects of ``keys`` in the tree those of ``results``; unchanged ones are not touched, edited ones kept."""
    wanted = {object_id(o.result_key, entry_id, o.key): o for o in results.objects}
    kept, stale = 0, []
    present: set[str] = set()
    for found in made_objects(tree):
        if found.metadata.get(KEY) not in keys or not is_ours(found, entry_id):
            continue
        present.add(found.id or "")
        if is_edited(found):
            kept += 1
            wanted.pop(found.id or "", None)
        elif (same := wanted.get(found.id or "")) is not None and _equal(found, same):
            wanted.pop(found.id or "")
        else:
            stale.append(found)
    deleted = _deleted_by_user(state, results, present) & set(wanted)
    tree.remove_objects(stale)
    for identity, made in wanted.items():
        if identity not in deleted:
            tree.add_object(_spec(identity, made, known_colors))
    objects = {key: made for key, made in state.objects.items() if key not in keys}
    ids: dict[str, list[str]] = {}
    for made in results.objects:
        ids.setdefault(made.result_key, []).append(object_id(made.result_key, entry_id, made.key))
    objects |= {key: MadeObjects(results.run_id, tuple(of_key)) for key, of_key in ids.items()}
    notes = [f"{kept} objects were kept because they were edited in QuPath"] if kept else []
    notes += [f"{len(deleted)} objects stay deleted, as they were deleted in QuPath"] if deleted else []
    return replace(state, objects=objects), notes


def take_objects(tree: ImageDataFile, state: State, keys: Collection[str], entry_id: str) -> tuple[State, list[str]]:
    """Take the objects of ``keys`` out, but for those a user has edited."""
    ours = [o for o in made_objects(tree) if o.metadata.get(KEY) in keys and is_ours(o, entry_id)]
    whole = [o for o in ours if not is_edited(o)]
    edited = len(ours) - len(whole)
    tree.remove_objects(whole)
    objects = {key: made for key, made in state.objects.items() if key not in keys}
    notes = [f"{edited} objects were kept because they were edited in QuPath"] if edited else []
    return replace(state, objects=objects), notes


def objects_held(tree: ImageDataFile, results: Results, entry_id: str) -> bool:
    """Whether every object of ``results`` is there as it was made, and no other one of its keys."""
    wanted = {object_id(o.result_key, entry_id, o.key): o for o in results.objects}
    keys = set(results.result_keys)
    present: dict[str | None, PathObject] = {}
    for found in made_objects(tree):
        present[found.id] = found
        if (
            found.id not in wanted
            and found.metadata.get(KEY) in keys
            and is_ours(found, entry_id)
            and not is_edited(found)
        ):
            return False
    for identity, made in wanted.items():
        there = present.get(identity) or tree.get(identity)
        if there is None or not _equal(there, made):
            return False
    return True


def _deleted_by_user(state: State, results: Results, present: set[str]) -> set[str]:
    """Objects of this very run that are gone while others of it are there: lost publications lose all of them."""
    gone: set[str] = set()
    for made in state.objects.values():
        if made.run_id == results.run_id and any(i in present for i in made.ids):
            gone |= {i for i in made.ids if i not in present}
    return gone


def _spec(identity: str, made: NewObject, known_colors: Mapping[str, int | None]) -> NewPathObject:
    nucleus = made.nucleus_rings
    roi = NewROI.of_rings(made.rings)
    return NewPathObject(
        made.kind,
        identity,
        roi,
        nucleus=NewROI.of_rings(nucleus) if nucleus else None,
        class_name=made.class_name,
        class_colors={} if made.class_name is None else class_colors([made.class_name], known_colors),
        name=made.name,
        metadata={KEY: made.result_key, OBJECT: made.key, GEOMETRY: geometry_hash(made.rings, nucleus or ())},
        measurements=made.measurements,
    )


def _equal(found: PathObject, made: NewObject) -> bool:
    now, wanted = found.measurements, made.measurements
    return (
        found.kind == made.kind
        and found.name == made.name
        and found.class_name == made.class_name
        and geometry_hash(_rings(found.roi), _rings(found.nucleus))
        == geometry_hash(made.rings, made.nucleus_rings or ())
        and list(now) == list(wanted)
        and np.array_equal(
            np.asarray(list(now.values()), np.float32), np.asarray(list(wanted.values()), np.float32), equal_nan=True
        )
    )


def _rings(roi: ROI | None) -> Sequence[Any]:
    return roi.rings if roi is not None else []


def _canonical(ring: np.ndarray) -> bytes:
    """The same bytes for the same closed ring, wherever it begins and whichever way it runs."""
    if len(ring) > 1 and np.array_equal(ring[0], ring[-1]):
        ring = ring[:-1]
    ring = ring + np.float32(0)  # no negative zero
    start = int(np.lexsort((ring[:, 1], ring[:, 0]))[0]) if len(ring) else 0
    forward = np.roll(ring, -start, axis=0)
    backward = np.roll(forward[::-1], 1, axis=0)
    return min(forward.tobytes(), backward.tobytes())
