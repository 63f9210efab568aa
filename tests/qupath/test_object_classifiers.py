"""Object classifiers in a project: what QuPath would make of them, whose files they are, and what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.cells import Rings
from mxbridge.errors import BrokenFile, OutputError, UsageError
from mxbridge.image import Box
from mxbridge.tasks.positivity import class_part, derived_classes
from mxbridge.workspaces.memory import MemoryWorkspace
from mxbridge.workspaces.qupath import object_classifiers as module
from mxbridge.workspaces.qupath.classifier_names import file_stems
from mxbridge.workspaces.qupath.hand_classes import _inside, centroids, published_columns, read_hand_classes, within
from mxbridge.workspaces.qupath.object_classifiers import FOLDER, MarkerClassifier, object_classifiers
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import data_file, files_of, fl, reclassed, scores
from .test_publish_kill import dies

NAMES = ("CD3", "CD8 µ test", "Ki67")


def markers(threshold: float = 0.5, names=NAMES) -> list[MarkerClassifier]:
    return [MarkerClassifier(n, f"NimbusDemo: {n}", threshold, class_part(n)) for n in names]


def put(workspace, run="run-1", threshold=0.5, names=NAMES, stamp=1000, kind="CELLS"):
    return object_classifiers(workspace).put(
        run, "NimbusDemo", markers(threshold, names), kind=kind, timestamp_ms=stamp
    )


def folder(workspace) -> Path:
    return workspace.project.folder / FOLDER


def stored(workspace, name: str = "NimbusDemo CD3") -> dict:
    return json.loads((folder(workspace) / f"{name}.json").read_text("utf-8"))


def classify(document: dict, cells: list[dict]) -> list[str | None]:
    """What QuPath does with a classifier, as its source describes: reset, then join what each single one gives."""
    singles = document.get("classifiers", [document])
    out = []
    for cell in cells:
        parts: list[str] = []
        for single in singles:
            function = single["function"]
            value = cell.get(function["measurement"], float("nan"))
            key = "pathClassAbove" if value > function["threshold"] else "pathClassBelow"
            key = "pathClassEquals" if value == function["threshold"] else key
            given_class = None if value != value else function.get(key)
            if given_class and given_class["name"] not in parts:
                parts.append(given_class["name"])
        out.append(": ".join(parts) or None)
    return out


def test_the_layout_is_that_of_qupath(workspace):
    put(workspace, threshold=float(np.float32(0.37)))
    one = stored(workspace, "NimbusDemo CD8 µ test")
    assert one["object_classifier_type"] == "SimpleClassifier"
    assert one["filter"] == "CELLS"
    function = one["function"]
    assert function["classifier_fun"] == "ClassifyByMeasurementFunction"
    assert function["measurement"] == "NimbusDemo: CD8 µ test"
    assert function["threshold"] == np.float32(0.37)
    assert "pathClassBelow" not in function
    assert function["pathClassAbove"] == function["pathClassEquals"] == one["pathClasses"][0]
    assert one["pathClasses"][0]["name"] == "CD8 µ test"
    assert all(0 <= c <= 255 for c in one["pathClasses"][0]["color"])
    every = stored(workspace, "NimbusDemo (all markers)")
    assert every["object_classifier_type"] == "CompositeClassifier"
    assert [c["function"]["measurement"] for c in every["classifiers"]] == [f"NimbusDemo: {n}" for n in NAMES]
    assert every["classifiers"][1] == one


@given(
    values=st.lists(st.tuples(*[st.floats(0, 1, width=32) | st.just(float("nan")) for _ in NAMES]), max_size=12),
    cut=st.floats(0.0625, 0.9375, width=32),
)
@settings(max_examples=40, deadline=None)
def test_qupath_would_give_the_classes_that_set_class_gives(values, cut):
    cells = [dict(zip((f"NimbusDemo: {n}" for n in NAMES), map(float, v), strict=True)) for v in values]
    values += [(cut, cut, 0.0)]
    cells += [dict(zip((f"NimbusDemo: {n}" for n in NAMES), (cut, cut, 0.0), strict=True))]
    singles = [module._single(m, "CELLS", dict.fromkeys(NAMES, 0), 1) for m in markers(cut)]
    positive = np.stack(values, axis=1).astype(np.float32) >= np.float32(cut)
    ours = derived_classes([None] * len(cells), positive, NAMES, NAMES)
    assert classify(module._composite(singles), cells) == ours


def test_classes_are_listed_with_the_colour_the_classifiers_have(workspace):
    put(workspace)
    listed = {
        c["name"]: c["color"]
        for c in json.loads((workspace.project.folder / "classifiers/classes.json").read_text("utf-8"))["pathClasses"]
    }
    for name in NAMES:
        red, green, blue = stored(workspace, f"NimbusDemo {name}")["pathClasses"][0]["color"]
        assert listed[name] & 0xFFFFFF == red << 16 | green << 8 | blue


def test_a_known_colour_is_kept(workspace):
    path = workspace.project.folder / "classifiers/classes.json"
    document = json.loads(path.read_text("utf-8"))
    document["pathClasses"].append({"name": "Ki67", "color": -65536})
    path.write_text(json.dumps(document), encoding="utf-8")
    put(workspace)
    assert stored(workspace, "NimbusDemo Ki67")["pathClasses"] == [{"name": "Ki67", "color": [255, 0, 0]}]


def test_the_same_again_touches_no_file(workspace):
    assert len(put(workspace).files) == 4
    before = files_of(workspace.project.folder)
    again = put(workspace, stamp=2000)
    assert (again.files, again.notes) == ((), ())
    assert files_of(workspace.project.folder) == before


def test_a_rerun_replaces_its_own(workspace):
    put(workspace)
    assert len(put(workspace, run="run-2", threshold=0.75).files) == 4
    assert stored(workspace)["function"]["threshold"] == 0.75
    assert object_classifiers(workspace).take("run-1").files == ()
    assert len(object_classifiers(workspace).take("run-2").files) == 4


def test_what_somebody_changed_stays_and_the_composite_uses_it(workspace):
    put(workspace)
    moved = stored(workspace)
    moved["function"]["threshold"] = 0.625
    (folder(workspace) / "NimbusDemo CD3.json").write_text(json.dumps(moved), encoding="utf-8")
    outcome = put(workspace, run="run-2", threshold=0.75)
    assert outcome.kept == ("NimbusDemo CD3.json",)
    assert "stays as it is, and the composite uses it" in outcome.notes[0]
    assert stored(workspace) == moved
    cuts = [c["function"]["threshold"] for c in stored(workspace, "NimbusDemo (all markers)")["classifiers"]]
    assert cuts == [0.625, 0.75, 0.75]
    taken = object_classifiers(workspace).take("run-2")
    assert "NimbusDemo CD3.json" not in taken.files
    assert stored(workspace) == moved


@pytest.mark.parametrize("content", [b"", b"{", b'{"object_classifier_type": "OpenCVMLClassifier"}', b"[]"])
def test_what_somebody_made_before_us_stays(workspace, content):
    folder(workspace).mkdir(parents=True)
    path = folder(workspace) / "nimbusdemo cd3.json"
    path.write_bytes(content)
    outcome = put(workspace)
    assert path.read_bytes() == content
    assert not (folder(workspace) / "NimbusDemo CD3.json").exists()
    assert outcome.kept == ("NimbusDemo CD3.json",)
    assert "the composite uses it" not in outcome.notes[0]
    object_classifiers(workspace).take("run-1")
    assert [p.name for p in folder(workspace).iterdir()] == [path.name]


def test_what_somebody_changed_after_us_survives_undo(workspace):
    put(workspace)
    path = folder(workspace) / "NimbusDemo CD3.json"
    path.write_bytes(path.read_bytes() + b"\n")
    taken = object_classifiers(workspace).take("run-1")
    assert taken.kept == ("NimbusDemo CD3.json",)
    assert "it stays" in taken.notes[0]
    assert [p.name for p in folder(workspace).iterdir()] == ["NimbusDemo CD3.json"]


def test_taking_out_leaves_the_project_as_it_was(workspace):
    before = json.loads((workspace.project.folder / "classifiers/classes.json").read_text("utf-8"))
    put(workspace)
    object_classifiers(workspace).take("run-1")
    assert list(folder(workspace).iterdir()) == []
    assert json.loads((workspace.project.folder / "classifiers/classes.json").read_text("utf-8")) == before
    assert not (workspace.own_folder / "object_classifiers.json").exists()


def test_classes_that_published_cells_have_stay_listed(workspace):
    put(workspace)
    cells = workspace.pull(fl(workspace)).cells
    workspace.publish(reclassed(workspace, cells.ids[:3], "Ki67"))
    object_classifiers(workspace).take("run-1")
    names = (workspace.project.folder / "classifiers/classes.json").read_text("utf-8")
    assert '"Ki67"' in names and '"CD8 µ test"' not in names


def test_a_project_without_a_class_list_gets_none(workspace):
    """A list of ours alone would hide the classes that QuPath offers by itself."""
    (workspace.project.folder / "classifiers/classes.json").unlink()
    assert "no class list" in put(workspace).notes[0]
    assert not (workspace.project.folder / "classifiers/classes.json").exists()


def restore(project: Path, pristine: Path) -> None:
    for name in ("classifiers", "mxbridge"):
        shutil.rmtree(project / name)
        shutil.copytree(pristine / name, project / name)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork without threads")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("act", ["put", "take"])
def test_a_kill_leaves_files_that_are_recognised(project, tmp_path, when, act):
    """At every step that reaches the disk, in a child that really dies: nothing of ours is ever taken for somebody's."""
    workspace = QuPathWorkspace(project)
    listed = (project / "classifiers/classes.json").read_bytes()
    put(workspace, names=("CD3",))
    pristine = Path(shutil.copytree(project, tmp_path / "pristine"))
    acts = {
        "put": lambda: put(QuPathWorkspace(project), run="run-2", threshold=0.25, names=("CD3", "PanCK")),
        "take": lambda: object_classifiers(QuPathWorkspace(project)).take("run-1"),
    }
    for step in range(1, 200):
        restore(project, pristine)
        if not dies(acts[act], step, when):
            break
        again = QuPathWorkspace(project)
        outcome = put(again, run="run-3", threshold=0.75, names=("CD3", "PanCK"))
        assert outcome.kept == (), f"step {step}"
        assert stored(again)["function"]["threshold"] == 0.75
        assert not list((project / "classifiers").rglob("*.mxbridge-part"))
        assert len(object_classifiers(again).take("run-3").files) == 3
        assert list(folder(again).iterdir()) == []
        assert json.loads((project / "classifiers/classes.json").read_bytes()) == json.loads(listed)
    assert step > (15 if act == "put" else 5)


