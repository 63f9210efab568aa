"""QuPath's GeoJSON: objects in and out, with everything that QuPath writes of them."""

from __future__ import annotations

import gzip
import io
import json
import math
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import COORDINATE_LIMIT, Cells, OutlineCells, Rings
from mxbridge.errors import BrokenFile, InputError
from mxbridge.formats.atomic import write_atomically
from mxbridge.formats.pixels import missing, reading
from mxbridge.results import NewObjects

SIZE_LIMIT = 512 << 20
"""Bytes after unpacking. About 150,000 cells with nuclei as QuPath prints them."""

VALUE_LIMIT = 60_000_000
"""Numbers, texts and brackets in a file: what bounds the memory that parsing takes."""

PLACES = 2
"""Decimals of coordinates, as QuPath rounds them."""

NAMESPACE = uuid.UUID("2b0b4a6e-3c1f-5d52-9a53-6d7862726467")
"""Of the ids of new objects."""

Plane = tuple[int, int, int]
Polygon = list[NDArray[np.float64]]
AREAS = ("Polygon", "MultiPolygon")


@dataclass(frozen=True)
class Geometry:
    """Where an object is. kind: GeoJSON's type. polygons: outer ring and holes of each part, open rings ``(n, 2)`` x, y.

    points: coordinates of lines and points. plane: (c, z, t), c = -1 for all channels. ellipse: the polygon stands for
    an ellipse, as QuPath marks it.
    """

    kind: str
    polygons: tuple[Polygon, ...] = ()
    points: tuple[NDArray[np.float64], ...] = ()
    plane: Plane = (-1, 0, 0)
    ellipse: bool = False

    @property
    def rings(self) -> list[NDArray[np.float64]]:
        """All rings, even-odd; empty for lines and points."""
        return [ring for polygon in self.polygons for ring in polygon]


@dataclass(frozen=True)
class GeoObject:
    """One object. kind: annotation, detection, cell, tile or tmaCore. Colours are 0xRRGGBB. class_name: ``A: B`` if derived."""

    kind: str
    geometry: Geometry
    id: str | None = None
    nucleus: Geometry | None = None
    name: str | None = None
    color: int | None = None
    class_name: str | None = None
    class_color: int | None = None
    locked: bool = False
    missing: bool = False
    measurements: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def read_geojson(path: str | PathLike[str]) -> list[GeoObject]:
    """Objects of a ``.geojson`` or ``.geojson.gz``: a collection, a list, one feature or a bare geometry.

    Objects without type are annotations, as QuPath takes them. Raises SourceError, BrokenFile (also for files beyond
    the limits of this module).
    """
    path = Path(path)
    document = _parse(path, _load(path))
    features = document.get("features") if isinstance(document, dict) and "features" in document else document
    if isinstance(features, dict):
        features = [features]
    if not isinstance(features, list):
        raise BrokenFile(path, "not GeoJSON: neither a feature nor a list of features")
    objects = []
    for number, feature in enumerate(features):
        try:
            objects += [_object(one) for one in _with_children(feature)]
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
            raise BrokenFile(path, f"feature {number} is malformed ({error})") from error
    return objects


def write_geojson(path: str | PathLike[str], objects: Iterable[GeoObject]) -> None:
    """Write a FeatureCollection that QuPath imports; coordinates with two decimals, NaN as the text ``NaN``."""
    features = [_feature(o) for o in objects]
    document = {"type": "FeatureCollection", "features": features}
    with write_atomically(Path(path)) as part:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = text.encode("utf-8")
        part.write_bytes(gzip.compress(data, mtime=0) if str(path).lower().endswith(".gz") else data)


