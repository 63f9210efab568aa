"""Hostile and damaged files: an error of ours, soon, and never a wrong tree."""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import BrokenFile, InputError, MxbridgeError, Unsupported
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
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, NewPathObject, NewROI, new_image_data
from mxbridge.workspaces.qupath.qpdata import descriptors as d
from mxbridge.workspaces.qupath.qpdata.wkb import read_wkb, write_wkb

SQUARE = [(10.0, 10.0), (20.0, 10.0), (20.0, 20.0), (10.0, 20.0)]


@pytest.fixture(scope="module")
def minimal(data) -> bytes:
    return (data / "qupath" / "broken" / "ok-minimal.qpdata").read_bytes()


def parsed(data: bytes) -> ImageDataFile:
    return ImageDataFile(data, Path("hostile.qpdata"))


def looked_at(data: bytes) -> None:
    """Read a file and everything in it; only errors of ours may come."""
    started = time.process_time()
    try:
        file = parsed(data)
    except InputError:
        file = None
    if file is not None:
        assert file.to_bytes() == data
        file.counts()
        for item in file.objects():
            for ask in ("measurements", "metadata", "class_name", "class_color", "color", "locked", "missing", "id"):
                with suppress(MxbridgeError):
                    getattr(item, ask)
            for roi in (item.roi, item.nucleus):
                with suppress(MxbridgeError):
                    _ = roi and (roi.c, roi.bounds, roi.area(), roi.rings)
    assert time.process_time() - started < 1


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_bytes_give_our_errors_only(minimal, data):
    raw = bytearray(minimal)
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    looked_at(bytes(raw))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_moved_and_missing_bytes_give_our_errors_only(minimal, data):
    first, second = sorted(data.draw(st.tuples(st.integers(0, len(minimal)), st.integers(0, len(minimal)))))
    looked_at(minimal[:first] + minimal[second:])
    looked_at(minimal[:second] + minimal[first:])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 13410))
def test_a_cut_file_is_never_accepted(minimal, length):
    with pytest.raises((BrokenFile, Unsupported)):
        parsed(minimal[:length])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_exchanged_back_references_give_our_errors_only(minimal, data):
    at = [i for i in range(len(minimal) - 5) if minimal[i] == 0x71 and minimal[i + 1 : i + 3] == b"\0\x7e"]
    raw = bytearray(minimal)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from(at))
        raw[place + 3 : place + 5] = struct.pack(">H", data.draw(st.integers(0, 900)))
    looked_at(bytes(raw))


def edited(minimal: bytes, change) -> bytes:
    """The good file with one change to its tree, made on the nodes."""
    items = read_stream(minimal).items
    hierarchy = next(i for i in items if isinstance(i, JavaObject) and i.name == d.HIERARCHY)
    change(items, hierarchy.get("rootObject"))
    return write_stream(items)


def children(root: JavaObject) -> list[JavaObject]:
    return [i for i in root.annotations if isinstance(i, JavaObject) and i.name in (d.CELL, d.ANNOTATION, d.DETECTION)]


def refused(data: bytes, words: str) -> None:
    with pytest.raises((BrokenFile, Unsupported), match=words):
        parsed(data)


def test_there_is_exactly_one_hierarchy(minimal):
    refused(edited(minimal, lambda items, _: items.remove(_hierarchy(items))), "no hierarchy")
    refused(edited(minimal, lambda items, _: items.insert(2, _hierarchy(items))), "more than one hierarchy")


def _hierarchy(items):
    return next(i for i in items if isinstance(i, JavaObject) and i.name == d.HIERARCHY)


def test_the_end_mark_is_the_last_item(minimal):
    refused(edited(minimal, lambda items, _: items.append(None)), "end mark")
    refused(edited(minimal, lambda items, _: items.append(JavaString.of("EOF"))), "follows the end mark")
    refused(edited(minimal, lambda items, _: items.pop()), "end mark is missing")


