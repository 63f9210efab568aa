"""Makes the small exchange files of ``tests/data/exchange``: ``python -m tests.qupath.make_exchange_samples``.

They belong to the golden project ``tests/data/qupath/v0.6.0``: score and impute to its fluorescence image (id 2), translate to the
colour picture (id 1). Numbers are made up.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mxbridge.cells import Rings
from mxbridge.results import NewObjects
from mxbridge.workspaces.qupath.geometry_hash import geometry_hashes
from mxbridge.workspaces.qupath.handover.exchange_file import Counts, Header, dump, write
from mxbridge.workspaces.qupath.handover.lines import CLEAR, KEEP, cell_lines, object_lines
from mxbridge.workspaces.qupath.made import GEOMETRY, KEY, OBJECT, object_id
from mxbridge.workspaces.qupath.publication import read_data
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.qpdata.classes import default_class_color

DATA = Path(__file__).parent.parent / "data"
RUN = "20261122-010203-abcdef"
UNICODE = "Prüfung µ 𝄞"


def ids_of(tree: ImageDataFile, kind: str, n: int) -> list[str]:
    return [o.id for o in tree.objects() if o.kind == kind and o.id][:n]


def made(task: str, model: str, entry: int, name: str, **more) -> Header:
    return Header(RUN, task, model, str(entry), name, "2026-11-22T01:02:03+00:00", "0.1.0", **more)


def classes_of(names: Iterable[str]) -> tuple[tuple[str, int | None], ...]:
    return tuple((name, default_class_color(name)) for name in names)


def score(folder: Path) -> Path:
    """Twelve cells: values with NaN, a class set, a class cleared, a column taken away, one cell that is in no image any more."""
    tree, seen = read_data(DATA / "qupath" / "v0.6.0" / "data" / "2" / "data.qpdata")
    ids = [*ids_of(tree, "cell", 12), "00000000-0000-4000-8000-000000000000"]
    values = np.random.default_rng(1).random((len(ids), 3), np.float32)
    values[1, 1] = values[5] = np.nan
    codes = np.array([1, 2, KEEP, CLEAR, 1, 2, 3, KEEP, KEEP, 1, KEEP, KEEP, 1])
    taken = [("Nimbus: old",) if k in (2, 7) else () for k in range(len(ids))]
    names = ("Tumor", "Tumor: CD3", "Tumor: CD3: CD8", UNICODE)
    lines = [*cell_lines(ids, values, np.arange(len(ids)) != 7, taken, codes)]
    lines += [dump({"image": {"Nimbus: CD3 positive %": 41.5, "Nimbus: CD8 positive %": None}})]
    lines += [dump({"image_remove": ["Nimbus: old %"]})]
    header = made(
        "score", "Nimbus", 2, "fl_5ch.ome.tif", data_sha256=seen.sha256, columns=("Nimbus: CD3", "Nimbus: CD8", f"Nimbus: {UNICODE}"),
        classes=classes_of(names), counts=Counts(cells=len(ids), lines=len(lines) + 2), notes=("made up <for tests>",),
    )  # fmt: skip
    write(folder / "score.jsonl.gz", header, lines)
    return folder / "score.jsonl.gz"


def translate(folder: Path) -> Path:
    """Cells with nuclei, a detection in two parts of which one has a hole, an annotation with a name; two objects to take away,
    one of which comes again in another shape."""
    tree, seen = read_data(DATA / "qupath" / "v0.6.0" / "data" / "1" / "data.qpdata")
    old = ids_of(tree, "detection", 2)
    corners = np.array([(0, 0), (12.5, 0.1), (12, 12), (0, 12)])
    shapes = [[corners + 40], [corners + 70.25]]
    nuclei = [[corners / 2 + 43], []]
    positive = NewObjects(
        "cell", "key-cells", ("a", "b"), Rings.of(shapes), Rings.of(nuclei), ("Positive", "Negative"), (),
        {"DeepLIIF: Ki67": np.float32([0.75, np.nan]), "Area µm^2": np.float32([12.5, 1e-7])},
    )  # fmt: skip
    parts = NewObjects("detection", "key-parts", ("c",), Rings.of([[corners * 4 + 100, corners + 110, corners + 200]]))
    region = NewObjects(
        "annotation", "key-region", ("d",), Rings.of([[corners * 9]]), names=(UNICODE,), class_names=("Tumor",)
    )
    names = {"Positive": 0, "Negative": 1, "Tumor": 2}
    lines = [dump({"id": identity, "remove": True}) for identity in old]
    for part in (positive, parts, region):
        ids = [old[0] if part is parts else object_id(part.result_key, "1", key) for key in part.keys]
        hashes = geometry_hashes(part.outlines, part.nuclei)
        metadata = [{KEY: part.result_key, OBJECT: key, GEOMETRY: h} for key, h in zip(part.keys, hashes, strict=True)]
        codes = [KEEP if name is None else names[name] for name in part.class_names]
        lines += object_lines(part, range(len(part)), ids, metadata, codes)
    header = made(
        "translate", "DeepLIIF", 1, "bf_rgb.tif", data_sha256=seen.sha256,
        classes=classes_of(names), counts=Counts(removed=2, objects=4, lines=len(lines) + 2),
    )  # fmt: skip
    write(folder / "translate.jsonl.gz", header, lines)
    return folder / "translate.jsonl.gz"


def impute(folder: Path) -> Path:
    """Cell means, and an image to add that shows the derived channel beside those that were there."""
    tree, seen = read_data(DATA / "qupath" / "v0.6.0" / "data" / "2" / "data.qpdata")
    ids = ids_of(tree, "cell", 3)
    values = np.float32([[0.5], [1234.5], [65535]])
    base = {
        "builderType": "uri", "providerClassName": "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder",
        "uri": "file:/Projekt%20%C2%B5/images/fl_5ch.ome.tif", "args": ["--series", "0"],
    }  # fmt: skip
    derived = {**base, "uri": "file:/Projekt%20%C2%B5/mxbridge/derived/2/CD8.ome.tif"}
    entry = {
        "name": "fl_5ch.ome.tif (joined)",
        "description": "Channels of fl_5ch.ome.tif (2) and what mxbridge derived from it; its objects are a copy.",
        "metadata": {"_mxbridge.joined": "2", "_mxbridge.keys": "key-imputed", "_mxbridge.channels": "0" * 32},
        "serverBuilder": {"builderType": "channels", "builder": base, "channels": [base, derived]},
        "replaces": None,
        "objects": "copy",
    }
    lines = [*cell_lines(ids, values, np.ones(3, bool), [()] * 3, np.full(3, KEEP))]
    header = made(
        "impute", "MAXIM", 2, "fl_5ch.ome.tif", data_sha256=seen.sha256, columns=("MAXIM: CD8 mean",),
        counts=Counts(cells=3, lines=5), entries=(entry,),
    )  # fmt: skip
    write(folder / "impute.jsonl.gz", header, lines)
    return folder / "impute.jsonl.gz"


if __name__ == "__main__":
    for sample in (score, translate, impute):
        print(sample(DATA / "exchange"))
