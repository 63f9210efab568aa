"""QuPath's part, played from Python: a project and an image that stay open while mxbridge works, exchange files applied to what is
in memory, and saving as QuPath saves. Nothing here knows how mxbridge works out a file; objects are edited one by one.

Like QuPath it holds what it has read: others' writing is not noticed, and its own saving overwrites it.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mxbridge.workspaces.qupath.handover.exchange_file import Exchange, read
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, NewPathObject, NewROI
from mxbridge.workspaces.qupath.qpdata.path_objects import PathObject

COPIED = "_mxbridge.objects"


@dataclass(frozen=True)
class Applied:
    """gone: ids of the file that are not in the image (any more)."""

    values: int
    gone: tuple[str, ...]


class OpenImage:
    """An image in a viewer."""

    def __init__(self, project: OpenProject, entry_id: int) -> None:
        self.project, self.entry_id = project, entry_id
        self.path = project.data_path(entry_id)
        self.objects = ImageDataFile(self.path.read_bytes(), self.path, packed=False)
        self.changed = False

    def get(self, identity: str) -> PathObject | None:
        return self.by_id.get(identity)

    @property
    def by_id(self) -> dict[str, PathObject]:
        return {o.id: o for o in self.objects.objects() if o.id is not None}

    def set_class(self, ids: Iterable[str], name: str | None) -> None:
        """What a user does."""
        there = self.by_id
        self.objects.set_class([there[i] for i in ids], name, {})
        self.changed = True

    def delete(self, ids: Iterable[str]) -> None:
        there = self.by_id
        self.objects.remove_objects([there[i] for i in ids])
        self.changed = True

    def redraw(self, identity: str, corners: Any) -> None:
        """Give an object another outline: its class, values and metadata stay."""
        old = self.by_id[identity]
        metadata = {k: v for k, v in old.metadata.items() if k != "Object ID"}
        new = NewPathObject(
            old.kind, identity, NewROI.of_rings([np.asarray(corners, float)]), class_name=old.class_name,
            metadata=metadata, measurements=dict(old.measurements),
        )  # fmt: skip
        self.objects.remove_objects([old])
        self.objects.add_object(new)
        self.changed = True

    def apply(self, file: Path) -> Applied:
        """What the buttons do. Raises what reading the file raises, before anything is changed."""
        exchange = read(file)
        assert exchange.header.image_id == str(self.entry_id)
        colors = {name: color for name, color in exchange.header.classes if color is not None}
        names = [name for name, _ in exchange.header.classes]
        there, gone = self.by_id, []
        for identity, line in exchange.cells.items():
            if identity not in there:
                gone.append(identity)
                continue
            self._change(there[identity], line, exchange, names, colors)
        known = [i for i in exchange.removed if i in there]
        gone += [i for i in exchange.removed if i not in there]
        self.objects.remove_objects([there[i] for i in known])
        for identity, line in exchange.objects.items():
            self.objects.add_object(_new_object(identity, line["object"], names, colors))
        if exchange.image_values:
            self.objects.set_image_values({n: np.nan if v is None else v for n, v in exchange.image_values.items()})
        if exchange.image_removed:
            self.objects.remove_image_values(exchange.image_removed)
        for entry in exchange.header.entries:
            self.project.put_entry(entry, self)
        self.changed = True
        return Applied(len(exchange.cells), tuple(gone))

    def _change(self, found: PathObject, line: dict, exchange: Exchange, names: list[str], colors: dict) -> None:
        if "m" in line:
            values = zip(exchange.header.columns, line["m"], strict=True)
            told = {name: np.array([np.nan if v is None else v], np.float32) for name, v in values}
            self.objects.set_measurements([found], told)
        if "-" in line:
            self.objects.remove_measurements([found], line["-"])
        if "c" in line:
            self.objects.set_class([found], None if line["c"] < 0 else names[line["c"]], colors)

    def save(self) -> Path:
        """As QuPath does: the old file is moved away, the new one written, the old one removed."""
        aside = self.path.with_name("data.qpdata.bkp")
        data = self.objects.to_bytes()
        if self.path.exists():
            self.path.replace(aside)
        self.path.write_bytes(data)
        aside.unlink(missing_ok=True)
        self.changed = False
        return self.path


def _new_object(identity: str, told: dict[str, Any], names: list[str], colors: dict[str, int]) -> NewPathObject:
    values = told.get("measurements", {})
    return NewPathObject(
        told["kind"], identity, _region(told["geometry"]),
        nucleus=_region(told["nucleus"]) if "nucleus" in told else None,
        class_name=names[told["c"]] if "c" in told else None,
        class_colors=colors,
        name=told.get("name"),
        metadata=told.get("metadata", {}),
        measurements={n: np.nan if v is None else v for n, v in values.items()},
    )  # fmt: skip


def _region(geometry: dict[str, Any]) -> NewROI:
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    return NewROI.of_rings([np.array(ring[:-1], float) for polygon in parts for ring in polygon])


class OpenProject:
    """A project as QuPath has it in memory since it was opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "project.qpproj"
        self.document: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))

    def data_path(self, entry_id: int) -> Path:
        return self.folder / "data" / str(entry_id) / "data.qpdata"

    def open(self, entry_id: int) -> OpenImage:
        return OpenImage(self, entry_id)

    def put_entry(self, told: dict[str, Any], source: OpenImage) -> None:
        """Add an entry, or change the one it replaces; its objects become those of the open image unless a user's are there."""
        images = self.document["images"]
        there = next((raw for raw in images if str(raw["entryID"]) == told["replaces"]), None)
        if there is None:
            assert told["replaces"] is None, "an entry that is not there cannot be replaced"
            number = max([self.document["lastID"], *(raw["entryID"] for raw in images)]) + 1
            there = {"entryID": number, "imageName": told["name"], "description": told["description"], "metadata": {}}
            images.append(there)
            self.document["lastID"] = number
        path = self.data_path(there["entryID"])
        ours = not path.exists() or _sha(path) == there["metadata"].get(COPIED)
        assert (told["objects"] == "copy") == ours
        there["serverBuilder"] = copy.deepcopy(told["serverBuilder"])
        there["metadata"] |= told["metadata"]
        if ours:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.objects.to_bytes())
            there["metadata"][COPIED] = _sha(path)
        self.path.write_text(json.dumps(self.document, ensure_ascii=False, indent=2), encoding="utf-8")


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
