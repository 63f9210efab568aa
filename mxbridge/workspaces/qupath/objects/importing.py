"""Objects of a GeoJSON file into an image of a project: they are the user's from then on, as if QuPath had imported them.

What is there already under the same id is compared: the same object again changes nothing, another one is reported and stays,
unless it is to be replaced. Nothing is written where nothing changes; otherwise ``data.qpdata`` is replaced in one step, with
a backup beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mxbridge.cells import Rings
from mxbridge.errors import InputError, MxbridgeError
from mxbridge.results import ImageRef
from mxbridge.workspaces.geojson import GeoObject, read_geojson
from mxbridge.workspaces.qupath.builders import argb
from mxbridge.workspaces.qupath.classes import class_colors
from mxbridge.workspaces.qupath.javastream import without_garbage_collection
from mxbridge.workspaces.qupath.last_read import LastRead
from mxbridge.workspaces.qupath.objects.as_geojson import geo_object, new_object
from mxbridge.workspaces.qupath.objects.sameness import same_object
from mxbridge.workspaces.qupath.project import Project
from mxbridge.workspaces.qupath.publication import Publication
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, ManyObjects, NewPathObject, PathObject
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.workspace import OWN_FOLDER, PUBLISHING_TAKES, RELOAD, QuPathWorkspace

_SHOWN = 10
"""Objects named one by one; a file of another image has thousands."""

_MANY = 64
"""So many alike are put in all at once."""

Colors = dict[str, int | None]


@dataclass(frozen=True)
class Imported:
    """changed: whether anything was written. added, same, replaced: numbers of objects. differ: ids of those that stay although
    the file has something else under the same id. refused: why objects of the file are not in the project, and how many.
    """

    file: Path
    changed: bool
    added: int = 0
    same: int = 0
    replaced: int = 0
    differ: tuple[str, ...] = ()
    refused: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


def import_objects(workspace: QuPathWorkspace, ref: ImageRef, file: Path, *, replace: bool = False) -> Imported:
    """Put the objects of a ``.geojson`` or ``.geojson.gz`` into an image, below no other object.

    replace: objects whose id is there already become those of the file; what lies inside them stays there. Raises SourceError,
    BrokenFile, InputError (nothing of the file can be written), OutputError (Locked, ChangedMeanwhile); then nothing is changed.
    """
    with without_garbage_collection():  # there is none, and looking for it among millions of numbers takes long
        told = read_geojson(file)
    with workspace.locked(PUBLISHING_TAKES), without_garbage_collection():
        project = Project.open(workspace.project.path)
        entry = project.entry(int(ref.id))
        publication = Publication(project, entry, project.folder / OWN_FOLDER, LastRead())
        plan = _Plan(told, entry.id, file)
        known: Colors = {**{n: argb(c) for n, c in _colors_of(told).items()}, **publication.classes().colors}
        changed = publication.change_objects(lambda tree: plan.carry_out(tree, known, replace=replace))
    notes = plan.notes(entry.builder, RELOAD if changed else "")
    return Imported(
        file,
        changed,
        plan.added,
        plan.same,
        plan.replaced,
        tuple(plan.differ),
        tuple(plan.refused.items()),
        notes,
    )


class _Plan:
    """What becomes of each object of a file."""

    def __init__(self, told: Sequence[GeoObject], entry_id: int, file: Path) -> None:
        """Raises InputError where an id stands for two objects, or nothing of the file can be written."""
        self.refused: Counter[str] = Counter()
        self.wanted: dict[str, tuple[NewPathObject, GeoObject]] = {}
        numbers: dict[str, int] = {}
        for item in told:
            try:
                spec = new_object(item, entry_id, numbers)
            except InputError as error:
                self.refused[error.message] += 1
                continue
            if spec.id in self.wanted:
                raise InputError(f"{file}: the id {spec.id} occurs more than once, and would mean two objects")
            self.wanted[spec.id] = spec, item
        if told and not self.wanted:
            raise InputError(f"{file}: nothing in it can be written: {'; '.join(self.refused)}")
        if not told:
            raise InputError(f"{file} holds no objects")
        self.added = self.same = self.replaced = 0
        self.differ: list[str] = []

    def carry_out(self, tree: ImageDataFile, known: Colors, *, replace: bool) -> dict[str, int]:
        """Put the objects in; the colours of all classes that they have."""
        there = {identity: row for row, identity in enumerate(tree.table.ids) if identity in self.wanted}
        other: list[str] = []
        for identity, item in _read(tree, there):
            if _says_the_same(item, self.wanted[identity][1]):
                self.same += 1
            else:
                other.append(identity)
        specs = [spec for identity, (spec, _) in self.wanted.items() if identity not in there]
        names = [spec.class_name for spec in specs] + [self.wanted[i][0].class_name for i in other if replace]
        colors = class_colors([name for name in dict.fromkeys(names) if name is not None], known)
        if replace and other:
            items = tree.take(np.array([there[i] for i in other]))
            tree.replace_objects(
                [(item, _colored(self.wanted[i][0], colors)) for i, item in zip(other, items, strict=True)]
            )
            self.replaced = len(other)
        else:
            self.differ = other
        _add(tree, specs, colors)
        self.added = len(specs)
        return colors

    def notes(self, builder: Mapping[str, object], reload: str) -> tuple[str, ...]:
        notes = [f"left out: {count} {why}" for why, count in self.refused.items()]
        if self.differ:
            named = ", ".join(self.differ[:_SHOWN]) + (" ..." if len(self.differ) > _SHOWN else "")
            notes.append(
                f"{len(self.differ)} objects are there already and differ from the file: they stay ({named}). "
                "--replace puts those of the file in their place"
            )
        outside = sum(_is_outside(item, builder) for _, item in self.wanted.values())
        if outside:
            notes.append(
                f"{outside} of {len(self.wanted)} objects of the file lie outside of the image: is it that of another?"
            )
        return (*notes, *([reload] if reload else ()))


def _read(tree: ImageDataFile, rows: Mapping[str, int]) -> Iterator[tuple[str, PathObject]]:
    """The objects of some rows, for looking only."""
    which = np.array(list(rows.values()), np.int64)
    loose, at, packed = tree.table.split(which)
    ids = list(rows)
    for k, item in loose:
        yield ids[k], item
    for k, row in zip(at.tolist(), packed.tolist(), strict=True):
        yield ids[k], tree.table.as_object(row)


def _says_the_same(there: PathObject, told: GeoObject) -> bool:
    try:
        return same_object(geo_object(there), told)
    except MxbridgeError:  # what is there cannot be understood: it is something else
        return False


def _add(tree: ImageDataFile, specs: Sequence[NewPathObject], colors: Mapping[str, int]) -> None:
    """Annotations and whatever has something of its own one by one; many plain cells or detections all at once."""
    alike: dict[tuple, list[NewPathObject]] = {}
    for spec in specs:
        if _is_plain(spec):
            alike.setdefault((spec.kind, tuple(spec.measurements), tuple(spec.metadata)), []).append(spec)
        else:
            tree.add_object(_colored(spec, colors))
    for (kind, columns, keys), group in alike.items():
        if len(group) < _MANY:
            for spec in group:
                tree.add_object(_colored(spec, colors))
            continue
        nuclei = [[] if spec.nucleus is None else list(spec.nucleus.polygons[0]) for spec in group]
        with np.errstate(over="ignore"):  # beyond float32 is infinite in QuPath, too
            values = {
                name: np.array([spec.measurements[name] for spec in group]).astype(np.float32) for name in columns
            }
        tree.add_objects(
            ManyObjects(
                kind,
                [spec.id for spec in group],
                Rings.of(list(spec.roi.polygons[0]) for spec in group),
                Rings.of(nuclei) if any(nuclei) else None,
                [spec.class_name for spec in group],
                colors,
                {key: [spec.metadata[key] for spec in group] for key in keys},
                values,
            )
        )


def _is_plain(spec: NewPathObject) -> bool:
    rois = [roi for roi in (spec.roi, spec.nucleus) if roi is not None]
    return (
        spec.kind != "annotation"
        and spec.name is None
        and spec.color is None
        and not spec.locked
        and all(roi.kind == d.POLYGON and (roi.c, roi.z, roi.t) == (-1, 0, 0) for roi in rois)
    )


def _colored(spec: NewPathObject, colors: Mapping[str, int]) -> NewPathObject:
    return NewPathObject(**{**vars(spec), "class_colors": colors})


def _colors_of(told: Sequence[GeoObject]) -> dict[str, int]:
    """Colours (0xRRGGBB) that the file has for classes; the first counts."""
    found: dict[str, int] = {}
    for item in told:
        if item.class_name is not None and item.class_color is not None:
            found.setdefault(item.class_name, item.class_color)
    return found


def _is_outside(item: GeoObject, builder: Mapping[str, object]) -> bool:
    """Whether nothing of an object is on the image."""
    metadata = builder.get("metadata")
    size = [metadata.get(key) for key in ("width", "height")] if isinstance(metadata, Mapping) else []
    parts = [*item.geometry.rings, *item.geometry.points]
    if not all(isinstance(side, int) and side > 0 for side in size) or not size or not parts:
        return False
    xy = np.concatenate(parts)
    return bool((xy.max(axis=0) < 0).any() or (xy.min(axis=0) > size).any())
