"""Objects kept as bytes and arrays: in every file, and after every edit, the same as objects read one by one."""

from __future__ import annotations

import gzip
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.projects import Tissue, image_data
from mxbridge.errors import BrokenFile, OutputError
from mxbridge.results import ClassChanges, ImageRef, Measurement, Results
from mxbridge.workspaces.qupath.edit import held, lost, put, take
from mxbridge.workspaces.qupath.javastream import (
    Block,
    ClassDesc,
    Field,
    JavaArray,
    JavaObject,
    JavaString,
    Part,
    read_stream,
    write_stream,
)
from mxbridge.workspaces.qupath.javastream.nodes import SERIALIZABLE
from mxbridge.workspaces.qupath.javastream.packing import MAX_ENTANGLED
from mxbridge.workspaces.qupath.ledger import State
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, NewPathObject, NewROI, new_image_data
from mxbridge.workspaces.qupath.qpdata import descriptors as d

from .conftest import new_objects
from .qpdata_snapshots import GOLDEN, VERSIONS, snapshot
from .qpdata_two_ways import PATH, both, check_same, edit, packed_objects, said

SERVER = {"builderType": "uri", "uri": "file:/a.tif"}
SQUARE = np.array([(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)])


@pytest.fixture(scope="module")
def goldens(data) -> dict[str, bytes]:
    names = [f"{version}/data/{entry}/data.qpdata" for version, entry in GOLDEN]
    return {name: (data / "qupath" / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def nested() -> bytes:
    """Cells within annotations, small enough for hundreds of mutations."""
    return image_data(Tissue(36, 3, True, 3, 5, 4))


def test_golden_files_say_the_same_and_most_cells_are_packed(goldens):
    for name, raw in goldens.items():
        fast = check_same(raw)
        assert fast.to_bytes() == raw
        cells = fast.counts()["objectTypeCounts"]["Cells"]
        assert packed_objects(fast) > 0.6 * cells, name  # those with a DefaultMeasurementList are not
        assert snapshot(fast) == snapshot(ImageDataFile(raw, PATH, packed=False))
        assert packed_objects(fast) == 0  # asking for objects unpacks them


@pytest.mark.shared
@pytest.mark.slow
def test_twenty_thousand_cells_of_qupath(shared):
    raw = gzip.decompress((shared / "golden/qupath/speed20k/data/1/data.qpdata.gz").read_bytes())
    fast, nodes = both(raw)
    assert packed_objects(fast) >= 19_990
    assert said(fast) == said(nodes)
    assert fast.to_bytes() == raw
    edit(fast, 1)
    edit(nodes, 1)
    data = fast.to_bytes()
    assert data == nodes.to_bytes() != raw
    fast.verify(data)
    assert said(ImageDataFile(data, PATH)) == said(nodes)


@pytest.mark.shared
def test_real_projects_say_the_same(shared):
    found = [p.read_bytes() for p in (shared / "data/qupath").rglob("*.qpdata")]
    with zipfile.ZipFile(shared / "data/qupath/stardist_qupath_example_project.zip") as archive:
        found += [archive.read(name) for name in archive.namelist() if name.endswith(".qpdata")]
    assert found
    for raw in found:
        assert check_same(raw).to_bytes() == raw


def test_broken_files_are_refused_alike(data):
    files = sorted((data / "qupath/broken").glob("*.qpdata"))
    assert len(files) > 20
    for file in files:
        check_same(file.read_bytes())


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(st.sampled_from(VERSIONS), st.integers(0, 10_000))
def test_the_same_edits_give_the_same_bytes(goldens, version, seed):
    raw = goldens[f"{version}/data/2/data.qpdata"]
    fast, nodes = both(raw)
    edit(fast, seed)
    edit(nodes, seed)
    assert packed_objects(fast) > 100
    data = fast.to_bytes()
    assert data == nodes.to_bytes()
    assert said(fast) == said(nodes) == said(ImageDataFile(data, PATH))
    fast.verify(data)
    assert snapshot(fast) == snapshot(nodes)  # unpacked with what was put into them
    assert fast.to_bytes() == data


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_damaged_bytes_mean_the_same_both_ways(nested, goldens, data):
    raw = bytearray(nested if data.draw(st.integers(0, 3)) else goldens["v0.6.0/data/2/data.qpdata"])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check_same(bytes(raw))


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_damaged_handles_and_lengths_mean_the_same_both_ways(nested, data):
    """Aimed at what is jumped over or left open in a shape: references, lengths of arrays and texts, counts."""
    raw = bytearray(nested)
    places = [k for k in range(len(raw) - 5) if raw[k] in (0x71, 0x74, 0x75) or raw[k : k + 2] in (b"w\4", b"w\x08")]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places)) + data.draw(st.integers(1, 5))
        raw[at] = data.draw(st.sampled_from([0, 1, 2, 3, 5, 30, 0x70, 0x7E, 0x7F, 0xFF]))
    check_same(bytes(raw))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_moved_and_missing_bytes_mean_the_same_both_ways(nested, data):
    first, second = sorted(data.draw(st.tuples(st.integers(0, len(nested)), st.integers(0, len(nested)))))
    check_same(nested[:first] + nested[second:])
    check_same(nested[:second] + nested[first:])


