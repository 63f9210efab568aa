"""One publication on one image of a project: read, edit in memory, check, replace, remember.

Steps, each of which a kill may interrupt: (1) sweep what a killed run left, (2) read ``data.qpdata`` and the ledger,
(3) edit the tree, (4) extend the project's class list, (5) write the ledger's journal, (6) back up and replace
``data.qpdata``, (7) refresh ``summary.json``, (8) close the journal. After a kill the next publication sees from the
journal which of the two states is on disk and goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mxbridge.errors import MxbridgeError, OutputError
from mxbridge.formats.atomic import output_error, write_atomically
from mxbridge.formats.exchange import BACKUP_SUFFIX, Seen, replace_seen, sweep
from mxbridge.results import Results
from mxbridge.workspaces.qupath import edit
from mxbridge.workspaces.qupath.classes import ClassList, class_colors
from mxbridge.workspaces.qupath.last_read import LastRead, read_bytes
from mxbridge.workspaces.qupath.ledger import Ledger, State, ToldClasses, same_result, samples_of
from mxbridge.workspaces.qupath.project import Entry, Project, dump_json
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, new_image_data

CALLED_BACK = (
    "These results had been handed over to QuPath and not been saved there. If the image is open, choose File > Reload data, or "
    "QuPath's next save brings them into the project after all"
)


@dataclass(frozen=True)
class Outcome:
    changed: bool
    notes: tuple[str, ...] = ()


class Publication:
    """Made while the project's lock is held; reads what is on disk now."""

    def __init__(self, project: Project, entry: Entry, own_folder: Path, last: LastRead) -> None:
        """last: where the file may have been read already."""
        self._last = last
        self._project = project
        self._entry = entry
        self._path = project.data_path(entry.id)
        self._seen: Seen | None = None
        self._before: bytes | None = None
        if self._path.exists():
            self._before, self._seen = read_bytes(self._path)
        self._published = own_folder / "published"
        self.ledger = Ledger.open(self._published, entry.id, self.data_sha, lambda: last.read(self._path)[0])

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(sorted(self.ledger.state.keys))

    def keys_to_take(self, keys: Collection[str], run_id: str | None) -> set[str]:
        """Those of ``keys`` under which no other run has published since."""
        state = self.ledger.state
        return (
            set(keys) if run_id is None else {k for k in keys if k in state.keys_of_run(run_id) or k not in state.keys}
        )

    def lost(self) -> tuple[str, ...]:
        return tuple(edit.lost(self._last.read(self._path)[0], self.ledger.state)) if self._seen else self.keys

    @property
    def data_sha(self) -> str | None:
        """sha256 of ``data.qpdata`` as it was read; None where there is none."""
        return self._seen.sha256 if self._seen else None

    def put(self, results: Results) -> Outcome:
        """Raises ChangedMeanwhile, OutputError, InputError; then ``data.qpdata`` is as it was."""
        classes = self.classes()

        def change(tree: ImageDataFile) -> edit.Edited:
            return edit.put(tree, self.ledger.state, results, entry_id=str(self._entry.id), known_colors=classes.colors)

        return self._run(change, classes, self.ledger.waiting)

    def take(self, keys: Collection[str], run_id: str | None = None) -> Outcome:
        """Keys that are not there (any more) change nothing, so that an interrupted undo can be repeated.

        run_id: leave what another run has published under these keys since.
        """
        waiting = self.ledger.waiting
        called = set() if waiting is None else waiting.runs_of(keys) - self.ledger.state.runs_of(keys)
        called_back = bool(called if run_id is None else called & {run_id})
        if run_id is not None:
            keys = set(keys) & self.ledger.state.keys_of_run(run_id)
        if not set(keys) & self.ledger.state.keys and not self.ledger.unfinished:
            return Outcome(False, ("nothing of this result is published here",))
        classes = self.classes()

        def change(tree: ImageDataFile) -> edit.Edited:
            return edit.take(tree, self.ledger.state, keys, entry_id=str(self._entry.id), known_colors=classes.colors)

        done = self._run(change, classes, None if called_back else waiting, forget_classes=True)
        return Outcome(True, (*done.notes, CALLED_BACK)) if called_back else done

    def change_objects(self, change: Callable[[ImageDataFile], Mapping[str, int]]) -> bool:
        """Change objects in the user's name: nothing of it is remembered as ours. Whether anything was written.

        change: edits the objects and returns the colours of the classes it has given. Raises as :meth:`put`.
        """
        refuse_links(self._project, self._entry.id)
        classes = self.classes()
        for folder in (self._path.parent, classes.path.parent):
            sweep(folder)
        tree = self.tree()
        colors = change(tree)
        data = tree.to_bytes()
        if data == self._before or (self._before is None and not tree.root.members):
            return False
        if (
            self.ledger.unfinished and self.ledger.waiting is None
        ):  # what a killed run did, before the file is another one
            self.ledger.finish(self.ledger.state, self.ledger.written_sha, self.ledger.samples)
        if classes.exists:
            classes.extend(colors, colors)
        _make_folder(self._path.parent)
        self._seen = replace_seen(self._path, data, self._seen, verify=tree.verify, backup=self._backup())
        self._write_summary(tree)
        return True

    def _run(
        self,
        change: Callable[[ImageDataFile], edit.Edited],
        classes: ClassList,
        waiting: State | None,
        *,
        forget_classes: bool = False,
    ) -> Outcome:
        """waiting: what was handed over to QuPath and may still be saved by it."""
        refuse_links(self._project, self._entry.id)
        for folder in (self._project.folder, self._path.parent, self._published, classes.path.parent):
            sweep(folder)
        tree = self.tree()
        edited = change(tree)
        if (
            self._before is None and not tree.root.members and not tree.image_values
        ):  # nothing to put into a file that is not there
            return Outcome(False, edited.notes)
        data = tree.to_bytes()
        same_bytes = data == self._before
        if same_bytes and same_result(edited.state, self.ledger.state) and not self.ledger.unfinished:
            return Outcome(False, edited.notes)
        # a project without a list gets QuPath's own classes when it is opened; a list of ours alone would hide them
        listed = [n for n in class_colors(edited.new_classes, {}) if n not in classes.colors] if classes.exists else []
        added = tuple(dict.fromkeys([*self.ledger.state.classes_added, *listed]))
        state = replace(edited.state, classes_added=added)
        if not same_bytes:
            self.ledger.begin(state, before=self.data_sha, after=hashlib.sha256(data).hexdigest())
            try:
                classes.extend(listed)
                _make_folder(self._path.parent)
                self._seen = replace_seen(self._path, data, self._seen, verify=tree.verify, backup=self._backup())
            except MxbridgeError:
                self._forget(data, classes, listed)
                raise
        if not same_bytes or self.ledger.waiting is None:
            self._write_summary(tree)
        if forget_classes and not state.keys:
            state = replace(state, classes_added=self._drop_classes(classes, state.classes_added))
        self.ledger.finish(state, self.data_sha, samples_of(tree, state), waiting=waiting)
        return Outcome(not same_bytes, edited.notes)

    def _forget(self, data: bytes, classes: ClassList, listed: list[str]) -> None:
        """Close the journal of a replacement that failed, or a user's next save would be taken for what was meant."""
        with suppress(
            MxbridgeError, OSError
        ):  # then the journal stays, as after a kill; the first error is the one to tell
            if self._path.exists() and self._path.read_bytes() == data:
                return
            classes.drop(listed)
            self.ledger.finish(
                self.ledger.state, self.ledger.written_sha, self.ledger.samples, waiting=self.ledger.waiting
            )

    def tree(self) -> ImageDataFile:
        """The objects, to edit; none where nothing was saved yet. Raises OutputError where they cannot be written again."""
        if self._before is not None and self._seen is not None:
            tree = self._last.to_edit(self._path, self._before, self._seen)
            if tree.writable:
                return tree
            raise OutputError(
                f"{self._path}: cannot be written to: {tree.why_not_writable}",
                hint="Open and save the image once in QuPath 0.4 or later, then run again",
            )
        metadata = self._entry.builder.get("metadata") or {}
        return new_image_data(
            self._entry.builder,
            self._project.version,
            "UNSET" if metadata.get("isRGB") else "FLUORESCENCE",  # QuPath asks for that of a colour picture
        )

    def _backup(self) -> bytes | None:
        """The bytes to keep: a state that others wrote. Our own earlier result never replaces it."""
        if self._before is None:
            return None
        ours = self._seen is not None and self._seen.sha256 == self.ledger.written_sha
        there = self._path.with_name(self._path.name + BACKUP_SUFFIX).exists()
        return None if ours and there else self._before

    def classes(self) -> ClassList:
        """The project's class list. Raises BrokenFile."""
        return ClassList.of(self._project.folder)

    def _drop_classes(self, classes: ClassList, added: tuple[str, ...]) -> tuple[str, ...]:
        """Take what we added off the project's class list, except what other images still have; return these."""
        others = [
            ToldClasses.read(path)
            for entry in self._project.entries
            if entry.id != self._entry.id and (path := self._published / f"{entry.id}.json").exists()
        ]
        used = set(class_colors([name for o in others if o.in_use for name in (*o.names, *o.added)], {}))
        left = [o for o in others if not o.in_use]  # of images that were retracted while others had their classes
        classes.drop({*added, *(name for o in left for name in o.added)} - used)
        for other in left:
            if not other.added & used:
                other.path.unlink(missing_ok=True)
        return tuple(name for name in added if name in used)

    def _write_summary(self, tree: ImageDataFile) -> None:
        """``summary.json``: for people and other programs; QuPath rewrites it and never reads it."""
        path = self._path.with_name("summary.json")
        if path.is_symlink() or self._seen is None:
            return
        with write_atomically(path) as part:
            part.write_bytes(summary_json(tree, self._entry.builder, self._seen))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error