@pytest.mark.parametrize("version", ["1", "4", "9", "33", "", "three", "-3"])
def test_other_data_versions_are_refused(minimal, version):
    text = f"Data file version {version}".encode()
    header = Block(struct.pack(">H", len(text)) + text)
    refused(edited(minimal, lambda items, _: items.__setitem__(0, header)), "is not one that mxbridge knows")


def test_another_header_is_refused(minimal):
    for data in (b"", b"\0\x05Other", b"\0\xffData file version 3", b"\0\x13Data file version 3 "):
        refused(edited(minimal, lambda items, _, data=data: items.__setitem__(0, Block(data))), "not one of QuPath")


def test_an_object_appears_once_in_the_tree(minimal):
    def twice(items, root):
        cells = [k for k, i in enumerate(root.annotations) if isinstance(i, JavaObject) and i.name == d.CELL]
        root.annotations[cells[0]] = root.annotations[cells[1]]

    refused(edited(minimal, twice), "appears twice")


def test_an_object_is_not_its_own_descendant(minimal):
    def loop(items, root):
        first = children(root)[0]
        count = next(k for k, i in enumerate(first.annotations) if isinstance(i, Block))
        old = struct.unpack(">i", first.annotations[count].data)[0]
        first.annotations[count] = Block(struct.pack(">i", old + 1))
        first.annotations.insert(count + 1, first)

    refused(edited(minimal, loop), "appears twice")


def test_objects_deeper_than_a_hundred_levels_are_refused():
    def deep(levels):
        """Written by hand, because the library does not make such a tree."""
        file = new_image_data({}, "0.6.0", "OTHER", [_annotation(0)])
        item = file.root.children[0]
        for level in range(1, levels):
            child = type(item)(
                _annotation(level).node(file._maker, file._lists, file._path_classes), item, file._shared
            )
            item.append_child(child)
            item = child
        return file.to_bytes()

    assert len(list(parsed(deep(100)).objects())) == 100
    refused(deep(101), "deeper than 100")
    refused(deep(250), "deeper than")


def _annotation(level: int) -> NewPathObject:
    return NewPathObject("annotation", f"00000000-0000-4000-8000-{level:012d}", NewROI.of_rings([SQUARE]))


@pytest.mark.parametrize("count", [-1, -(2**31), 2**31 - 1, 1000])
def test_numbers_of_children_must_be_true(minimal, count):
    def lie(items, root):
        at = next(k for k, i in enumerate(root.annotations) if isinstance(i, Block))
        root.annotations[at] = Block(struct.pack(">i", count))

    refused(edited(minimal, lie), "children")


def test_a_newer_object_layout_is_refused(minimal):
    """Version 4 would store a UUID as the third item of an object; no released QuPath writes it."""

    def newer(items, root):
        cell = children(root)[0]
        uuid = type(cell.desc)("java.util.UUID", 1, 0x02)
        uuid.complete((), [], None)
        cell.annotations.insert(2, JavaObject(uuid, []))

    refused(edited(minimal, newer), "newer than any released QuPath")


def share(root: JavaObject, position: int, times: int) -> None:
    """Give the first cells of a file one of their items in common."""
    cells = [i for i in children(root) if i.name == d.CELL]
    for cell in cells[:times]:
        cell.annotations[position] = cells[0].annotations[position]


def test_metadata_belong_to_one_object(minimal):
    """Shared ones could make a small file a huge one; QuPath never shares them."""
    refused(edited(minimal, lambda _, root: share(root, 2, 2)), "share their metadata")


def test_outlines_may_be_shared_but_not_without_end(minimal):
    def change(points, times):
        def inner(items, root):
            roi = next(i for i in children(root) if i.name == d.CELL).annotations[-3]
            for axis in "xy":
                roi.put(axis, JavaArray(roi.get(axis).desc, b"\0" * 4 * points))
            share(root, -3, times)

        return inner

    assert len(list(parsed(edited(minimal, change(5, 20))).objects())) == 28
    refused(edited(minimal, change(100_000, 20)), "share more outlines")