def write_objects(path: str | PathLike[str], objects: NewObjects, ids: Sequence[str] = ()) -> None:
    """Write a FeatureCollection that QuPath imports, one object after the other, so that only a part is in memory at a time.

    ids: UUIDs, one per object; without, they are made of result key and key, so that importing the file again gives the same
    objects. Raises OutputError.
    """
    packed = str(path).lower().endswith(".gz")
    with write_atomically(Path(path)) as part, part.open("wb") as raw:
        stream = gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) if packed else raw
        stream.write(b'{"type":"FeatureCollection","features":[')
        for k in range(len(objects)):
            identity = ids[k] if ids else str(uuid.uuid5(NAMESPACE, f"{objects.result_key}\n{objects.keys[k]}"))
            feature = _feature(_new_object(objects, k, identity))
            text = json.dumps(feature, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            stream.write((b",\n" if k else b"\n") + text.encode("utf-8", "backslashreplace"))
        stream.write(b"\n]}")
        if packed:
            stream.close()


def _new_object(objects: NewObjects, k: int, identity: str) -> GeoObject:
    nucleus = [] if objects.nuclei is None else objects.nuclei.rings_of(k)
    name = objects.class_names[k]
    return GeoObject(
        objects.kind,
        area_geometry(objects.outlines.rings_of(k)),
        id=identity,
        nucleus=area_geometry(nucleus) if nucleus else None,
        name=objects.names[k],
        class_name=name,
        measurements={column: float(values[k]) for column, values in objects.measurements.items()},
    )


def cells_from_geojson(
    path: str | PathLike[str],
    shape: tuple[int, int],
    *,
    kind: Literal["cells", "detections", "annotations"] | None = None,
) -> OutlineCells:
    """Cells of a GeoJSON for an image of ``shape`` (y, x).

    kind: which objects count; None takes cells, or detections where there are none, or annotations where there is
    neither. Objects without an area or on another plane than z = t = 0 are no cells. An object without id is called by
    its place in the file (``#1``). Raises InputError on repeated ids.
    """
    objects = read_geojson(path)
    chosen = _of_kind(objects, kind)
    ids = [o.id or f"#{number}" for number, o in chosen]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"{path}: the id {twice} occurs more than once")
    nuclei = [o.nucleus.rings if o.nucleus else [] for _, o in chosen]
    return OutlineCells(
        ids=tuple(ids),
        classes=tuple(o.class_name for _, o in chosen),
        shape=(int(shape[0]), int(shape[1])),
        outlines=Rings.of([o.geometry.rings for _, o in chosen]),
        nuclei=Rings.of(nuclei) if any(nuclei) else None,
        names=tuple(o.name for _, o in chosen) if kind == "annotations" else (),
    )


def objects_from_cells(cells: Cells, measurements: dict[str, Sequence[float]] | None = None) -> list[GeoObject]:
    """Cell objects (detections where there is no nucleus) of outlines, with measurements by column name."""
    from mxbridge.cells import LabelCells
    from mxbridge.formats.label_outlines import labels_to_outlines

    if isinstance(cells, LabelCells):
        cells = labels_to_outlines(cells)
    if not isinstance(cells, OutlineCells):
        raise InputError("these cells have no outlines")
    objects = []
    for k, (cell_id, class_name) in enumerate(zip(cells.ids, cells.classes, strict=True)):
        nucleus = cells.nuclei.rings_of(k) if cells.nuclei is not None else []
        values = {name: float(column[k]) for name, column in (measurements or {}).items()}
        objects.append(
            GeoObject(
                kind="cell",
                geometry=area_geometry(cells.outlines.rings_of(k)),
                id=cell_id,
                nucleus=area_geometry(nucleus) if nucleus else None,
                class_name=class_name,
                measurements=values,
            )
        )
    return objects


def area_geometry(rings: Sequence[NDArray[np.float64]], plane: Plane = (-1, 0, 0)) -> Geometry:
    """A Polygon or MultiPolygon of even-odd rings: each ring inside an odd number of others is a hole of the smallest."""
    around = [[j for j, other in enumerate(rings) if j != k and _holds(other, ring)] for k, ring in enumerate(rings)]
    depth = [len(holders) for holders in around]
    polygons: dict[int, Polygon] = {k: [ring] for k, ring in enumerate(rings) if depth[k] % 2 == 0}
    for k, ring in enumerate(rings):
        if depth[k] % 2:
            polygons[max(around[k], key=lambda j: depth[j])].append(ring)
    kind = "Polygon" if len(polygons) == 1 else "MultiPolygon"
    return Geometry(kind, tuple(polygons.values()), (), plane)


def _holds(ring: NDArray[np.float64], inner: NDArray[np.float64]) -> bool:
    """Whether ``inner`` lies within ``ring``, by the middle of its first edge: rings may touch in a corner."""
    px, py = inner[:2].mean(axis=0)
    (x, y), (nx, ny) = ring.T, np.roll(ring, -1, axis=0).T
    crosses = np.flatnonzero((y > py) != (ny > py))
    at = (nx - x)[crosses] * (py - y[crosses]) / (ny - y)[crosses] + x[crosses]
    return bool(np.count_nonzero(px < at) % 2)


