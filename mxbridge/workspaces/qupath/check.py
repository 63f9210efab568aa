"""``mxbridge qupath check``: is a project sound, and does QuPath read the same from it as we do?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mxbridge.errors import InputError, MxbridgeError, SourceError, Unsupported
from mxbridge.formats.atomic import PART_SUFFIX
from mxbridge.formats.exchange import read_seen
from mxbridge.workspaces.qupath import edit, qupath_process
from mxbridge.workspaces.qupath.builders import files_of
from mxbridge.workspaces.qupath.classes import ClassList
from mxbridge.workspaces.qupath.compare import FactsOf, ImageFacts, ObjectFacts, differences, image_differences
from mxbridge.workspaces.qupath.javastream import JavaObject
from mxbridge.workspaces.qupath.judge import EntryFacts, Question, ask_about
from mxbridge.workspaces.qupath.ledger import Ledger
from mxbridge.workspaces.qupath.pixels import open_pixels, open_stored
from mxbridge.workspaces.qupath.project import Entry, Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.qpdata.image_data import MAX_BYTES
from mxbridge.workspaces.qupath.uris import PathMap, uri_of
from mxbridge.workspaces.qupath.workspace import OWN_FOLDER

_SHOWN = 20
"""Differences listed per image; one wrong assumption makes thousands."""


Colors = dict[str, set[int | None]]
"""All colours a class has anywhere in a project. QuPath keeps the first it meets for as long as it runs."""


@dataclass(frozen=True)
class EntryCheck:
    """One image. problems: what is wrong. notes: what one should know. objects: without the root."""

    id: int
    name: str
    objects: int = 0
    cells: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """A whole project. judge: the QuPath it was compared with, or how to get one."""

    project: Path
    version: str
    entries: tuple[EntryCheck, ...]
    problems: tuple[str, ...]
    judge: str
    compared: bool

    @property
    def sound(self) -> bool:
        return not self.problems and not any(entry.problems for entry in self.entries)


def check_project(
    path: str | os.PathLike[str], *, path_maps: Sequence[PathMap | str] = (), ask_qupath: bool | None = None
) -> Check:
    """Read everything in a project and write nothing.

    ask_qupath: compare with a real QuPath; None does so where one is installed, True raises SourceError where none is.
    Raises SourceError (no project), BrokenFile (not a project); everything else is a problem in the report.
    """
    project = Project.open(path)
    maps = tuple(m if isinstance(m, PathMap) else PathMap.parse(m) for m in path_maps)
    colors = _listed_colors(project)
    entries = {entry.id: _check_entry(project, entry, maps, colors) for entry in project.entries}
    reason = qupath_process.why_not()
    judge, compared = "not compared with a real QuPath", False
    if ask_qupath is None and reason:
        judge += f": {reason}. {qupath_process.HOW_TO_GET}"
    if ask_qupath or (ask_qupath is None and not reason):
        judge, compared = _compare(project, maps, entries, colors), True
    return Check(
        project.path, project.version, tuple(entries.values()), tuple(_project_problems(project)), judge, compared
    )


def _compare(project: Project, maps: Sequence[PathMap], entries: dict[int, EntryCheck], colors: Colors) -> str:
    """Add to ``entries`` what QuPath reads otherwise; its version. The project is not written to."""

    def take(number: int, told: EntryFacts, objects: Iterator[ObjectFacts]) -> None:
        entry, checked = project.entry(number), entries[number]
        lines = _image_lines(project, entry, maps, told)
        notes = dict.fromkeys(checked.notes)

        def shown() -> Iterator[ObjectFacts]:
            for found in objects:
                name, color = found.class_name, found.class_color
                if name is not None and not {color, None} & colors.get(name, {None}):
                    notes[f"QuPath shows the class {name!r} in a colour that is not stored for it"] = None
                yield found

        lines += _object_lines(project.data_path(number), told, shown())
        more = [f"... and {len(lines) - _SHOWN} more differences"] if len(lines) > _SHOWN else []
        entries[number] = replace(checked, problems=(*checked.problems, *lines[:_SHOWN], *more), notes=tuple(notes))

    questions = []
    for entry in project.entries:
        try:
            questions.append(_question(project, entry, maps))
        except InputError as error:
            checked = entries[entry.id]
            entries[entry.id] = replace(checked, notes=(*checked.notes, f"not shown to QuPath: {error.message}"))
    version, failed = ask_about(project.path, questions, take)
    for number, why in failed.items():
        entries[number] = replace(entries[number], problems=(*entries[number].problems, why))
    return f"compared with QuPath {version}"


def _question(project: Project, entry: Entry, maps: Sequence[PathMap]) -> Question:
    """Raises InputError for an image that is no local file: QuPath would fetch it from wherever the project says."""
    uris = {}
    for uri in files_of(entry.builder):
        with suppress(SourceError):  # QuPath says so too
            uris[uri] = uri_of(project.locate(uri, maps))
    data = project.data_path(entry.id)
    return Question(entry.id, uris, data.stat().st_size if data.exists() else 0)


def _image_lines(project: Project, entry: Entry, maps: Sequence[PathMap], told: EntryFacts) -> list[str]:
    lines = [] if told.name == entry.raw.get("imageName") else [f"its name is {told.name!r} in QuPath"]
    if told.image is None:
        return [*lines, f"QuPath cannot open the image: {told.why_no_image}"]
    try:
        image = open_stored(entry.builder, name=entry.name, locate=lambda uri: project.locate(uri, maps))
    except MxbridgeError:  # said already
        return lines
    ours = ImageFacts.of_image(image)
    if not isinstance(entry.builder.get("metadata"), dict):  # names and colours are made up by each program then
        ours = replace(ours, channels=tuple(("", None) for _ in ours.channels))
    return lines + image_differences(ours, told.image)


def _object_lines(path: Path, told: EntryFacts, theirs: Iterator[ObjectFacts]) -> list[str]:
    if not path.exists():
        return differences({}, theirs)
    try:
        tree = ImageDataFile.read(path)
    except MxbridgeError:
        return []  # already among the problems
    lines = [] if tree.image_type == told.image_type else [f"type {tree.image_type}, in QuPath {told.image_type}"]
    if tree.writable:
        return lines + differences(FactsOf(tree), theirs)
    # ids are missing or repeated: QuPath makes new ones at each opening
    ours, other = sum(1 for _ in tree.objects()), sum(1 for _ in theirs)
    return lines if ours == other else [*lines, f"{ours} objects, in QuPath {other}"]


def _project_problems(project: Project) -> list[str]:
    problems = []
    try:
        colors = ClassList.of(project.folder).colors
        if bare := [name for name, color in colors.items() if color is None]:
            problems.append(f"classes without a colour in the class list: {', '.join(bare[:10])}")
    except (InputError, SourceError) as error:
        problems.append(str(error))
    left = sorted(project.folder.rglob(f"*{PART_SUFFIX}"))
    if left:
        problems.append(f"{len(left)} files left by a killed run; the next publication removes them ({left[0]})")
    return problems


def _listed_colors(project: Project) -> Colors:
    with suppress(MxbridgeError):  # said elsewhere
        listed = ClassList.of(project.folder).colors
        return {name: {color} for name, color in listed.items()}
    return {}


def _check_entry(project: Project, entry: Entry, maps: Sequence[PathMap], colors: Colors) -> EntryCheck:
    """Colours of classes are added to ``colors``."""
    problems, notes = [], []
    try:
        image = open_pixels(entry.builder, name=entry.name, locate=lambda uri: project.locate(uri, maps))
        notes += list(image.warnings)
        if image.pixel_size_um is None:
            notes.append("no pixel size: give --um-per-px")
    except Unsupported as error:
        notes.append(str(error))
    except MxbridgeError as error:
        problems.append(str(error))
    result = EntryCheck(entry.id, entry.name)
    path = project.data_path(entry.id)
    if path.exists():
        try:
            data, seen = read_seen(path, MAX_BYTES)
            tree = ImageDataFile(data, path)
            problems += _tree_problems(tree, data)
            if not tree.writable:
                notes.append(f"cannot be written to: {tree.why_not_writable}")
            kinds = [found.kind for found in tree.objects()]
            for found in tree.objects():
                if found.class_name is not None:
                    colors.setdefault(found.class_name, set()).add(found.class_color)
            result = replace(result, objects=len(kinds), cells=kinds.count("cell"))
            ledger = Ledger.open(project.folder / OWN_FOLDER / "published", entry.id, seen.sha256, lambda: tree)
            if tree.writable and (gone := edit.lost(tree, ledger.state)):
                problems.append(f"published earlier, but not there any more: {', '.join(gone[:10])}")
            if ledger.waiting:
                notes.append("results were handed over to QuPath, which has not saved them yet")
            elif ledger.unfinished:
                notes.append("a publication was interrupted, or handed over to QuPath; the next one completes it")
        except MxbridgeError as error:
            problems.append(str(error))
    else:
        notes.append("no data yet: open and save it in QuPath, or publish to it")
    return replace(result, problems=tuple(problems), notes=tuple(notes))


def _tree_problems(tree: ImageDataFile, data: bytes) -> list[str]:
    problems = []
    if tree.to_bytes() != data:
        problems.append("does not come out byte for byte as it was read")
    ids = [found.id for found in tree.objects() if found.id is not None]
    if len(set(ids)) < len(ids):
        problems.append(f"{len(ids) - len(set(ids))} objects share their id with another")
    colorless: dict[str, None] = {}
    outlines = 0
    for found in tree.objects():
        if found.path_class is not None and not _has_colors(found.path_class):
            colorless[found.class_name or "?"] = None
        try:
            for roi in (found.roi, found.nucleus):
                if roi is not None:
                    _ = roi.bounds
            _ = found.measurements
        except InputError as error:
            outlines += 1
            if outlines <= _SHOWN:
                problems.append(str(error))
    if colorless:
        problems.append(
            f"classes without a colour, which QuPath may be unable to open: {', '.join(list(colorless)[:10])}"
        )
    return problems


def _has_colors(path_class: JavaObject) -> bool:
    """Whether the classes it is derived from have a colour; only a missing one there keeps QuPath from opening."""
    base = path_class.get("parentClass")
    while isinstance(base, JavaObject):
        if base.get("colorRGB") is None:
            return False
        base = base.get("parentClass")
    return True
