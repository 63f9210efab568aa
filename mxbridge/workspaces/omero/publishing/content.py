"""What is to stand on the server, worked out from results and from what stands there: tables, values and who owns what.

Nothing here talks to a server.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mxbridge.results import DerivedImage, ImageRef, NewObjects, Results
from mxbridge.runs import digest

CLASS = "class"
CELL = "cell"
IDENTITY = ("image_id", "image", CELL)
"""First columns of the table of cells."""


@dataclass(frozen=True)
class Table:
    """A table to publish. keys: result keys by column; identity columns have none."""

    frame: pd.DataFrame
    keys: dict[str, str] = field(default_factory=dict)


def task_and_model(results: Results) -> tuple[str, str]:
    """As the provenance tells them."""
    told = results.provenance
    return str(told.get("task") or "results"), str(told.get("name") or "")


def told_of_model(results: Results) -> dict[str, str]:
    """What people may want to know of the model beside its name; short, in a stable order."""
    from mxbridge.runs import versions

    told = {"mxbridge": versions()["mxbridge"]}
    for name in ("version", "weights_sha256", "sha256", "license"):
        value = results.provenance.get(name)
        if isinstance(value, (str, int, float)) and str(value):
            told[name.replace("_", " ")] = str(value)
    return told


def digests(results: Results, how: Mapping[str, Any]) -> dict[str, str]:
    """By result key, a hash of what is published under it. how: options of publishing that decide how that looks.

    Values decide, not the run; of derived images the work that made them does, their pixels are not read for it.
    """
    told: dict[str, list[Any]] = {key: [] for key in results.result_keys}
    ids = hashlib.sha256("\n".join(results.cell_ids).encode()).hexdigest()
    for m in results.measurements:
        told[m.result_key].append(["measurement", m.name, ids, _sha(m.values)])
    if (changes := results.class_changes) is not None:
        told[changes.result_key].append(["classes", ids, digest([changes.names, changes.base_names])])
    for made in results.objects:
        told[made.result_key].append(["objects", _objects_digest(made), how.get("rois"), how.get("rois_as")])
    for d in results.derived:
        shown = [d.file, d.channels, d.show, d.rgb, d.title, results.fingerprint, how.get("large")]
        told[d.result_key].append(["derived", *shown])
    for v in results.image_values:
        told[v.result_key].append(["value", v.name, value_text(v.value)])
    return {key: digest(parts) for key, parts in told.items()}


def cells_table(ref: ImageRef, results: Results, earlier: Table | None, kept_keys: Collection[str]) -> Table | None:
    """One row per cell: identity, class where the results give one, and measurements under the names people read.

    earlier: the table that these results replace or extend; its columns of ``kept_keys`` stay, joined by cell id. Cells that
    only one of both has get empty values in the other's columns. None where nothing is told of cells.
    """
    columns: dict[str, Any] = {CELL: list(results.cell_ids)}
    keys: dict[str, str] = {}
    if (changes := results.class_changes) is not None:
        columns[CLASS], keys[CLASS] = list(changes.names), changes.result_key
    for m in results.measurements:
        columns[m.name], keys[m.name] = m.values, m.result_key
    frame = pd.DataFrame(columns)
    frame[CELL] = frame[CELL].astype(object)
    if earlier is not None:
        stay = [c for c in earlier.frame.columns if earlier.keys.get(c) in kept_keys and c not in keys]
        if stay:
            old = earlier.frame[[CELL, *stay]].drop_duplicates(CELL)
            frame = old if not keys else frame.merge(old, on=CELL, how="outer", sort=False)
            frame = _in_order(frame, results.cell_ids)
            keys |= {c: earlier.keys[c] for c in stay}
    if not keys:
        return None
    if CLASS in keys:
        frame[CLASS] = pd.Series([c if isinstance(c, str) else None for c in frame[CLASS]], dtype=object)
    order = [CLASS] * (CLASS in keys) + sorted(c for c in keys if c != CLASS)
    frame.insert(0, "image", ref.name)
    frame.insert(0, "image_id", ref.id)
    return Table(frame[[*IDENTITY, *order]].reset_index(drop=True), {c: keys[c] for c in order})


def objects_table(ref: ImageRef, made: NewObjects) -> Table:
    """One row per new object: its number in the label image, its key, class, name and measurements."""
    frame = pd.DataFrame(
        {
            "image_id": ref.id,
            "image": ref.name,
            "label": np.arange(1, len(made) + 1, dtype=np.int64),
            CELL: list(made.keys),
        }
    )
    if any(name is not None for name in made.class_names):
        frame[CLASS] = list(made.class_names)
    if any(name is not None for name in made.names):
        frame["name"] = list(made.names)
    for name, values in made.measurements.items():
        frame[name] = values
    return Table(frame)


def merged_values(
    results: Results, earlier: Mapping[str, str], earlier_keys: Mapping[str, str], kept_keys: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Values of the image as text by name, and their result keys; what is no value is left out. Those of ``kept_keys`` stay."""
    values = {name: text for name, text in earlier.items() if earlier_keys.get(name) in kept_keys}
    keys = {name: earlier_keys[name] for name in values}
    for v in results.image_values:
        if math.isfinite(v.value):
            values[v.name], keys[v.name] = value_text(v.value), v.result_key
    order = sorted(values)
    return {name: values[name] for name in order}, {name: keys[name] for name in order}


def value_text(value: float) -> str:
    """As many digits as are needed to read the same number back."""
    return repr(float(value))


def derived_name(image: str, derived: DerivedImage) -> str:
    """``<image> (<title or channels>)``."""
    return f"{image} ({derived.title or ', '.join(derived.channels)})"


def without(table: Table, keys: Collection[str]) -> Table | None:
    """A table without the columns of some result keys; None where no other is left."""
    stay = {c: k for c, k in table.keys.items() if k not in keys}
    if not stay:
        return None
    dropped = [c for c in table.keys if c not in stay]
    return Table(table.frame.drop(columns=dropped), stay)


def _in_order(frame: pd.DataFrame, first: Collection[str]) -> pd.DataFrame:
    """Rows in the order of ``first``, then the others as they are."""
    place = {cell: k for k, cell in enumerate(first)}
    at = frame[CELL].map(lambda cell: place.get(cell, len(place)))
    return frame.iloc[np.argsort(at.to_numpy(), kind="stable")].reset_index(drop=True)


def _objects_digest(made: NewObjects) -> str:
    told = hashlib.sha256(repr((made.kind, made.keys, made.class_names, made.names)).encode())
    for rings in (made.outlines, made.nuclei):
        if rings is not None:
            rings.hash_into(told)
    for name, values in made.measurements.items():
        told.update(f"{name}{_sha(values)}".encode())
    return told.hexdigest()


def _sha(values: NDArray[np.floating]) -> str:
    """Of float32 values, every NaN being the same."""
    column = np.ascontiguousarray(values, np.float32).copy()
    column[np.isnan(column)] = np.nan
    return hashlib.sha256(column.tobytes()).hexdigest()
