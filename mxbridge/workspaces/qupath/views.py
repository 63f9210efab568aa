"""Entries that show an image of the project in another way: with derived channels (:mod:`.joined`), or what was derived from it
by itself (:mod:`.apart`). Their objects are a copy of the original's; one that QuPath has saved since is the user's.

They carry ``_mxbridge.*`` metadata, so that they are found again and are never an input. The caller holds the project's lock.
Order: the entry's folder, then ``project.qpproj``; a folder that a killed run left behind is known by its mark and swept by
the next one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxbridge.errors import InputError, OutputError
from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.formats.exchange import read_seen, replace_seen, sweep
from mxbridge.formats.json_files import parse_json
from mxbridge.workspaces.qupath.builders import files_of
from mxbridge.workspaces.qupath.project import METADATA_MARK, Entry, Project, dump_json
from mxbridge.workspaces.qupath.publication import refuse_links
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.qpdata.image_data import MAX_BYTES
from mxbridge.workspaces.qupath.uris import uri_of

JOINED, APART = METADATA_MARK + "joined", METADATA_MARK + "apart"
"""Entry metadata: id of the image that is shown with its derived channels, or from which the shown one was derived."""

KEYS = METADATA_MARK + "keys"
"""Entry metadata: the result keys of the derived files, in their order."""

SHOWN = METADATA_MARK + "channels"
OBJECTS = METADATA_MARK + "objects"
"""Entry metadata: sha256 of the channels and of the objects as we wrote them; others are a user's."""

COPIED = METADATA_MARK + "copied"
"""Entry metadata: sha256 of the original's objects that were copied, where the copy says something else about the image."""

MARK = "mxbridge-joined.json"
"""In the folder of an entry that is just being added or removed."""

_REOPEN = (
    "If the project is open in QuPath, close and open it there to see the image, or QuPath's next save drops it again"
)
_OURS = {"data.qpdata", "server.json", "summary.json", "thumbnail.jpg", MARK}


@dataclass(frozen=True)
class Shown:
    """entry_id: of the entry that shows it, None where there is none (any more)."""

    entry_id: int | None
    changed: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """An entry as it has to be, decided before anything is written. there: as it is now, None for a new one. raw: its
    ``serverBuilder``, and the ``metadata`` that are ours. text: description of a new one.
    """

    source: Entry
    there: Entry | None
    raw: dict[str, Any]
    name: str
    text: str
    notes: tuple[str, ...] = ()


def views_of(project: Project, entry_id: int) -> list[Entry]:
    """The entries that show an image in another way; of several alike, copies that a user made, the one made first."""
    found: dict[tuple[str, ...], Entry] = {}
    for there in sorted(project.entries, key=lambda e: e.id):
        if there.metadata.get(JOINED) == str(entry_id):
            found.setdefault((JOINED,), there)
        elif there.metadata.get(APART) == str(entry_id):
            found.setdefault((APART, *keys_of(there)), there)
    return list(found.values())


def keys_of(there: Entry) -> tuple[str, ...]:
    """Result keys of what an entry shows."""
    return tuple(str(there.metadata.get(KEYS) or "").split())


@contextmanager
def refreshing(project: Project, entry_id: int) -> Iterator[None]:
    """While an image is published or retracted: a run that is killed or fails before the entries that show it have followed
    leaves a mark there, and :func:`is_refreshed` tells."""
    there = views_of(project, entry_id)
    for view in there:
        _outdate(project, view)
    yield
    for view in there:
        _remove_mark(project, view.id)


def outdate(project: Project, entry_id: int, but: Collection[str]) -> None:
    """The entries that show an image, all but these ids, have to follow what QuPath will save there: the next publication lets
    them, and until then :func:`is_refreshed` tells. Those whose objects a user has saved are left alone."""
    for view in views_of(project, entry_id):
        if str(view.id) not in but and objects_are_ours(project, view):
            _outdate(project, view)


def _outdate(project: Project, view: Entry) -> None:
    folder = project.data_folder(view.id)
    if folder.is_dir() and not (folder / MARK).exists():
        refuse_links(project, view.id)
        _write_mark(project, view.id, str(view.metadata.get(OBJECTS) or ""))


def is_refreshed(project: Project, entry_id: int) -> bool:
    """Whether the entries that show an image, if there are any, have followed what was published on the image last."""
    return not any((project.data_folder(there.id) / MARK).exists() for there in views_of(project, entry_id))


