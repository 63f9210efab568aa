"""Entries for images derived from a colour picture, which cannot have more channels: each is an image of its own.

One entry per result key, called ``<image> (<title>)``. It has the size of the original, so that a copy of the original's
objects fits. How such entries are added, followed and removed is in :mod:`.views`. The caller holds the project's lock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mxbridge.errors import InputError
from mxbridge.formats.open_image import open_image
from mxbridge.image import Channel
from mxbridge.workspaces.qupath.builders import file_builder
from mxbridge.workspaces.qupath.in_place import opens_in_qupath
from mxbridge.workspaces.qupath.project import Entry, Project
from mxbridge.workspaces.qupath.uris import path_of
from mxbridge.workspaces.qupath.views import (
    APART,
    KEYS,
    SHOWN,
    Shown,
    View,
    channels_are_ours,
    channels_of,
    hash_of,
    keys_of,
    objects_are_ours,
    put_view,
    refresh_view,
    remove_view,
    stored_uri,
    sweep_views,
    views_of,
)


@dataclass(frozen=True)
class ApartFile:
    """path: an OME-TIFF of the original's size. result_key: what a rerun replaces. title: see DerivedImage.

    channels: to show, one per plane; those of the file where there are none.
    """

    path: Path
    result_key: str
    title: str
    channels: tuple[Channel, ...] = ()
    pixel_size_um: tuple[float, float] | None = None


def show_apart(project_path: Path, entry_id: int, files: Sequence[ApartFile]) -> Shown:
    """Show each file as an entry of its own, replacing what its result key showed and nothing else; the copies of objects in
    the other entries of this image follow as well. A second call changes nothing.

    Raises InputError (a file QuPath cannot open), ChangedMeanwhile, OutputError.
    """
    project = Project.open(project_path)
    sweep_views(project)
    notes: list[str] = []
    changed, last = False, None
    for file in files:
        done = put_view(project, apart_view(project, entry_id, file))
        notes += done.notes
        changed, last = changed or done.changed, done.entry_id
    shown = {file.result_key for file in files}
    for key, there in _by_key(project, entry_id).items():
        if key not in shown:
            changed |= refresh_view(project, project.entry(entry_id), there).changed
    return Shown(last, changed, tuple(notes))


def apart_view(project: Project, entry_id: int, file: ApartFile) -> View:
    """What :func:`show_apart` makes of one file; nothing is written. Raises InputError."""
    if " " in file.result_key or not file.result_key:
        raise InputError(f"{file.result_key!r} is no result key")
    source, there = project.entry(entry_id), _by_key(project, entry_id).get(file.result_key)
    raw, kept = _described(project, source, file, there)
    name = f"{source.name} ({file.title or file.path.name.partition('.')[0]})"
    text = f"Derived from {source.name} ({source.id}) by mxbridge; its objects are a copy."
    return View(source, there, raw, name, text, tuple(kept))


def hide_apart(project_path: Path, entry_id: int, result_keys: Collection[str]) -> tuple[Shown, set[str]]:
    """Remove the entries of these results, and let the objects of the others follow; also the keys whose entries stay, with
    their files, because their objects were saved in QuPath since. Raises ChangedMeanwhile, OutputError."""
    project = Project.open(project_path)
    source = project.entry(entry_id)
    sweep_views(project)
    notes: list[str] = []
    stay: set[str] = set()
    changed = False
    for key, there in _by_key(project, entry_id).items():
        if key not in result_keys:
            changed |= refresh_view(project, source, there).changed
        elif objects_are_ours(project, there):
            changed |= remove_view(project, there).changed
        else:
            stay.add(key)
            notes.append(f"{there.name} ({there.id}) stays: its objects were saved in QuPath")
    return Shown(None, changed, tuple(notes)), stay


def apart_files(project: Project, entry_id: int) -> dict[str, str]:
    """Names of the derived files that entries of their own show, by result key."""
    shown = _by_key(project, entry_id)
    return {key: PurePosixPath(path_of(str(e.builder.get("uri"))).as_posix()).name for key, e in shown.items()}


def _by_key(project: Project, entry_id: int) -> dict[str, Entry]:
    return {key: there for there in views_of(project, entry_id) if APART in there.metadata for key in keys_of(there)}


def _described(
    project: Project, source: Entry, file: ApartFile, there: Entry | None
) -> tuple[dict[str, Any], list[str]]:
    """What the entry has to say, without id and names, and notes."""
    image = open_image(file.path)
    if not opens_in_qupath(file.path, image):
        raise InputError(f"{file.path}: QuPath cannot open this file", hint="Write it as OME-TIFF with zlib")
    if file.channels and not image.rgb:
        if len(file.channels) != len(image.channels):
            raise InputError(f"{file.path}: has {len(image.channels)} planes for {len(file.channels)} channel names")
        image = replace(image, channels=file.channels)
    image = replace(image, pixel_size_um=file.pixel_size_um or image.pixel_size_um)
    builder = file_builder(stored_uri(project, file.path), file.path.name, image)
    shown, notes = hash_of(channels_of(builder)), []
    if there is not None and not channels_are_ours(there) and len(channels_of(there.builder)) == len(image.channels):
        builder["metadata"]["channels"], shown = channels_of(there.builder), str(there.metadata.get(SHOWN))
        notes.append(f"{there.name} ({there.id}) keeps the channel names and colours it was given in QuPath")
    metadata = {APART: str(source.id), KEYS: file.result_key, SHOWN: shown}
    return {"serverBuilder": builder, "metadata": metadata}, notes
