"""Reading: the golden files say exactly what real QuPath said about them, and come back byte for byte."""

from __future__ import annotations

import gzip
import json
import re
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mxbridge.errors import BrokenFile, InputError, SourceError, Unsupported
from mxbridge.workspaces.qupath.qpdata import ImageDataFile

VERSIONS = ["v0.4.4", "v0.5.1", "v0.6.0", "v0.7.0"]
IMAGES = {1: "bf_rgb.tif", 2: "fl_5ch.ome.tif"}
GOLDEN = [(version, entry) for version in VERSIONS for entry in IMAGES]
KINDS = {
    "PathRootObject": "root",
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tma core",
}
BROKEN = [
    "01-empty", "02-not-java", "03-truncated-half", "04-truncated-no-eof", "05-huge-float-array", "06-negative-array",
    "07-huge-object-array", "08-longstring-lies", "09-deep-nesting", "10-handle-loop", "11-child-count-too-big",
    "12-child-count-2e9", "13-values-shorter-than-names", "14-forward-handle", "15-handle-below-base", "16-version-99",
    "17-wrong-class", "18-bad-mutf8", "19-classdesc-cycle", "20-blockdata-long-negative", "21-gadget", "22-bitrot",
]  # fmt: skip


@pytest.fixture(scope="module")
def golden(data) -> Path:
    return data / "qupath"


def opened(golden: Path, version: str, entry: int) -> ImageDataFile:
    return ImageDataFile.read(golden / version / "data" / str(entry) / "data.qpdata")


def truth_of(golden: Path, version: str, entry: int) -> dict:
    with gzip.open(golden / version / f"truth-{IMAGES[entry]}.json.gz", "rt", encoding="utf-8") as stream:
        return json.load(stream)


@pytest.mark.parametrize(("version", "entry"), GOLDEN)
def test_golden_files_come_back_byte_for_byte(golden, version, entry):
    raw = (golden / version / "data" / str(entry) / "data.qpdata").read_bytes()
    assert opened(golden, version, entry).to_bytes() == raw


@pytest.mark.parametrize(("version", "entry"), GOLDEN)
def test_every_object_is_as_qupath_says(golden, version, entry):
    truth, file = truth_of(golden, version, entry), opened(golden, version, entry)
    found = [file.root, *file.objects()]
    assert [o.id for o in found] == [t["id"] for t in truth["objects"]]  # depth first, in QuPath's order
    for item, said in zip(found, truth["objects"], strict=True):
        assert item.kind == KINDS[said["type"]]
        assert item.name == said["name"]
        assert item.color == said["color"]
        assert (item.parent.id if item.parent else None) == said["parent"]
        assert len(item.children) == said["n_children"]
        assert item.metadata == said["metadata"] or version == "v0.4.4"  # 0.4.4 cannot say what its metadata are
        assert list(item.measurements) == list(said["measurements"])
        expected = [np.nan if v is None else v for v in said["measurements"].values()]
        measured = list(item.measurements.values())
        assert np.array_equal(np.float32(measured), np.float32(expected), equal_nan=True)
        assert item.missing == said.get("missing", False)
        if item.kind != "root":  # QuPath does not store these two of the root
            assert item.locked == said["locked"]
            assert item.class_name == said["class"]


@pytest.mark.parametrize(("version", "entry"), GOLDEN)
def test_every_outline_is_as_qupath_says(golden, version, entry):
    truth, file = truth_of(golden, version, entry), opened(golden, version, entry)
    kinds = set()
    for said in truth["objects"]:
        item = file.root if said["type"] == "PathRootObject" else file.get(said["id"])
        for roi, shape in ((item.roi, said["roi"]), (item.nucleus, said.get("nucleus"))):
            assert (roi is None) == (shape is None)
            if roi is None:
                continue
            kinds.add(roi.kind)
            assert roi.kind == shape["kind"].removesuffix("ROI").lower()
            assert (roi.c, roi.z, roi.t) == (shape["c"], shape["z"], shape["t"])
            x0, y0, x1, y1 = roi.bounds
            assert [x0, y0, x1 - x0, y1 - y0] == pytest.approx(shape["bounds"], abs=1e-4)
            assert roi.area() == pytest.approx(shape["area"], rel=1e-5, abs=1e-3)
            assert_same_corners(roi, shape)
    assert kinds == {"rectangle", "ellipse", "line", "polygon", "polyline", "points", "geometry"}