def channels_of(builder: object) -> list[dict[str, Any]]:
    """The channels that a server builder records; none where it does not say, or not as QuPath does."""
    metadata = builder.get("metadata") if isinstance(builder, Mapping) else None
    found = metadata.get("channels") if isinstance(metadata, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in found):
        return []
    return found


def stored_uri(project: Project, path: Path) -> str:
    """As the project would have stored it where it was saved last: then whoever corrects the paths of a moved project
    corrects this one too."""
    path = path.absolute()
    stored = project.stored_folder
    if stored is None or not project.moved or not path.is_relative_to(project.folder):
        return uri_of(path)
    return uri_of(stored.joinpath(*path.relative_to(project.folder).parts))


def channels_are_ours(there: Entry) -> bool:
    """Whether nobody has renamed or coloured the channels of an entry since we wrote them."""
    return there.metadata.get(SHOWN) == hash_of(channels_of(there.builder))


def hash_of(channels: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps([[c.get("name"), c.get("color")] for c in channels]).encode()).hexdigest()[:32]


def as_document(project: Project, view: View) -> dict[str, Any] | None:
    """What QuPath itself has to add or replace, as plain JSON; None where it shows that already.

    The metadata that say which objects were copied are left out: whoever copies them knows.
    """
    there, raw = view.there, view.raw
    if there is not None:
        now, wanted = there.builder, raw["serverBuilder"]
        told = all(there.metadata.get(key) == value for key, value in raw["metadata"].items())
        if told and files_of(now) == files_of(wanted) and hash_of(channels_of(now)) == hash_of(channels_of(wanted)):
            return None
    kept = {} if there is None else {k: v for k, v in there.metadata.items() if k not in (OBJECTS, COPIED)}
    return {
        "name": view.name if there is None else there.name,
        "description": view.text if there is None else there.description,
        "metadata": {**kept, **raw["metadata"]},
        "serverBuilder": raw["serverBuilder"],
        "replaces": None if there is None else str(there.id),
        "objects": "copy" if there is None or objects_are_ours(project, there) else "keep",
    }


def put_view(project: Project, view: View) -> Shown:
    """Add an entry, or change one that is there."""
    source, there, raw, notes = view.source, view.there, view.raw, list(view.notes)
    refuse_links(project, source.id)
    if there is None:
        there = project.add_entry(view.name, raw["serverBuilder"], description=view.text)
        notes = [*notes, f"{view.name} ({there.id}) was added. {_REOPEN}"]
        _mark(project, there.id, project.data_path(source.id))
    refuse_links(project, there.id)
    make_folder(project.data_folder(there.id))
    told, copied = _copy_objects(project, source, there, notes, apart=APART in raw["metadata"])
    metadata = {**there.metadata, **raw["metadata"], **told}
    same = there.metadata == metadata and there.builder == raw["serverBuilder"]
    there.raw["metadata"], there.raw["serverBuilder"] = metadata, raw["serverBuilder"]
    if not same:
        with write_atomically(project.data_folder(there.id) / "server.json") as part:
            part.write_bytes(dump_json(there.builder))
        _copy_picture(project, source, there)
        project.write()
    _remove_mark(project, there.id)
    return Shown(there.id, copied or not same, tuple(notes))


def refresh_view(project: Project, source: Entry, there: Entry) -> Shown:
    """Let the copy of the objects follow the original, and nothing else."""
    refuse_links(project, there.id)
    if not project.data_folder(there.id).is_dir():
        return Shown(there.id, False)
    told, copied = _copy_objects(project, source, there, [], apart=APART in there.metadata)
    if copied:
        there.raw["metadata"] = {**there.metadata, **told}
        project.write()
    _remove_mark(project, there.id)
    return Shown(there.id, copied)


def _mark(project: Project, entry_id: int, objects: Path) -> None:
    """Say in an entry's folder that it is being added or removed, and which objects it may hold: a copy of these."""
    sha = read_seen(objects, MAX_BYTES)[1].sha256 if objects.exists() else None
    make_folder(project.data_folder(entry_id))
    _write_mark(project, entry_id, sha)


def _remove_mark(project: Project, entry_id: int) -> None:
    with suppress(OSError):
        (project.data_folder(entry_id) / MARK).unlink(missing_ok=True)


