"""Entries that show an image and what was derived from it as channels of one image, without copying pixels.

QuPath joins files channel by channel (server builder ``channels``). Every image has at most one such entry: results that are
published again replace their own channels in it, results that are taken out leave it, and with the last one the entry goes.
How such entries are added, followed and removed is in :mod:`.views`. The caller holds the project's lock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mxbridge.errors import InputError, NotApplicable, SourceError, Unsupported
from mxbridge.formats.open_image import open_image
from mxbridge.image import Channel, LocalImage
from mxbridge.workspaces.qupath.builders import argb, file_builder, server_metadata
from mxbridge.workspaces.qupath.in_place import opens_in_qupath
from mxbridge.workspaces.qupath.pixels import open_pixels
from mxbridge.workspaces.qupath.project import Entry, Project
from mxbridge.workspaces.qupath.qpdata import default_color
from mxbridge.workspaces.qupath.uris import PathMap, path_of
from mxbridge.workspaces.qupath.views import (
    JOINED,
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

PIXEL_TYPES = ("uint8", "uint16", "float32")
"""Types that QuPath joins without changing values (measured, 0.4.4 to 0.7.0)."""


@dataclass(frozen=True)
class DerivedFile:
    """path: an OME-TIFF of the original's size and pixel type. result_key: what a rerun replaces.

    channels: to show, one per plane; a colour of None is made from the name. None takes those of the file.
    """

    path: Path
    result_key: str
    channels: tuple[Channel, ...] | None = None


@dataclass(frozen=True)
class _Part:
    """One derived file in a joined entry: how QuPath opens it, and its channels as stored (name and signed colour)."""

    key: str
    builder: dict[str, Any]
    channels: list[dict[str, Any]]


def add_joined_entry(
    project_path: Path,
    entry_id: int,
    derived: Sequence[DerivedFile],
    name: str | None = None,
    *,
    path_maps: Sequence[PathMap] = (),
) -> Shown:
    """Show ``derived`` beside the channels of an entry, replacing what the same result keys showed and nothing else.

    name: of the new entry; the name of one that is there already stays. A second call with the same files changes nothing,
    and one without files refreshes the copy of the objects.
    Raises NotApplicable (a colour picture, an image that mxbridge made), Unsupported (a pixel type QuPath would change),
    InputError (a derived file of another size or type), SourceError, ChangedMeanwhile, OutputError; then nothing is changed
    that QuPath would see.
    """
    project = Project.open(project_path)
    sweep_views(project)
    view = joined_view(project, entry_id, derived, name, path_maps=path_maps)
    return Shown(None, False) if view is None else put_view(project, view)


def joined_view(
    project: Project,
    entry_id: int,
    derived: Sequence[DerivedFile],
    name: str | None = None,
    *,
    path_maps: Sequence[PathMap] = (),
) -> View | None:
    """What :func:`add_joined_entry` makes of a project, which is only read; None where there is nothing to show.

    Raises as that does.
    """
    source = project.entry(entry_id)
    there = _find(project, entry_id)
    if there is None and not derived:
        return None
    base, wanted = None, []
    if derived:  # nothing else needs the pixels, which may be out of reach
        base = open_pixels(source.builder, name=source.name, locate=lambda uri: project.locate(uri, path_maps))
        check_base(source, base)
        wanted = [_part(project, base, source, file) for file in derived]
    parts, notes = _merged(project, there, wanted)
    raw, kept = _described(source, base, parts, there)
    return View(source, there, raw, name or f"{source.name} (joined)", _description(source), (*notes, *kept))


def remove_joined_channels(project_path: Path, entry_id: int, result_keys: Collection[str]) -> Shown:
    """Take the channels of these results out of the joined entry of an image, and the entry with the last of them.

    An entry whose objects QuPath has saved since stays, with the channels of the original. Keys that are not there change
    nothing. Raises SourceError, ChangedMeanwhile, OutputError.
    """
    project = Project.open(project_path)
    sweep_views(project)
    there = _find(project, entry_id)
    if there is None:
        return Shown(None, False)
    source = project.entry(entry_id)
    if not set(result_keys) & set(keys_of(there)):  # its objects may have changed all the same
        return refresh_view(project, source, there)
    parts = [part for part in _parts(there) if part.key not in result_keys]
    if not parts and objects_are_ours(project, there):
        return remove_view(project, there)
    raw, notes = _described(source, None, parts, there)
    if not parts:
        notes.append(f"{there.name} ({there.id}) stays without derived channels: its objects were saved in QuPath")
    return put_view(project, View(source, there, raw, there.name, _description(source), tuple(notes)))


def joined_keys(project: Project, entry_id: int) -> tuple[str, ...]:
    """Result keys whose channels the joined entry of an image shows now."""
    there = _find(project, entry_id)
    return () if there is None else keys_of(there)


def joined_files(project: Project, entry_id: int) -> dict[str, str]:
    """Names of the derived files that the joined entry of an image shows, by result key."""
    there = _find(project, entry_id)
    parts = [] if there is None else _parts(there)
    return {part.key: PurePosixPath(path_of(str(part.builder.get("uri"))).as_posix()).name for part in parts}


def check_base(source: Entry, base: LocalImage) -> None:
    """Raise NotApplicable or Unsupported where nothing can be joined to an image. base: its pixels."""
    if source.made_by_mxbridge:
        raise NotApplicable(f"{source.name}: was made by mxbridge; nothing is joined to it")
    if base.rgb or (source.builder.get("metadata") or {}).get("isRGB") is True:
        raise NotApplicable(
            f"{source.name}: a colour picture cannot have more channels",
            hint="Add the derived channels as an image of their own",
        )
    if base.dtype.name not in PIXEL_TYPES:
        raise Unsupported(
            f"{source.name}: QuPath would change {base.dtype} pixels when it joins channels",
            hint=f"It keeps {', '.join(PIXEL_TYPES)}",
        )


def _part(project: Project, base: LocalImage, source: Entry, file: DerivedFile) -> _Part:
    image = open_image(file.path)
    if image.shape != base.shape or image.dtype != base.dtype:
        raise InputError(
            f"{file.path}: {image.shape[1]} x {image.shape[0]} pixels of type {image.dtype} cannot be joined to "
            f"{source.name}, which has {base.shape[1]} x {base.shape[0]} of type {base.dtype}",
            hint="QuPath would show it in a corner, or change its values",
        )
    if not opens_in_qupath(file.path, image):
        raise InputError(f"{file.path}: QuPath cannot open this file", hint="Write it as OME-TIFF with zlib")
    channels = image.channels if file.channels is None else file.channels
    if len(channels) != len(image.channels):
        raise InputError(f"{file.path}: has {len(image.channels)} planes for {len(channels)} channel names")
    if " " in file.result_key or not file.result_key:
        raise InputError(f"{file.result_key!r} is no result key")
    image = replace(image, channels=channels, pixel_size_um=base.pixel_size_um or image.pixel_size_um)
    colors = [default_color(c.name) if c.color is None else argb(c.color) for c in channels]
    return _Part(
        file.result_key,
        file_builder(stored_uri(project, file.path), file.path.name, image),
        [{"name": c.name, "color": color} for c, color in zip(channels, colors, strict=True)],
    )


def _find(project: Project, entry_id: int) -> Entry | None:
    """The joined entry of an image; a copy that a user made of it has a higher id."""
    return next((there for there in views_of(project, entry_id) if JOINED in there.metadata), None)


def _parts(there: Entry) -> list[_Part]:
    """The derived files of a joined entry. Raises InputError where its builder is not as we made it."""
    keys, builders = keys_of(there), there.builder.get("channels")
    shown = _shown(there)
    if not keys:
        return []
    if not isinstance(builders, list) or len(builders) != len(keys) + 1:
        raise InputError(
            f"{there.name} ({there.id}): its channels were put together otherwise since",
            hint="Remove this image from the project in QuPath and run again",
        )
    parts, end = [], len(shown)
    for key, builder in zip(reversed(keys), reversed(builders), strict=False):
        own = channels_of(builder)
        if not own or len(own) >= end:
            raise InputError(f"{there.name} ({there.id}): its channels do not add up")
        parts.append(_Part(key, builder, shown[end - len(own) : end]))
        end -= len(own)
    return parts[::-1]


def _shown(there: Entry | None) -> list[dict[str, Any]]:
    return [] if there is None else channels_of(there.builder)


def _merged(project: Project, there: Entry | None, wanted: Sequence[_Part]) -> tuple[list[_Part], list[str]]:
    new = {part.key: part for part in wanted}
    if len(new) < len(wanted):
        raise InputError("two derived files have the same result key")
    if there is None:
        return list(wanted), []
    parts, notes = [], []
    edited = not channels_are_ours(there)
    for old in _parts(there):
        part = new.pop(old.key, None)
        if part is None and not _is_there(project, old):
            notes.append(f"{there.name} no longer shows {', '.join(c['name'] for c in old.channels)}: the file is gone")
        elif part is None:
            parts.append(old)
        else:  # names and colours that a user gave in QuPath stay
            parts.append(replace(part, channels=old.channels) if edited and _fits(part, old) else part)
    return [*parts, *new.values()], notes


def _fits(part: _Part, old: _Part) -> bool:
    return len(part.channels) == len(old.channels)


def _is_there(project: Project, part: _Part) -> bool:
    try:
        project.locate(str(part.builder.get("uri")))
    except (SourceError, InputError):
        return False
    return True


def _described(
    source: Entry, base: LocalImage | None, parts: Sequence[_Part], there: Entry | None
) -> tuple[dict[str, Any], list[str]]:
    """What the entry has to say, without id and names, and notes. base: None where the entry is there already."""
    stored = source.builder.get("metadata")
    if isinstance(stored, Mapping) and channels_of(source.builder):
        outer = dict(stored)
    elif base is not None:
        outer = {**server_metadata(source.name, base), **(stored if isinstance(stored, Mapping) else {})}
        outer["channels"] = server_metadata(source.name, base)["channels"]
    else:
        outer = dict((there.builder.get("metadata") if there else None) or {})
        outer["channels"] = _shown(there)[: _base_channels(there)]
    notes: list[str] = []
    shown = list(outer["channels"])
    if there is not None and parts and not channels_are_ours(there):
        mine = _shown(there)
        if _base_channels(there) == len(shown):
            shown = mine[: len(shown)]
        notes.append(f"{there.name} ({there.id}) keeps the channel names and colours it was given in QuPath")
    channels = [*shown, *(c for part in parts for c in part.channels)]
    builder: dict[str, Any] = dict(source.builder)
    if parts:
        builder = {
            "builderType": "channels",
            "builder": source.builder,
            "channels": [source.builder, *(part.builder for part in parts)],
            "metadata": {**outer, "isRGB": False, "channels": channels},
        }
    metadata = {
        JOINED: str(source.id),
        KEYS: " ".join(part.key for part in parts),
        SHOWN: hash_of(channels) if there is None or not notes else str(there.metadata.get(SHOWN)),
    }
    return {"serverBuilder": builder, "metadata": metadata}, notes


def _base_channels(there: Entry | None) -> int:
    """How many of the channels of a joined entry are the original's."""
    return len(_shown(there)) - sum(len(part.channels) for part in (_parts(there) if there else []))


def _description(source: Entry) -> str:
    return f"Channels of {source.name} ({source.id}) and what mxbridge derived from it; its objects are a copy."
