"""Very many objects at once must come out as the same objects put in one by one."""

from __future__ import annotations

import math
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.cells import Rings
from mxbridge.errors import InputError
from mxbridge.workspaces.qupath.geometry_hash import geometry_hashes
from mxbridge.workspaces.qupath.qpdata import ImageDataFile, ManyObjects, new_image_data
from mxbridge.workspaces.qupath.qpdata.image_data import FEW_OBJECTS

from .qpdata_snapshots import described
from .scenes import golden

SQUARE, TRIANGLE = np.array([(-9, -9), (9, -9), (9, 9), (-9, 9)]), np.array([(0, 0), (1, 0), (0, 1.25)])
CLASSES = ("Tumor: Positive", "Tumor: Negative", "Negative", None)


def outlines(n: int, seed: int = 0) -> list[list[np.ndarray]]:
    """Rings of 3 to 40 corners, each 20th with a hole, each 33rd of two parts, some closed, some with repeated corners."""
    numbers = np.random.default_rng(seed)
    found = []
    for k in range(n):
        angles = np.sort(numbers.random(int(numbers.integers(3, 41)))) * 2 * math.pi
        ring = np.round(np.column_stack([np.cos(angles), np.sin(angles)]) * 32) / 4 + (
            k % 30 * 20 + 10,
            k // 30 * 20 + 10,
        )
        rings = [np.vstack([ring, ring[:1]]) if k % 7 == 0 else ring]
        centre = ring.mean(axis=0)
        if k % 20 == 3:
            rings = [centre + SQUARE, centre + TRIANGLE]
        if k % 33 == 5:
            rings.append(centre + TRIANGLE + (15, 0))
        found.append(rings)
    return found


def many(n: int, kind: str = "detection", first: int = 1, **more) -> ManyObjects:
    numbers = np.random.default_rng(first)
    rings = outlines(n)
    values = numbers.random((2, n)).astype(np.float32)
    values[1, ::9] = np.nan
    told = {
        "kind": kind,
        "ids": [str(uuid.UUID(int=first + k)) for k in range(n)],
        "outlines": Rings.of(rings),
        "nuclei": Rings.of([r[:1] if k % 3 else [] for k, r in enumerate(rings)]) if kind == "cell" else None,
        "class_names": [CLASSES[k % 5 % 4] for k in range(n)],
        "class_colors": {"Tumor": -1, "Negative": -7},
        "metadata": {"_a": "shared", "_b": [f"{k} é" if k % 50 == 1 else f"{k}" for k in range(n)]},
        "measurements": {"area µ": values[0], "b": values[1]},
    }
    return ManyObjects(**{**told, **more})


def some_file() -> ImageDataFile:
    return new_image_data({"metadata": {}}, "0.6.0", "BRIGHTFIELD_H_DAB")


def all_of(file: ImageDataFile) -> list:
    return [described(item) for item in file.objects()]


@pytest.mark.parametrize("kind", ["detection", "cell", "tile"])
@pytest.mark.parametrize(
    "more", [{}, {"measurements": {}}, {"class_names": [None] * 200}], ids=["all", "bare", "unclassed"]
)
def test_the_same_as_one_by_one(kind, more):
    at_once, one_by_one = some_file(), some_file()
    objects = many(200, kind, **more)
    at_once.add_objects(objects)
    for k in range(len(objects)):
        one_by_one.add_object(objects.spec(k))
    assert all_of(at_once) == all_of(one_by_one)
    again = ImageDataFile(at_once.to_bytes(), Path("again"))
    assert len(again._packed.pack) > 150  # kept as bytes, or a slide's nuclei would fill the memory
    assert all_of(again) == all_of(one_by_one)
    assert [o.class_color for o in again.objects()] == [o.class_color for o in one_by_one.objects()]
    nodes = ImageDataFile(at_once.to_bytes(), Path("nodes"), packed=False)
    assert all_of(nodes) == all_of(one_by_one)


def test_few_and_many_into_a_file_of_qupath_and_out_again(data, tmp_path, version):
    path = golden(tmp_path, data, version) / "data/2/data.qpdata"
    before = all_of(ImageDataFile.read(path))
    raw = ImageDataFile.read(path).to_bytes()
    file = ImageDataFile.read(path)
    for number, n in enumerate((FEW_OBJECTS, FEW_OBJECTS + 40)):
        file.add_objects(many(n, "cell", first=1 + 1000 * number))
        file.verify(file.to_bytes())
    found = all_of(file)
    assert found[: len(before)] == before
    table = file.table
    ours = table.all()[table.having(table.all(), "_a")]
    assert len(ours) == 2 * FEW_OBJECTS + 40
    assert table.metadata(ours, "_a") == ["shared"] * len(ours)
    assert table.metadata(ours, "_b")[:2] == ["0", "1 é"]
    assert table.metadata(ours, "_c") == [None] * len(ours)
    assert set(table.names(ours)) == {None}
    file.remove_rows(ours)
    assert all_of(file) == before
    assert file.to_bytes() == raw


@settings(deadline=None, max_examples=12)
@given(st.sets(st.integers(0, 267)), st.sampled_from(["all", "none"]))
def test_rows_taken_out_are_those_that_nodes_would_lose(gone, rest):
    file = some_file()
    file.add_objects(many(200))
    file.add_objects(many(68, "cell", first=5000))
    rows = np.array(sorted(gone) if rest == "none" else range(200), np.int64)
    file.table.set_columns(np.arange(100, 268), {"new": np.arange(168.0)})
    nodes = ImageDataFile(file.to_bytes(), Path("nodes"), packed=False)
    nodes.remove_objects([list(nodes.objects())[row] for row in rows])
    file.remove_rows(rows)
    assert all_of(file) == all_of(nodes)
    file.verify(file.to_bytes())


def test_what_cannot_be_put_in_leaves_the_file_as_it_was():
    file = some_file()
    file.add_objects(many(100))
    before = file.to_bytes()
    wrong = outlines(100)
    wrong[50] = [np.array([(0.0, 0.0), (1.0, 1.0), (0.0, 0.0)])]
    for more in (
        {},
        {"first": 100},
        {"first": 900, "ids": [str(uuid.UUID(int=900))] * 100},
        {"first": 900, "outlines": Rings.of(wrong)},
    ):
        with pytest.raises(InputError):
            file.add_objects(many(100, **more))
        assert file.to_bytes() == before


def test_a_hash_knows_a_ring_however_it_is_written():
    ring = np.array([(3.0, 1.0), (0.0, 0.5), (4.0, 4.0), (0.0, 7.0)])
    hole = ring / 4 + 1
    written = [
        [ring, hole], [hole, ring], [ring[::-1], hole], [np.roll(ring, 2, axis=0), hole], [np.vstack([ring, ring[:1]]), hole],
        [np.repeat(ring, 2, axis=0), np.vstack([hole, hole[:1], hole[:1]])], [ring * (1 + 1e-9), hole], [ring, hole - 0.0],
    ]  # fmt: skip
    assert len(set(geometry_hashes(Rings.of(written)))) == 1
    others = [
        [ring],
        [hole],
        [],
        [ring[[0, 2, 1, 3]], hole],
        [ring + 0.25, hole],
        [ring, hole, hole],
        [np.zeros((0, 2)), ring],
    ]
    found = geometry_hashes(Rings.of([written[0], *others]))
    assert len(set(found)) == len(found)
    nuclei = Rings.of([[ring], [], [hole]])
    with_nuclei = geometry_hashes(Rings.of([[ring, hole]] * 3), nuclei)
    assert len({*with_nuclei, found[0]}) == 3  # an empty nucleus is none