def test_measurements_may_be_shared_but_not_without_end(minimal):
    """Scripts make one object with the measurement list of another; editing one leaves the other alone."""
    file = parsed(edited(minimal, lambda _, root: share(root, 3, 20)))
    first, second = [o for o in file.objects() if o.kind == "cell"][:2]
    before = str(second.measurements)
    file.set_measurements([first], {"x": np.ones(1, np.float32)})
    again = parsed(file.to_bytes())
    assert again.get(first.id).measurements["x"] == 1
    assert str(again.get(second.id).measurements) == before

    def many(items, root):
        node = next(i for i in children(root) if i.name == d.CELL).annotations[3]
        count, text = 50_000, JavaString.of("x")
        names = JavaObject(_array_list(), [])
        names.parts.append(
            Part(names.desc, [struct.pack(">i", count)], [Block(struct.pack(">i", count)), *[text] * count])
        )
        node.put("names", names)
        node.put("values", JavaArray(node.get("values").desc, b"\0" * 4 * count))
        share(root, 3, 20)

    refused(edited(minimal, many), "share more outlines or measurements")


def _array_list() -> ClassDesc:
    desc = ClassDesc("java.util.ArrayList", 8683452581122892189, 0x03)
    desc.complete((Field("I", "size"),), [], None)
    return desc


def test_a_class_derived_from_itself_is_refused(minimal):
    def loop(items, root):
        node = next(i.annotations[-4] for i in children(root) if i.name == d.CELL and i.annotations[-4] is not None)
        node.put("parentClass", node)

    refused(edited(minimal, loop), "derived from itself")


def test_endless_class_names_are_refused(minimal):
    def long_name(items, root):
        node = next(i.annotations[-4] for i in children(root) if i.name == d.CELL and i.annotations[-4] is not None)
        node.put("name", JavaString.of("x" * 3000))

    refused(edited(minimal, long_name), "name is far too long")


def test_lists_and_maps_must_hold_what_they_say(minimal):
    def lie(items, root):
        cell = next(i for i in children(root) if i.name == d.CELL)
        names = cell.annotations[3].get("names")
        while not names.parts[-1].annotations:
            names = names.get("list")
        names.annotations[0] = Block(struct.pack(">i", 99))

    refused(edited(minimal, lie), "list of 99 items")


def test_a_deep_json_description_is_refused(minimal):
    text = JavaString.of('{"server":' * 50_000)
    refused(edited(minimal, lambda items, _: items.__setitem__(1, text)), "not JSON")
    refused(edited(minimal, lambda items, _: items.__setitem__(1, JavaString.of("{broken"))), "not JSON")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2e8])
def test_coordinates_that_are_no_pixels_are_refused_for_use(minimal, value):
    def put(items, root):
        cell = next(i for i in children(root) if i.name == d.CELL)
        x = cell.annotations[-3].get("x")
        cell.annotations[-3].put("x", JavaArray(x.desc, struct.pack(">f", value) + x.values[4:]))

    raw = edited(minimal, put)
    file = parsed(raw)
    assert file.to_bytes() == raw
    cell = next(o for o in file.objects() if o.kind == "cell")
    for ask in (lambda: cell.roi.rings, lambda: cell.roi.bounds, lambda: cell.roi.area()):
        with pytest.raises(InputError, match="not pixels"):
            ask()
    assert cell.nucleus is None or cell.nucleus.rings


def test_an_unknown_outline_is_kept_and_refused_by_name(minimal):
    def rename(items, root):
        cell = next(i for i in children(root) if i.name == d.CELL)
        desc = cell.annotations[-3].desc
        legacy = type(desc)("qupath.lib.roi.AreaROI$SerializationProxy", 1, 0x02)
        legacy.complete((), [], None)
        cell.annotations[-3] = JavaObject(legacy, [])

    raw = edited(minimal, rename)
    file = parsed(raw)
    assert file.to_bytes() == raw
    cell = next(o for o in file.objects() if o.kind == "cell")
    assert "AreaROI" in cell.roi.kind
    with pytest.raises(Unsupported, match="AreaROI"):
        _ = cell.roi.rings
    with pytest.raises(Unsupported, match="AreaROI"):
        _ = cell.roi.z


