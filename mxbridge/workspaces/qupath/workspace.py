"""A QuPath project as a workspace: images and cells out, measurements, classes and objects back, without a JVM."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mxbridge.cells import OutlineCells
from mxbridge.errors import (
    BrokenFile,
    ChangedMeanwhile,
    InputError,
    MxbridgeError,
    OutputError,
    SourceError,
    UnknownName,
    UsageError,
)
from mxbridge.formats.exchange import sweep
from mxbridge.image import LocalImage
from mxbridge.results import ImageRef, Results
from mxbridge.stains import StainVectors
from mxbridge.workspaces.base import CellKind, Published, Pulled, Workspace
from mxbridge.workspaces.qupath import edit
from mxbridge.workspaces.qupath.cells import cells_of
from mxbridge.workspaces.qupath.classes import ClassList
from mxbridge.workspaces.qupath.handover.hand_over import HandedOver, hand_over
from mxbridge.workspaces.qupath.last_read import LastRead
from mxbridge.workspaces.qupath.ledger import Ledger
from mxbridge.workspaces.qupath.lock import ProjectLock
from mxbridge.workspaces.qupath.made import object_id
from mxbridge.workspaces.qupath.pixels import open_pixels
from mxbridge.workspaces.qupath.project import Entry, Project
from mxbridge.workspaces.qupath.publication import Publication, refuse_links
from mxbridge.workspaces.qupath.shown_maps import describe_maps, hide_maps, maps_are_shown, show_maps
from mxbridge.workspaces.qupath.stain_vectors import stains_of
from mxbridge.workspaces.qupath.uris import PathMap
from mxbridge.workspaces.qupath.views import refreshing

OWN_FOLDER = "mxbridge"
"""Folder inside a project for the lock, the record of what was published, and derived images."""

SETTINGS = Path(OWN_FOLDER) / "settings.json"
"""Inside a project: what it asks for by itself. ``{"model": "demo"}`` is written by ``mxbridge demo``."""

PUBLISHING_TAKES = 120.0
"""Seconds to wait for another run that is just writing to the project."""

RELOAD = (
    "If this image is open in QuPath, do not save it there: choose File > Reload data first, "
    "or QuPath's next save brings the old state back"
)


class QuPathWorkspace(Workspace):
    """Opens without reading images. ``address`` is the path of the project file."""

    def __init__(
        self,
        project: str | os.PathLike[str],
        *,
        path_maps: Sequence[PathMap | str] = (),
        um_per_px: float | None = None,
    ) -> None:
        """project: the .qpproj file or its folder. path_maps: where moved images are now (``OLD=NEW``), tried first.
        um_per_px: µm per pixel for every image, over what the project says.

        Raises SourceError (no such project), BrokenFile, UsageError.
        """
        if um_per_px is not None and not 0 < um_per_px < 1e6:
            raise UsageError(
                f"--um-per-px {um_per_px} makes no sense", hint="It is the width of a pixel in µm, e.g. 0.5"
            )
        self._project = Project.open(project)
        self._path_maps = tuple(m if isinstance(m, PathMap) else PathMap.parse(m) for m in path_maps)
        self._um_per_px = um_per_px
        self._lock = ProjectLock(self.own_folder)
        self._last = LastRead()
        self.address = str(self._project.path)

    @property
    def default_model(self) -> str | None:
        """The model this project asks for (demonstrations do), else None. Raises BrokenFile."""
        path = self._project.folder / SETTINGS
        if not path.is_file():
            return None
        try:
            model = json.loads(path.read_text(encoding="utf-8")).get("model")
        except (OSError, ValueError, AttributeError) as error:
            raise BrokenFile(path, f"is not a settings file ({error})", hint="Remove it") from error
        return model if isinstance(model, str) else None

    @property
    def class_colors(self) -> dict[str, int | None]:
        return ClassList.of(self._project.folder).colors

    @property
    def opened(self) -> dict[str, Any]:
        told = {"path_maps": [f"{m.old}={m.new}" for m in self._path_maps], "um_per_px": self._um_per_px}
        return {name: value for name, value in told.items() if value}

    @property
    def project(self) -> Project:
        """The project as it was when the workspace was opened."""
        return self._project

    @property
    def own_folder(self) -> Path:
        return self._project.folder / OWN_FOLDER

    @property
    def runs_home(self) -> Path:
        return self._project.folder / "mxbridge-runs"

    def derived_folder(self, ref: ImageRef) -> Path:
        """Where images derived from ``ref`` live: inside the project, so that they move with it."""
        return self.own_folder / "derived" / str(self._entry(ref).id)

    def list(self, names: Sequence[str] = ()) -> list[ImageRef]:
        """All images in the project's order, or those named; several images of one name are all meant by it, and exactly one
        by ``id:3``."""
        entries = self._project.entries
        if not names:
            return [_ref(e) for e in entries if not e.made_by_mxbridge]
        found: dict[int, Entry] = {}
        for wanted in names:
            named = [e for e in entries if f"id:{e.id}" == wanted]  # as the buttons in QuPath name an image
            named = named or [e for e in entries if e.name == wanted] or [e for e in entries if str(e.id) == wanted]
            named = named or [e for e in entries if _loosely(e.name) == _loosely(wanted)]
            if not named:
                raise UnknownName("image", wanted, [str(_ref(e)) for e in entries], where=str(self._project.path))
            found |= {e.id: e for e in named}
        return [_ref(e) for e in entries if e.id in found]

    def pull(self, ref: ImageRef, cells: CellKind | None = "cells") -> Pulled:
        entry = self._entry(ref)
        image = self._image(entry)
        if cells is None:
            return Pulled(ref, image, None, image.warnings)
        found, warnings = self._cells(entry, cells, image)
        return Pulled(ref, image, found, (*image.warnings, *warnings))

    def object_ids(self, ref: ImageRef, result_key: str, keys: Sequence[str]) -> Sequence[str]:
        """UUIDs."""
        entry_id = str(self._entry(ref).id)
        return [object_id(result_key, entry_id, key) for key in keys]

    def stain_vectors(self, ref: ImageRef) -> StainVectors | None:
        """Those that QuPath shows for the image, its own defaults where nobody estimated them; None for images that have
        none, and for stains without hematoxylin. Raises InputError where they are no colours."""
        entry = self._entry(ref)
        path = self._project.data_path(entry.id)
        if not path.exists():
            return None
        try:
            return stains_of(self._last.read(path)[0].stains)
        except InputError as error:
            error.message = f"{entry.name} ({path}): {error.message}"
            raise

    def publish(self, results: Results) -> Published:
        """Write measurements, classes and objects into ``data.qpdata`` in one step; see :mod:`.publication`."""
        with self.locked(PUBLISHING_TAKES):
            project, entry = self._now(results.image)
            with refreshing(project, entry.id):
                outcome = Publication(project, entry, self.own_folder, self._last).put(results)
                maps = show_maps(
                    self._project.path,
                    entry.id,
                    self.derived_folder(results.image),
                    results.derived,
                    path_maps=self._path_maps,
                    um_per_px=self._um_per_px,
                )
        return self._published(results.image, entry, outcome.changed or maps.changed, (*outcome.notes, *maps.notes))

    def hand_over(self, results: Results, folder: Path, *, task: str, model: str) -> HandedOver:
        """Write what publishing would do as a file for a script in QuPath; see :mod:`.handover.hand_over`. Derived images are where
        :meth:`publish` expects them. folder: of the file. Raises as publish, but only for cells when all of them are gone."""
        with self.locked(PUBLISHING_TAKES):
            project, entry = self._now(results.image)
            views, notes = describe_maps(
                project,
                entry.id,
                self.derived_folder(results.image),
                results.derived,
                path_maps=self._path_maps,
                um_per_px=self._um_per_px,
            )
            publication = Publication(project, entry, self.own_folder, self._last)
            return hand_over(
                project, entry, publication, results, views, folder=folder, task=task, model=model, notes=notes
            )

    def holds(self, results: Results) -> bool:
        try:
            entry = self._entry(results.image)
            if not self._project.data_path(entry.id).exists():
                return False
            tree, seen = self._last.read(self._project.data_path(entry.id))
            state = Ledger.open(self.own_folder / "published", entry.id, seen.sha256, lambda: tree).state
            shown = maps_are_shown(
                Project.open(self._project.path), entry.id, results.derived, self.derived_folder(results.image)
            )
            held = shown and edit.held(tree, results, entry_id=str(entry.id))
            return held and not edit.others_have_values(tree, state, results)
        except (InputError, SourceError):
            return False

    def retract(self, ref: ImageRef, result_keys: Sequence[str], *, run_id: str | None = None) -> Published:
        """Take results out again; keys that were never published here, or are out already, change nothing."""
        with self.locked(PUBLISHING_TAKES):
            project, entry = self._now(ref)
            publication = Publication(project, entry, self.own_folder, self._last)
            keys = publication.keys_to_take(result_keys, run_id)
            with refreshing(project, entry.id):
                outcome = publication.take(result_keys, run_id)
                maps = hide_maps(self._project.path, entry.id, self.derived_folder(ref), keys)
        done = self._published(ref, entry, outcome.changed or maps.changed, (*outcome.notes, *maps.notes))
        return replace(done, keys=tuple(sorted(keys)))

    def published_keys(self, ref: ImageRef) -> tuple[str, ...]:
        """Result keys that the record of publications has for an image."""
        return Publication(self._project, self._entry(ref), self.own_folder, self._last).keys

    def lost(self, ref: ImageRef) -> tuple[str, ...]:
        """What was published on an image and is gone, most likely because QuPath saved an older state over it."""
        return Publication(self._project, self._entry(ref), self.own_folder, self._last).lost()

    def check_writable(self) -> None:
        """Folders, files and links on the way to every ``data.qpdata``; the lock is tried, and what a killed run left swept."""
        folders = [self._project.folder, self._project.folder / "data"]
        for entry in self._project.entries:
            folders.append(self._project.data_folder(entry.id))
            refuse_links(self._project, entry.id)
        for folder in folders:
            if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
                raise OutputError(
                    f"{folder} is read-only",
                    hint="Copy the project to a place where you may write, or compute without writing: --no-publish",
                )
        with self.locked(PUBLISHING_TAKES):
            for folder in (*folders, self.own_folder / "published"):
                sweep(folder)

    @contextmanager
    def locked(self, wait: float = 0.0, *, told: Callable[[str], None] | None = None) -> Iterator[None]:
        """Keep other runs of mxbridge off this project. Raises Locked, naming who holds it, after ``wait`` seconds."""
        with self._lock.held(wait, told=told):
            yield

    def _entry(self, ref: ImageRef) -> Entry:
        if not (ref.id.isascii() and ref.id.isdigit()):
            raise UnknownName("image", ref.id, [str(_ref(e)) for e in self._project.entries], where=self.address)
        return self._project.entry(int(ref.id))

    def _now(self, ref: ImageRef) -> tuple[Project, Entry]:
        """The project and the entry as they are on disk now, perhaps hours after the workspace was opened."""
        project, before = Project.open(self._project.path), self._entry(ref)
        if before.id not in {entry.id for entry in project.entries}:
            raise ChangedMeanwhile(f"{before.name} ({before.id}) was removed from {self.address} since it was read")
        return project, project.entry(before.id)

    def _image(self, entry: Entry) -> LocalImage:
        try:
            image = open_pixels(
                entry.builder, name=entry.name, locate=lambda uri: self._project.locate(uri, self._path_maps)
            )
        except MxbridgeError as error:
            if not error.message.startswith(entry.name):
                error.message = f"{entry.name}: {error.message}"
            raise
        if self._um_per_px is None:
            return image
        told = image.pixel_size_um
        image = image.with_pixel_size(self._um_per_px)
        if told is not None and any(abs(side / self._um_per_px - 1) > 0.01 for side in told):
            warning = f"pixel size {self._um_per_px} µm as given; the project says {told[1]:g} x {told[0]:g} µm"
            image = replace(image, warnings=(*image.warnings, warning))
        return image

    def _cells(self, entry: Entry, kind: CellKind, image: LocalImage) -> tuple[OutlineCells | None, tuple[str, ...]]:
        path = self._project.data_path(entry.id)
        if not path.exists():
            return None, ()
        tree, seen = self._last.read(path)
        ledger = Ledger.open(self.own_folder / "published", entry.id, seen.sha256, lambda: tree)
        try:
            cells, warnings = cells_of(tree, kind, image.shape, ledger.state)
        except InputError as error:
            error.message = f"{entry.name} ({path}): {error.message}"
            raise
        if not tree.writable:
            warnings.append(f"nothing can be published on this image: {tree.why_not_writable}")
        elif gone := edit.lost(tree, ledger.state):
            warnings.append(
                f"published earlier, but not there any more: {', '.join(gone[:10])}; QuPath probably saved an older state "
                "over it, or was handed these results and never saved them. `mxbridge publish RUN` repeats a publication"
            )
        return cells, tuple(warnings)

    def _published(self, ref: ImageRef, entry: Entry, changed: bool, notes: Sequence[str]) -> Published:
        where = str(self._project.data_path(entry.id))
        return Published(ref, changed, where, (*notes, RELOAD) if changed else tuple(notes))


def _loosely(name: str) -> str:
    """A name whatever its case and the way its accents are stored, which differs between systems."""
    return unicodedata.normalize("NFC", name).casefold()


def _ref(entry: Entry) -> ImageRef:
    return ImageRef(str(entry.id), entry.name)