def test_nothing_is_written_through_links(workspace, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder(workspace).symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(OutputError, match="symbolic link"):
        put(workspace)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"format": 9}', b'{"format": 1, "files": {"a": 1}, "classes_added": []}', b"[" * 99_999]
)
def test_a_broken_record_is_named(workspace, content):
    workspace.own_folder.mkdir(exist_ok=True)
    (workspace.own_folder / "object_classifiers.json").write_bytes(content)
    with pytest.raises(BrokenFile, match=r"object_classifiers\.json"):
        put(workspace)
    assert not folder(workspace).exists()


def test_a_broken_class_list_stops_it_before_anything_is_written(workspace):
    (workspace.project.folder / "classifiers/classes.json").write_bytes(b"{")
    with pytest.raises(BrokenFile, match=r"classes\.json"):
        put(workspace)
    assert not folder(workspace).exists()


def test_other_places_have_no_object_classifiers():
    with pytest.raises(UsageError, match="QuPath projects only"):
        object_classifiers(MemoryWorkspace({}))


def test_the_filter_is_that_of_the_scored_objects(workspace):
    classifiers, ref = object_classifiers(workspace), fl(workspace)
    assert classifiers.kind_of([ref], "cells") == "CELLS"
    assert classifiers.kind_of([ref], "detections") == "DETECTIONS"
    assert classifiers.kind_of([ref], "annotations") == "ANNOTATIONS"
    tree = ImageDataFile.read(data_file(workspace))
    tree.remove_objects([o for o in tree.objects() if o.kind == "cell"])
    data_file(workspace).write_bytes(tree.to_bytes())
    assert classifiers.kind_of([ref], "cells") == "DETECTIONS"
    assert classifiers.kind_of(workspace.list(["1", "2"]), "cells") == "DETECTIONS_ALL"


