"""Objects of an image into a GeoJSON file that QuPath imports, one after the other."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from mxbridge.errors import InputError, NoCells, OutputError
from mxbridge.formats.atomic import output_error, write_atomically
from mxbridge.workspaces.geojson import feature_text
from mxbridge.workspaces.qupath.javastream import without_garbage_collection
from mxbridge.workspaces.qupath.objects.as_geojson import geo_object
from mxbridge.workspaces.qupath.objects.plain_features import plain_features
from mxbridge.workspaces.qupath.qpdata import ImageDataFile

Kind = Literal["cells", "detections", "annotations", "all"]

_KINDS: dict[str, frozenset[str]] = {
    "cells": frozenset(["cell"]),
    "detections": frozenset(["cell", "detection", "tile"]),
    "annotations": frozenset(["annotation"]),
    "all": frozenset(["annotation", "detection", "cell", "tile", "tma core"]),
}
_AT_ONCE = 2048
"""Objects that are in memory as such at one time."""

_BEGIN = b'{"type":"FeatureCollection","mxbridge":'
"""How our own files begin: an earlier one may be replaced, another one not."""


@dataclass(frozen=True)
class Exported:
    """objects: how many there are of each kind in the file. left_out: why some are not, and how many."""

    file: Path
    objects: dict[str, int]
    left_out: dict[str, int]


def export_objects(tree: ImageDataFile, file: Path, kind: Kind, *, entry_id: int, name: str) -> Exported:
    """Write the objects of one kind; ``detections`` are cells, detections and tiles, as in QuPath. Parents are not kept: QuPath's
    own export of a list has none.

    entry_id, name: of the image, noted in the file. Raises OutputError, also where a file is in the way that is not such an
    export; then it is as it was.
    """
    _check_target(file)
    if not any(kind_of in _KINDS[kind] for kind_of in tree.table.kinds(tree.table.all()).tolist()):
        raise NoCells(f"{name} has no {'objects' if kind == 'all' else kind}")
    written: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    about = json.dumps({"image": {"id": str(entry_id), "name": name}, "objects": kind}, ensure_ascii=False)
    packed = file.name.lower().endswith(".gz")
    with write_atomically(file) as part, part.open("wb") as raw:
        stream: IO[bytes] = gzip.GzipFile("", "wb", 6, raw, 0) if packed else raw  # type: ignore[assignment]
        stream.write(_BEGIN + about.encode("utf-8", "backslashreplace") + b',"features":[')
        for found, text in _features(tree, _KINDS[kind]):
            if text is None:
                left_out[found] += 1
                continue
            stream.write((b",\n" if written else b"\n") + text.encode("utf-8", "backslashreplace"))
            written[found] += 1
        stream.write(b"\n]}\n")
        if packed:
            stream.close()
    return Exported(file, dict(written), dict(left_out))


def _features(tree: ImageDataFile, kinds: frozenset[str]) -> Iterator[tuple[str, str | None]]:
    """The kind and the feature of each object, in the order of the file; or why there is none, and None.

    Objects that are kept as bytes become others for a moment only, and most of them not even that.
    """
    table = tree.table
    for first in range(0, len(table), _AT_ONCE):
        which = np.arange(first, min(first + _AT_ONCE, len(table)))
        kind_of = table.kinds(which)
        which, kind_of = which[chosen := [kind in kinds for kind in kind_of.tolist()]], kind_of[chosen]
        loose, at, rows = table.split(which)
        single, packed = dict(loose), dict(zip(at.tolist(), rows.tolist(), strict=True))
        with without_garbage_collection():
            plain = plain_features(table, which)
        for k, kind in enumerate(kind_of.tolist()):
            if k in plain:
                yield kind, plain[k]
                continue
            try:
                yield kind, feature_text(geo_object(single[k] if k in single else table.as_object(packed[k])))
            except InputError as error:  # an outline that is none, or of a kind that has no name in GeoJSON
                yield error.message, None


def _check_target(file: Path) -> None:
    """Raises OutputError for a place where nothing can be written, or what is there is not ours."""
    if not file.parent.is_dir():
        raise OutputError(f"{file.parent} does not exist", hint="Make that folder first")
    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise OutputError(f"{file} is in the way", hint="Give another name with --out")
    if file.exists() and not _is_export(file):
        raise OutputError(
            f"{file} exists and was not written by mxbridge", hint="Give another name with --out, or remove it first"
        )


def _is_export(file: Path) -> bool:
    try:
        with file.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            start = (gzip.GzipFile(fileobj=raw) if packed else raw).read(len(_BEGIN))
    except (EOFError, gzip.BadGzipFile):
        return False
    except OSError as error:
        raise output_error(file, error) from error
    return start == _BEGIN
