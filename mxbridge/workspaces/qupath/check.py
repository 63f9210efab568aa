"""``mxbridge qupath check``: is a project sound, and does QuPath read the same from it as we do?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mxbridge.errors import InputError, MxbridgeError, SourceError, Unsupported
from mxbridge.formats.atomic import PART_SUFFIX
from mxbridge.workspaces.qupath import edit, paquo
from mxbridge.workspaces.qupath.classes import ClassList
from mxbridge.workspaces.qupath.compare import differences, facts_of
from mxbridge.workspaces.qupath.exchange import read_seen
from mxbridge.workspaces.qupath.javastream import JavaObject
from mxbridge.workspaces.qupath.ledger import Ledger
from mxbridge.workspaces.qupath.pixels import open_pixels
from mxbridge.workspaces.qupath.project import Entry, Project
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.qpdata.image_data import MAX_BYTES
from mxbridge.workspaces.qupath.uris import PathMap
from mxbridge.workspaces.qupath.workspace import OWN_FOLDER

_SHOWN = 20
"""Differences listed per image; one wrong assumption makes thousands."""


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
    entries = {entry.id: _check_entry(project, entry, maps) for entry in project.entries}
    reason = paquo.why_not()
    judge, compared = f"not compared with a real QuPath: {reason}. {paquo.HOW_TO_GET}", False
    if ask_qupath or (ask_qupath is None and not reason):
        judge, answers = paquo.read_with_qupath(project.path)
        for number, answer in answers:
            entries[number] = _compared(project, entries[number], answer)
        compared = True
    return Check(
        project.path, project.version, tuple(entries.values()), tuple(_project_problems(project)), judge, compared
    )


def _project_problems(project: Project) -> list[str]:
    problems = []
    try:
        colors = ClassList(project.folder / "classifiers" / "classes.json").colors
        if bare := [name for name, color in colors.items() if color is None]:
            problems.append(f"classes without a colour in the class list: {', '.join(bare[:10])}")
    except (InputError, SourceError) as error:
        problems.append(str(error))
    left = sorted(project.folder.rglob(f"*{PART_SUFFIX}"))
    if left:
        problems.append(f"{len(left)} files left by a killed run; the next publication removes them ({left[0]})")
    return problems


def _check_entry(project: Project, entry: Entry, maps: Sequence[PathMap]) -> EntryCheck:
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
            result = replace(result, objects=len(kinds), cells=kinds.count("cell"))
            ledger = Ledger.open(project.folder / OWN_FOLDER / "published", entry.id, seen.sha256)
            if tree.writable and (gone := edit.lost(tree, ledger.state)):
                problems.append(f"published earlier, but not there any more: {', '.join(gone[:10])}")
            if ledger.unfinished:
                notes.append("a publication was interrupted; the next one completes it")
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


def _compared(project: Project, checked: EntryCheck, answer: list | str) -> EntryCheck:
    if isinstance(answer, str):
        return replace(checked, problems=(*checked.problems, answer))
    path = project.data_path(checked.id)
    try:
        ours = [facts_of(found) for found in ImageDataFile.read(path).objects()] if path.exists() else []
    except MxbridgeError:
        return checked  # already among the problems
    lines = differences(ours, answer)
    more = [f"... and {len(lines) - _SHOWN} more differences"] if len(lines) > _SHOWN else []
    return replace(checked, problems=(*checked.problems, *lines[:_SHOWN], *more))
