"""Classes and objects: what a task owns changes, and nothing else does."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import InputError, OutputError, Unsupported, UsageError
from mxbridge.workspaces.qupath.javastream import read_stream, write_stream
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, NewPathObject, NewROI, default_color

from .qpdata_snapshots import columns, reread, snapshot

SQUARE = [(10.0, 10.0), (20.0, 10.0), (20.0, 20.0), (10.0, 20.0)]


@pytest.fixture(scope="module")
def golden(data) -> Path:
    return data / "qupath"


# classes


def test_classes_are_set_shared_and_derived(file):
    cells = [o for o in file.objects() if o.kind == "cell"][:30]
    before = snapshot(file)
    file.set_class(cells[:10], "Tumor", {})  # there already
    file.set_class(cells[10:20], "Tumor: CD3: CD8", {"Tumor: CD3": -1, "Tumor: CD3: CD8": -2})
    file.set_class(cells[20:], None, {})
    after, ids = reread(file), {o.id for o in cells}
    now = snapshot(after)
    for identity, said in before.items():
        if identity not in ids:
            assert now[identity] == said
        assert now[identity][:2] == said[:2]
        assert now[identity][3:] == said[3:]
    assert {after.get(o.id).class_name for o in cells[:10]} == {"Tumor"}
    assert {after.get(o.id).class_name for o in cells[10:20]} == {"Tumor: CD3: CD8"}
    assert {after.get(o.id).class_color for o in cells[10:20]} == {-2}
    assert {after.get(o.id).class_name for o in cells[20:]} == {None}
    nodes = {}
    for item in after.objects():
        node = item.path_class
        while node is not None:
            nodes.setdefault(id(node), node)
            node = node.get("parentClass")
    assert all(node.get("colorRGB") is not None for node in nodes.values())
    tumour = {id(o.path_class) for o in after.objects() if o.class_name == "Tumor"}
    derived = {
        id(o.path_class.get("parentClass").get("parentClass"))
        for o in after.objects()
        if o.class_name == "Tumor: CD3: CD8"
    }
    assert len(tumour) == 1
    assert derived == tumour


def test_a_new_base_class_gets_a_colour(small):
    """Trap: a base class without colour makes the whole image unreadable in QuPath."""
    cell = next(small.objects())
    small.set_class([cell], "New base: A: B", {})
    node = reread(small).get(cell.id).path_class
    colours = []
    while node is not None:
        colours.append(node.get("colorRGB").number("value"))
        node = node.get("parentClass")
    assert colours == [default_color("New base: A: B"), default_color("New base: A"), default_color("New base")]


def test_a_base_class_stored_without_colour_gets_one(small):
    owner = next(o for o in small.objects() if o.class_name == "Tumor")
    owner.path_class.put("colorRGB", None)
    assert owner.class_color is None
    other = next(o for o in small.objects() if o.class_name is None)
    small.set_class([other], "Tumor: CD3", {"Tumor": -77})
    assert reread(small).get(owner.id).class_color == -77


def test_the_base_of_a_known_class_gets_its_own_colour(small):
    derived = next(o for o in small.objects() if o.class_name == "Tumor: Positive")
    derived.path_class.get("parentClass").put("colorRGB", None)
    other = next(o for o in small.objects() if o.class_name is None)
    small.set_class([other], "Tumor: Positive", {"Tumor": -77, "Tumor: Positive": -88})
    after = reread(small)
    assert next(o for o in after.objects() if o.class_name == "Tumor").class_color == -77
    assert after.get(other.id).class_color == derived.class_color != -88


def test_the_colour_of_a_known_class_stays(small):
    owner = next(o for o in small.objects() if o.class_name == "Tumor")
    colour, other = owner.class_color, next(o for o in small.objects() if o.class_name is None)
    small.set_class([other], "Tumor", {"Tumor": -77})
    assert reread(small).get(other.id).class_color == colour


def test_the_same_class_again_changes_no_byte(small):
    raw = small.to_bytes()
    for item in list(small.objects()):
        small.set_class([item], item.class_name, {})
    assert small.to_bytes() == raw


@pytest.mark.parametrize("name", ["", "A: ", ": A", "A: : B", "A\nB", "A:B", "  "])
def test_bad_class_names_are_refused(small, name):
    raw = small.to_bytes()
    with pytest.raises(UsageError, match="no class name"):
        small.set_class(list(small.objects()), name, {})
    assert small.to_bytes() == raw


def test_default_colours_are_opaque_and_the_same_everywhere():
    assert default_color("Tumor") == default_color("Tumor") < 0
    assert default_color("é名𝄞") & 0x202020 == 0x202020


# objects


def new_cell(number: int, **more) -> NewPathObject:
    inner = [(x / 2 + 7, y / 2 + 7) for x, y in SQUARE]
    return NewPathObject(
        "cell", f"aaaaaaaa-0000-4000-8000-{number:012x}", NewROI.of_rings([SQUARE]), NewROI.of_rings([inner]), **more
    )


def test_objects_of_every_kind_are_added(file):
    before = snapshot(file)
    hole = [(12, 12), (18, 12), (18, 18), (12, 18), (12, 12)]
    ids = [f"bbbbbbbb-0000-4000-8000-{k:012d}" for k in range(6)]
    annotation = NewPathObject(
        "annotation", ids[0], NewROI.of_rings([SQUARE, hole], c=1), name="Region é 𝄞", color=-123, locked=True,
        class_name="New: Derived", class_colors={"New": -5}, metadata={"_mxbridge.key": "k", "ANNOTATION_DESCRIPTION": "d"},
        measurements={"Area": 64.0, "nothing": float("nan")},
        children=(NewPathObject("detection", ids[1], NewROI.ellipse(1, 2, 5, 4), class_name="Tumor"),),
    )  # fmt: skip
    added = [
        annotation,
        NewPathObject("tile", ids[2], NewROI.rectangle(0, 0, 64, 32)),
        new_cell(7),
        NewPathObject("cell", ids[3], NewROI.of_rings([SQUARE])),
    ]
    for spec in added:
        file.add_object(spec)
    inside = file.get(ids[0])
    file.add_object(NewPathObject("annotation", ids[4], NewROI.of_rings([SQUARE])), inside)
    after = reread(file)
    now = snapshot(after)
    for identity, said in before.items():
        if identity != file.root.id:
            assert now[identity] == said
    assert now[file.root.id][5][1] == (*before[file.root.id][5][1], *(s.id for s in added))
    region = after.get(ids[0])
    assert (region.kind, region.name, region.color, region.locked) == ("annotation", "Region é 𝄞", -123, True)
    assert (region.class_name, region.class_color) == ("New: Derived", default_color("New: Derived"))
    assert region.path_class.get("parentClass").get("colorRGB").number("value") == -5
    assert region.metadata == {"_mxbridge.key": "k", "ANNOTATION_DESCRIPTION": "d"}
    assert str(region.measurements) == "{'Area': 64.0, 'nothing': nan}"
    assert (region.roi.kind, region.roi.c, region.roi.area()) == ("geometry", 1, 64)
    assert [c.id for c in region.children] == [ids[1], ids[4]]
    assert after.get(ids[1]).parent is region
    assert after.get(ids[1]).roi.bounds == (1, 2, 5, 4)
    assert after.get(ids[2]).roi.bounds == (0, 0, 64, 32)
    cell = after.get(new_cell(7).id)
    assert cell.roi.points.tolist() == [list(p) for p in SQUARE]
    assert cell.nucleus.area() == 25
    assert after.get(ids[3]).nucleus is None


def test_corners_in_any_order_give_the_same_box(small):
    for k, roi in enumerate((NewROI.rectangle(5, 4, 1, 2), NewROI.ellipse(1, 4, 5, 2))):
        small.add_object(NewPathObject("tile", f"bbbbbbbb-0000-4000-8000-{k:012d}", roi))
        found = reread(small).get(f"bbbbbbbb-0000-4000-8000-{k:012d}").roi
        assert found.bounds == (1, 2, 5, 4)
        assert found.area() == pytest.approx((8, 2 * np.pi)[k])


def test_removed_objects_leave_everything_else_and_come_out_byte_for_byte(file):
    raw = file.to_bytes()
    made = [file.add_object(new_cell(k, measurements={"a": 1.0}, class_name="Quite new: x")) for k in range(5)]
    assert file.to_bytes() != raw
    file.remove_objects(made)
    assert file.to_bytes() == raw
    assert file.get(made[0].id) is None
    file.add_object(new_cell(0))  # its id is free again


def test_children_of_removed_objects_move_up_to_its_place(file):
    before = snapshot(file)
    outer = next(o for o in file.objects() if o.children and o.parent is file.root and o.kind == "annotation")
    inner = outer.children[0]
    assert inner.children
    file.remove_objects([outer])
    assert inner.parent is file.root
    after = reread(file)
    place = before[file.root.id][5][1].index(outer.id)
    assert [c.id for c in after.root.children][place] == inner.id
    assert after.get(inner.id).parent is after.root
    assert [c.id for c in after.get(inner.id).children] == [c.id for c in inner.children]
    after.remove_objects([after.get(inner.id)])
    last = reread(after)
    assert [c.id for c in last.root.children][place : place + 60] == [c.id for c in inner.children]
    assert len(list(last.objects())) == len(before) - 3


def test_nested_objects_can_go_together(file):
    outer = next(o for o in file.objects() if o.children and o.parent is file.root and o.kind == "annotation")
    inner = outer.children[0]
    left = {o.id for o in file.objects()} - {outer.id, inner.id}
    survivors = list(inner.children)
    file.remove_objects([outer, inner])
    assert {id(o.parent) for o in survivors} == {id(file.root)}
    assert all(any(o is c for c in o.parent.children) for o in file.objects())
    assert {o.id for o in reread(file).objects()} == left


def test_root_and_tma_cores_stay(golden):
    file = ImageDataFile.read(golden / "v0.6.0/data/1/data.qpdata")
    core = next(o for o in file.objects() if o.kind == "tma core")
    for item in (file.root, core):
        with pytest.raises(UsageError, match="cannot be taken out"):
            file.remove_objects([item])
    with pytest.raises(UsageError, match="root"):
        file.set_class([file.root], "Tumor", {})


def test_an_id_can_be_there_once(small):
    """Trap: a rerun makes the same ids; a duplicate is refused by id alone, and nothing is half done."""
    small.add_object(new_cell(1))
    raw = small.to_bytes()
    twin = NewPathObject(
        "annotation", "cccccccc-0000-4000-8000-000000000000", NewROI.of_rings([SQUARE]), children=(new_cell(1),)
    )
    for spec in (new_cell(1), twin):
        with pytest.raises(InputError, match="already"):
            small.add_object(spec)
        assert small.to_bytes() == raw


def test_bad_specifications_are_refused():
    roi = NewROI.of_rings([SQUARE])
    for wrong in (
        {"kind": "root"},
        {"kind": "detection", "nucleus": roi},
        {"id": "not-a-uuid"},
        {"metadata": {"Object ID": "x"}},
    ):
        with pytest.raises(UsageError):
            NewPathObject(**({"kind": "cell", "id": "aaaaaaaa-0000-4000-8000-000000000000", "roi": roi} | wrong))
    for rings in ([], [SQUARE[:2]], [[(0, 0), (1, 0), (float("nan"), 1)]], [[(0, 0), (1e9, 0), (1, 1)]]):
        with pytest.raises(InputError):
            NewROI.of_rings(rings)
    with pytest.raises(InputError):
        NewROI.rectangle(0, 0, float("inf"), 1)


def test_holes_that_touch_their_outline_stay_holes(small):
    outer = [(0, 0), (10, 0), (10, 10), (0, 10)]
    touching = [(0, 5), (5, 2), (5, 8)]  # one corner on the outline
    island = [(3, 4), (4.5, 4), (4.5, 6), (3, 6)]  # within the hole
    apart = [(20, 0), (30, 0), (30, 10)]
    roi = NewROI.of_rings([island, touching, apart, outer])
    small.add_object(NewPathObject("annotation", "dddddddd-0000-4000-8000-000000000000", roi))
    found = reread(small).get("dddddddd-0000-4000-8000-000000000000").roi
    assert sorted(len(polygon) for polygon in found.polygons) == [1, 1, 2]
    assert found.area() == pytest.approx(100 - 15 + 3 + 50)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(-(2**24), 2**24), st.integers(-(2**24), 2**24)), min_size=3, max_size=12, unique=True
    )
)
def test_whole_pixels_survive_in_a_polygon(minimal_bytes, ring):
    file = ImageDataFile(minimal_bytes, Path("minimal"))
    file.add_object(NewPathObject("detection", "eeeeeeee-0000-4000-8000-000000000000", NewROI.of_rings([ring])))
    found = reread(file).get("eeeeeeee-0000-4000-8000-000000000000").roi
    assert found.points.tolist() == [list(map(float, p)) for p in ring]


def test_objects_nest_a_hundred_levels_and_no_deeper(small):
    above = small.root
    for level in range(100):
        spec = NewPathObject("annotation", f"ffffffff-0000-4000-8000-{level:012d}", NewROI.of_rings([SQUARE]))
        above = small.add_object(spec, above)
    reread(small)
    raw = small.to_bytes()
    with pytest.raises(InputError, match="deeper than 100"):
        small.add_object(new_cell(1), above)
    assert small.to_bytes() == raw


# verification


def test_verify_refuses_what_is_not_this_tree(small):
    """Trap: a broken file looks like an empty image to QuPath and is overwritten at its next save."""
    raw = small.to_bytes()
    small.verify(raw)
    for wrong in (b"", raw[:-1], raw[: len(raw) // 2], raw + b"\x70"):
        with pytest.raises(OutputError, match="cannot be read again"):
            small.verify(wrong)
    cells = list(small.objects())
    small.set_measurements(cells[:1], {"x": np.ones(1, np.float32)})
    with pytest.raises(OutputError, match="not what was meant"):
        small.verify(raw)
    flipped = bytearray(small.to_bytes())
    flipped[flipped.rindex(struct.pack(">f", 1.0))] ^= 1
    with pytest.raises(OutputError):
        small.verify(bytes(flipped))


def test_objects_without_ids_are_read_only(minimal_bytes):
    stream = read_stream(minimal_bytes)
    raw = write_stream(stream.items).replace(b"Object ID", b"Object Id")
    file = ImageDataFile(raw, Path("old"))
    assert not file.writable
    assert "28 of its objects have no id: open and save once in QuPath 0.4 or later" in file.why_not_writable
    with pytest.raises(Unsupported, match=r"no id.*Open and save once"):
        file.set_measurements(list(file.objects()), columns(28, 1))
    assert file.to_bytes() == raw


def test_repeated_ids_are_read_only(small):
    first, second = [o.id for o in small.objects() if o.kind == "cell"][:2]
    raw = small.to_bytes().replace(second.encode(), first.encode())
    file = ImageDataFile(raw, Path("twins"))
    assert not file.writable
    assert "1 of its objects have the id of another" in file.why_not_writable
    assert file.to_bytes() == raw
