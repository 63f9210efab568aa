"""Entries that show an image and what was derived from it as channels of one image, without copying pixels.

QuPath joins files channel by channel (server builder ``channels``). Every image has at most one such entry: results that are
published again replace their own channels in it, results that are taken out leave it, and with the last one the entry goes.
It carries ``_mxbridge.*`` metadata, so that it is found again and is never an input. Its objects are a copy of the
original's; one that QuPath has saved since is the user's.

The caller holds the project's lock. Order: the entry's folder, then ``project.qpproj``; a folder that a killed run left
behind is known by its mark and swept by the next one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mxbridge.errors import InputError, NotApplicable, OutputError, SourceError, Unsupported
from mxbridge.formats.atomic import make_folder, write_atomically
from mxbridge.formats.exchange import read_seen, replace_seen, sweep
from mxbridge.formats.json_files import parse_json
from mxbridge.formats.open_image import open_image
from mxbridge.image import Channel, LocalImage
from mxbridge.workspaces.qupath.builders import argb, file_builder, server_metadata
from mxbridge.workspaces.qupath.in_place import opens_in_qupath
from mxbridge.workspaces.qupath.pixels import open_pixels
from mxbridge.workspaces.qupath.project import METADATA_MARK, Entry, Project, dump_json
from mxbridge.workspaces.qupath.publication import refuse_links
from mxbridge.workspaces.qupath.qpdata import default_color
from mxbridge.workspaces.qupath.qpdata.image_data import MAX_BYTES
from mxbridge.workspaces.qupath.uris import PathMap, path_of, uri_of

SOURCE = METADATA_MARK + "joined"
"""Entry metadata: id of the image that is shown with its derived channels."""

KEYS = METADATA_MARK + "keys"
"""Entry metadata: the result keys of the derived files, in their order."""

SHOWN = METADATA_MARK + "channels"
OBJECTS = METADATA_MARK + "objects"
"""Entry metadata: sha256 of the channels and of the objects as we wrote them; others are a user's."""

MARK = "mxbridge-joined.json"
"""In the folder of an entry that is just being added or removed."""

PIXEL_TYPES = ("uint8", "uint16", "float32")
"""Types that QuPath joins without changing values (measured, 0.4.4 to 0.7.0)."""

_REOPEN = (
    "If the project is open in QuPath, close and open it there to see the image, or QuPath's next save drops it again"
)
_OURS = {"data.qpdata", "server.json", "summary.json", "thumbnail.jpg", MARK}


@dataclass(frozen=True)
class DerivedFile:
    """path: an OME-TIFF of the original's size and pixel type. result_key: what a rerun replaces.

    channels: to show, one per plane; a colour of None is made from the name. None takes those of the file.
    """

    path: Path
    result_key: str
    channels: tuple[Channel, ...] | None = None


@dataclass(frozen=True)
class Joined:
    """entry_id: of the joined entry, None where there is none (any more)."""

    entry_id: int | None
    changed: bool
    notes: tuple[str, ...] = ()


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
) -> Joined:
    """Show ``derived`` beside the channels of an entry, replacing what the same result keys showed and nothing else.

    name: of the new entry; the name of one that is there already stays. A second call with the same files changes nothing,
    and one without files refreshes the copy of the objects.
    Raises NotApplicable (a colour picture, an image that mxbridge made), Unsupported (a pixel type QuPath would change),
    InputError (a derived file of another size or type), SourceError, ChangedMeanwhile, OutputError; then nothing is changed
    that QuPath would see.
    """
    project = Project.open(project_path)
    source = project.entry(entry_id)
    _sweep(project)
    there = _find(project, entry_id)
    if there is None and not derived:
        return Joined(None, False)
    base, wanted = None, []
    if derived:  # nothing else needs the pixels, which may be out of reach
        base = open_pixels(source.builder, name=source.name, locate=lambda uri: project.locate(uri, path_maps))
        check_base(source, base)
        wanted = [_part(project, base, source, file) for file in derived]
    parts, notes = _merged(project, there, wanted)
    raw, kept = _described(project, source, base, parts, there)
    return _put(project, source, there, raw, name or f"{source.name} (joined)", [*notes, *kept])


