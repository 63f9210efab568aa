"""Objects out of a project as GeoJSON, and into one: everything comes back, and nothing of the user's is lost."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import BrokenFile, ChangedMeanwhile, InputError, Locked, OutputError
from mxbridge.workspaces.geojson import (
    Geometry,
    GeoObject,
    area_geometry,
    feature_text,
    read_geojson,
    write_geojson,
)
from mxbridge.workspaces.qupath import qupath_process
from mxbridge.workspaces.qupath.check import check_project
from mxbridge.workspaces.qupath.last_read import LastRead
from mxbridge.workspaces.qupath.objects.as_geojson import geo_object, rounded, shortest
from mxbridge.workspaces.qupath.objects.export import export_objects
from mxbridge.workspaces.qupath.objects.importing import import_objects
from mxbridge.workspaces.qupath.objects.plain_features import _numbers, plain_features
from mxbridge.workspaces.qupath.objects.sameness import same_object
from mxbridge.workspaces.qupath.publication import Publication
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.workspace import QuPathWorkspace

from .conftest import everything, files_of
from .test_judge import beside_qupath

REAL = [
    pytest.mark.qupath,
    pytest.mark.skipif(bool(qupath_process.why_not()), reason=f"no real QuPath: {qupath_process.why_not()}"),
]

ONE = "11111111-1111-4111-8111-111111111111"
SQUARE = np.array([[10.0, 10.0], [20.25, 10.0], [20.25, 21.5], [15.0, 25.0], [10.0, 21.5]])


def objects_of(path: Path) -> dict[str, dict]:
    """What GeoJSON can say of every object. Values as float32; who lies in whom is not among it."""
    found = {}
    for identity, told in everything(path).items():
        told = {key: value for key, value in told.items() if key not in ("parent", "children", "list")}
        values = {name: repr(np.float32(float(value))) for name, value in told["measurements"].items()}
        found[identity] = {**told, "measurements": values}
    return found


def twin_of(project: Path, entry: int) -> Path:
    """The same project beside it, without objects in one image."""
    twin = project.with_name(f"{project.name} twin")
    shutil.copytree(project, twin)
    shutil.rmtree(twin / "data" / str(entry))
    return twin


def export(project: Path, file: Path, entry: int = 2, kind: str = "all"):
    tree = ImageDataFile.read(project / f"data/{entry}/data.qpdata")
    return export_objects(tree, file, kind, entry_id=entry, name="image")


def put(project: Path, file: Path, entry: int = 2, **more):
    workspace = QuPathWorkspace(project)
    return import_objects(workspace, workspace.list([f"id:{entry}"])[0], file, **more)


def written(path: Path, *objects: GeoObject) -> Path:
    write_geojson(path, objects)
    return path


def annotation(**more) -> GeoObject:
    return GeoObject(**{"kind": "annotation", "geometry": area_geometry([SQUARE]), "id": ONE, **more})


@pytest.mark.parametrize(("version", "entry"), [("v0.4.4", 1), ("v0.6.0", 2), ("v0.7.0", 1)])
def test_every_object_comes_back(entry, version, golden, tmp_path) -> None:
    project = golden(version)
    file = tmp_path / "objects.geojson"
    done = export(project, file, entry)
    assert done.left_out == {}
    twin = twin_of(project, entry)
    told = put(twin, file, entry)
    there, back = (objects_of(one / f"data/{entry}/data.qpdata") for one in (project, twin))
    cores = {i for i, o in there.items() if o["kind"] == "tma core"}
    assert len(cores) == (6 if entry == 1 else 0)
    assert told.refused == ((("TMA cores cannot be written", 6),) if cores else ())
    assert (told.added, told.same, told.replaced, told.differ) == (len(there) - len(cores), 0, 0, ())
    assert back.keys() == there.keys() - cores
    for identity, wanted in there.items():
        if identity not in cores:
            assert back[identity] == wanted
    assert check_project(twin, ask_qupath=False).sound
    before = files_of(twin)
    again = put(twin, file, entry)
    assert (again.changed, again.added, again.same, again.differ) == (False, 0, told.added, ())
    assert files_of(twin) == before


def test_what_qupath_rounds_is_the_same_object(project, tmp_path) -> None:
    export(project, tmp_path / "ours.geojson", 1)
    theirs = written(tmp_path / "theirs.geojson.gz", *read_geojson(tmp_path / "ours.geojson"))
    done = put(project, theirs, 1)
    assert (done.changed, done.same, done.differ) == (False, 262, ())


def test_objects_of_one_kind(project, tmp_path) -> None:
    assert export(project, tmp_path / "c.geojson.gz", kind="cells").objects == {"cell": 200}
    assert export(project, tmp_path / "d.geojson", kind="detections").objects == {
        "cell": 200,
        "detection": 50,
        "tile": 4,
    }
    assert export(project, tmp_path / "a.geojson", kind="annotations").objects == {"annotation": 8}
    with gzip.open(tmp_path / "c.geojson.gz", "rt", encoding="utf-8") as stream:
        document = json.load(stream)
    assert document["type"] == "FeatureCollection"
    assert {f["properties"]["objectType"] for f in document["features"]} == {"cell"}
    assert sum("nucleusGeometry" in f for f in document["features"]) == 180


@pytest.mark.parametrize("entry", [1, 2])
def test_many_at_once_are_the_same_features_as_one_by_one(entry, project) -> None:
    tree = ImageDataFile.read(project / f"data/{entry}/data.qpdata")
    table = tree.table
    found = plain_features(table, table.all())
    assert len(found) > 100
    _, at, rows = table.split(table.all())
    packed = dict(zip(at.tolist(), rows.tolist(), strict=True))
    values = 0
    for k, text in found.items():
        one, other = (json.loads(t) for t in (text, feature_text(geo_object(table.as_object(packed[k])))))
        for told in (one, other):
            measured = told["properties"].get("measurements", [])
            pairs = measured.items() if isinstance(measured, dict) else [(m["name"], m["value"]) for m in measured]
            told["properties"]["measurements"] = {n: v if isinstance(v, str) else np.float32(v) for n, v in pairs}
            values += len(told["properties"]["measurements"])
            for shape in ("geometry", "nucleusGeometry"):
                if shape in told:
                    told[shape]["coordinates"] = np.array(told[shape]["coordinates"], np.float32).tolist()
        assert one == other
    assert values > 1000


def test_values_that_are_no_float32_keep_their_digits() -> None:
    assert _numbers(np.array([[0.1, float(np.float32(0.1)), np.nan, np.inf, 3.0, 1e300]])) == [
        "0.1", "0.1", "nan", "inf", "3", "1e+300",
    ]  # fmt: skip


def test_an_export_replaces_an_export_and_nothing_else(project, tmp_path) -> None:
    file = tmp_path / "objects.geojson"
    export(project, file, kind="cells")
    export(project, file, kind="annotations")
    assert len(read_geojson(file)) == 8
    for name in ("mine.geojson", "mine.geojson.gz"):
        mine = written(tmp_path / name, annotation())
        before = mine.read_bytes()
        with pytest.raises(OutputError, match="was not written by mxbridge"):
            export(project, mine)
        assert mine.read_bytes() == before
    with pytest.raises(OutputError, match="does not exist"):
        export(project, tmp_path / "nowhere" / "x.geojson")
    (tmp_path / "link.geojson").symlink_to(file)
    with pytest.raises(OutputError, match="in the way"):
        export(project, tmp_path / "link.geojson")


def test_another_object_of_the_same_id_stays_unless_it_is_to_be_replaced(project, tmp_path) -> None:
    path = project / "data/2/data.qpdata"
    before = objects_of(path)
    nested = everything(path)
    parent = next(i for i, o in nested.items() if o["children"] and o["kind"] == "annotation")
    file = tmp_path / "o.geojson"
    export(project, file)
    changed = [
        replace(o, geometry=area_geometry([SQUARE]), class_name="Neu: µ", class_color=0x123456) if o.id == parent else o
        for o in read_geojson(file)
    ]
    written(tmp_path / "n.geojson", *changed)
    data = path.read_bytes()
    done = put(project, tmp_path / "n.geojson")
    assert (done.changed, done.same, done.differ) == (False, len(before) - 1, (parent,))
    assert parent in " ".join(done.notes)
    assert path.read_bytes() == data
    done = put(project, tmp_path / "n.geojson", replace=True)
    assert (done.changed, done.added, done.same, done.replaced, done.differ) == (True, 0, len(before) - 1, 1, ())
    now = objects_of(path)
    assert {i: o for i, o in now.items() if i != parent} == {i: o for i, o in before.items() if i != parent}
    assert (now[parent]["class"], now[parent]["roi"][0]) == ("Neu: µ", "polygon")
    assert everything(path)[parent]["children"] == nested[parent]["children"]
    assert (project / "data/2/data.qpdata.mxbridge-backup").read_bytes() == data
    listed = json.loads((project / "classifiers/classes.json").read_text(encoding="utf-8"))["pathClasses"]
    assert {"name": "Neu: µ", "color": 0xFF123456 - (1 << 32)} in listed
    assert check_project(project, ask_qupath=False).sound


def test_replacing_cells_that_are_kept_as_bytes_and_objects_within_replaced_ones(project, tmp_path) -> None:
    path = project / "data/2/data.qpdata"
    before, nested = objects_of(path), everything(path)
    file = tmp_path / "o.geojson"
    export(project, file)
    written(tmp_path / "n.geojson", *(replace(o, name=f"new {o.id[:4]}") for o in read_geojson(file)))
    done = put(project, tmp_path / "n.geojson", replace=True)
    assert (done.added, done.replaced) == (0, len(before))
    wanted = {i: {**o, "name": f"new {i[:4]}"} for i, o in before.items()}
    now = objects_of(path)
    for one in (now, wanted):  # written from rounded coordinates
        for told in one.values():
            told["roi"] = told["nucleus"] = None
    assert now == wanted
    assert {i: (o["parent"], o["children"]) for i, o in everything(path).items()} == {
        i: (o["parent"], o["children"]) for i, o in nested.items()
    }


def test_objects_are_the_users(project, tmp_path) -> None:
    """No ledger, and a publication afterwards keeps them in its backup."""
    done = put(project, written(tmp_path / "n.geojson", annotation(class_name="Mine", name="µ")))
    assert (done.added, done.changed) == (1, True)
    assert not (project / "mxbridge" / "published").exists()
    told = everything(project / "data/2/data.qpdata")[ONE]
    assert (told["name"], told["class"], told["metadata"]) == ("µ", "Mine", {})
    summary = json.loads((project / "data/2/summary.json").read_text(encoding="utf-8"))
    assert summary["hierarchy"]["annotationClassificationCounts"]["Mine"] == 1


def test_objects_without_ids_are_added_once(project, tmp_path) -> None:
    same = annotation(id=None)
    file = written(tmp_path / "n.geojson", same, same, replace(same, id="7"), replace(same, name="other"))
    first = put(project, file)
    again = put(project, file)
    assert (first.added, again.added, again.same, again.changed) == (4, 0, 4, False)


def test_objects_inside_objects_are_found(project, tmp_path) -> None:
    point, kind = {"type": "Point", "coordinates": [5, 6]}, {"objectType": "annotation"}
    inner = {"type": "Feature", "id": ONE, "geometry": point, "properties": kind}
    outer = {**inner, "id": ONE.replace("1", "2"), "properties": {**kind, "childObjects": [inner]}}
    (tmp_path / "n.geojson").write_text(json.dumps([outer]), encoding="utf-8")
    assert put(project, tmp_path / "n.geojson").added == 2
    assert everything(project / "data/2/data.qpdata")[ONE]["roi"][0] == "points"


def test_what_cannot_be_written_is_named(project, tmp_path) -> None:
    lines = Geometry("MultiLineString", points=(SQUARE, SQUARE))
    file = written(
        tmp_path / "n.geojson",
        annotation(),
        annotation(kind="tmaCore", id=None),
        annotation(kind="pixel", id=None),
        annotation(geometry=lines, id=None),
        annotation(class_name="a:b", id=None),
        annotation(geometry=Geometry("Polygon", ([SQUARE[:2]],)), id=None),
    )
    done = put(project, file)
    assert done.added == 1
    assert [why for why, _ in done.refused] == [
        "TMA cores cannot be written",
        "objects of the kind 'pixel' cannot be written",
        "objects with a MultiLineString as outline cannot be written",
        "objects of the class 'a:b', which is no name of a class in QuPath",
        "objects with rings of less than three points cannot be written",
    ]
    assert all(any(why in note for note in done.notes) for why, _ in done.refused)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds no objects"),
        ('{"type": "FeatureCollection"}', "is malformed"),
        ('[{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[1e9,0],[1,1],[2,2]]]}}]', "is no pixel"),
        ('[{"type":"Feature","geometry":null,"properties":{"childObjects":[1]}}]', "malformed"),
        (json.dumps([{"type": "Feature", "id": ONE, "geometry": {"type": "Point", "coordinates": [1, 2]}}] * 2), "more than once"),
        ('[{"type":"Feature","geometry":{"type":"Point","coordinates":[1,2]},"properties":{"objectType":"tmaCore"}}]', "TMA cores"),
    ],
)  # fmt: skip
def test_broken_files_change_nothing(text, error, project, tmp_path) -> None:
    (tmp_path / "n.geojson").write_text(text, encoding="utf-8")
    before = files_of(project)
    with pytest.raises((BrokenFile, InputError), match=error):
        put(project, tmp_path / "n.geojson")
    assert {k: v for k, v in files_of(project).items() if not k.startswith("mxbridge")} == before


def test_what_is_changed_meanwhile_stays(project, tmp_path) -> None:
    path = project / "data/2/data.qpdata"
    workspace = QuPathWorkspace(project)
    publication = Publication(workspace.project, workspace.project.entry(2), workspace.own_folder, LastRead())

    def change(tree: ImageDataFile) -> dict[str, int]:
        tree.remove_objects(list(tree.objects())[:1])
        path.write_bytes(b"somebody else")
        return {}

    with pytest.raises(ChangedMeanwhile):
        publication.change_objects(change)
    assert path.read_bytes() == b"somebody else"


def test_one_at_a_time(project, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mxbridge.workspaces.qupath.objects.importing.PUBLISHING_TAKES", 0.05)
    file = written(tmp_path / "n.geojson", annotation())
    other = QuPathWorkspace(project)
    with other.locked(), pytest.raises(Locked):
        put(project, file)


class TestCommands:
    def test_out_and_in(self, golden, mxbridge, tmp_path) -> None:
        project = golden()
        code, out, err = mxbridge("qupath", "export-objects", "--project", project, "--out", "all", "--json")
        assert code == 0, err
        rows = json.loads(out)["images"]
        assert [sum(row["objects"].values()) for row in rows] == [268, 262]
        assert [Path(row["file"]).parent for row in rows] == [(tmp_path / "all").resolve()] * 2
        twin = twin_of(project, 2)
        code, out, err = mxbridge("qupath", "import-objects", rows[1]["file"], "--project", twin, "--image", "id:2")
        assert (code, err) == (0, "")
        assert "262 objects added, 0 were there already" in out
        assert "Reload data" in out
        code, out, _ = mxbridge(
            "qupath", "import-objects", rows[1]["file"], "--project", twin, "--image", "2", "--json"
        )
        assert code == 0
        assert {**json.loads(out), "file": ""} == {
            "image": "fl_5ch.ome.tif", "id": "2", "file": "", "changed": False, "added": 0, "same": 262, "replaced": 0,
            "differ": [], "refused": [], "notes": [],
        }  # fmt: skip

    def test_wrong_use(self, golden, mxbridge, tmp_path) -> None:
        project = golden()
        code, _, err = mxbridge("qupath", "export-objects", "--project", project, "--out", "all.geojson")
        assert (code, "one file, and there are 2 images" in err) == (2, True)
        code, _, err = mxbridge("qupath", "export-objects", "--project", project, "--out", "x", "--image", "nobody")
        assert (code, "no image 'nobody'" in err) == (2, True)
        code, _, err = mxbridge("qupath", "import-objects", "none.geojson", "--project", project, "--image", "2")
        assert (code, "none.geojson" in err) == (4, True)
        (project / "data/1/data.qpdata").write_bytes(b"broken")
        (project / "data/2/data.qpdata").unlink()
        code, out, err = mxbridge("qupath", "export-objects", "--project", project, "--out", "y")
        assert (code, "1 of 2" in err) == (3, True)
        assert "nothing was saved for it yet" in out
        code, _, err = mxbridge("qupath", "export-objects", "--project", project, "--out", "y", "--image", "2")
        assert (code, "has no objects" in err) == (6, True)


@pytest.mark.parametrize(
    "more",
    [
        {"kind": "detection"}, {"name": "x"}, {"color": 1}, {"class_name": "x"}, {"locked": True}, {"metadata": {"a": "b"}},
        {"measurements": {"a": 1.5}}, {"measurements": {"b": 1.0}}, {"nucleus": area_geometry([SQUARE])},
        {"geometry": area_geometry([SQUARE + 0.02])}, {"geometry": area_geometry([SQUARE], (-1, 1, 0))},
    ],
    ids=lambda more: next(iter(more)),
)  # fmt: skip
def test_whatever_differs_makes_another_object(more) -> None:
    there = annotation(measurements={"a": 1.0, "n": float("nan")})
    assert same_object(there, annotation(measurements={"n": float("nan"), "a": 1.0}, class_color=3))
    assert not same_object(there, replace(there, **more))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 9999)), min_size=3, max_size=12, unique=True),
    st.integers(0, 11),
    st.booleans(),
    st.integers(0, 2),
)
def test_a_ring_is_the_same_wherever_it_begins(corners, start, backwards, moved) -> None:
    ring = np.array(corners, np.float64) / 100
    other = np.roll(ring[::-1] if backwards else ring, start, axis=0)
    other[start % len(ring)] += 0.02 * moved
    one, two = (annotation(geometry=Geometry("Polygon", ([r],))) for r in (ring, other))
    assert same_object(one, two) == (moved == 0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(width=32, min_value=-1e7, max_value=1e7), min_size=2, max_size=20))
def test_short_numbers_are_the_same_float32(values) -> None:
    points = np.array(values[: len(values) // 2 * 2], np.float64).reshape(-1, 2)
    assert np.array_equal(rounded(points).astype(np.float32), points.astype(np.float32))
    assert all(np.float32(shortest(v)) == np.float32(v) for v in values)
    assert shortest(float(np.float32(0.1))) == 0.1
    assert shortest(0.1) == 0.1


class TestRealQuPath:
    pytestmark = REAL

    @pytest.mark.parametrize("entry", [1, 2])
    def test_reads_ours_and_we_read_its(self, entry, golden, tmp_path) -> None:
        project = golden()
        ours, theirs = tmp_path / "ours.geojson", tmp_path / "theirs.geojson"
        count = sum(export(project, ours, entry).objects.values())
        answer = json.loads(beside_qupath("qupath_geojson", project, str(entry), str(ours), str(theirs)))
        told = answer["objects"]
        there = everything(project / f"data/{entry}/data.qpdata")
        assert len(told) == count == len(there)
        kinds = {"tma core": "TMACoreObject", "tile": "PathTileObject", "cell": "PathCellObject",
                 "detection": "PathDetectionObject", "annotation": "PathAnnotationObject"}  # fmt: skip
        for identity, wanted in there.items():
            found = told[identity]
            assert (found["kind"], found["class"], found["name"]) == (
                kinds[wanted["kind"]],
                wanted["class"],
                wanted["name"],
            )
            assert found["nucleus"] == (wanted["nucleus"] is not None)
            assert found["measurements"] == len(wanted["measurements"])
        done = put(project, theirs, entry)
        told_more = {i for i, o in there.items() if o["metadata"] and o["kind"] != "tma core"}
        unsaid = told_more if answer["version"].startswith("0.4") else set()
        assert (done.changed, done.added, set(done.differ)) == (False, 0, unsaid)  # 0.4 writes no metadata

    @pytest.mark.parametrize("entry", [1, 2])
    def test_opens_what_was_imported(self, entry, golden, tmp_path) -> None:
        project = golden()
        export(project, tmp_path / "o.geojson", entry)
        twin = twin_of(project, entry)
        put(twin, tmp_path / "o.geojson", entry)
        check = check_project(twin, ask_qupath=True)
        assert (check.sound, check.compared) == (True, True), check
        beside_qupath("qupath_saves", twin)
        assert put(twin, tmp_path / "o.geojson", entry).differ == ()
