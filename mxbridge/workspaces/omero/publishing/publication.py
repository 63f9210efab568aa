"""One publication on one image: sweep, make the parts unseen, commit in one transaction, delete what was replaced.

    sweep ──► parts (unseen, read back) ──► pending annotations ──► ONE saveArray ──► delete the replaced ──► marker without leftovers

A kill at any moment leaves the earlier state visible (before the saveArray) or the new one (after it); what lies around unseen,
or is listed in the marker as left, goes with the next publication of this user on this image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mxbridge.errors import ChangedMeanwhile, MxbridgeError, OutputError
from mxbridge.results import ImageRef, Results
from mxbridge.workspaces.omero.attachments.files import download_file
from mxbridge.workspaces.omero.find import not_there
from mxbridge.workspaces.omero.publishing.commit import pending_annotations
from mxbridge.workspaces.omero.publishing.content import (
    Table,
    cells_table,
    digests,
    task_and_model,
    told_of_model,
)
from mxbridge.workspaces.omero.publishing.homes import find_home, remove_empty
from mxbridge.workspaces.omero.publishing.marker import (
    FilePart,
    KeyRecord,
    Marker,
    ValuesPart,
    read_markers,
)
from mxbridge.workspaces.omero.publishing.marks import new_token
from mxbridge.workspaces.omero.publishing.parts import Parts, Publishing
from mxbridge.workspaces.omero.publishing.peoples import ours
from mxbridge.workspaces.omero.publishing.planned import Plan
from mxbridge.workspaces.omero.publishing.standing import is_whole, pruned
from mxbridge.workspaces.omero.publishing.sweep import finish_left, sweep_pending
from mxbridge.workspaces.omero.sessions.faults import is_lost

if TYPE_CHECKING:
    from mxbridge.workspaces.omero.image_info import ImageInfo
    from mxbridge.workspaces.omero.sessions.connection import Session

TABLE_LIMIT = 4 << 30
"""Bytes of an earlier table that are fetched to keep its other columns."""


@dataclass(frozen=True)
class Outcome:
    changed: bool
    notes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


class Publication:
    """What the session's user has published on an image, and how to change it. Reads the markers when it is made.

    tell: hears of parts that take long. has_written: whether anything new was sent. Raises OutputError for a damaged marker.
    """

    def __init__(
        self,
        session: Session,
        info: ImageInfo,
        options: Publishing,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._session, self._info, self._options = session, info, options
        self._tell = tell or (lambda text: None)
        self.has_written = False
        self._parts: Parts | None = None
        self.markers = read_markers(session, info.id)

    def holds(self, results: Results) -> bool:
        """Whether exactly these results are published, with all their parts."""
        wanted = digests(results, self._options.described())
        there = [m for m in self.markers if any(key in m.keys for key in wanted)]
        told = {key: record.digest for m in there for key, record in m.keys.items()}
        fitting = all(told.get(key) == digest for key, digest in wanted.items())
        return fitting and all(is_whole(self._session, m, self._info) for m in there)

    def put(self, results: Results) -> Outcome:
        """Publish, in the place of what the same result keys left. Raises OutputError, SourceError."""
        self.tidy()
        if self.holds(results):
            return Outcome(False)
        self._refuse_where_nothing_can_be(results)
        task, model = task_and_model(results)
        wanted = digests(results, self._options.described())
        earlier = [m for m in self.markers if (m.task, m.model) == (task, model) or set(wanted) & set(m.keys)]
        records = {key: KeyRecord(digest, results.fingerprint, results.run_id) for key, digest in wanted.items()}
        try:
            return self._rebuild(results, earlier, records, Marker(self._info.id, task, model))
        except Exception as error:
            if is_lost(error):  # the next attempt sweeps
                raise
            swept = self._was_swept()
            self._give_up(error)
            if not swept or isinstance(error, ChangedMeanwhile):
                raise
            raise ChangedMeanwhile(
                f"{self._info}: another run that publishes on it was in the way ({error})",
                hint="Run the same command again",
            ) from error

    def take(self, keys: Collection[str], run_id: str | None) -> Outcome:
        """Take results out again. run_id: only what this run published. Raises OutputError."""
        self.tidy()
        notes: list[str] = []
        taken: list[str] = []
        for task, model in dict.fromkeys((m.task, m.model) for m in self.markers):
            earlier = [m for m in self.markers if (m.task, m.model) == (task, model)]
            records = {k: r for m in earlier for k, r in m.keys.items()}
            goes = [k for k, r in records.items() if k in keys and run_id in (None, r.run_id)]
            if not goes:
                continue
            nothing = Results(image=_ref(self._info), run_id="")
            outcome = self._rebuild(nothing, earlier, {}, Marker(self._info.id, task, model), set(goes))
            notes += outcome.notes
            taken += goes
        remove_empty(self._session, self._info)
        if not taken:
            return Outcome(False, ("nothing of this result is published here",))
        return Outcome(True, tuple(dict.fromkeys(notes)), tuple(taken))

    def tidy(self) -> None:
        """Delete what killed publications left, and what complete ones listed as left."""
        sweep_pending(self._session, self._info.id, self._info.group_id)
        kept = []
        for marker in self.markers:
            if marker.left or not marker.keys:
                finished = self._finish(marker)
                if finished is not None:
                    kept.append(finished)
            else:
                kept.append(marker)
        self.markers = kept

    def _rebuild(
        self,
        results: Results,
        earlier: Sequence[Marker],
        records: dict[str, KeyRecord],
        empty: Marker,
        gone: Collection[str] = (),
    ) -> Outcome:
        """Make the marker and its parts what they are to be: ``records`` instead of what there was, without ``gone``."""
        self.has_written = True
        whole = all(is_whole(self._session, m, self._info) for m in earlier)
        before = _joined(earlier if whole else [pruned(self._session, m, self._info) for m in earlier], empty)
        same = _unchanged(before, records) if whole else set()
        results = _without_parts(results, same)
        kept = {k: r for k, r in before.keys.items() if (k not in records or k in same) and k not in gone}
        token = new_token()
        parts = self._parts = Parts(self._session, self._info, token, self._options, self._tell)
        (parts.sentinel,) = pending_annotations(self._session, self._info, token, [], 1)
        may = self._info.can_annotate
        table, lost = self._cells(results, before, kept, gone) if may else (None, ())
        kept = {k: replace(r, digest="") if k in lost else r for k, r in kept.items()}
        name = _file_name(before)
        if table is not None:
            parts.add_cells(table, f"{name} cells")
        for number, made in enumerate(results.objects if may else (), start=1):
            parts.add_objects(made, f"{name} objects{'' if number == 1 else f' {number}'}")
        for derived in results.derived:
            parts.add_derived(results, derived)
        plan = Plan(self._session, self._info, before, {**kept, **records}, parts, results)
        if lost:
            plan.notes.append(
                f"{self._info}: the earlier table is gone or damaged; publish the other results of it again"
            )
        if not may and (results.measurements or results.objects or results.image_values or results.class_changes):
            plan.skip(f"values, tables and labels: {self._session.user_name} may not annotate {self._info}")
        home = find_home(self._session, self._info, beside=self._options.beside) if parts.images else None
        if home is not None and home.note:
            parts.notes.append(home.note)
        marker = plan.commit(token, earlier, kept, may, home, told_of_model(results) if results.provenance else {})
        self.markers = [m for m in self.markers if m.id not in {e.id for e in earlier}]
        finished = self._finish(marker)
        if finished is not None:
            self.markers.append(finished)
        return Outcome(True, tuple(dict.fromkeys((*parts.notes, *plan.notes))), tuple(records))

    def _finish(self, marker: Marker) -> Marker | None:
        """Delete what is left of a marker, and save it without."""
        finished = finish_left(self._session, marker, self._info.group_id)
        if finished is None or not marker.left:
            return finished
        found = self._session.objects("select a from MapAnnotation a where a.id = :id", id=marker.id)
        if found:
            from omero.rtypes import rstring

            found[0].setDescription(rstring(finished.to_json()))
            self._session.save_all(found, self._info.group_id)
        return finished

    def _cells(
        self, results: Results, before: Marker, kept: Collection[str], gone: Collection[str]
    ) -> tuple[Table | None, tuple[str, ...]]:
        """The table of cells as it is to be, None where it is to be none or to stay as it is; result keys whose columns are lost."""
        part = next((f for f in before.files if f.slot == "parquet cells"), None)
        stay = {k for k in part.columns.values() if k in kept} if part else set()
        touched = bool(results.measurements or results.class_changes)
        touched = touched or (part is not None and any(k not in stay for k in part.columns.values()))
        if part is None or not stay:
            return cells_table(_ref(self._info), results, None, ()), ()
        if not touched:
            return None, ()
        earlier = self._earlier_table(part)
        if earlier is None:
            own = {m.result_key for m in results.measurements}
            return cells_table(_ref(self._info), results, None, ()), tuple(stay - own)
        return cells_table(_ref(self._info), results, earlier, stay), ()

    def _earlier_table(self, part: FilePart) -> Table | None:
        """None where somebody has deleted or damaged it."""
        with tempfile.TemporaryDirectory(prefix="mxbridge-earlier-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "earlier.parquet"
            try:
                download_file(self._session, part.file, path, limit=TABLE_LIMIT)
                frame = pd.read_parquet(path)
            except (MxbridgeError, ValueError, OSError) as error:
                if is_lost(error):
                    raise
                return None
        return Table(frame, part.columns) if {"cell", *part.columns} <= set(frame.columns) else None

    def _was_swept(self) -> bool:
        """Whether parts that were sent are gone: a publication elsewhere took them for what a killed one had left."""
        made = {} if self._parts is None else self._parts.ids()
        with suppress(Exception):  # what failed first is to be told
            return any(len(ours(self._session, kind, ids, self._info.id)) < len(ids) for kind, ids in made.items())
        return False

    def _give_up(self, error: Exception) -> None:
        """Leave nothing behind. Raises SourceError where the reason is that the image has been deleted."""
        with suppress(Exception):  # what failed first is to be told
            if self._parts is not None:
                sweep_pending(self._session, self._info.id, self._info.group_id, self._parts.token)
        if not self._session.rows("select i.id from Image i where i.id = :id", id=self._info.id):
            raise not_there("image", [self._info.id]) from error

    def _refuse_where_nothing_can_be(self, results: Results) -> None:
        if not self._info.can_annotate and not results.derived:
            raise OutputError(
                f"{self._info}: {self._session.user_name} may not annotate it (it belongs to {self._info.owner_name})",
                hint="Ask its owner or an administrator, or act as the owner with --as-owner where your account may",
            )


def _unchanged(before: Marker, records: dict[str, KeyRecord]) -> set[str]:
    """Result keys whose objects and derived images need not be sent again, because they stand there as they are to be."""
    return {k for k, r in records.items() if k in before.keys and before.keys[k].digest == r.digest}


def _without_parts(results: Results, keys: Collection[str]) -> Results:
    """Without objects and derived images of these result keys."""
    return replace(
        results,
        objects=tuple(made for made in results.objects if made.result_key not in keys),
        derived=tuple(d for d in results.derived if d.result_key not in keys),
    )


def _joined(earlier: Sequence[Marker], empty: Marker) -> Marker:
    """Several markers as one: results may move between task and model names, each key is in one marker only."""
    if not earlier:
        return empty
    first = next((m for m in earlier if (m.task, m.model) == (empty.task, empty.model)), earlier[0])
    others = [m for m in earlier if m is not first]
    joined = replace(first, task=empty.task, model=empty.model)
    for other in others:
        joined = _with(joined, other)
    return joined


def _with(marker: Marker, other: Marker) -> Marker:
    """A marker that takes over what only another one has; what both have of the other's is left to delete."""
    slots, places = {f.slot for f in marker.files}, {(i.key, i.file) for i in marker.images}
    twice = [f for f in other.files if f.slot in slots]
    second = [i for i in other.images if (i.key, i.file) in places]
    rois = [part for part in other.rois if part.key in {r.key for r in marker.rois}]
    values = _joined_values(marker.values, other.values)
    spare = [other.values.annotation] if other.values and marker.values else []
    torn = {key for f in twice for key in f.keys} - marker.keys.keys()  # columns of a table that cannot be kept
    keys = {k: replace(r, digest="") if k in torn else r for k, r in other.keys.items()}
    joined = replace(
        marker,
        keys={**keys, **marker.keys},
        files=(*marker.files, *(f for f in other.files if f not in twice)),
        values=values,
        rois=(*marker.rois, *(part for part in other.rois if part not in rois)),
        images=(*marker.images, *(i for i in other.images if i not in second)),
    )
    annotations = [*spare, *(f.annotation for f in twice), *(i.mark for i in second)]
    files, images = [f.file for f in twice], [i.image for i in second]
    ids = [roi for part in rois for roi in part.ids]
    return joined.leaving({"Annotation": annotations, "OriginalFile": files, "Image": images, "Roi": ids})


def _joined_values(first: ValuesPart | None, second: ValuesPart | None) -> ValuesPart | None:
    if first is None or second is None:
        return first or second
    return ValuesPart(first.annotation, {**second.values, **first.values}, {**second.keys, **first.keys})


def _file_name(marker: Marker) -> str:
    """How files of a marker are called: after the model, or the task where no model is known."""
    return f"{marker.model} {marker.task}" if marker.model else marker.task


def _ref(info: ImageInfo) -> ImageRef:
    return ImageRef(str(info.id), info.name)