def remove_joined_channels(project_path: Path, entry_id: int, result_keys: Collection[str]) -> Joined:
    """Take the channels of these results out of the joined entry of an image, and the entry with the last of them.

    An entry whose objects QuPath has saved since stays, with the channels of the original. Keys that are not there change
    nothing. Raises SourceError, ChangedMeanwhile, OutputError.
    """
    project = Project.open(project_path)
    _sweep(project)
    there = _find(project, entry_id)
    if there is None:
        return Joined(None, False)
    source = project.entry(entry_id)
    if not set(result_keys) & set(_keys(there)):  # its objects may have changed all the same
        return _refresh(project, source, there)
    parts = [part for part in _parts(there) if part.key not in result_keys]
    if not parts and _objects_are_ours(project, there):
        return _remove(project, there)
    raw, notes = _described(project, source, None, parts, there)
    if not parts:
        notes.append(f"{there.name} ({there.id}) stays without derived channels: its objects were saved in QuPath")
    return _put(project, source, there, raw, there.name, notes)


@contextmanager
def refreshing(project: Project, entry_id: int) -> Iterator[None]:
    """While an image is published or retracted: a run that is killed or fails before its joined entry has followed leaves
    a mark there, and :func:`is_refreshed` tells."""
    there = _find(project, entry_id)
    folder = None if there is None else project.data_folder(there.id)
    if there is not None and folder is not None and folder.is_dir() and not (folder / MARK).exists():
        refuse_links(project, there.id)
        _write_mark(project, there.id, str(there.metadata.get(OBJECTS) or ""))
    yield
    if there is not None:
        _remove_mark(project, there.id)


def is_refreshed(project: Project, entry_id: int) -> bool:
    """Whether the joined entry of an image, if there is one, has followed what was published on the image last."""
    there = _find(project, entry_id)
    return there is None or not (project.data_folder(there.id) / MARK).exists()


def joined_keys(project: Project, entry_id: int) -> tuple[str, ...]:
    """Result keys whose channels the joined entry of an image shows now."""
    there = _find(project, entry_id)
    return () if there is None else _keys(there)


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
        file_builder(_uri(project, file.path), file.path.name, image),
        [{"name": c.name, "color": color} for c, color in zip(channels, colors, strict=True)],
    )


def _uri(project: Project, path: Path) -> str:
    """As the project would have stored it where it was saved last: then whoever corrects the paths of a moved project
    corrects this one too."""
    path = path.absolute()
    stored = project.stored_folder
    if stored is None or not project.moved or not path.is_relative_to(project.folder):
        return uri_of(path)
    return uri_of(stored.joinpath(*path.relative_to(project.folder).parts))


def _find(project: Project, entry_id: int) -> Entry | None:
    """The joined entry of an image; a copy that a user made of it has a higher id."""
    found = [e for e in project.entries if e.metadata.get(SOURCE) == str(entry_id)]
    return min(found, key=lambda e: e.id, default=None)


def _keys(there: Entry) -> tuple[str, ...]:
    return tuple(str(there.metadata.get(KEYS) or "").split())


def _parts(there: Entry) -> list[_Part]:
    """The derived files of a joined entry. Raises InputError where its builder is not as we made it."""
    keys, builders = _keys(there), there.builder.get("channels")
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
        own = _channels(builder)
        if not own or len(own) >= end:
            raise InputError(f"{there.name} ({there.id}): its channels do not add up")
        parts.append(_Part(key, builder, shown[end - len(own) : end]))
        end -= len(own)
    return parts[::-1]


def _channels(builder: object) -> list[dict[str, Any]]:
    """The channels that a server builder records; none where it does not say, or not as QuPath does."""
    metadata = builder.get("metadata") if isinstance(builder, Mapping) else None
    found = metadata.get("channels") if isinstance(metadata, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in found):
        return []
    return found


def _shown(there: Entry | None) -> list[dict[str, Any]]:
    return [] if there is None else _channels(there.builder)


