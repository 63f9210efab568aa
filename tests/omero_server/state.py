"""The server's contents in a form that can be compared between two servers: no ids, no times, no names of the moment."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import tables

from .servants.tables import LIBRARY
from .store import Row
from .world import World

TOKENS = re.compile(r"mxbridge[:/].*", re.DOTALL)
MOMENT = {"run", "published"}
"""Rows of a result marker that differ from run to run."""


def state(world: World) -> dict[str, Any]:
    """Images with their annotations and ROIs, loose annotations, datasets; everything sorted."""
    with world.store.lock:
        links = [
            row
            for root, table in world.store.tables.items()
            if root.endswith("AnnotationLink")
            for row in table.values()
        ]
        held = {link.fields["child"] for link in links}
        loose = [_annotation(world, row) for row in world.store.rows("Annotation") if row not in held]
        return {
            "images": _sorted([_image(world, row) for row in world.store.rows("Image")]),
            "datasets": _sorted([_container(world, row) for row in world.store.rows("Dataset")]),
            "loose annotations": _sorted(loose),
            "loose rois": _sorted([_roi(row) for row in world.store.rows("Roi") if row.fields.get("image") is None]),
            "files": len(world.store.rows("OriginalFile")),
        }


def _sorted(items: list[Any]) -> list[Any]:
    return sorted(items, key=lambda one: json.dumps(one, sort_keys=True))


def _place(row: Row) -> list[str]:
    return [part.value(name) for part, name in ((row.owner, "omeName"), (row.group, "name")) if part is not None]


def _container(world: World, row: Row) -> dict[str, Any]:
    images = [link.fields["child"].value("name") for link in row.members("imageLinks")]
    projects = [link.fields["parent"].value("name") for link in row.members("projectLinks")]
    return {
        "name": row.value("name"), "place": _place(row), "images": sorted(images), "projects": sorted(projects),
        "annotations": _annotations(world, row),
    }  # fmt: skip


def _image(world: World, row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": row.value("name"), "place": _place(row), "annotations": _annotations(world, row),
        "description": _cut(row.value("description")),
        "datasets": sorted(link.fields["parent"].value("name") for link in row.members("datasetLinks")),
        "rois": _sorted([_roi(one) for one in row.members("rois")]),
    }  # fmt: skip
    for pixels in row.members("pixels"):
        data = world.pixel_data(pixels)
        channels = pixels.members("channels")
        found |= {
            "shape": list(data.values.shape), "type": pixels.fields["pixelsType"].value("value"),
            "sha256": data.digest(hashlib.sha256()).hexdigest(),
            "channels": [channel.fields["logicalChannel"].value("name") for channel in channels],
        }  # fmt: skip
    return found


def _annotations(world: World, row: Row) -> list[Any]:
    return _sorted([_annotation(world, link.fields["child"]) for link in row.members("annotationLinks")])


def _annotation(world: World, row: Row) -> dict[str, Any]:
    ns = row.value("ns")
    found: dict[str, Any] = {"kind": row.kind.name, "ns": ns, "place": _place(row)}
    if ns != "mxbridge/result":
        found["description"] = _cut(row.value("description"))
    for name in row.kind.fields:
        if name.endswith("Value") and name != "mapValue":
            found["value"] = row.value(name)
    if row.fields.get("mapValue"):
        pairs = [[pair.name, pair.value] for pair in row.value("mapValue")]
        found["values"] = [pair for pair in pairs if ns != "mxbridge/result" or pair[0] not in MOMENT]
    if row.fields.get("file") is not None:
        found["file"] = _file(world, row.fields["file"])
    return found


def _file(world: World, row: Row) -> dict[str, Any]:
    table = world.file_path(row.id).with_suffix(".h5")
    found: dict[str, Any] = {"name": str(row.value("name")).rsplit("/", 1)[-1], "mimetype": row.value("mimetype")}
    if table.exists():
        return found | _table(str(table))
    path = world.file_path(row.id)
    found["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    return found


def _table(path: str) -> dict[str, Any]:
    try:
        with LIBRARY, tables.open_file(path, "r") as file:
            table = file.root.OME.Measurements
            rows = [[_plain(cell) for cell in line] for line in table.read().tolist()]
            return {"columns": list(table.colnames), "rows": sorted(rows, key=str)}
    except (OSError, ValueError) as error:
        return {"columns": f"not readable now: {type(error).__name__}"}


def _plain(cell: Any) -> Any:
    if isinstance(cell, bytes):
        return cell.decode(errors="replace")
    return "nan" if cell != cell else cell


def _roi(row: Row) -> dict[str, Any]:
    shapes = [_shape(one) for one in row.members("shapes")]
    return {
        "name": row.value("name"),
        "description": _cut(row.value("description")),
        "place": _place(row),
        "shapes": shapes,
    }


def _shape(row: Row) -> list[Any]:
    values = [[name, row.value(name)] for name in row.kind.fields if name not in ("roi", "transform")]
    return [
        row.kind.name,
        [[name, value.hex() if isinstance(value, bytes) else value] for name, value in values if _is_plain(value)],
    ]


def _is_plain(value: Any) -> bool:
    return isinstance(value, bytes | str | int | float)


def _cut(text: str | None) -> str | None:
    """Without the tokens and keys that mxbridge writes into descriptions."""
    return None if text is None else TOKENS.sub("mxbridge", text)
