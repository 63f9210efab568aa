"""Lines of the exchange file from arrays: a slide has a hundred thousand cells, and a line must not take longer than a glance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxbridge.cells import Rings
from mxbridge.results import NewObjects
from mxbridge.workspaces.qupath.handover.exchange_file import dump
from mxbridge.workspaces.qupath.qpdata.rois import NewROI

KEEP, CLEAR = -2, -1
"""Instead of the number of a class: it stays as it is; there is none any more."""

_AT_ONCE = 8192


def shortest(values: NDArray[np.floating]) -> list[str]:
    """Each value as the shortest decimal that is the same float32; ``null`` for NaN, what no float32 can hold for infinity."""
    texts: list[str] = np.asarray(values, np.float32).ravel().astype("U").tolist()
    if not np.isfinite(values).all():
        odd = {"nan": "null", "inf": "1e999", "-inf": "-1e999"}
        return [odd.get(text, text) for text in texts]
    return texts


def json_value(value: float) -> str:
    """As :func:`shortest` tells one value."""
    return shortest(np.array([value]))[0]


def cell_lines(
    ids: Sequence[str],
    values: NDArray[np.floating],
    measured: NDArray[np.bool_],
    taken: Sequence[tuple[str, ...]],
    classes: NDArray[np.integer],
) -> Iterator[str]:
    """One line for each object. values: ``(objects, columns)``. measured: ``(objects,)``, whether they are told. taken: columns to
    take away. classes: ``(objects,)`` numbers, or KEEP, CLEAR."""
    told_taken: dict[tuple[str, ...], str] = {}
    for names in taken:
        if names not in told_taken:
            told_taken[names] = f',"-":{json.dumps(names, ensure_ascii=False)}' if names else ""
    told_classes = {code: "" if code == KEEP else f',"c":{code}' for code in np.unique(classes).tolist()}
    width = values.shape[1]
    for first in range(0, len(ids), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        texts = shortest(values[part]) if measured[part].any() else []
        rows = zip(ids[part], measured[part].tolist(), taken[part], classes[part].tolist(), strict=True)
        for k, (identity, has, names, code) in enumerate(rows):
            told = f',"m":[{",".join(texts[k * width : (k + 1) * width])}]' if has else ""
            yield f'{{"id":"{identity}"{told}{told_taken[names]}{told_classes[code]}}}'


def object_lines(
    part: NewObjects,
    which: Sequence[int],
    ids: Sequence[str],
    metadata: Sequence[Mapping[str, str]],
    codes: Sequence[int],
) -> Iterator[str]:
    """One line for each new object. which: numbers in ``part``. codes: numbers of classes, KEEP for none."""
    names = [json.dumps(name, ensure_ascii=False) for name in part.measurements]
    columns = [shortest(values[np.asarray(which, np.int64)]) for values in part.measurements.values()]
    outlines = _Outlines(part.outlines)
    nuclei = None if part.nuclei is None else _Outlines(part.nuclei)
    for n, (k, identity, own, code) in enumerate(zip(which, ids, metadata, codes, strict=True)):
        told: dict[str, Any] = {"kind": part.kind, "geometry": outlines.geometry(k)}
        if nuclei is not None and nuclei.counts[k]:
            told["nucleus"] = nuclei.geometry(k)
        if part.names[k] is not None:
            told["name"] = part.names[k]
        if code != KEEP:
            told["c"] = code
        told["metadata"] = dict(own)
        values = ",".join(f"{name}:{column[n]}" for name, column in zip(names, columns, strict=True))
        measured = f',"measurements":{{{values}}}' if names else ""
        yield f'{{"id":"{identity}","object":{dump(told)[:-1]}{measured}}}}}'


class _Outlines:
    """GeoJSON of many objects, as the native path stores them: a polygon in float32, several rings as polygons with holes."""

    def __init__(self, rings: Rings) -> None:
        self.counts = np.diff(rings.object_starts).tolist()
        self._rings = rings
        self._single = Rings(_as_float32(rings.xy), rings.ring_starts, rings.object_starts)

    def geometry(self, k: int) -> dict[str, Any]:
        region = NewROI.of_rings((self._single if self.counts[k] == 1 else self._rings).rings_of(k))
        polygons = [[_closed(ring) for ring in polygon] for polygon in region.polygons]
        if len(polygons) == 1:
            return {"type": "Polygon", "coordinates": polygons[0]}
        return {"type": "MultiPolygon", "coordinates": polygons}


def _as_float32(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """The float64 with the shortest decimal that is the same float32."""
    out = xy.astype(np.float32).astype(np.float64)
    long = np.flatnonzero((out * 256 % 1 != 0).any(axis=1))  # those on a fine grid are short already
    for first in range(0, len(long), _AT_ONCE):
        part = long[first : first + _AT_ONCE]
        out[part] = out[part].astype(np.float32).astype("U").astype(np.float64)
    return out


def _closed(ring: NDArray[np.float64]) -> list[list[float]]:
    points: list[list[float]] = ring.tolist()
    return [*points, points[0]]