def test_every_truncation_is_refused(nested):
    for length in range(0, len(nested), 97):
        with pytest.raises(BrokenFile):
            ImageDataFile(nested[:length], PATH)


def design(draw) -> dict:
    """What many objects have alike."""
    kind = draw(st.sampled_from(["cell", "cell", "cell", "detection", "tile", "annotation"]))
    return {
        "kind": kind,
        "region": draw(st.sampled_from(["square", "square", "pentagon", "ellipse", "holes", "deep"])),
        "with_nucleus": kind == "cell" and draw(st.booleans()),
        "class_name": draw(st.sampled_from([None, "Tumor", "Tumor: CD3"])),
        "name": draw(st.sampled_from([None, None, "same", "own %d", "é"])),
        "color": draw(st.sampled_from([None, -1])),
        "locked": draw(st.booleans()),
        "metadata": draw(st.sampled_from([{}, {}, {"x": "1"}, {"x": "v%d"}, {"_mxbridge.key": "k"}])),
        "names": draw(st.sampled_from([(), ("a",), ("a", "b"), ("b", "c")])),
    }


def some_object(number: int, like: dict, children: tuple[NewPathObject, ...] = ()) -> NewPathObject:
    more = dict(like)
    square, name = SQUARE + number * 12.0, more.pop("name")
    region = {
        "square": lambda: NewROI.of_rings([square]),
        "pentagon": lambda: NewROI.of_rings([np.vstack([square, square[:1] - [[5.0, -5.0]]])]),
        "ellipse": lambda: NewROI.ellipse(number, 0, number + 9, 7),
        "holes": lambda: NewROI.of_rings([square * 3, square * 3 + 10 - SQUARE * 2]),
        "deep": lambda: NewROI.of_rings([square], z=number % 2),
    }[more.pop("region")]()
    nucleus = NewROI.of_rings([square + 1]) if more.pop("with_nucleus") else None
    return NewPathObject(
        id=f"00000000-0000-4000-8000-{number:012x}",
        roi=region,
        nucleus=nucleus,
        name=name and name.replace("%d", str(number)),
        measurements=dict.fromkeys(more.pop("names"), number / 2),
        metadata={k: v.replace("%d", str(number % 3)) for k, v in more.pop("metadata").items()},
        children=children,
        **more,
    )


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_any_mixture_of_objects(data):
    designs = [design(data.draw) for _ in range(data.draw(st.integers(1, 4)))]
    chosen = data.draw(st.lists(st.integers(0, len(designs) - 1), min_size=1, max_size=30))
    below = tuple(some_object(1000 + k, designs[0] | {"kind": "cell"}) for k in range(data.draw(st.integers(0, 9))))
    parent = next((k for k, which in enumerate(chosen) if designs[which]["kind"] == "annotation"), None)
    objects = [some_object(k, designs[which], below if k == parent else ()) for k, which in enumerate(chosen)]
    raw = new_image_data(SERVER, "0.6.0", "OTHER", objects).to_bytes()
    assert check_same(raw).to_bytes() == raw
    fast, nodes = both(raw)
    seed = data.draw(st.integers(0, 999))
    edit(fast, seed)
    edit(nodes, seed)
    gone = data.draw(st.sets(st.sampled_from([o.id for o in objects])))
    for file in (fast, nodes):
        file.add_object(some_object(5000, designs[0]), file.get(objects[0].id))
        file.remove_objects([file.get(identity) for identity in gone])
    edited = fast.to_bytes()
    assert edited == nodes.to_bytes()
    assert said(fast) == said(nodes)
    fast.verify(edited)