def _of_kind(objects: list[GeoObject], kind: str | None) -> list[tuple[int, GeoObject]]:
    usable = [
        (n, o) for n, o in enumerate(objects, 1) if o.geometry.kind in AREAS and o.geometry.plane[1:] == (0, 0)
    ]  # fmt: skip
    by_kind = {
        "cells": [(n, o) for n, o in usable if o.kind == "cell"],
        "detections": [(n, o) for n, o in usable if o.kind in ("cell", "detection", "tile")],
        "annotations": [(n, o) for n, o in usable if o.kind == "annotation"],
    }
    if kind == "cells":
        return by_kind["cells"] or by_kind["detections"]
    if kind is not None:
        return by_kind[kind]
    return by_kind["cells"] or by_kind["detections"] or by_kind["annotations"]


def _load(path: Path) -> bytes:
    if not path.exists():
        raise missing(path)
    with reading(path), path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        source: Any = gzip.GzipFile(fileobj=stream) if packed else stream
        data: bytes = io.BufferedReader(source).read(SIZE_LIMIT + 1) if packed else source.read(SIZE_LIMIT + 1)
    values = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if len(data) > SIZE_LIMIT or values > VALUE_LIMIT:
        raise BrokenFile(
            path, f"too large for GeoJSON (more than {SIZE_LIMIT >> 20} MB or {VALUE_LIMIT:,} values)",
            hint="Use the QuPath project itself (--project), or export fewer objects",
        )  # fmt: skip
    return data


def _parse(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))  # a repeated key ("metadata" in QuPath 0.5 to 0.7) counts once
    except (ValueError, RecursionError) as error:
        position = getattr(error, "pos", None)
        raise BrokenFile(path, f"not valid JSON ({type(error).__name__})", position=position) from error


