"""QuPath's GeoJSON: what QuPath wrote is read whole; what we write reads back."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.cells import OutlineCells, Rings
from mxbridge.errors import BrokenFile, InputError, SourceError
from mxbridge.formats.labels import open_labels
from mxbridge.image import Box
from mxbridge.results import NewObjects
from mxbridge.workspaces import geojson
from mxbridge.workspaces.geojson import (
    Geometry,
    GeoObject,
    area_geometry,
    cells_from_geojson,
    objects_from_cells,
    read_geojson,
    write_geojson,
    write_objects,
)
from tests.outlines import areas

SQUARE = [[1.0, 1.0], [1.0, 9.0], [9.0, 9.0], [9.0, 1.0], [1.0, 1.0]]
HOLE = [[3.0, 3.0], [5.0, 3.0], [5.0, 5.0], [3.0, 5.0], [3.0, 3.0]]


def feature(**more) -> dict:
    entry = {
        "type": "Feature",
        "id": "a",
        "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
        "properties": {"objectType": "cell"},
    }
    return {**entry, **more}


def save(path: Path, document) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: [f], lambda f: {"type": "FeatureCollection", "features": [f]}])
def test_forms_of_a_file(tmp_path: Path, wrap) -> None:
    (item,) = read_geojson(save(tmp_path / "a.geojson", wrap(feature())))
    assert item.kind == "cell" and item.id == "a"
    np.testing.assert_array_equal(item.geometry.rings[0], SQUARE[:-1])


def test_a_bare_geometry_and_a_feature_without_type_are_annotations(tmp_path: Path) -> None:
    (bare,) = read_geojson(save(tmp_path / "a.geojson", {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE]]}))
    (untyped,) = read_geojson(save(tmp_path / "b.geojson", feature(properties={})))
    assert bare.kind == untyped.kind == "annotation" and bare.id is None and len(bare.geometry.rings) == 2


def test_everything_qupath_says_of_an_object(tmp_path: Path) -> None:
    text = json.dumps(
        feature(
            geometry={"type": "Polygon", "coordinates": [SQUARE, HOLE], "isEllipse": True, "plane": {"c": 1, "z": 2, "t": 3}},
            nucleusGeometry={"type": "Polygon", "coordinates": [HOLE]},
            properties={
                "objectType": "cell", "name": "Zelle ä", "color": [1, 2, 3], "isLocked": True, "isMissing": True,
                "classification": {"names": ["Tumor", "CD3"], "color": [200, 0, 1]},
                "measurements": {"a": 1.5, "b": "NaN", "c": None, "d": "-Infinity"}, "metadata": {"k": "first"},
            },
        )
    )  # fmt: skip
    text = text.replace('"metadata": {"k": "first"}', '"metadata": {"k": "v"}, "metadata": {"k": "v"}')
    (item,) = read_geojson(save(tmp_path / "a.geojson", text))
    assert (item.name, item.color, item.class_name, item.class_color) == ("Zelle ä", 0x010203, "Tumor: CD3", 0xC80001)
    assert item.locked and item.missing and item.metadata == {"k": "v"}
    assert item.geometry.ellipse and item.geometry.plane == (1, 2, 3) and len(item.nucleus.rings) == 1
    np.testing.assert_array_equal(list(item.measurements.values()), [1.5, np.nan, np.nan, -np.inf])
    write_geojson(tmp_path / "b.geojson.gz", [item])
    assert repr(read_geojson(tmp_path / "b.geojson.gz")) == repr([item])
    written = json.loads(gzip.decompress((tmp_path / "b.geojson.gz").read_bytes()))["features"][0]
    assert written["properties"]["measurements"]["b"] == "NaN"
    assert written["geometry"]["coordinates"][0] == SQUARE  # closed again


def test_old_lists_of_measurements_and_names(tmp_path: Path) -> None:
    properties = {"object_type": "cell", "classification": "Tumor", "measurements": [{"name": "m", "value": "NaN"}]}
    (item,) = read_geojson(save(tmp_path / "a.geojson", feature(properties=properties)))
    assert item.class_name == "Tumor" and np.isnan(item.measurements["m"])


@pytest.mark.parametrize(
    ("geometry", "kind"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "Point"),
        ({"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}, "MultiPoint"),
        ({"type": "LineString", "coordinates": [[1, 2], [3, 4]]}, "LineString"),
        ({"type": "MultiLineString", "coordinates": [[[1, 2], [3, 4]]]}, "MultiLineString"),
    ],
)
def test_lines_and_points_are_kept_but_are_no_cells(tmp_path: Path, geometry, kind) -> None:
    path = save(tmp_path / "a.geojson", [feature(geometry=geometry), feature(id="b")])
    items = read_geojson(path)
    assert items[0].geometry.kind == kind and items[0].geometry.rings == []
    write_geojson(tmp_path / "b.geojson", items)
    assert json.loads((tmp_path / "b.geojson").read_text())["features"][0]["geometry"] == geometry
    assert cells_from_geojson(path, (20, 20)).ids == ("b",)


def test_which_objects_are_cells(tmp_path: Path) -> None:
    objects = [feature(id=k, properties={"objectType": k}) for k in ("annotation", "detection", "cell", "tile")]
    path = save(tmp_path / "a.geojson", objects)
    assert cells_from_geojson(path, (20, 20)).ids == ("cell",)
    assert cells_from_geojson(path, (20, 20), kind="detections").ids == ("detection", "cell", "tile")
    assert cells_from_geojson(path, (20, 20), kind="annotations").ids == ("annotation",)
    path = save(tmp_path / "a.geojson", objects[:2])
    assert cells_from_geojson(path, (20, 20)).ids == ("detection",)
    path = save(tmp_path / "a.geojson", objects[:1])
    assert open_labels(path, (20, 20)).ids == ("annotation",)
    assert len(cells_from_geojson(path, (20, 20), kind="cells")) == 0


def test_identity_of_cells(tmp_path: Path) -> None:
    unnamed = feature()
    del unnamed["id"]
    elsewhere = feature(id="z", geometry={"type": "Polygon", "coordinates": [SQUARE], "plane": {"z": 1}})
    path = save(tmp_path / "a.geojson", [feature(), unnamed, elsewhere])
    assert cells_from_geojson(path, (20, 20)).ids == ("a", "#2")
    with pytest.raises(InputError, match="more than once"):
        cells_from_geojson(save(tmp_path / "b.geojson", [feature(), feature()]), (20, 20))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_outlines_survive_with_holes_parts_and_nuclei(tmp_path_factory, data) -> None:
    def square(x: int, y: int, size: int) -> np.ndarray:
        return np.array([[x, y], [x + size, y], [x + size, y + size], [x, y + size]], float)

    cells, nuclei = [], []
    for k in range(data.draw(st.integers(1, 4))):
        rings = [square(1 + 30 * k, 1, 25)]
        if data.draw(st.booleans()):
            rings += [square(4 + 30 * k, 4, 15)]  # hole
            if data.draw(st.booleans()):
                rings += [square(6 + 30 * k, 6, 10), square(8 + 30 * k, 8, 4)]  # island with a hole
        if data.draw(st.booleans()):
            rings += [square(1 + 30 * k, 40, 7)]  # another part
        cells.append(list(data.draw(st.permutations(rings))))
        nuclei.append([square(20 + 30 * k, 20, 3)] if data.draw(st.booleans()) else [])
    outlines = Rings.of(cells)
    ids = tuple(f"cell {k}" for k in range(len(cells)))
    before = OutlineCells(ids, (None,) * len(cells), (60, 130), outlines, Rings.of(nuclei))
    path = tmp_path_factory.mktemp("g") / "c.geojson"
    write_geojson(path, objects_from_cells(before, {"score": [0.25] * len(cells)}))
    after = cells_from_geojson(path, (60, 130))
    assert after.ids == ids and read_geojson(path)[0].measurements == {"score": 0.25}
    np.testing.assert_array_equal(after.raster(Box(0, 0, 60, 130)), before.raster(Box(0, 0, 60, 130)))
    np.testing.assert_array_equal(areas(after.outlines), areas(outlines))
    if any(nuclei):
        np.testing.assert_array_equal(areas(after.nuclei), areas(before.nuclei))


def test_holes_go_to_the_part_that_holds_them() -> None:
    rings = [np.array(r[:-1]) for r in (SQUARE, HOLE)] + [np.array(SQUARE[:-1]) + 20]
    geometry = area_geometry(rings)
    assert geometry.kind == "MultiPolygon" and [len(p) for p in geometry.polygons] == [2, 1]
    assert Geometry("Polygon", ((rings[0],),)).rings[0] is rings[0]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "nonsense", "7", '"text"', "[7]", '[{"type": "Feature"}]', "[" * 100_000, '{"a":' * 50_000,
        '[{"type": "Feature", "geometry": {"type": "Circle", "coordinates": []}}]',
        '[{"type": "Polygon", "coordinates": [[[1]]]}]', '[{"type": "Polygon", "coordinates": [[["a", "b"]]]}]',
        '[{"type": "Polygon", "coordinates": [[[1e999, 0]]]}]', '[{"type": "Polygon", "coordinates": [[[NaN, 0]]]}]',
        '[{"type": "Polygon", "coordinates": [[[1e9, 0]]]}]', '[{"type": "Polygon", "coordinates": 5}]',
        '[{"type": "Point", "coordinates": [' + "9" * 5000 + ", 1]}]",
        '[{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {"measurements": {"a": "x"}}}]',
        '[{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {"measurements": 5}}]',
        '[{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": []}]' * 2,
    ],
)  # fmt: skip
def test_broken_files_are_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(BrokenFile, match=r"a\.geojson") as error:
        read_geojson(save(tmp_path / "a.geojson", text))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geojson, "SIZE_LIMIT", 10_000)
    bomb = tmp_path / "a.geojson.gz"
    bomb.write_bytes(gzip.compress(b" " * 50_000_000))
    with pytest.raises(BrokenFile, match="too large"):
        read_geojson(bomb)
    monkeypatch.setattr(geojson, "VALUE_LIMIT", 100)
    with pytest.raises(BrokenFile, match="too large"):
        read_geojson(save(tmp_path / "b.geojson", "[" + "1," * 200 + "1]"))
    bomb.write_bytes(b"\x1f\x8bgarbage")
    with pytest.raises(BrokenFile, match="damaged"):
        read_geojson(bomb)
    with pytest.raises(SourceError):
        read_geojson(tmp_path / "gone.geojson")


def test_infinity_and_nan_are_written_as_text(tmp_path: Path) -> None:
    item = GeoObject(
        "cell", Geometry("Point", points=(np.array([[1.0, 2.0]]),)), measurements={"a": float("inf"), "b": float("nan")}
    )
    write_geojson(tmp_path / "a.geojson", [item])
    (read,) = read_geojson(tmp_path / "a.geojson")
    assert read.measurements["a"] == float("inf") and np.isnan(read.measurements["b"])


def new_nuclei() -> NewObjects:
    ring = np.array([(1.0, 1.0), (9.25, 1.0), (9.0, 9.5), (1.0, 9.0)])
    hole = ring / 4 + 2
    return NewObjects(
        "cell", "key", ("a", "é 名"), Rings.of([[ring], [ring + 20, hole + 20]]), Rings.of([[hole], []]),
        ("Tumor: Positive", None), (None, 'n "1"'), {"DeepLIIF: Ki67 mean": np.array([1.5, np.nan], np.float32)},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["nuclei.geojson", "nuclei.geojson.gz"])
def test_new_objects_are_written_one_by_one_and_read_back(tmp_path: Path, name: str) -> None:
    objects = new_nuclei()
    for path in (tmp_path / name, tmp_path / f"again {name}"):
        write_objects(path, objects)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again {name}").read_bytes()
    found = read_geojson(tmp_path / name)
    assert [(o.kind, o.class_name, o.name) for o in found] == [
        ("cell", "Tumor: Positive", None),
        ("cell", None, 'n "1"'),
    ]
    assert len({uuid.UUID(o.id) for o in found}) == 2
    ids = [str(uuid.UUID(int=k)) for k in (5, 6)]
    write_objects(tmp_path / "ids.geojson", objects, ids)
    assert [o.id for o in read_geojson(tmp_path / "ids.geojson")] == ids
    assert [repr(v) for o in found for v in o.measurements.values()] == ["1.5", "nan"]
    for k, item in enumerate(found):
        for ring, meant in zip(item.geometry.rings, objects.outlines.rings_of(k), strict=True):
            assert np.allclose(ring, meant, atol=0.0051)
    assert np.allclose(found[0].nucleus.rings[0], objects.nuclei.rings_of(0)[0], atol=0.0051)
    assert found[1].nucleus is None
    cells = cells_from_geojson(tmp_path / name, (100, 100))
    assert areas(cells.outlines)[1] < areas(cells.outlines)[0]


def test_no_new_objects_are_an_empty_collection(tmp_path: Path) -> None:
    write_objects(tmp_path / "none.geojson", NewObjects("detection", "key", (), Rings.of([])))
    assert read_geojson(tmp_path / "none.geojson") == []


@pytest.mark.shared
@pytest.mark.parametrize("name", ["fl_5ch.ome.tif", "bf_rgb.tif"])
def test_exports_of_real_qupath_equal_its_own_account(shared: Path, name: str) -> None:
    golden = shared / "golden/qupath/v0.6.0"
    objects = {o.id: o for o in read_geojson(golden / f"{name}.objects.geojson.gz")}
    truth = json.loads(gzip.decompress((golden / f"truth-{name}.json.gz").read_bytes()))["objects"]
    truth = [t for t in truth if t["id"] in objects]
    assert len(truth) == len(objects) > 260
    kinds = {"annotation": 0, "detection": 0, "cell": 0, "tile": 0, "tmaCore": 0}
    for entry in truth:
        item = objects[entry["id"]]
        kinds[item.kind] += 1
        assert (item.name, item.class_name) == (entry["name"], entry["class"])
        assert item.locked == entry["locked"]
        assert item.metadata == entry["metadata"]
        measured = {k: np.nan if v is None else v for k, v in entry["measurements"].items()}
        assert list(item.measurements) == list(measured)
        np.testing.assert_allclose(list(item.measurements.values()), list(measured.values()), rtol=1e-6)
        assert (item.nucleus is None) == (entry.get("nucleus") is None)
        roi = entry["roi"]
        assert item.geometry.plane == (roi["c"], roi["z"], roi["t"])
        if item.geometry.rings and not item.geometry.ellipse:
            assert areas(Rings.of([item.geometry.rings]))[0] == pytest.approx(roi["area"], rel=0.01)
    assert kinds["cell"] == 200 and kinds["detection"] == 50
    cells = cells_from_geojson(golden / f"{name}.objects.geojson.gz", (512, 512))
    assert len(cells) == 200 and np.count_nonzero(areas(cells.nuclei)) == 180


@pytest.mark.shared
def test_an_export_from_elsewhere(shared: Path) -> None:
    cells = cells_from_geojson(shared / "data/geojson/coscia_single_cells.geojson", (1000, 1000))
    assert len(cells) == 121 and set(cells.classes) >= {"single_cells_demo"} and cells.nuclei is None
    (bare,) = read_geojson(shared / "data/geojson/qupath_polygon.geojson")
    assert bare.geometry.kind == "MultiPolygon" and len(bare.geometry.polygons) > 1
