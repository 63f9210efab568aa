"""Reading a ``data.qpdata`` twice: objects kept as bytes, and the reference, in which every object becomes nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mxbridge.errors import InputError
from mxbridge.workspaces.qupath.cells import cells_of
from mxbridge.workspaces.qupath.javastream import Rows, same_content
from mxbridge.workspaces.qupath.ledger import State
from mxbridge.workspaces.qupath.qpdata import ImageDataFile

PATH = Path("two ways.qpdata")


def both(data: bytes) -> tuple[ImageDataFile, ImageDataFile]:
    return ImageDataFile(data, PATH), ImageDataFile(data, PATH, packed=False)


def packed_objects(file: ImageDataFile) -> int:
    """How many objects of the tree are kept as bytes."""
    found, waiting = 0, [file.root]
    while waiting:
        item = waiting.pop()
        found += sum(len(m) for m in item.members if isinstance(m, Rows))
        waiting += [m for m in item.members if not isinstance(m, Rows)]
    return found


def said(file: ImageDataFile) -> dict:
    """All that the table of a file says, and its cells as arrays."""
    table, everything = file.table, file.table.all()
    names = sorted(table.measurement_names(everything))
    columns = {n: (h.tobytes(), v.tobytes()) for n, (h, v) in table.columns(everything, names).items()}
    out = {
        "ids": table.ids,
        "writable": (file.writable, file.why_not_writable),
        "kinds": table.kinds(everything).tolist(),
        "classes": table.class_names(everything),
        "colors": table.class_colors(everything),
        "keys": [table.having(everything, key).tolist() for key in ("Object ID", "_mxbridge.key", "x")],
        "columns": columns,
        "counts": file.counts(),
    }
    for kind in ("cells", "detections", "annotations"):
        out[kind] = outlines(file, kind)
    return out


def outlines(file: ImageDataFile, kind: str) -> object:
    try:
        cells, warnings = cells_of(file, kind, (4096, 4096), State())
    except InputError as error:
        return str(error)
    if cells is None:
        return warnings
    rings = [cells.outlines, *([cells.nuclei] if cells.nuclei is not None else [])]
    arrays = [(r.xy.tobytes(), r.ring_starts.tobytes(), r.object_starts.tobytes()) for r in rings]
    return cells.ids, cells.classes, arrays, warnings


def check_same(data: bytes) -> ImageDataFile | None:
    """Both ways accept these bytes and say the same, or both refuse them with an error of ours."""
    found = []
    for packed in (True, False):
        try:
            found.append(ImageDataFile(data, PATH, packed=packed))
        except InputError as error:
            found.append(type(error))
    if not all(isinstance(file, ImageDataFile) for file in found):
        assert found[0] == found[1]
        return None
    fast, nodes = found
    assert said_or_refused(fast) == said_or_refused(nodes)
    assert fast.to_bytes() == nodes.to_bytes()
    assert same_content(fast._items, nodes._items)
    assert same_content(nodes._items, fast._items)
    return fast


def said_or_refused(file: ImageDataFile) -> object:
    try:
        return said(file)
    except InputError as error:
        return str(error)


def edit(file: ImageDataFile, seed: int) -> None:
    """Some of everything that results do to a file, decided by ``seed`` alone."""
    numbers, table = np.random.default_rng(seed), file.table
    everything = table.all()
    for _ in range(5):
        which = np.flatnonzero(numbers.random(len(table)) < numbers.choice([0.1, 0.6, 1.0]))
        names = sorted(table.measurement_names(everything))
        what = numbers.integers(0, 5)
        if what < 2:
            new = [f"new {k} µ" for k in range(numbers.integers(1, 4))] + names[: numbers.integers(0, 3)]
            values = numbers.random((len(new), len(which)))
            values[numbers.random(values.shape) < 0.1] = np.nan
            kind = np.float32 if numbers.random() < 0.5 else np.float64
            table.set_columns(which, dict(zip(new, values.astype(kind), strict=True)))
        elif what == 2:
            table.remove_columns(which, [n for n in names if numbers.random() < 0.5])
        else:
            chosen = numbers.choice(["", "Tumor", "Tumor: CD3", "Brand new: é", "Made up"])
            table.set_class(which, str(chosen) or None, {"Made up": -12345})