HARD = ["CD3/CD4", "CD3:CD4", "CD3*", 'a"b', "x\\y", "<|>?", "Ki-67", "日本", "e\u0301", "é", "cd3", "CD3", "tab\tand\nline", "(all markers)",
        "x" * 400, "日" * 200, "dot.", " lead", "\udcff", "NUL", ".."]  # fmt: skip


def check_names(names: list[str]) -> None:
    stems = file_stems("Nimbus", names)
    assert len({s.casefold() for s in stems.values()}) == len(set(names)) + 1
    for stem in stems.values():
        assert stem == stem.strip() and stem
        assert not set(stem) & set('\\/:"*?<>|') and stem.isprintable()
        assert len(f"{stem}.json.mxbridge-backup".encode()) < 255


def test_names_are_files_on_every_system(tmp_path):
    check_names(HARD)
    stems = file_stems("Nimbus", ["CD3", "Ki-67", "日本"])
    assert list(stems.values()) == ["Nimbus (all markers)", "Nimbus CD3", "Nimbus Ki-67", "Nimbus 日本"]
    for stem in file_stems("Nimbus", HARD).values():
        (tmp_path / f"{stem}.json").write_text("{}")


@given(st.lists(st.text(min_size=1, max_size=20) | st.sampled_from(HARD), unique=True, max_size=8))
@settings(max_examples=60, deadline=None)
def test_no_two_markers_share_a_name(names):
    check_names(names)