def assert_same_corners(roi, shape) -> None:
    """Corners against QuPath's well-known text, which is rounded to two decimals and starts elsewhere on the ring."""
    if roi.kind == "ellipse":
        return
    wkt = shape["wkt"]
    said = np.array([(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", wkt)])
    points = roi.points
    apart = np.abs(points[:, None] - said[None]).max(axis=2)
    assert apart.min(axis=1).max() < 0.0051
    assert apart.min(axis=0).max() < 0.0051
    if roi.kind == "polygon":
        turned = np.roll(said[:-1], -int(apart[0, :-1].argmin()), axis=0)  # the text repeats the first corner
        backwards = np.roll(turned[::-1], 1, axis=0)
        assert min(np.abs(points - turned).max(), np.abs(points - backwards).max()) < 0.0051
    if roi.kind == "geometry":
        assert [len(polygon) for polygon in roi.polygons] == [
            part.count("(") - 1 for part in re.findall(r"\((?:\([^()]*\)(?:, )?)+\)", wkt)
        ]
        assert sum(len(ring) for ring in roi.rings) == len(said)


def test_an_ellipse_is_a_polygon_that_fills_it(golden):
    file = opened(golden, "v0.6.0", 2)
    ellipse = next(o.roi for o in file.objects() if o.roi.kind == "ellipse" and o.kind == "annotation")
    (ring,) = ellipse.rings
    assert len(ring) >= 64
    x, y = ring.T
    shoelace = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert shoelace == pytest.approx(ellipse.area(), rel=1e-3)
    assert (x.min(), y.min(), x.max(), y.max()) == pytest.approx(ellipse.bounds)


def test_lines_and_points_have_no_rings(golden):
    for item in opened(golden, "v0.6.0", 2).objects():
        if item.roi.kind in ("line", "polyline", "points"):
            assert item.roi.rings == []
            assert item.roi.area() == 0
            assert len(item.roi.points) >= 2


@pytest.mark.parametrize(("version", "entry"), GOLDEN)
def test_what_the_file_says_about_the_image(golden, version, entry):
    truth, file = truth_of(golden, version, entry), opened(golden, version, entry)
    assert file.version == 3
    assert file.qupath_version == version[1:]
    assert IMAGES[entry] in json.dumps(json.loads(file.server_json))
    assert file.image_type == truth["image_type"]
    said = dict(truth["properties"])
    said.pop("PROJECT_ENTRY_ID")  # set by QuPath when it reads
    found = {key: value for key, value in file.properties.items() if key != "PROJECT_ENTRY_ID"}
    assert {key: str(value) for key, value in found.items()} == said
    assert file.properties["custom number"] == 1.5
    assert (file.writable, file.why_not_writable) == (True, "")


@pytest.mark.parametrize(("version", "entry"), GOLDEN)
def test_counts_are_those_of_the_summary(golden, version, entry):
    summary = json.loads((golden / version / "data" / str(entry) / "summary.json").read_text(encoding="utf-8"))
    counts = opened(golden, version, entry).counts()
    assert counts == summary["hierarchy"]
    assert list(counts["objectTypeCounts"]) == list(summary["hierarchy"]["objectTypeCounts"])


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_give_one_clear_error(golden, name):
    path = golden / "broken" / f"{name}.qpdata"
    started = time.process_time()
    with pytest.raises((BrokenFile, Unsupported)) as caught:
        ImageDataFile.read(path)
    assert time.process_time() - started < 1
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    if isinstance(caught.value, BrokenFile) and name != "21-gadget":  # nothing in it is the place where it goes wrong
        assert caught.value.position is not None


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_need_little_memory(golden, name):
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            ImageDataFile.read(golden / "broken" / f"{name}.qpdata")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("04-truncated-no-eof", "incomplete"),
        ("10-handle-loop", "where an object must be"),
        ("13-values-shorter-than-names", "10 names with 3 values"),
        ("16-version-99", "version 9"),
        ("17-wrong-class", "PathXellObject"),
        ("21-gadget", "no hierarchy"),
    ],
)
def test_errors_say_what_is_wrong(golden, name, words):
    with pytest.raises(InputError, match=words):
        ImageDataFile.read(golden / "broken" / f"{name}.qpdata")


def test_the_good_file_among_the_broken_ones_is_accepted(golden):
    path = golden / "broken" / "ok-minimal.qpdata"
    file = ImageDataFile.read(path)
    assert 1 + len(list(file.objects())) == 29
    assert file.counts()["objectTypeCounts"] == {
        "Root objects": 1, "Annotations": 6, "Tiles": 1, "Detections": 1, "Cells": 20,
    }  # fmt: skip
    assert file.to_bytes() == path.read_bytes()
    assert "New é 名" in {o.class_name for o in file.objects()}
    assert "Rect é 名前 𝄞" in {o.name for o in file.objects()}


def test_no_such_file(tmp_path):
    with pytest.raises(SourceError, match=r"nothing\.qpdata"):
        ImageDataFile.read(tmp_path / "nothing.qpdata")
    with pytest.raises(SourceError):
        ImageDataFile.read(tmp_path)


@pytest.mark.shared
def test_every_other_real_file_comes_back_byte_for_byte(shared):
    paths = sorted((shared / "data" / "qupath").rglob("data.qpdata"))
    assert paths
    for path in paths:
        file = ImageDataFile.read(path)
        assert file.to_bytes() == path.read_bytes()
        for item in file.objects():
            assert item.roi.bounds
            assert item.measurements is not None


@pytest.mark.shared
def test_data_version_2_is_read_and_not_written(shared):
    counts = []
    with zipfile.ZipFile(shared / "data/qupath/stardist_qupath_example_project.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".qpdata"):
                raw = archive.read(name)
                file = ImageDataFile(raw, Path(name))
                assert file.to_bytes() == raw
                assert file.version == 2
                assert (file.qupath_version, file.server_json) == (None, None)
                assert not file.writable
                assert "open and save once in QuPath 0.4 or later" in file.why_not_writable
                assert {o.id for o in file.objects()} == {None}
                assert all(o.roi.area() > 0 for o in file.objects() if o.roi.kind in ("polygon", "geometry"))
                with pytest.raises(Unsupported, match="cannot be written"):
                    file.set_class(list(file.objects()), "Tumor", {})
                counts.append(1 + len(list(file.objects())))
    assert sorted(counts) == [20, 33]


@pytest.mark.shared
@pytest.mark.slow
def test_twenty_thousand_cells(shared):
    folder = shared / "golden/qupath/speed20k"
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    raw = gzip.decompress((folder / "data/1/data.qpdata.gz").read_bytes())
    started = time.process_time()
    file = ImageDataFile(raw, folder)
    assert time.process_time() - started < 10
    assert file.to_bytes() == raw
    cells = list(file.objects())
    assert len(cells) == truth["n_cells"]
    assert file.counts()["detectionClassificationCounts"] == truth["classes"]
    assert [o.id for o in cells[:3]] == truth["first_ids"]
    assert cells[-1].id == truth["last_id"]
    measured = [o.measurements for o in cells]
    for name, mean in truth["measurement_means"].items():
        assert np.mean([m[name] for m in measured]) == pytest.approx(mean, rel=1e-9)
    assert {len(o.roi.points) for o in cells} == {truth["cell_points"]}
    assert {len(o.nucleus.points) for o in cells} == {truth["nucleus_points"]}
