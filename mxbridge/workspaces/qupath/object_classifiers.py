"""``classifiers/object_classifiers``: QuPath's own classifiers on our measurements, so that people move thresholds there.

One file per marker (objects whose measurement reaches the threshold get the class of the marker, others none) and one
composite that applies them all. QuPath finds them under *Classify > Object classification > Load object classifier*; it
resets the class of every object of the right kind before it applies one. A composite holds copies, not references.

What we wrote is known by its hash, in ``<project>/mxbridge/object_classifiers.json``: a file that somebody else made or
changed is never replaced or removed. The record is written before the files with the hashes they are to have, and once more
after them, so a kill at any moment leaves files that are recognised.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxbridge.errors import BrokenFile, OutputError, UsageError
from mxbridge.formats.atomic import make_folder, output_error, write_atomically
from mxbridge.formats.exchange import Seen, read_seen, replace_seen, sweep
from mxbridge.formats.json_files import parse_json
from mxbridge.results import ImageRef
from mxbridge.workspaces.base import CellKind, Workspace
from mxbridge.workspaces.qupath.classes import ClassList, class_colors
from mxbridge.workspaces.qupath.classifier_names import file_stems
from mxbridge.workspaces.qupath.ledger import ToldClasses
from mxbridge.workspaces.qupath.project import JSON_LIMIT, dump_json
from mxbridge.workspaces.qupath.publication import read_data
from mxbridge.workspaces.qupath.workspace import PUBLISHING_TAKES, QuPathWorkspace

FOLDER = "classifiers/object_classifiers"
RECORD = "object_classifiers.json"
FORMAT = 1
_LIMIT = 16 * 1024**2


@dataclass(frozen=True)
class MarkerClassifier:
    """Objects with ``measurement >= threshold`` get ``class_name``. threshold: a float32 number, as measurements are."""

    marker: str
    measurement: str
    threshold: float
    class_name: str


@dataclass(frozen=True)
class Written:
    """What happened: files written or removed now, all that are ours, files of others that were left, lines for people."""

    files: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def object_classifiers(workspace: Workspace) -> ObjectClassifiers:
    """The object classifiers of a QuPath project. Raises UsageError for any other place."""
    if not isinstance(workspace, QuPathWorkspace):
        raise UsageError("--classifiers writes into QuPath projects only", hint="Name one with --project")
    return ObjectClassifiers(workspace)


class ObjectClassifiers:
    """Those of one project. Everything is read anew, and written while the project's lock is held."""

    def __init__(self, workspace: QuPathWorkspace) -> None:
        self._workspace = workspace
        self._project = workspace.project.folder
        self._folder = self._project / FOLDER
        self._record = workspace.own_folder / RECORD

    def put(
        self, run_id: str, model: str, markers: Sequence[MarkerClassifier], *, kind: str, timestamp_ms: int
    ) -> Written:
        """Write one classifier per marker and the composite, in the order of ``markers``.

        kind: QuPath's name of the objects that were scored, see :meth:`kind_of`. Our own earlier files of these names
        are replaced, those of others stay. Raises OutputError (ChangedMeanwhile, Locked), BrokenFile.
        """
        with self._workspace.locked(PUBLISHING_TAKES):
            self._prepare()
            record = self._read_record()
            classes = ClassList.of(self._project)
            names = list(dict.fromkeys(m.class_name for m in markers))
            colors = class_colors(names, classes.colors)
            stems = file_stems(model, [m.marker for m in markers])
            plan = _Plan(self._files(), record["files"])
            singles = []
            for marker in markers:
                document = _single(marker, kind, colors, timestamp_ms)
                singles.append(plan.add(f"{stems[marker.marker]}.json", document))
            plan.add(f"{stems[None]}.json", _composite(singles))
            # a project without a list gets QuPath's own classes when it is opened; a list of ours alone would hide them
            added = [n for n in names if n not in classes.colors] if classes.exists else []
            self._write(plan, run_id, record, classes, added)
            return Written(
                tuple(plan.written),
                tuple(plan.ours),
                tuple(plan.kept),
                (*plan.notes, *_class_notes(classes, names, added)),
            )

    def take(self, run_id: str) -> Written:
        """Remove what a run wrote and nobody changed since; nothing of it there is no error. Raises as :meth:`put`."""
        with self._workspace.locked(PUBLISHING_TAKES):
            record = self._read_record()
            ours = {name: of for name, of in record["files"].items() if of["run"] == run_id}
            if not ours:
                return Written()
            self._prepare()
            there, removed, kept = self._files(), [], []
            for name, of in ours.items():
                file = there.get(_alike(name))
                if file is None:
                    continue
                if _sha(file) in of["sha256"]:
                    _remove(file)
                    removed.append(name)
                else:
                    kept.append(name)
            files = {name: of for name, of in record["files"].items() if name not in ours}
            added = record["classes_added"] if files else self._drop_classes(record["classes_added"])
            self._save({"format": FORMAT, "files": files, "classes_added": added})
            notes = [f"{FOLDER}/{name} was changed by somebody since; it stays" for name in kept]
            return Written(tuple(removed), (), tuple(kept), tuple(notes))

    def kind_of(self, refs: Sequence[ImageRef], cells: CellKind) -> str:
        """QuPath's filter for the objects that a run scores: ``CELLS``, ``DETECTIONS``, ``ANNOTATIONS``, or, where some images
        have cells and others plain detections instead, ``DETECTIONS_ALL``. Reads the images where that has to be seen."""
        if cells != "cells":
            return cells.upper()
        kinds = set()
        for ref in refs:
            path = self._workspace.project.data_path(int(ref.id))
            if path.exists():
                table = read_data(path)[0].table
                kinds.add("CELLS" if "cell" in table.kinds(table.all()) else "DETECTIONS")
        return kinds.pop() if len(kinds) == 1 else "DETECTIONS_ALL" if kinds else "CELLS"

    def _write(
        self, plan: _Plan, run_id: str, record: dict[str, Any], classes: ClassList, added: Sequence[str]
    ) -> None:
        files, new = record["files"], plan.new
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in new.items()}
        before = {name: files[name]["sha256"] if name in files else [] for name in plan.ours}
        meant = {name: [*before[name], *([hashes[name]] if name in hashes else [])] for name in plan.ours}
        total = list(dict.fromkeys([*record["classes_added"], *added]))
        if new or added:
            self._save({"format": FORMAT, "files": files | _told(meant, run_id), "classes_added": total})
        classes.extend(added)
        if new:
            make_folder(self._folder)
        for name, data in new.items():
            replace_seen(plan.path(self._folder, name), data, plan.seen.get(name), verify=_verify)
        after = {name: [hashes[name] if name in hashes else plan.seen[name].sha256] for name in plan.ours}
        self._save({"format": FORMAT, "files": files | _told(after, run_id), "classes_added": total})

    def _files(self) -> dict[str, Path]:
        """Classifiers that are there, by :func:`_alike`."""
        found = sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []
        return {_alike(path.name): path for path in found if path.is_file()}

    def _prepare(self) -> None:
        """Refuse links, and sweep what a killed run left."""
        for folder in (self._folder.parent, self._folder):
            if folder.is_symlink():
                raise OutputError(
                    f"{folder} is a symbolic link, perhaps to the classifiers of another project",
                    hint="mxbridge does not write through links inside a project; replace the link by a folder",
                )

        for folder in (self._folder.parent, self._folder, self._record.parent):
            sweep(folder)

    def _read_record(self) -> dict[str, Any]:
        if not self._record.exists():
            return {"files": {}, "classes_added": []}
        document = parse_json(read_seen(self._record, _LIMIT)[0], self._record)
        files, added = document.get("files"), document.get("classes_added")
        good = document.get("format") == FORMAT and isinstance(files, dict) and isinstance(added, list)
        if not good or not all(isinstance(o, dict) and isinstance(o.get("sha256"), list) and "run" in o for o in files.values()):  # type: ignore[union-attr]  # fmt: skip
            raise BrokenFile(
                self._record,
                "mxbridge's own record of the classifiers it wrote is damaged",
                hint="Restore it from a backup, or delete it: the classifiers then stay as if they were yours",
            )
        return document

    def _save(self, record: dict[str, Any]) -> None:
        """Write the record if it says something new; without files it goes."""
        if not record["files"] and not record["classes_added"]:
            _remove(self._record)
            return
        data = json.dumps(record, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
        if self._record.exists() and self._record.read_bytes() == data:
            return
        make_folder(self._record.parent)
        with write_atomically(self._record) as part:
            part.write_bytes(data)

    def _drop_classes(self, added: Sequence[str]) -> list[str]:
        """Take what we added off the class list, except what published classes still need; return these."""
        published = self._record.parent / "published"
        told = [ToldClasses.read(path) for path in sorted(published.glob("*.json"))] if published.is_dir() else []
        used = set(class_colors([name for one in told if one.in_use for name in (*one.names, *one.added)], {}))
        ClassList.of(self._project).drop(set(added) - used)
        return [name for name in added if name in used]


class _Plan:
    """Which files of a set may be written: not there yet, or ours and unchanged."""

    def __init__(self, there: Mapping[str, Path], files: Mapping[str, Any]) -> None:
        self._there, self._files = there, files
        self.ours: list[str] = []
        self.new: dict[str, bytes] = {}
        self.seen: dict[str, Seen] = {}
        self.written: list[str] = []
        self.kept: list[str] = []
        self.notes: list[str] = []

    def add(self, name: str, document: dict[str, Any]) -> dict[str, Any]:
        """Take up one file; the classifier that QuPath will find under its name."""
        path = self._there.get(_alike(name))
        if path is None:
            return self._to_write(name, document)
        data, seen = read_seen(path, JSON_LIMIT)
        if seen.sha256 in self._files.get(name, {}).get("sha256", ()):
            self.seen[name] = seen
            if _timeless(_parsed(data, path)) == _timeless(document):
                self.ours.append(name)
                return document
            return self._to_write(name, document)
        return self._to_keep(name, _parsed(data, path), document)

    def _to_write(self, name: str, document: dict[str, Any]) -> dict[str, Any]:
        self.ours.append(name)
        self.new[name] = dump_json(document)
        self.written.append(name)
        return document

    def _to_keep(self, name: str, theirs: dict[str, Any] | None, document: dict[str, Any]) -> dict[str, Any]:
        """Somebody's file stays; where it is a threshold on the same measurement, the composite takes it over."""
        self.kept.append(name)
        usable = theirs is not None and _on_same_measurement(theirs, document)
        more = ", and the composite uses it" if usable else ""
        self.notes.append(f"{FOLDER}/{name} was made or changed by somebody else; it stays as it is{more}")
        return theirs if usable and theirs is not None else document

    def path(self, folder: Path, name: str) -> Path:
        return self._there.get(_alike(name), folder / name)


def _single(marker: MarkerClassifier, kind: str, colors: Mapping[str, int], timestamp_ms: int) -> dict[str, Any]:
    named = {"name": marker.class_name, "color": _rgb(colors[marker.class_name])}
    return {
        "object_classifier_type": "SimpleClassifier",
        "function": {
            "classifier_fun": "ClassifyByMeasurementFunction",
            "measurement": marker.measurement,
            "pathClassEquals": named,
            "pathClassAbove": named,
            "threshold": marker.threshold,
        },
        "pathClasses": [named],
        "filter": kind,
        "timestamp": timestamp_ms,
    }


def _composite(classifiers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"object_classifier_type": "CompositeClassifier", "classifiers": list(classifiers)}


def _rgb(argb: int) -> list[int]:
    return [argb >> 16 & 0xFF, argb >> 8 & 0xFF, argb & 0xFF]


def _class_notes(classes: ClassList, names: Sequence[str], added: Sequence[str]) -> list[str]:
    if added:
        return [f"new in the project's class list: {', '.join(added)} (reopen the project where QuPath has it open)"]
    missing = [] if classes.exists else list(names)
    return (
        ["the project has no class list of its own yet; the classifiers bring their classes along"] if missing else []
    )


def _told(hashes: Mapping[str, list[str]], run_id: str) -> dict[str, Any]:
    return {name: {"sha256": shas, "run": run_id} for name, shas in hashes.items()}


def _timeless(document: dict[str, Any] | None) -> Any:
    """A classifier without the time it was made at, which says nothing about what it does."""
    if document is None:
        return None
    bare = {key: value for key, value in document.items() if key != "timestamp"}
    inner = bare.get("classifiers")
    return {**bare, "classifiers": [_timeless(c) if isinstance(c, dict) else c for c in inner]} if isinstance(inner, list) else bare  # fmt: skip


def _on_same_measurement(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    function = theirs.get("function")
    kind = theirs.get("object_classifier_type")
    if kind != "SimpleClassifier" or kind != ours["object_classifier_type"] or not isinstance(function, dict):
        return False
    return bool(function.get("measurement") == ours["function"]["measurement"])


def _parsed(data: bytes, path: Path) -> dict[str, Any] | None:
    try:
        return parse_json(data, path)
    except BrokenFile:
        return None  # whatever it is, it is not ours


def _verify(data: bytes) -> None:
    document = json.loads(data)
    if dump_json(document) != data:
        raise OutputError("a classifier does not read back as it was written", hint="Nothing was changed")


def _alike(name: str) -> str:
    """QuPath finds a classifier whatever the case of its name, and systems differ in how they store accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _sha(path: Path) -> str:
    return read_seen(path, JSON_LIMIT)[1].sha256


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