def _write_mark(project: Project, entry_id: int, sha: str | None) -> None:
    with write_atomically(project.data_folder(entry_id) / MARK) as part:
        part.write_text(json.dumps({"objects": sha}), encoding="utf-8")


def _copy_objects(
    project: Project, source: Entry, there: Entry, notes: list[str], *, apart: bool
) -> tuple[dict[str, str], bool]:
    """Copy ``data.qpdata`` unless a user has changed the copy; metadata that says what we wrote last, and whether that was
    now. apart: the copy is of channels apart from a colour picture and says so."""
    path, target = project.data_path(source.id), project.data_path(there.id)
    known = {key: str(there.metadata.get(key) or "") for key in (OBJECTS, COPIED) if key == OBJECTS or apart}
    if not objects_are_ours(project, there):
        notes.append(f"{there.name} ({there.id}) keeps its objects: they were saved in QuPath since they were copied")
        return known, False
    if not path.exists():
        return known, False
    data, seen = read_seen(path, MAX_BYTES)
    if seen.sha256 == known[COPIED if apart else OBJECTS] and target.exists():
        return known, False
    told = {OBJECTS: seen.sha256}
    if apart:
        data = _of_another_image(data, path, there)
        told = {OBJECTS: hashlib.sha256(data).hexdigest(), COPIED: seen.sha256}
    before = read_seen(target, MAX_BYTES)[1] if target.exists() else None
    sweep(target.parent)
    _write_mark(project, there.id, told[OBJECTS])  # a kill before the project says so must not make them a user's
    replace_seen(target, data, before, verify=lambda _: None)  # bytes that were there already, or read just now
    return told, True


def _of_another_image(data: bytes, path: Path, there: Entry) -> bytes:
    """The objects of a colour picture on the channels derived from it: these are fluorescence and have no stains."""
    metadata = there.builder.get("metadata")
    if isinstance(metadata, Mapping) and metadata.get("isRGB") is True:
        return data
    tree = ImageDataFile(data, path)
    tree.set_fluorescence()
    return tree.to_bytes()


def objects_are_ours(project: Project, there: Entry) -> bool:
    path = project.data_path(there.id)
    if not path.exists():
        return True
    return read_seen(path, MAX_BYTES)[1].sha256 == there.metadata.get(OBJECTS) or _is_copy(path.parent)


def _copy_picture(project: Project, source: Entry, there: Entry) -> None:
    """The thumbnail in QuPath's list of images; QuPath makes one itself where there is none."""
    path, target = (project.data_folder(i) / "thumbnail.jpg" for i in (source.id, there.id))
    if path.is_file() and not target.exists():
        with write_atomically(target) as part:
            shutil.copyfile(path, part)


def remove_view(project: Project, there: Entry) -> Shown:
    """Take the entry out, then its folder; a killed run leaves a marked folder without an entry."""
    refuse_links(project, there.id)
    if project.data_folder(there.id).is_dir():
        _mark(project, there.id, project.data_path(there.id))
    project.document["images"].remove(there.raw)
    project.write()
    sweep_views(project)
    return Shown(None, True)


def sweep_views(project: Project) -> None:
    """Remove folders of joined entries that a killed run was adding or removing, unless others have put something there."""
    data = project.folder / "data"
    entries = {str(e.id) for e in project.entries}
    for folder in sorted(data.iterdir()) if data.is_dir() and not data.is_symlink() else []:
        if folder.is_symlink() or not folder.is_dir() or not folder.name.isdigit() or folder.name in entries:
            continue
        sweep(folder)
        names = {p.name for p in folder.iterdir()}
        if names and not (MARK in names and names <= _OURS and _is_copy(folder)):
            continue
        try:
            for name in sorted(names, key=lambda n: n == MARK):  # the mark last, or a kill would leave unmarked files
                (folder / name).unlink()
            folder.rmdir()
        except OSError as error:
            raise OutputError(f"{folder}: a folder left by a killed run cannot be removed ({error})") from error


def _is_copy(folder: Path) -> bool:
    """Whether the objects in a marked folder are those that the mark promises."""
    objects = folder / "data.qpdata"
    try:
        sha = parse_json((folder / MARK).read_bytes(), folder / MARK).get("objects")
    except (OSError, InputError):
        return False
    return not objects.exists() or read_seen(objects, MAX_BYTES)[1].sha256 == sha
