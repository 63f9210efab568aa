"""What the tests of data.qpdata compare: everything an object says, before and after."""

from __future__ import annotations

import struct

import numpy as np

from mxbridge.workspaces.qupath.qpdata import ImageDataFile, PathObject

VERSIONS = ["v0.4.4", "v0.5.1", "v0.6.0", "v0.7.0"]
GOLDEN = [(version, entry) for version in VERSIONS for entry in (1, 2)]


def reread(file: ImageDataFile) -> ImageDataFile:
    """What the written bytes say, after the file's own verification."""
    data = file.to_bytes()
    file.verify(data)
    return ImageDataFile(data, file.path)


def snapshot(file: ImageDataFile) -> dict[str, tuple]:
    return {o.id: described(o) for o in [file.root, *file.objects()]}


def described(item: PathObject) -> tuple:
    rois = tuple(
        None if r is None else (r.kind, r.c, r.z, r.t, r.bounds, r.points.tobytes()) for r in (item.roi, item.nucleus)
    )
    values = tuple((name, struct.pack(">d", value)) for name, value in item.measurements.items())
    where = (item.parent.id if item.parent else None, tuple(c.id for c in item.children))
    colour = (item.color, item.class_name, item.class_color)
    return item.kind, item.name, colour, item.locked, item.metadata, where, item.missing, rois, values


def columns(n: int, count: int = 10, seed: int = 0) -> dict[str, np.ndarray]:
    values = np.random.default_rng(seed).random((count, n), np.float32)
    values[:, ::7] = np.nan
    return {f"Nimbus: marker {k} µ𝄞": row for k, row in enumerate(values)}


def kind_of(item: PathObject) -> str:
    node = item.measurement_list
    return "none" if node is None else node.name.rsplit(".", 1)[-1].rsplit("$", 1)[-1]


def check_measured(before, after: ImageDataFile, objects, values) -> None:
    """``after`` is ``before`` with these columns, and equal in everything else."""
    now = snapshot(after)
    assert list(now) == list(before)
    index = {o.id: k for k, o in enumerate(objects)}
    for identity, said in before.items():
        assert now[identity][:-1] == said[:-1]
        if identity not in index:
            assert now[identity] == said
            continue
        k = index[identity]
        expected = dict(said[-1]) | {name: struct.pack(">d", float(column[k])) for name, column in values.items()}
        assert dict(now[identity][-1]) == expected
        assert [n for n, _ in now[identity][-1]][: len(said[-1])] == [n for n, _ in said[-1]]
