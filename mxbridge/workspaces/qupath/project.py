"""``project.qpproj``: the list of images of a QuPath project, read and written so that what we do not know survives.

Only plain JSON is parsed here, within limits: at most 64 MB, entry ids are whole numbers (they become folder names),
image addresses are file URIs. Nothing of the images themselves is opened.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mxbridge.errors import BrokenFile, InputError, OutputError, SourceError
from mxbridge.formats.exchange import Seen, read_seen, replace_seen, unchanged
from mxbridge.formats.json_files import parse_json
from mxbridge.workspaces.qupath import uris

PROJECT_NAME = "project.qpproj"
JSON_LIMIT = 64 * 1024 * 1024
"""Bytes; the largest real project seen has 1 MB for 434 slides."""

_HTML = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "=": "\\u003d",
    "'": "\\u0027",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
"""Characters QuPath's JSON writer escapes inside strings; none of them occurs outside of strings."""

METADATA_MARK = "_mxbridge."
"""Entry metadata with such a key says that mxbridge made the image."""


@dataclass(frozen=True)
class Entry:
    """One image of a project. ``raw`` is the entry as stored, unknown keys included."""

    raw: dict[str, Any]

    @property
    def id(self) -> int:
        number: int = self.raw["entryID"]
        return number

    @property
    def name(self) -> str:
        """The name users see; never empty."""
        given = self.raw.get("imageName")
        return given if isinstance(given, str) and given else f"(image {self.id})"

    @property
    def description(self) -> str:
        return self.raw.get("description") or ""

    @property
    def metadata(self) -> dict[str, str]:
        return self.raw.get("metadata") or {}

    @property
    def tags(self) -> list[str]:
        return self.raw.get("tags") or []

    @property
    def builder(self) -> dict[str, Any]:
        """How QuPath opens the pixels."""
        builder: dict[str, Any] = self.raw["serverBuilder"]
        return builder

    @property
    def made_by_mxbridge(self) -> bool:
        return any(key.startswith(METADATA_MARK) for key in self.metadata)