def test_a_marker_keeps_its_name_whatever_stands_beside_it():
    assert file_stems("M", ["CD3/4"])["CD3/4"] == file_stems("M", ["CD3/4", "CD3:4"])["CD3/4"]


# ------------------------------------------------------------------------------------------------- what people have classed


def test_columns_and_classes_by_cell(workspace):
    results = scores(workspace, names=("CD3",))
    workspace.publish(results)
    workspace.publish(reclassed(workspace, results.cell_ids[:50], "CD3"))
    ref = fl(workspace)
    assert published_columns(workspace, ref) == {"NimbusDemo: CD3": "run-1"}
    read = read_hand_classes(workspace, ref, "cells", ["NimbusDemo: CD3", "none"], lambda name: False)
    assert read.ids == results.cell_ids
    np.testing.assert_array_equal(read.columns["NimbusDemo: CD3"], results.measurements[0].values)
    assert np.isnan(read.columns["none"]).all()
    assert read.classes == workspace.pull(ref).cells.classes  # those from before the run
    assert read.regions == ()


def test_cells_inside_classed_annotations(workspace):
    ref = fl(workspace)
    read = read_hand_classes(workspace, ref, "cells", [], lambda name: name in ("Tumor", "Immune cells"))
    cells = workspace.pull(ref).cells
    whole = cells.raster(Box(0, 0, 512, 512))
    tree = ImageDataFile.read(data_file(workspace))
    drawn = {o.class_name: o for o in tree.objects() if o.kind == "annotation"}
    by_class = {r.class_name: set(r.cells.tolist()) for r in read.regions}
    under = {int(whole[int(y), int(x)]) - 1 for x, y in drawn["Immune cells"].roi.points} - {-1}
    assert by_class.get("Immune cells", set()) == under
    (x0, y0, x1, y1) = drawn["Tumor"].roi.bounds
    middles = np.array([(r.min(0) + r.max(0)) / 2 for k in range(len(cells)) for r in [cells.outlines.rings_of(k)[0]]])
    boxed = np.flatnonzero(np.all((middles > (x0 + 60, y0 + 60)) & (middles < (x1 - 60, y1 - 60)), axis=1))
    assert len(boxed) and set(boxed.tolist()) <= by_class["Tumor"]
    assert len(by_class["Tumor"]) < len(cells) / 2


