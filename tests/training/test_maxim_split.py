"""Nothing that is held back is learned from: cases stay together, regions stay apart, and who mixes them is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import BrokenFile, InputError, SourceError, UnknownName, UsageError
from mxbridge.training.maxim.images import gather_images
from mxbridge.training.maxim.recipe import HoldBack, prepare
from mxbridge.training.maxim.split import (
    CaseRow,
    read_cases,
    split_cases,
    split_regions,
    take_fraction,
    with_cases,
)
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.toy_maxim_training import MARKERS, images, pixels, tiny

SHAPES = [(64, 80)] * 3


def table(*rows: tuple[str, ...]) -> tuple[CaseRow, ...]:
    return tuple(CaseRow(*row, "") if len(row) == 2 else CaseRow(*row) for row in rows)


def test_each_image_is_its_own_case():
    split = split_cases(with_cases(images(10)), [(64, 80)] * 10, (), seed=1)
    assert split.kind == "cases" and len(split.validation) == 2 and len(split.training) == 8
    assert not {r.image for r in split.training} & {r.image for r in split.validation}
    assert {r["use"] for r in split.rows} == {"training", "validation"}
    held = [split.rows[r.image]["case"] for r in split.validation]
    assert all(case in split.line for case in held)


def test_the_choice_is_the_seeds():
    def chosen(seed):
        return [r.image for r in split_cases(with_cases(images(10)), [(64, 80)] * 10, (), seed).validation]

    assert chosen(1) == chosen(1) and len({tuple(chosen(s)) for s in range(8)}) > 1


def test_named_cases_are_held_back_with_all_their_images():
    cased = with_cases(images(3), table(("slide0", "a"), ("slide1", "b"), ("slide2", "a")))
    split = split_cases(cased, SHAPES, ("A",), 1)
    assert [r.image for r in split.validation] == [0, 2] and [r.image for r in split.training] == [1]
    with pytest.raises(UnknownName, match="no case 'c'"):
        split_cases(cased, SHAPES, ("c",), 1)
    with pytest.raises(UsageError, match="all cases would be held back"):
        split_cases(cased, SHAPES, ("a", "b"), 1)


@pytest.mark.parametrize("second", ["p 1 ", "P 1", "p  1", "P\u00a01", "\uff30 1"])  # the last: full-width letters
def test_a_case_in_two_spellings_is_one(tmp_path: Path, second):
    file = tmp_path / "cases.csv"
    file.write_text(f"image,case,split\nslide0,P 1,valid\nslide1,{second},train\nslide2,p2,train\n", encoding="utf-8")
    rows = read_cases(file)
    assert [row.case for row in rows] == ["P 1", "P 1", "p2"]
    with pytest.raises(UsageError, match="case P 1 is on both sides"):
        split_cases(with_cases(images(3), rows), SHAPES, (), 1)
    bare = table(("slide0", "P 1"), ("slide1", second.strip()), ("slide2", "p2"))
    split = split_cases(with_cases(images(3), bare), SHAPES, (second,), 1)
    assert [r.image for r in split.validation] == [0, 1] and [r.image for r in split.training] == [2]
    other = with_cases(images(3), table(("slide0", "1 1"), ("slide1", "11"), ("slide2", "p2")))
    assert [i.case for i in other] == ["1 1", "11", "p2"]


def test_the_line_says_when_every_image_is_taken_for_a_case():
    split = split_cases(with_cases(images(3)), SHAPES, (), 1)
    assert split.line.startswith("by case (every image taken for one): ")
    cased = with_cases(images(3), table(("slide0", "a"), ("slide1", "b"), ("slide2", "a")))
    assert split_cases(cased, SHAPES, ("a",), 1).line.startswith("by case: ")


@pytest.mark.parametrize("second", ["train", "test", ""])
def test_a_case_on_both_sides_is_refused(second):
    rows = table(("slide0", "p1", "valid"), ("slide1", "p1", second), ("slide2", "p2", "train"))
    with pytest.raises(UsageError, match="case p1 is on both sides"):
        split_cases(with_cases(images(3), rows), SHAPES, (), 1)


def test_the_table_decides_and_test_images_are_for_nothing():
    rows = table(("slide0", "a", "valid"), ("slide1", "b", "test"), ("slide2", "c", ""))
    split = split_cases(with_cases(images(3), rows), SHAPES, (), 1)
    assert [r.image for r in split.validation] == [0] and [r.image for r in split.training] == [2]
    assert [r["use"] for r in split.rows] == ["validation", "left out", "training"]
    with pytest.raises(UsageError, match="disagree about a"):
        split_cases(with_cases(images(3), rows), SHAPES, ("c",), 1)
    region = split_regions(with_cases(images(3), rows), SHAPES, 0.3, 0)
    assert {r.image for r in region.training} == {0, 2}


def test_one_case_says_what_to_do():
    with pytest.raises(UsageError, match="--validation-region"):
        split_cases(with_cases(images(1)), SHAPES[:1], (), 1)
    one = with_cases(images(2), table(("slide0", "a"), ("slide1", "a")))
    with pytest.raises(UsageError, match="1 case is too few"):
        split_cases(one, SHAPES[:2], (), 1)


@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(st.tuples(st.integers(40, 300), st.integers(20, 60)), min_size=1, max_size=3),
    share=st.floats(0.05, 0.5),
    guard=st.integers(0, 40),
)
def test_regions_are_apart(shapes, share, guard):
    cased = with_cases(images(len(shapes)))
    try:
        split = split_regions(cased, shapes, share, guard)
    except InputError:
        assert any(h - max(16, round(share * h)) - guard < 16 for h, _ in shapes)
        return
    for (height, width), a, b in zip(shapes, split.training, split.validation, strict=True):
        assert a.image == b.image and a.box.y0 == 0 and b.box.y1 == height and a.box.x1 == b.box.x1 == width
        assert b.box.y0 - a.box.y1 == guard and a.box.y1 > 0
    assert "held back" in split.line and f"{guard} rows" in split.line


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_regions_that_are_none(share):
    with pytest.raises(UsageError, match="between 0 and 1"):
        split_regions(with_cases(images(1)), SHAPES[:1], share, 0)


def test_smaller_fractions_lie_within_larger_ones():
    split = split_cases(with_cases(images(12)), [(64, 80)] * 12, (), 1)
    parts = [{r.image for r in take_fraction(split, f, 5).training} for f in (0.2, 0.5, 1.0)]
    assert parts[0] < parts[1] < parts[2] and len(parts[0]) == 2
    assert take_fraction(split, 0.2, 5).validation == split.validation
    assert "--fraction 0.2: 2 of 10" in take_fraction(split, 0.2, 5).line
    one = split_regions(with_cases(images(1)), SHAPES[:1], 0.3, 0)
    (part,) = take_fraction(one, 0.5, 5).training
    assert part.pixels * 2 == one.training[0].pixels and part.box.clip(one.training[0].box[2:]) == part.box


def test_cases_are_matched_by_path_name_and_file():
    rows = table(("slide0", "a"), ("slide1", "b"), ("slide2", "c"), ("slide9", "d"))
    assert [i.case for i in with_cases(images(3), rows)] == ["a", "b", "c"]
    renamed = [replace(i, id=f"/far/away/{i.id}.tif") for i in images(3)]
    assert [
        i.case for i in with_cases(renamed, table(("slide0.tif", "a"), ("slide1", "b"), ("/far/away/slide2.tif", "c")))
    ] == ["a", "b", "c"]
    with pytest.raises(UsageError, match="no row for slide2"):
        with_cases(images(3), rows[:2])
    with pytest.raises(UsageError, match="several rows for slide0"):
        with_cases(images(3), (*rows, CaseRow("slide0", "e", "")))


def test_tables_of_cases(tmp_path: Path):
    file = tmp_path / "cases.csv"
    file.write_text("Image , CASE,split\na,p1,Training\nb,p2,val\nc,p3,\n", encoding="utf-8-sig")
    assert read_cases(file) == (CaseRow("a", "p1", "train"), CaseRow("b", "p2", "valid"), CaseRow("c", "p3", ""))
    for text, says in (
        ("image,patient\na,b\n", "no columns 'image' and 'case'"),
        ("image,case,split\na,b,perhaps\n", "line 2: split 'perhaps'"),
        ("image,case\na,\n", "line 2: the image or its case is empty"),
        ("", "no columns"),
    ):
        file.write_text(text)
        with pytest.raises(BrokenFile, match=says):
            read_cases(file)
    file.write_bytes(b"image,case\n\xff\xfe,b\n")
    with pytest.raises(BrokenFile, match="UTF-8"):
        read_cases(file)
    with pytest.raises(SourceError, match="no table of cases"):
        read_cases(tmp_path / "nowhere.csv")


def test_copies_under_another_name_are_no_case_of_their_own():
    """A file copied gets another time of change, so that nothing but its pixels tells."""
    stacks = [pixels(0), pixels(1), pixels(0), np.zeros_like(pixels(0))]
    places = [MemoryWorkspace({f"slide{k}": (s, MARKERS, 0.5)}) for k, s in enumerate(stacks)]
    both, given = [image for place in places for image in gather_images([place])], tiny()
    with pytest.raises(UsageError, match="slide2, which is held back, shows the same pixels as slide0"):
        prepare(both, given, HoldBack(cases=("slide2",)))
    prepare(both, given, HoldBack(cases=("slide3",)))
    prepare(both, given, HoldBack(region=0.3))
    together = table(("slide0", "a"), ("slide1", "b"), ("slide2", "a"), ("slide3", "c"))
    prepare(both, given, HoldBack(cases=("a",), table=together))


@settings(deadline=None, max_examples=12)
@given(poison=st.integers(1_000, 60_000), by_region=st.booleans(), seed=st.integers(0, 5))
def test_held_back_pixels_change_nothing(poison, by_region, seed):
    """Scaling, linear start and patches are the same whatever the held-back pixels are."""

    def prepared(spoiled: bool):
        stacks = [pixels(k) for k in range(3)]
        if spoiled:
            for k, stack in enumerate(stacks):
                if by_region:
                    stack[:, 64 - 19 :] = poison
                elif k == 1:
                    stack[:] = poison
        place = MemoryWorkspace({f"slide{k}": (s, MARKERS, 0.5) for k, s in enumerate(stacks)})
        back = HoldBack(region=0.3) if by_region else HoldBack(cases=("slide1",))
        return prepare(gather_images([place]), tiny(seed=seed), back)

    clean, spoiled = prepared(False), prepared(True)
    assert clean.scalings == spoiled.scalings
    assert clean.start is not None and spoiled.start is not None
    assert np.array_equal(clean.start.covariance, spoiled.start.covariance)
    for step in range(3):
        for a, b in zip(clean.patches()(step), spoiled.patches()(step), strict=True):
            assert np.array_equal(a.numpy(), b.numpy())
    region = clean.split.validation[0]
    assert not np.array_equal(clean.store.read(*region), spoiled.store.read(*region))