def test_packed_children_of_a_removed_annotation_move_up_as_bytes(nested):
    fast, nodes = both(nested)
    for file in (fast, nodes):
        (top,) = file.take(np.array([file.table.kinds(file.table.all()).tolist().index("annotation")]))
        file.remove_objects([top])
    assert packed_objects(fast) == 33  # the first three showed that there is a shape
    assert fast.to_bytes() == nodes.to_bytes()
    fast.verify(nodes.to_bytes())
    assert snapshot(fast) == snapshot(nodes)


def test_one_object_can_be_unpacked_alone(nested):
    fast, nodes = both(nested)
    before = packed_objects(fast)
    wanted = fast.table.ids[-1]
    assert fast.get(wanted).measurements == nodes.get(wanted).measurements
    assert packed_objects(fast) == before - 1
    assert fast.to_bytes() == nested


def test_verification_notices_every_byte(nested):
    """The measure of the check: whatever is changed in what would be written, it is not what was meant."""
    fast = ImageDataFile(nested, PATH)
    edit(fast, 3)
    data = fast.to_bytes()
    fast.verify(data)
    numbers = np.random.default_rng(0)
    for at in numbers.integers(0, len(data), 300).tolist():
        raw = bytearray(data)
        raw[at] ^= 1 << int(numbers.integers(0, 8))
        with pytest.raises(OutputError):
            fast.verify(bytes(raw))


def test_verification_notices_values_classes_and_names_on_the_wrong_cells(nested):
    meant, other = ImageDataFile(nested, PATH), ImageDataFile(nested, PATH)
    cells = np.flatnonzero(meant.table.kinds(meant.table.all()) == "cell")
    values = np.arange(len(cells), dtype=np.float32)
    meant.table.set_columns(cells, {"n": values})
    for column in ({"n": values[::-1]}, {"m": values}, {"n": values, "m": values}):
        other = ImageDataFile(nested, PATH)
        other.table.set_columns(cells, column)
        with pytest.raises(OutputError):
            meant.verify(other.to_bytes())
    meant, other = ImageDataFile(nested, PATH), ImageDataFile(nested, PATH)
    meant.table.set_class(cells[3:9], "New", {})
    other.table.set_class(cells[3:8], "New", {})
    with pytest.raises(OutputError):
        meant.verify(other.to_bytes())


def nodes_of(raw: bytes) -> tuple[list, list[JavaObject]]:
    """All items of a file, and its cells as nodes."""
    items = read_stream(raw).items
    hierarchy = next(i for i in items if isinstance(i, JavaObject) and i.name == d.HIERARCHY)
    found, waiting = [], [hierarchy.get("rootObject")]
    while waiting:
        node = waiting.pop(0)
        found += [node] if node.name == d.CELL else []
        waiting += [
            i
            for i in node.annotations
            if isinstance(i, JavaObject) and "PathObject" not in i.name and "objects.Path" in i.name
        ]
    return items, found


def test_objects_that_share_texts_with_each_other():
    """The first of three has the text, the others refer into it: it becomes nodes, and the others stay bytes."""
    items, cells = nodes_of(image_data(Tissue(300, 2, True, 0, 5, 4)))
    for k, cell in enumerate(cells):
        cell.annotations[0] = JavaString.of(f"text {k}") if k % 3 == 0 else cells[k - k % 3].annotations[0]
    raw = write_stream(items)
    fast = check_same(raw)
    assert 190 <= packed_objects(fast) <= 200
    edit(fast, 5)
    nodes = ImageDataFile(raw, PATH, packed=False)
    edit(nodes, 5)
    assert fast.to_bytes() == nodes.to_bytes()


def chained(count: int) -> tuple[list, list[JavaObject]]:
    """Each cell has a text of its own, and refers to that of the cell before it."""
    items, cells = nodes_of(image_data(Tissue(count, 0, False, 0, 5)))
    key = JavaString.of("x")
    for k, cell in enumerate(cells):
        keys, values = cell.annotations[2].annotations[1:]
        keys.values += [key]
        values.values += [cells[k - 1].annotations[0] if k else None]
        cell.annotations[0] = JavaString.of(f"text {k}")
    return items, cells