class Project:
    """A project on disk, as it was when it was opened."""

    def __init__(self, path: Path, document: dict[str, Any], seen: Seen | None) -> None:
        self.path = path
        self.document = document
        self._seen = seen

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Project:
        """Read a project by its file or its folder. Raises SourceError (not there), BrokenFile (not a project)."""
        path = find_project(Path(path))
        data, seen = read_seen(path, JSON_LIMIT)
        document = parse_json(data, path)
        project = cls(path, document, seen)
        project._check()
        return project

    @classmethod
    def create(cls, path: Path, *, version: str, timestamp_ms: int) -> Project:
        """A project without images that is not on disk yet; :meth:`write` puts it there."""
        document = {
            "version": version,
            "createTimestamp": timestamp_ms,
            "modifyTimestamp": timestamp_ms,
            "uri": uris.uri_of(path),
            "lastID": 0,
            "images": [],
        }
        return cls(path, document, None)

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def version(self) -> str:
        return str(self.document.get("version") or "0.2.3")

    @property
    def entries(self) -> list[Entry]:
        return [Entry(raw) for raw in self.document["images"]]

    def entry(self, entry_id: int) -> Entry:
        """Raises SourceError when the project has no such image (any more)."""
        for entry in self.entries:
            if entry.id == entry_id:
                return entry
        raise SourceError(f"{self.path} has no image with id {entry_id}")

    def data_folder(self, entry_id: int) -> Path:
        return self.folder / "data" / str(entry_id)

    def data_path(self, entry_id: int) -> Path:
        return self.data_folder(entry_id) / "data.qpdata"

    @property
    def stored_folder(self) -> PurePath | None:
        """The folder the project was in when QuPath saved it last; None where the file does not say."""
        uri = self.document.get("uri")
        if not isinstance(uri, str):
            return None
        try:
            return uris.path_of(uri).parent
        except InputError:
            return None

    @property
    def moved(self) -> bool:
        """Whether the project lies elsewhere now than when it was saved."""
        stored = self.stored_folder
        if stored is None:
            return False
        here = uris.local(stored)
        try:
            return here is None or not here.samefile(self.folder)
        except OSError:
            return True

    def locate(self, uri: str, path_maps: Sequence[uris.PathMap] = ()) -> Path:
        """The existing file (or OME-Zarr folder) a stored URI means. Raises SourceError naming every place looked at."""
        places = uris.candidates(
            uris.path_of(uri),
            project_folder=self.folder,
            stored_project_folder=self.stored_folder,
            moved=self.moved,
            path_maps=path_maps,
        )
        for place in places:
            here = uris.local(place)
            found = uris.existing(here) if here is not None else None
            if found is not None:
                return found
        raise SourceError(
            "the image file was not found; looked for " + ", ".join(str(p) for p in places),
            hint="If it was moved, say from where to where: --path-map OLD=NEW",
        )

    def new_id(self) -> int:
        """An id no entry ever had: above lastID, every entry and every data folder that is still there."""
        last = self.document.get("lastID")
        taken = [entry.id for entry in self.entries] + [last if isinstance(last, int) else 0]
        data = self.folder / "data"
        if data.is_dir():
            taken += [int(p.name) for p in data.iterdir() if p.name.isascii() and p.name.isdigit() and len(p.name) < 19]
        return max(taken, default=0) + 1

    def add_entry(
        self,
        name: str,
        builder: Mapping[str, Any],
        *,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Entry:
        """Append an image; :meth:`write` makes it permanent. builder: its metadata must be true, or QuPath refuses it."""
        raw: dict[str, Any] = {
            "serverBuilder": dict(builder),
            "entryID": self.new_id(),
            "randomizedName": str(uuid.uuid4()),
            "imageName": name,
        }
        if description:
            raw["description"] = description
        raw["metadata"] = dict(metadata or {})  # 0.4 and 0.5 fail without this key
        self.document["images"].append(raw)
        self.document["lastID"] = raw["entryID"]
        return Entry(raw)

    def to_bytes(self) -> bytes:
        return dump_json(self.document)

    def write(self) -> bool:
        """Write ``project.qpproj`` if it differs from what was read; say whether it did.

        Raises ChangedMeanwhile when somebody else wrote it since, OutputError.
        """
        data = self.to_bytes()
        before = None
        if self._seen is not None:
            before, now = read_seen(self.path, JSON_LIMIT)
            if now.sha256 == self._seen.sha256 and data == before:
                return False
        self._seen = replace_seen(self.path, data, self._seen, verify=self._verify, backup=before)
        return True

    def current(self) -> bool:
        """Whether the file on disk is still the one that was read."""
        return unchanged(self.path, self._seen)

    def _verify(self, data: bytes) -> None:
        if dump_json(parse_json(data, self.path)) != data:
            raise OutputError(f"{self.path}: what was written does not read back the same", hint="Nothing was changed")

    def _check(self) -> None:
        """The shape every later access relies on."""
        images = self.document.get("images")
        if not isinstance(images, list):
            raise BrokenFile(self.path, "is not a QuPath project: it has no list 'images'")
        seen: set[int] = set()
        for position, raw in enumerate(images, start=1):
            where = f"image {position} of {len(images)}"
            if not isinstance(raw, dict):
                raise BrokenFile(self.path, f"{where} is not an entry")
            number = raw.get("entryID")
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**63:
                raise BrokenFile(self.path, f"{where}: entryID {str(number)[:40]!r} is not a whole number")
            if number in seen:
                raise BrokenFile(self.path, f"{where}: entryID {number} occurs twice")
            seen.add(number)
            if not isinstance(raw.get("serverBuilder"), dict):
                raise BrokenFile(self.path, f"{where} does not say how to open it (no serverBuilder)")
            for key, kind in (("metadata", dict), ("tags", list), ("description", str)):
                if not isinstance(raw.get(key) or kind(), kind):
                    raise BrokenFile(self.path, f"{where}: {key!r} is not a {kind.__name__}")


def find_project(path: Path) -> Path:
    """The project file for a file or folder given by a user. Raises SourceError saying what to give instead."""
    path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow links, and they are the address
    if path.is_dir():
        inside = path / PROJECT_NAME
        others = [inside] if inside.is_file() else sorted(path.glob("*.qpproj"))
        if len(others) == 1:
            return others[0]
        found = f"several: {', '.join(p.name for p in others)}" if others else "none"
        raise SourceError(f"{path} is not a QuPath project: it should hold one {PROJECT_NAME}, there is {found}")
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*.qpproj")) if path.parent.is_dir() else []
        hint = f"In {path.parent} there is: {', '.join(near[:10])}" if near else "Check the path"
        raise SourceError(f"there is no project {path}", hint=hint)
    return path


def dump_json(document: Mapping[str, Any], *, indent: int | None = 2) -> bytes:
    """JSON as QuPath lays it out: two spaces, unicode as it is, HTML characters escaped."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(document, ensure_ascii=False, indent=indent, separators=separators)
    for character, escape in _HTML.items():
        text = text.replace(character, escape)
    return text.encode("utf-8", "backslashreplace")  # half a surrogate pair can only be written as an escape
