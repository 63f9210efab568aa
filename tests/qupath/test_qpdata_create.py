"""A file from nothing has the layout that was measured to open in QuPath 0.4.4 to 0.7.0."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mxbridge.errors import UsageError
from mxbridge.workspaces.qupath.javastream import JavaEnum, JavaObject, JavaString, read_stream
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, NewPathObject, NewROI, new_image_data
from mxbridge.workspaces.qupath.qpdata import descriptors as d

SERVER = {"builderType": "uri", "providerClassName": "x", "uri": "file:/a%20b/é.tif", "args": ["--series", "0"]}
SQUARE = [(10.0, 10.0), (20.0, 10.0), (20.0, 20.0), (10.0, 20.0)]


def cells(count: int) -> list[NewPathObject]:
    rng = np.random.default_rng(1)
    made = []
    for k in range(count):
        ring = rng.random((8, 2)) * 20 + (k % 20) * 25
        made.append(
            NewPathObject(
                "cell",
                f"12345678-0000-4000-8000-{k:012x}",
                NewROI.of_rings([ring]),
                NewROI.of_rings([ring[:5]]) if k % 5 else None,
                class_name=[None, "Tumor", "CD3: CD8", "New é 名"][k % 4],
                measurements={f"m{j} µ": float(np.float32(rng.random())) for j in range(10)},
            )
        )
    return made


def top_level(file: ImageDataFile) -> list[str]:
    return [
        i.desc.name
        if isinstance(i, JavaObject | JavaEnum)
        else i.text
        if isinstance(i, JavaString)
        else type(i).__name__
        for i in read_stream(file.to_bytes()).items
    ]


def test_everything_put_in_is_read_again():
    specs = cells(300)
    file = new_image_data(SERVER, "0.6.0", "FLUORESCENCE", specs, {"note": "text", "number": 1.5})
    data = file.to_bytes()
    file.verify(data)
    again = ImageDataFile(data, Path("again"))
    assert (again.version, again.qupath_version, again.image_type) == (3, "0.6.0", "FLUORESCENCE")
    assert json.loads(again.server_json) == SERVER
    assert again.properties == {"note": "text", "number": 1.5}
    assert again.writable
    assert [o.id for o in again.objects()] == [s.id for s in specs]
    for item, spec in zip(again.objects(), specs, strict=True):
        assert item.kind == "cell"
        assert item.class_name == spec.class_name
        assert item.measurements == spec.measurements
        assert np.array_equal(item.roi.points, np.float32(spec.roi.polygons[0][0]))
        assert (item.nucleus is None) == (spec.nucleus is None)
    assert again.counts()["objectTypeCounts"] == {"Root objects": 1, "Cells": 300}


def test_the_items_are_those_qupath_expects_in_its_order():
    file = new_image_data(SERVER, "0.6.0", "BRIGHTFIELD_H_E", cells(1))
    names = top_level(file)
    assert names[0] == "Block"
    assert json.loads(names[1]) == {"dataVersion": 3, "qupathVersion": "0.6.0", "server": SERVER}
    expected = ["java.util.Locale", d.IMAGE_TYPE, d.STAINS, d.WORKFLOW, d.HIERARCHY, "java.util.HashMap", "EOF"]
    assert names[2:] == expected


def test_the_same_input_gives_the_same_bytes():
    made = [new_image_data(SERVER, "0.6.0", "FLUORESCENCE", cells(20)).to_bytes() for _ in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize("image_type", ["BRIGHTFIELD_H_E", "BRIGHTFIELD_H_DAB"])
def test_stains_are_pure_json(image_type):
    """Trap: with a title before the JSON, QuPath 0.6 and 0.7 show an empty image."""
    items = read_stream(new_image_data(SERVER, "0.6.0", image_type).to_bytes()).items
    (stains,) = [i for i in items if isinstance(i, JavaObject) and i.desc.name == d.STAINS]
    vectors = json.loads(stains.annotations[1].text)
    assert list(vectors) == ["Name", "Stain 1", "Values 1", "Stain 2", "Values 2", "Background"]
    assert len(vectors["Values 1"].split()) == 3


def test_other_image_types_have_no_stains_and_unknown_ones_are_refused():
    for image_type in ("FLUORESCENCE", "OTHER", "UNSET", "BRIGHTFIELD_OTHER"):
        file = new_image_data(SERVER, "0.6.0", image_type)
        assert d.STAINS not in top_level(file)
        assert ImageDataFile(file.to_bytes(), Path("x")).image_type == image_type
    with pytest.raises(UsageError, match="FLUORESCENCE"):
        new_image_data(SERVER, "0.6.0", "IF")


def test_every_class_has_a_colour_one_names_list_is_shared_and_caches_are_null():
    """Traps of writing from nothing."""
    file = new_image_data(SERVER, "0.6.0", "FLUORESCENCE", cells(40))
    found = list(ImageDataFile(file.to_bytes(), Path("x")).objects())
    assert len({id(o.measurement_list.get("names")) for o in found}) == 1
    assert len({id(o.measurement_list.get("map")) for o in found}) == 1
    classes = {id(o.path_class): o.path_class for o in found if o.path_class is not None}
    classes |= {id(c.get("parentClass")): c.get("parentClass") for c in classes.values() if c.get("parentClass")}
    assert len(classes) == 4  # Tumor, CD3, CD3: CD8, New é 名
    assert all(c.get("colorRGB") is not None for c in classes.values())
    assert all(o.roi.node.get("stats") is None for o in found)
    assert "PROJECT_ENTRY_ID" not in file.properties


def test_every_description_of_a_class_is_that_of_real_files(data):
    """uid, flags, fields and superclass of each class in the table, against what each QuPath version wrote."""
    seen: set[str] = set()
    for path in sorted((data / "qupath").glob("v*/data/*/data.qpdata")):
        for name, desc in read_stream(path.read_bytes()).classes.items():
            if name in d._TABLE:
                made = d.ClassTable({}).desc(name)
                assert (made.uid, made.flags) == (desc.uid, desc.flags)
                assert [f.key for f in made.fields] == [f.key for f in desc.fields]
                assert [c.name for c in made.lineage] == [c.name for c in desc.lineage]
                seen.add(name)
    assert set(d._TABLE) - seen == set()


def test_objects_can_be_put_into_a_new_file_under_others():
    region = NewPathObject(
        "annotation", "aaaaaaaa-0000-4000-8000-000000000000", NewROI.of_rings([SQUARE]), children=tuple(cells(3))
    )
    file = new_image_data(SERVER, "0.7.0", "FLUORESCENCE", [region])
    again = ImageDataFile(file.to_bytes(), Path("x"))
    (top,) = again.root.children
    assert [c.id for c in top.children] == [s.id for s in region.children]