def test_points_mark_the_cells_under_them(workspace):
    cells = workspace.pull(fl(workspace)).cells
    places = centroids(cells.outlines)
    points = np.vstack([places[[3, 7, 3]], [[-5.0, 2.0], [1e6, 1e6]]])
    inside = _inside(SimpleNamespace(kind="points", points=points), cells, places)
    whole = cells.raster(Box(0, 0, 512, 512))
    assert inside.tolist() == sorted({int(whole[int(y), int(x)]) - 1 for x, y in points[:3]} - {-1})
    assert len(inside)


def test_centroids_of_rings():
    far = np.array([1e6, 10.0])
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]]) + far
    bent = np.array([[0, 0], [4, 0], [4, 1], [1, 1], [1, 4], [0, 4.0]])
    found = centroids(Rings.of([[square], [], [bent], [np.zeros((3, 2)) + 5.0], [square[::-1]]]))
    np.testing.assert_allclose(found[0], [1e6 + 1, 11], rtol=0, atol=1e-6)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[2], [(4 * 2 + 3 * 0.5) / 7, (4 * 0.5 + 3 * 2.5) / 7])
    np.testing.assert_allclose(found[3], [5, 5])
    np.testing.assert_allclose(found[4], found[0])
    assert centroids(Rings.of([])).shape == (0, 2)


def test_holes_are_outside():
    outer, hole = np.array([[0, 0], [10, 0], [10, 10], [0, 10.0]]), np.array([[3, 3], [7, 3], [7, 7], [3, 7.0]])
    places = np.array([[1, 1], [5, 5], [12, 5], [8, 8.0]])
    assert within(places, [outer, hole]).tolist() == [True, False, False, True]


IN_QUPATH = """
import json, sys
from jpype import JClass
from paquo import java
path, number, name = sys.argv[1:]
classifiers = JClass("qupath.lib.classifiers.object.ObjectClassifiers")
java.GsonTools.getDefaultBuilder().registerTypeAdapterFactory(classifiers.getTypeAdapterFactory())  # as its window does
project = java.ProjectIO.loadProject(java.File(path), java.BufferedImage)
classifiers = project.getObjectClassifiers()
data = next(e for e in project.getImageList() if str(e.getID()) == number).readImageData()
classifiers.get(name).classifyObjects(data, True)
found = {
    str(o.getID()).lower(): None if o.getPathClass() is None else str(o.getPathClass().toString())
    for o in data.getHierarchy().getCellObjects()
}
print(json.dumps([[str(n) for n in classifiers.getNames()], found]))
"""
"""Run in a process of its own: a JVM cannot be started twice, nor stopped."""


@pytest.mark.qupath
@pytest.mark.skipif(find_spec("paquo") is None, reason="needs the extra paquo")
@pytest.mark.skipif(not os.environ.get("PAQUO_QUPATH_DIR"), reason="needs QuPath (PAQUO_QUPATH_DIR)")
def test_a_real_qupath_gives_the_same_classes(project):
    """The composite, run by QuPath itself on published scores, against the classes that --set-class would give."""
    workspace = QuPathWorkspace(project)
    results = scores(workspace, names=NAMES)
    workspace.publish(results)
    put(workspace)
    asked = [sys.executable, "-c", IN_QUPATH, workspace.address, fl(workspace).id, "NimbusDemo (all markers)"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=240, check=True).stdout
    listed, given_classes = json.loads(answer.strip().splitlines()[-1])
    assert {f"NimbusDemo {n}" for n in NAMES} < set(listed)
    positive = np.stack([m.values for m in results.measurements]) >= np.float32(0.5)
    ours = derived_classes([None] * len(results.cell_ids), positive, NAMES, NAMES)
    assert given_classes == dict(zip(results.cell_ids, ours, strict=True))