def test_objects_chained_to_each_other_become_nodes():
    items, _ = chained(300)
    assert packed_objects(check_same(write_stream(items))) == 1  # the last one, to which nothing refers


def test_a_long_chain_is_given_up():
    """Taking objects out one because of the other, from the last to the first, would nest thousands of calls."""
    items, cells = chained(60 * MAX_ENTANGLED)
    properties = next(i for i in items if isinstance(i, JavaObject) and i.name == "java.util.HashMap")
    properties.annotations[0] = Block(struct.pack(">ii", 16, 1))
    properties.annotations[1:] = [JavaString.of("last"), cells[-1].annotations[0]]
    file = ImageDataFile(write_stream(items), PATH)
    assert packed_objects(file) == 0
    assert file.properties == {"last": f"text {len(cells) - 1}"}


def test_a_chain_deep_within_objects_is_given_up_before_the_calls_are_too_many():
    """Each region has objects within objects, the innermost of which refers to a text of the cell before."""
    items, cells = nodes_of(image_data(Tissue(600, 0, False, 0, 5)))
    signature = JavaString.of("LX;")
    nested = ClassDesc("X", 1, SERIALIZABLE)
    nested.complete((Field("L", "next", signature),), [], None)
    parts = [cell.annotations[7].parts[-1] for cell in cells]
    region = parts[0].desc
    region.complete((*region.fields, Field("L", "extra", signature)), region.annotations, region.base)
    inner = None
    for k, (cell, part) in enumerate(zip(cells, parts, strict=True)):
        for _ in range(17):
            inner = JavaObject(nested, [Part(nested, [inner], None)])
        part.values.append(inner)
        inner = cell.annotations[0] = JavaString.of(f"text {k}")
    properties = next(i for i in items if isinstance(i, JavaObject) and i.name == "java.util.HashMap")
    properties.annotations[0] = Block(struct.pack(">ii", 16, 1))
    properties.annotations[1:] = [JavaString.of("last"), inner]
    assert ImageDataFile(write_stream(items), PATH).properties == {"last": "text 599"}


def test_a_cell_where_only_a_region_may_be():
    """Kept as bytes it would stand where no reader of the tree looks for it: the whole file is read as nodes."""
    items, cells = nodes_of(image_data(Tissue(30, 0, False, 0, 5)))
    root = next(i for i in items if isinstance(i, JavaObject) and i.name == d.HIERARCHY).get("rootObject")
    root.annotations.remove(cells[20])
    count = next(k for k, item in enumerate(root.annotations) if isinstance(item, Block))
    root.annotations[count] = Block((29).to_bytes(4, "big"))
    cells[25].annotations[7] = cells[20]
    raw = write_stream(items)
    assert packed_objects(ImageDataFile(raw, PATH)) == 0
    assert both(raw)[0].to_bytes() == both(raw)[1].to_bytes() == raw


def test_more_values_than_names_and_an_open_list_stay(goldens):
    items, cells = nodes_of(goldens["v0.6.0/data/2/data.qpdata"])
    changed = 0
    for cell in cells:
        measured = cell.annotations[3]
        if isinstance(measured, JavaObject) and measured.name in (d.FLOAT_LIST, d.DOUBLE_LIST):
            array = measured.get("values")
            array.values += array.values[:16]
            measured.put("isClosed", b"\0")
            changed += 1
    assert changed > 100
    raw = write_stream(items)
    fast = check_same(raw)
    assert packed_objects(fast) > 100
    for seed in range(4):
        fast, nodes = both(raw)
        edit(fast, seed)
        edit(nodes, seed)
        assert fast.to_bytes() == nodes.to_bytes()
        fast.verify(nodes.to_bytes())


def test_shapes_beyond_the_limit_are_read_as_nodes():
    """Every cell has another number of metadata values: no shape fits two of them often enough to be worth keeping."""
    items, cells = nodes_of(image_data(Tissue(150, 0, False, 0, 5)))
    text = JavaString.of("v")
    for k, cell in enumerate(cells):
        keys, values = cell.annotations[2].annotations[1:]
        assert isinstance(keys, JavaArray) and isinstance(values, JavaArray)
        keys.values += [JavaString.of(f"k{k} {j}") for j in range(k)]
        values.values += [text] * k
    raw = write_stream(items)
    assert check_same(raw).to_bytes() == raw


