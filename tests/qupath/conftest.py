"""Golden projects, copied to where a user might have them."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mxbridge.cells import Rings
from mxbridge.results import ClassChanges, Measurement, NewObjects, Results
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .qpdata_snapshots import GOLDEN

FL = "2"
"""Entry id of fl_5ch.ome.tif in every golden project."""


@pytest.fixture(params=["v0.4.4", "v0.5.1", "v0.6.0", "v0.7.0"])
def version(request) -> str:
    return request.param


@pytest.fixture
def golden(data: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy a golden project, with images where it expects them, to a path with blanks and umlauts."""

    def copy(version: str = "v0.6.0") -> Path:
        root = tmp_path / "Projekt µ ü"
        root.mkdir(exist_ok=True)
        shutil.copytree(data / "qupath" / version, root / version)
        images = root / version / "images" if version == "v0.6.0" else root / "images"
        shutil.copytree(data / "qupath" / "images", images, dirs_exist_ok=True)
        return root / version

    return copy


@pytest.fixture
def project(golden) -> Path:
    return golden("v0.6.0")


@pytest.fixture
def workspace(project) -> QuPathWorkspace:
    return QuPathWorkspace(project)


def fl(workspace: QuPathWorkspace):
    """The reference of the fluorescence image."""
    return workspace.list([FL])[0]


def data_file(workspace: QuPathWorkspace, entry: str = FL) -> Path:
    return workspace.project.data_path(int(entry))


def truth_of(project: Path, image: str = "fl_5ch.ome.tif") -> dict:
    with gzip.open(project / f"truth-{image}.json.gz", "rt", encoding="utf-8") as stream:
        return json.load(stream)


def scores(
    workspace, *, names=("CD3", "CD8", "PanCK", "Ki67", "DAPI"), seed=0, run="run-1", cells=None, **more
) -> Results:
    """A table of made-up scores on the fluorescence image; every 17th is NaN."""
    ref = fl(workspace)
    ids = workspace.pull(ref).cells.ids if cells is None else tuple(cells)
    values = np.random.default_rng(seed).random((len(names), len(ids)), np.float32)
    values[:, ::17] = np.nan
    columns = tuple(Measurement(f"NimbusDemo: {n}", v, f"key-{n}") for n, v in zip(names, values, strict=True))
    return Results(ref, run, ids, columns, **more)


def reclassed(workspace, cells, name, *, key="key-class", base=None) -> Results:
    ref = fl(workspace)
    pulled = workspace.pull(ref).cells
    known = dict(zip(pulled.ids, pulled.classes, strict=True))
    names = tuple(name(known[c]) if callable(name) else name for c in cells)
    bases = tuple(known[c] for c in cells) if base is None else tuple(base)
    return Results(ref, "run-1", tuple(cells), class_changes=ClassChanges(names, bases, key))


def square(x: float, y: float, side: float = 10.0) -> list[tuple[float, float]]:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


def new_objects(kind, key, outlines, *, nuclei=None, class_name=None, name=None, measurements=None) -> NewObjects:
    """outlines: rings by the key of the object; everything else is the same for all."""
    n = len(outlines)
    return NewObjects(
        kind,
        key,
        tuple(outlines),
        Rings.of(outlines.values()),
        None if nuclei is None else Rings.of([nuclei] * n),
        (class_name,) * n,
        (name,) * n,
        {column: np.full(n, value, np.float32) for column, value in (measurements or {}).items()},
    )


def drawn(workspace, squares, *, key="key-objects", run="run-1", **more) -> Results:
    more = {"class_name": "Made: Up", "measurements": {"n": 1.5}, **more}
    objects = new_objects("annotation", key, {name: [square(*at)] for name, at in squares.items()}, **more)
    return Results(fl(workspace), run, objects=(objects,))


def everything(path: Path, *, but: tuple[str, ...] = ()) -> dict[str, dict]:
    """All a file says about its objects, by id. but: measurement names to leave out."""
    tree = ImageDataFile.read(path)
    return {
        o.id: {
            "kind": o.kind,
            "name": o.name,
            "color": o.color,
            "class": o.class_name,
            "class color": o.class_color,
            "locked": o.locked,
            "missing": o.missing,
            "metadata": o.metadata,
            "parent": o.parent.id,
            "children": [c.id for c in o.children],
            "measurements": {n: repr(v) for n, v in o.measurements.items() if n not in but},
            "list": o.measurement_list.name if o.measurement_list is not None else None,
            "roi": _region(o.roi),
            "nucleus": _region(o.nucleus),
        }
        for o in tree.objects()
    }


def _region(roi):
    return None if roi is None else (roi.kind, roi.c, roi.z, roi.t, roi.points.tobytes(), roi.bounds)


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file, to prove that nothing was touched."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(params=GOLDEN, ids=[f"{v}-{e}" for v, e in GOLDEN])
def file(request, data: Path) -> ImageDataFile:
    """Every golden ``data.qpdata``."""
    version, entry = request.param
    return ImageDataFile.read(data / "qupath" / version / "data" / str(entry) / "data.qpdata")


@pytest.fixture
def small(minimal_bytes: bytes) -> ImageDataFile:
    """The small good file among the broken ones."""
    return ImageDataFile(minimal_bytes, "ok-minimal.qpdata")


@pytest.fixture(scope="module")
def minimal_bytes(data: Path) -> bytes:
    return (data / "qupath" / "broken" / "ok-minimal.qpdata").read_bytes()