def _with_children(feature: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A feature and those that QuPath wrote inside it, when it was asked for a hierarchy."""
    waiting = [feature]
    while waiting:
        one = waiting.pop()
        yield one
        properties = one.get("properties") or {}
        waiting += reversed(properties.get("childObjects") or properties.get("children") or [])


def _object(feature: dict[str, Any]) -> GeoObject:
    if feature.get("type") != "Feature":
        return GeoObject("annotation", _geometry(feature))
    properties = feature.get("properties") or {}
    nucleus = feature.get("nucleusGeometry") or properties.get("nucleusGeometry")
    class_name, class_color = _classification(properties.get("classification"))
    given = feature.get("id", properties.get("id"))
    kind = str(properties.get("objectType") or properties.get("object_type") or "annotation")
    return GeoObject(
        kind={"tma_core": "tmaCore", "cell_object": "cell"}.get(kind, kind),
        geometry=_geometry(feature["geometry"]),
        id=None if given is None or str(given).startswith("PathAnnotationObject") else str(given),
        nucleus=_geometry(nucleus) if nucleus else None,
        name=_text(properties.get("name")),
        color=_color(properties.get("color")),
        class_name=class_name,
        class_color=class_color,
        locked=bool(properties.get("isLocked", False)),
        missing=bool(properties.get("isMissing", False)),
        measurements=_measurements(properties.get("measurements")),
        metadata={str(k): str(v) for k, v in (properties.get("metadata") or {}).items()},
    )


def _geometry(entry: dict[str, Any]) -> Geometry:
    kind, coordinates = str(entry["type"]), entry.get("coordinates") or []
    numbers = entry.get("plane") or {}
    plane = (int(numbers.get("c", -1)), int(numbers.get("z", 0)), int(numbers.get("t", 0)))
    if kind == "Polygon":
        return Geometry(kind, (_polygon(coordinates),), plane=plane, ellipse=bool(entry.get("isEllipse", False)))
    if kind == "MultiPolygon":
        return Geometry(kind, tuple(_polygon(part) for part in coordinates), plane=plane)
    lines = {
        "Point": [[coordinates]],
        "LineString": [coordinates],
        "MultiPoint": [coordinates],
        "MultiLineString": coordinates,
    }
    if kind not in lines:
        raise ValueError(f"geometry type {kind!r}")
    return Geometry(kind, points=tuple(_points(line) for line in lines[kind]), plane=plane)


def _polygon(rings: list[Any]) -> Polygon:
    found = []
    for ring in rings:
        points = _points(ring)
        found.append(points[:-1] if len(points) > 1 and np.array_equal(points[0], points[-1]) else points)
    return found


def _points(coordinates: list[Any]) -> NDArray[np.float64]:
    points = np.array([(float(p[0]), float(p[1])) for p in coordinates], np.float64).reshape(-1, 2)
    if not np.all(np.abs(points) <= COORDINATE_LIMIT):
        raise ValueError("a coordinate is no pixel")
    return points


def _classification(entry: Any) -> tuple[str | None, int | None]:
    if not entry:
        return None, None
    if isinstance(entry, str):
        return entry, None
    names = entry.get("names")
    name = ": ".join(str(n) for n in names) if names else _text(entry.get("name"))
    return name, _color(entry.get("color", entry.get("colorRGB")))


def _color(entry: Any) -> int | None:
    if isinstance(entry, list) and len(entry) >= 3:
        red, green, blue = (int(v) & 0xFF for v in entry[:3])
        return red << 16 | green << 8 | blue
    return entry & 0xFFFFFF if isinstance(entry, int) and not isinstance(entry, bool) else None


def _measurements(entry: Any) -> dict[str, float]:
    """``{name: value}``, or the list of name-value pairs that QuPath 0.2 and 0.3 wrote."""
    if isinstance(entry, list):
        return {str(m["name"]): float(m["value"]) for m in entry}
    return {str(name): float("nan") if value is None else float(value) for name, value in (entry or {}).items()}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def feature_text(item: GeoObject) -> str:
    """One feature of a collection, with all decimals that its coordinates have.

    Measurements of which some are NaN are a list of pairs: QuPath 0.4 reads NaN in this form only, later ones in both.
    """
    feature = _feature(item, places=None)
    if not all(map(math.isfinite, item.measurements.values())):
        pairs = [{"name": name, "value": _number(value)} for name, value in item.measurements.items()]
        feature["properties"]["measurements"] = pairs
    return json.dumps(feature, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _feature(item: GeoObject, places: int | None = PLACES) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": item.kind}
    if item.name is not None:
        properties["name"] = item.name
    if item.color is not None:
        properties["color"] = _components(item.color)
    if item.class_name is not None:
        parts = item.class_name.split(": ")
        properties["classification"] = {"names": parts} if len(parts) > 1 else {"name": item.class_name}
        if item.class_color is not None:
            properties["classification"]["color"] = _components(item.class_color)
    if item.locked:
        properties["isLocked"] = True
    if item.missing:
        properties["isMissing"] = True
    if item.measurements:
        properties["measurements"] = {name: _number(value) for name, value in item.measurements.items()}
    if item.metadata:
        properties["metadata"] = item.metadata
    feature: dict[str, Any] = {"type": "Feature"}
    if item.id is not None:
        feature["id"] = item.id
    feature["geometry"] = _as_json(item.geometry, places)
    if item.nucleus is not None:
        feature["nucleusGeometry"] = _as_json(item.nucleus, places)
    return {**feature, "properties": properties}


def _as_json(geometry: Geometry, places: int | None) -> dict[str, Any]:
    polygons = [[_rounded(np.vstack([ring, ring[:1]]), places) for ring in polygon] for polygon in geometry.polygons]
    lines = [_rounded(points, places) for points in geometry.points]
    coordinates: Any = {
        "Polygon": lambda: polygons[0] if polygons else [],
        "MultiPolygon": lambda: polygons,
        "Point": lambda: lines[0][0],
        "MultiLineString": lambda: lines,
    }.get(geometry.kind, lambda: lines[0])()
    entry: dict[str, Any] = {"type": geometry.kind, "coordinates": coordinates}
    if geometry.ellipse:
        entry["isEllipse"] = True
    if geometry.plane != (-1, 0, 0):
        entry["plane"] = dict(zip("czt", geometry.plane, strict=True))
    return entry


def _rounded(points: NDArray[np.float64], places: int | None) -> list[list[float]]:
    rounded: list[list[float]] = (points if places is None else np.round(points, places)).tolist()
    return rounded


def _components(color: int) -> list[int]:
    return [color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF]


def _number(value: float) -> float | str:
    """A number for JSON, which has no NaN and no infinity: QuPath writes and reads them as text."""
    return (
        value if math.isfinite(value) else ("NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity"))
    )