def test_cells_with_lists_of_names_of_their_own():
    """What is done per distinct thing must not be done per cell and distinct thing: with thousands that takes minutes."""
    items, cells = nodes_of(image_data(Tissue(4000, 1, False, 0, 5)))
    names = cells[0].annotations[3].get("names")
    for cell in cells[1::2]:
        cell.annotations[3].put("names", JavaObject(names.desc, names.parts))
    raw = write_stream(items)
    file = ImageDataFile(raw, PATH)
    assert file.to_bytes() == raw
    everything = file.table.all()
    assert file.table.measurement_names(everything) == {"Measurement 0"}
    file.table.set_columns(everything, {"n": np.arange(4000.0)})
    file.verify(file.to_bytes())


def test_what_the_generator_makes():
    for tissue in (Tissue(50), Tissue(60, 4, False), Tissue(90, 2, True, 5)):
        fast = check_same(image_data(tissue))
        counts = fast.counts()["objectTypeCounts"]
        assert counts["Cells"] == tissue.cells
        assert counts.get("Annotations", 0) == tissue.annotations
        assert packed_objects(fast) == tissue.cells - 3
        names = fast.table.measurement_names(fast.table.all())
        assert len(names) == tissue.measurements
        assert len(set(fast.table.ids)) == tissue.cells + tissue.annotations


def test_a_table_from_before_a_change_of_objects_is_of_no_use(nested):
    """Its rows mean other objects by now, and what is set there would be lost."""
    file = ImageDataFile(nested, PATH)
    for change in (
        lambda: file.get(file.table.ids[-1]),
        lambda: file.add_object(
            NewPathObject("cell", "00000000-0000-4000-8000-00000000ffff", NewROI.of_rings([SQUARE]))
        ),
        lambda: file.remove_objects([file.get("00000000-0000-4000-8000-00000000ffff")]),
        lambda: list(file.objects()),
    ):
        table = file.table
        change()
        with pytest.raises(RuntimeError, match="ask the file for its table again"):
            table.set_columns(table.all(), {"n": np.zeros(len(table))})
        assert len(file.table.class_names(file.table.all())) == len(file.table)


@pytest.mark.parametrize("entry", [1, 2])
def test_results_are_put_in_and_taken_out_alike(goldens, entry):
    """One logic of editing, whatever the objects are kept as."""
    fast, nodes = both(goldens[f"v0.6.0/data/{entry}/data.qpdata"])
    ids = tuple(i for i, kind in zip(fast.table.ids, fast.table.kinds(fast.table.all()), strict=True) if kind == "cell")
    values = np.random.default_rng(0).random((2, len(ids)), np.float32)
    columns = tuple(
        Measurement(name, v, f"key {name}") for name, v in zip(("Nimbus: A", "Nimbus: B"), values, strict=True)
    )
    base = nodes.table.class_names(np.array([nodes.table.ids.index(i) for i in ids]))
    names = tuple("CD3" if k % 3 else c for k, c in enumerate(base))
    square = [(5.0, 5.0), (9.0, 5.0), (9.0, 9.0)]
    made = new_objects("cell", "key objects", {f"c{k}": [square] for k in range(12)}, measurements={"n": 1.0})
    ref = ImageRef(str(entry), "image")
    first = Results(ref, "run 1", ids, columns, ClassChanges(names, tuple(base), "key classes"), (made,))
    second = Results(ref, "run 2", ids[::2], (Measurement("Nimbus: A", values[1][::2], "key Nimbus: A"),))
    states = [State(), State()]
    for results in (first, second, first, None):
        told = []
        for k, file in enumerate((fast, nodes)):
            more = {"entry_id": str(entry), "known_colors": {}}
            if results is not None:
                edited = put(file, states[k], results, **more)
                assert held(file, results, entry_id=str(entry))
            else:
                edited = take(file, states[k], states[k].keys, **more)
            states[k] = edited.state
            told.append((edited.notes, edited.new_classes, lost(file, edited.state)))
        assert told[0] == told[1]
        data = fast.to_bytes()
        assert data == nodes.to_bytes()
        fast.verify(data)
        fast, nodes = both(data)
    assert said(fast) == said(ImageDataFile(goldens[f"v0.6.0/data/{entry}/data.qpdata"], PATH))