def read_data(path: Path) -> tuple[ImageDataFile, Seen]:
    """A ``data.qpdata`` and what the file was when read. Raises SourceError, BrokenFile, Unsupported."""
    data, seen = read_bytes(path)
    return ImageDataFile(data, path), seen


def summary_json(tree: ImageDataFile, builder: dict, seen: Seen) -> bytes:
    """One line, as QuPath writes it beside ``data.qpdata``."""
    metadata = builder.get("metadata") or {}
    channels = metadata.get("channels")
    document = {
        "timestamp": seen.mtime_ns // 1_000_000,
        "imageType": tree.image_type,
        "server": {
            "width": metadata.get("width", 0),
            "height": metadata.get("height", 0),
            "sizeC": len(channels) if isinstance(channels, list) else 0,
            "sizeZ": metadata.get("sizeZ", 1),
            "sizeT": metadata.get("sizeT", 1),
        },
        "hierarchy": tree.counts(),
    }
    return dump_json(document, indent=None)


def refuse_links(project: Project, entry_id: int) -> None:
    """Raise OutputError when the way to an entry's data leads through a symbolic link: it could end anywhere."""
    folder = project.data_folder(entry_id)
    for place in (folder.parent, folder, folder / "data.qpdata", folder / "summary.json"):
        if place.is_symlink():
            raise OutputError(
                f"{place} is a symbolic link",
                hint="mxbridge does not write through links inside a project; replace the link by what it points to",
            )