def _merged(project: Project, there: Entry | None, wanted: Sequence[_Part]) -> tuple[list[_Part], list[str]]:
    new = {part.key: part for part in wanted}
    if len(new) < len(wanted):
        raise InputError("two derived files have the same result key")
    if there is None:
        return list(wanted), []
    parts, notes = [], []
    edited = not _channels_are_ours(there)
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
    project: Project, source: Entry, base: LocalImage | None, parts: Sequence[_Part], there: Entry | None
) -> tuple[dict[str, Any], list[str]]:
    """What the entry has to say, without id and names, and notes. base: None where the entry is there already."""
    stored = source.builder.get("metadata")
    if isinstance(stored, Mapping) and _channels(source.builder):
        outer = dict(stored)
    elif base is not None:
        outer = {**server_metadata(source.name, base), **(stored if isinstance(stored, Mapping) else {})}
        outer["channels"] = server_metadata(source.name, base)["channels"]
    else:
        outer = dict((there.builder.get("metadata") if there else None) or {})
        outer["channels"] = _shown(there)[: _base_channels(there)]
    notes: list[str] = []
    shown = list(outer["channels"])
    if there is not None and parts and not _channels_are_ours(there):
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
        SOURCE: str(source.id),
        KEYS: " ".join(part.key for part in parts),
        SHOWN: _hash_of(channels) if there is None or not notes else str(there.metadata.get(SHOWN)),
    }
    return {"serverBuilder": builder, "metadata": metadata}, notes


def _base_channels(there: Entry | None) -> int:
    """How many of the channels of a joined entry are the original's."""
    return len(_shown(there)) - sum(len(part.channels) for part in (_parts(there) if there else []))


def _channels_are_ours(there: Entry) -> bool:
    return there.metadata.get(SHOWN) == _hash_of(_shown(there))


def _hash_of(channels: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps([[c.get("name"), c.get("color")] for c in channels]).encode()).hexdigest()[:32]


def _put(
    project: Project, source: Entry, there: Entry | None, raw: dict[str, Any], name: str, notes: list[str]
) -> Joined:
    refuse_links(project, source.id)
    if there is None:
        text = f"Channels of {source.name} ({source.id}) and what mxbridge derived from it; its objects are a copy."
        there = project.add_entry(name, raw["serverBuilder"], description=text)
        notes = [*notes, f"{name} ({there.id}) was added. {_REOPEN}"]
        _mark(project, there.id, project.data_path(source.id))
    refuse_links(project, there.id)
    make_folder(project.data_folder(there.id))
    sha, copied = _copy_objects(project, source, there, notes)
    metadata = {**there.metadata, **raw["metadata"], OBJECTS: sha}
    same = there.metadata == metadata and there.builder == raw["serverBuilder"]
    there.raw["metadata"], there.raw["serverBuilder"] = metadata, raw["serverBuilder"]
    if not same:
        with write_atomically(project.data_folder(there.id) / "server.json") as part:
            part.write_bytes(dump_json(there.builder))
        _copy_picture(project, source, there)
        project.write()
    _remove_mark(project, there.id)
    return Joined(there.id, copied or not same, tuple(notes))


def _refresh(project: Project, source: Entry, there: Entry) -> Joined:
    """Let the copy of the objects follow the original, and nothing else."""
    refuse_links(project, there.id)
    if not project.data_folder(there.id).is_dir():
        return Joined(there.id, False)
    sha, copied = _copy_objects(project, source, there, [])
    if copied:
        there.raw["metadata"] = {**there.metadata, OBJECTS: sha}
        project.write()
    _remove_mark(project, there.id)
    return Joined(there.id, copied)


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


def _copy_objects(project: Project, source: Entry, there: Entry, notes: list[str]) -> tuple[str, bool]:
    """Copy ``data.qpdata`` unless a user has changed the copy; sha256 of what we wrote last, and whether it changed now."""
    path, target = project.data_path(source.id), project.data_path(there.id)
    known = str(there.metadata.get(OBJECTS) or "")
    if not _objects_are_ours(project, there):
        notes.append(f"{there.name} ({there.id}) keeps its objects: they were saved in QuPath since they were copied")
        return known, False
    if not path.exists():
        return known, False
    data, seen = read_seen(path, MAX_BYTES)
    if seen.sha256 == known and target.exists():
        return known, False
    before = read_seen(target, MAX_BYTES)[1] if target.exists() else None
    sweep(target.parent)
    _write_mark(project, there.id, seen.sha256)  # a kill before the project says so must not make them a user's
    replace_seen(target, data, before, verify=lambda _: None)  # bytes that were there already
    return seen.sha256, True


def _objects_are_ours(project: Project, there: Entry) -> bool:
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


def _remove(project: Project, there: Entry) -> Joined:
    """Take the entry out, then its folder; a killed run leaves a marked folder without an entry."""
    refuse_links(project, there.id)
    if project.data_folder(there.id).is_dir():
        _mark(project, there.id, project.data_path(there.id))
    project.document["images"].remove(there.raw)
    project.write()
    _sweep(project)
    return Joined(None, True)


def _sweep(project: Project) -> None:
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