def test_a_class_in_an_unknown_layout_is_read_and_not_written(minimal):
    def other(items, root):
        for cell in children(root):
            node = cell.annotations[-4] if cell.name == d.CELL else None
            if node is not None:
                node.desc.flags = 0x12
                return

    raw = edited(minimal, other)
    file = parsed(raw)
    assert {"Tumor", None} <= {o.class_name for o in file.objects()}
    file.set_class(list(file.objects()), "Tumor", {})  # one that is there needs no new description
    with pytest.raises(Unsupported, match="layout"):
        file.set_class(list(file.objects()), "Brand new", {})


def test_wrong_kinds_of_values_give_our_errors(minimal):
    """Values of a right class in the wrong place."""

    def put(position, make):
        def change(items, root):
            cell = next(i for i in children(root) if i.name == d.CELL)
            cell.annotations[position] = make(cell)

        return change

    double = ClassDesc("java.lang.Double", 1, 0x02)
    double.complete((Field("D", "value"),), [], None)
    nan = JavaObject(double, [Part(double, [struct.pack(">d", float("nan"))], None)])
    empty_map = ClassDesc("java.util.HashMap", 1, 0x00)
    empty_map.complete((), [], None)
    refused(edited(minimal, put(0, lambda cell: nan)), "where a text")
    refused(edited(minimal, put(1, lambda cell: nan)), "where a whole number")
    refused(edited(minimal, put(2, lambda cell: None)), "children|layout|where")
    refused(edited(minimal, put(3, lambda cell: cell.annotations[2].annotations[1])), "where a measurement list")
    refused(edited(minimal, put(5, lambda cell: nan)), "layout")
    refused(edited(minimal, put(-4, lambda cell: nan)), "where a class")
    refused(edited(minimal, put(-2, lambda cell: Block(b"1234567"))), "layout")
    refused(edited(minimal, lambda items, _: items.insert(2, JavaObject(empty_map, []))), "map without a size")


# geometries


def test_wkb_round_trip_and_byte_orders():
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]], float)
    hole = square / 2 + 1
    found = read_wkb(write_wkb([[square, hole], [square + 10]]))
    assert [[r.tolist() for r in p] for p in found.polygons] == [
        [square.tolist(), hole.tolist()],
        [(square + 10).tolist()],
    ]
    little = b"\1" + struct.pack("<II", 3, 1) + struct.pack("<I", 5) + square.astype("<f8").tobytes()
    assert read_wkb(little).polygons[0][0].tolist() == square.tolist()
    mixed = b"\0" + struct.pack(">II", 7, 3) + b"\1" + struct.pack("<I2d", 1, 5, 6)
    mixed += b"\0" + struct.pack(">II4d", 2, 2, 0, 0, 1, 1) + little
    found = read_wkb(mixed)
    assert (len(found.points), len(found.lines), len(found.polygons)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends too early"),
        (b"\2\0\0\0\1", "byte order"),
        (b"\0" + struct.pack(">I", 8), "unknown type"),
        (b"\0" + struct.pack(">I", 0x80000003), "unknown type"),
        (b"\0" + struct.pack(">II", 3, 2**32 - 1), "cannot hold"),
        (b"\0" + struct.pack(">II", 2, 3) + b"\0" * 16, "cannot hold"),
        (b"\0" + struct.pack(">I2d", 1, 0, 0) + b"x", "behind it"),
        (b"\0\0\0\0\7\0\0\0\1" * 20 + b"\0" * 40, "nested deeper"),
    ],
)
def test_bad_wkb_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        read_wkb(data)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_as_wkb(data):
    with suppress(ValueError):
        read_wkb(data)
