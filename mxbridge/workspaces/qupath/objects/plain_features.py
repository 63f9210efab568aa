"""Many cells or detections as GeoJSON at once: those with one outline each and nothing of their own but a class, a name and
values. They are nearly all of the objects of a slide; whatever is more than that goes through ``as_geojson``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mxbridge.cells import Rings
from mxbridge.errors import InputError
from mxbridge.workspaces.qupath.javastream import Ints
from mxbridge.workspaces.qupath.qpdata import ObjectTable
from mxbridge.workspaces.qupath.qpdata.outlines import Outlines


def plain_features(table: ObjectTable, which: Ints) -> dict[int, str]:
    """Features of those among some rows of the table that are plain, by their positions among ``which``."""
    _, at, rows = table.split(which)
    at = at[table.packed.plain(rows)]
    if not len(at):
        return {}
    try:
        outlines = Outlines(table, which[at]).rings()
        nuclei = Outlines(table, which[at], nuclei=True).rings()
    except InputError:  # some outline is none: each is looked at by itself
        return {}
    good = (np.diff(outlines.object_starts) == 1) & (np.diff(nuclei.object_starts) <= 1)
    values = _values(table, which[at])
    chosen = which[at]
    areas, inner = _areas(outlines), _areas(nuclei)
    classes = _classes(table, chosen)
    of_class, names = table.class_names(chosen), table.names(chosen)
    found = {}
    for k, kind in enumerate(table.kinds(chosen).tolist()):
        told = values[k]
        if not good[k] or told is None:
            continue
        nucleus = f',"nucleusGeometry":{inner[k]}' if inner[k] else ""
        name = "" if names[k] is None else f',"name":{_json(names[k])}'
        found[int(at[k])] = (
            f'{{"type":"Feature","id":"{table.ids[chosen[k]]}","geometry":{areas[k]}{nucleus},'
            f'"properties":{{"objectType":"{kind}"{name}{classes[of_class[k]]}{told}}}}}'
        )
    return found


def _areas(rings: Rings) -> list[str]:
    """The first ring of each object as a polygon; an empty text for those that have none."""
    stored = rings.xy.astype(np.float32)
    x, y = (pa.array(np.ascontiguousarray(column)).cast(pa.string()) for column in stored.T)
    points = pc.binary_join_element_wise(x, y, ",").to_pylist()
    found = []
    for first, last in zip(rings.object_starts[:-1].tolist(), rings.object_starts[1:].tolist(), strict=True):
        begin, end = rings.ring_starts[first : first + 2].tolist() if last > first else (0, 0)
        closing = points[begin : begin + 1] if end > begin and points[begin] != points[end - 1] else []
        corners = "],[".join(points[begin:end] + closing)
        found.append(f'{{"type":"Polygon","coordinates":[[[{corners}]]]}}' if corners else "")
    return found


def _values(table: ObjectTable, which: Ints) -> list[str | None]:
    """The measurements of each object as a part of its properties; None for lists that are not as usual."""
    found: list[str | None] = [None] * len(which)
    rows = table.split(which)[2]
    for head, chosen in table.packed.lists(rows):
        keys = [_json(name) for name in head.names]
        if len(set(keys)) < len(keys):
            continue
        values = table.packed.values(rows[chosen], head, range(len(keys)))
        finite = np.asarray(np.isfinite(values).all(axis=1)).tolist()
        texts = _numbers(values)
        for k, (place, usual) in enumerate(zip(chosen.tolist(), finite, strict=True)):
            told = texts[k * len(keys) : (k + 1) * len(keys)]
            if not keys:
                found[place] = ""
            elif usual:
                found[place] = f',"measurements":{{{",".join(map(":".join, zip(keys, told, strict=True)))}}}'
            else:  # as in geojson.feature_text
                pairs = (f'{{"name":{key},"value":{_quoted(text)}}}' for key, text in zip(keys, told, strict=True))
                found[place] = f',"measurements":[{",".join(pairs)}]'
    return found


def _numbers(values: NDArray[np.float64]) -> Sequence[str]:
    """Each number with the fewest digits that are the same float32, or the same double where it is no float32."""
    flat = np.ascontiguousarray(values).ravel()
    with np.errstate(over="ignore"):
        stored = flat.astype(np.float32)
    single = (stored == flat) | np.isnan(flat)
    texts: Sequence[str] = pa.array(stored).cast(pa.string()).to_pylist()
    if single.all():
        return texts
    exact = pa.array(flat).cast(pa.string()).to_pylist()
    return [short if is_single else long for short, long, is_single in zip(texts, exact, single.tolist(), strict=True)]


def _quoted(number: str) -> str:
    """JSON has no NaN and no infinity."""
    return {"nan": '"NaN"', "-nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}.get(number, number)


def _classes(table: ObjectTable, which: Ints) -> dict[str | None, str]:
    """The part of the properties that says the class, for every class of these objects."""
    colors = table.class_colors(which)
    found: dict[str | None, str] = {None: ""}
    for name in {name for name in table.class_names(which) if name is not None}:
        parts = name.split(": ")
        told: dict[str, object] = {"names": parts} if len(parts) > 1 else {"name": name}
        color = colors.get(name)
        if color is not None:
            told["color"] = [color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF]
        found[name] = f',"classification":{_json(told)}'
    return found


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
