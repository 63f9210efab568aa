"""Measurements: columns come and go, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import Unsupported
from mxbridge.workspaces.qupath.javastream import JavaObject, Part
from mxbridge.workspaces.qupath.qpdata import ImageDataFile
from mxbridge.workspaces.qupath.qpdata.jdk import list_items, map_items

from .qpdata_snapshots import VERSIONS, check_measured, columns, kind_of, reread, snapshot

LIST_KINDS = ["FloatList", "DoubleList", "DefaultMeasurementList"]


@pytest.fixture(scope="module")
def golden(data) -> Path:
    return data / "qupath"


def test_ten_measurements_on_every_object_change_nothing_else(file):
    before, objects = snapshot(file), list(file.objects())
    assert {kind_of(o) for o in objects} == {*LIST_KINDS, "none"}
    values = columns(len(objects))
    file.set_measurements(objects, values)
    after = reread(file)
    check_measured(before, after, objects, values)


@pytest.mark.parametrize("kind", LIST_KINDS)
def test_each_list_keeps_its_kind(file, kind):
    objects = [o for o in file.objects() if kind_of(o) == kind]
    before = snapshot(file)
    values = columns(len(objects), 3)
    file.set_measurements(objects, values)
    after = reread(file)
    check_measured(before, after, objects, values)
    assert {kind_of(after.get(o.id)) for o in objects} == {kind}


def test_objects_without_a_list_get_a_float_list(file):
    objects = [o for o in file.objects() if kind_of(o) == "none"]
    assert objects
    file.set_measurements(objects, columns(len(objects), 2))
    after = reread(file)
    assert {kind_of(after.get(o.id)) for o in objects} == {"FloatList"}


def test_tma_cores_and_annotations_take_measurements(golden):
    file = ImageDataFile.read(golden / "v0.6.0/data/1/data.qpdata")
    objects = [o for o in file.objects() if o.kind in ("tma core", "annotation")]
    assert len(objects) == 14
    before, values = snapshot(file), columns(14, 2)
    file.set_measurements(objects, values)
    after = reread(file)
    check_measured(before, after, objects, values)
    assert sum(o.missing for o in after.objects()) == 1


def test_the_same_values_again_change_no_byte(file):
    objects = list(file.objects())
    file.set_measurements(objects, columns(len(objects)))
    data = file.to_bytes()
    again = ImageDataFile(data, file.path)
    again.set_measurements(list(again.objects()), columns(len(objects)))
    assert again.to_bytes() == data


def test_replacing_values_keeps_the_order_of_names(file):
    cells = [o for o in file.objects() if o.kind == "cell"]
    before = snapshot(file)
    name = list(cells[0].measurements)[1]
    values = {name: np.arange(len(cells), dtype=np.float32), "new": np.ones(len(cells), np.float32)}
    file.set_measurements(cells, values)
    check_measured(before, reread(file), cells, values)


def test_replacing_values_only_keeps_the_shared_names(file):
    cells = [o for o in file.objects() if o.kind == "cell" and kind_of(o) == "FloatList"]
    names = {id(o.measurement_list.get("names")) for o in cells}
    maps = {id(o.measurement_list.get("map")) for o in cells}
    name = next(iter(cells[0].measurements))
    file.set_measurements(cells, {name: np.arange(len(cells), dtype=np.float32)})
    assert {id(o.measurement_list.get("names")) for o in cells} == names
    assert {id(o.measurement_list.get("map")) for o in cells} == maps


def test_taking_measurements_out_again_leaves_what_was_there(file):
    before, objects = snapshot(file), list(file.objects())
    values = columns(len(objects))
    file.set_measurements(objects, values)
    file = reread(file)
    file.remove_measurements(list(file.objects()), list(values))
    after = reread(file)
    assert snapshot(after) == before
    assert [kind_of(o) for o in after.objects()] == [kind_of(o) for o in objects] or all(
        kind_of(o) != "FloatList" or o.measurements for o in after.objects()
    )


def test_an_emptied_list_is_none_as_qupath_writes_it(small):
    item = next(o for o in small.objects() if kind_of(o) == "none")
    raw = small.to_bytes()
    small.set_measurements([item], {"x": np.ones(1, np.float32)})
    assert small.to_bytes() != raw
    small.remove_measurements([item], ["x"])
    assert item.measurement_list is None
    assert small.to_bytes() == raw


def test_names_are_shared_by_edited_cells_and_the_old_list_is_untouched(file):
    """Trap: the list of names is one object for thousands of cells."""
    cells = [o for o in file.objects() if o.kind == "cell" and kind_of(o) == "FloatList"]
    old, half = cells[0].measurement_list.get("names"), cells[: len(cells) // 2]
    before = [item.text for item in list_items(old)]
    file.set_measurements(half, columns(len(half), 3))
    assert [item.text for item in list_items(old)] == before
    assert len({id(o.measurement_list.get("names")) for o in half}) == len(
        {o.measurements.keys().__len__() for o in half}
    )
    assert all(o.measurement_list.get("names") is old for o in cells[len(half) :] if len(o.measurements) == len(before))


def test_new_lists_are_closed_with_a_right_map(file):
    """Trap: QuPath adds a name to an open list in place, and with it to all cells that share the list."""
    cells = [o for o in file.objects() if kind_of(o) in ("FloatList", "DoubleList")]
    file.set_measurements(cells, columns(len(cells), 2))
    for item in cells:
        node = item.measurement_list
        assert node.number("isClosed") is True
        names = [n.text for n in list_items(node.get("names"))]
        positions = {key.text: value.number("value") for key, value in map_items(node.get("map"))}
        assert positions == {name: k for k, name in enumerate(names)}
        assert len(node.get("values")) == len(names)


def test_values_beyond_the_names_are_spare_room(small):
    """Trap: the array of an open list may be longer than its names."""
    cells = [o for o in small.objects() if kind_of(o) == "FloatList" and o.kind == "cell"]
    item = cells[0]
    node, before = item.measurement_list, item.measurements
    node.put("values", type(node.get("values"))(node.get("values").desc, node.get("values").values + b"\xff" * 12))
    spare = ImageDataFile(small.to_bytes(), small.path).get(item.id)
    assert str(spare.measurements) == str(before)
    room, name = len(node.get("values")), next(iter(before))
    small.set_measurements([item], {name: np.array([7], np.float32)})
    assert len(item.measurement_list.get("values")) == room
    small.set_measurements([item], {name: np.array([before[name]], np.float32)})
    small.set_measurements([item], {"new": np.array([4], np.float32)})
    assert str(reread(small).get(item.id).measurements) == str(before | {"new": 4.0})


def test_all_names_lists_of_qupath_are_read(golden):
    kinds = set()
    for version in VERSIONS:
        file = ImageDataFile.read(golden / version / "data/2/data.qpdata")
        for item in file.objects():
            if kind_of(item) in ("FloatList", "DoubleList"):
                kinds.add(item.measurement_list.get("names").name)
    assert kinds >= {"java.util.CollSer", "java.util.Collections$UnmodifiableList"}


def test_an_unknown_kind_of_list_is_kept_and_refused_by_name(small):
    item = next(o for o in small.objects() if kind_of(o) == "FloatList")
    desc = item.measurement_list.desc
    renamed = type(desc)("qupath.lib.measurements.FutureList", 1, desc.flags)
    renamed.complete(desc.fields, [], desc.base)
    old = item.measurement_list
    item.measurement_list = JavaObject(renamed, [old.parts[0], Part(renamed, old.parts[1].values, None)])
    file = reread(small)
    assert file.to_bytes() == small.to_bytes()
    with pytest.raises(Unsupported, match="FutureList"):
        _ = file.get(item.id).measurements
    everyone, raw = list(file.objects()), file.to_bytes()
    with pytest.raises(Unsupported, match="FutureList"):
        file.set_measurements(everyone, columns(len(everyone), 1))
    assert file.to_bytes() == raw  # nothing was half done
    others = [o for o in everyone if o.id != item.id]
    file.set_measurements(others, columns(len(others), 1))
    reread(file)


def test_wrong_numbers_of_values_are_refused(small):
    cells = list(small.objects())
    with pytest.raises(ValueError, match="values for"):
        small.set_measurements(cells, {"x": np.ones(len(cells) + 1, np.float32)})
    with pytest.raises(ValueError, match="named twice"):
        small.set_measurements([cells[0], cells[0]], {"x": np.ones(2, np.float32)})


@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6),
        st.lists(st.floats(width=32, allow_infinity=True), min_size=28, max_size=28),
        min_size=1,
        max_size=4,
    )
)
def test_any_float32_on_any_object(minimal_bytes, values):
    file = ImageDataFile(minimal_bytes, Path("minimal"))
    objects, before = list(file.objects()), snapshot(file)
    arrays = {name: np.array(column, np.float32) for name, column in values.items()}
    file.set_measurements(objects, arrays)
    now = {o.id: o.measurements for o in reread(file).objects()}
    for k, item in enumerate(objects):
        for name, column in arrays.items():
            assert np.array_equal(np.float32(now[item.id][name]), column[k], equal_nan=True)
        assert set(now[item.id]) == {n for n, _ in before[item.id][-1]} | set(arrays)
