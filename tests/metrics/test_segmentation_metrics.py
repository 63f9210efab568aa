"""Segmentation against truth: small cases counted by hand, and the published program's figures on its own samples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from mxbridge.metrics.segmentation import (
    METRICS,
    classes_of_picture,
    classes_of_raw,
    compare_class,
    compare_objects,
    components,
    is_class_image,
)
from mxbridge.nuclei.find import find_nuclei
from mxbridge.nuclei.judge import judge
from mxbridge.nuclei.pictures import pictures
from mxbridge.nuclei.source import ArraySource
from mxbridge.nuclei.thresholds import AUTO_SIZE, Thresholds


def mask(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def test_pixels_of_a_class_counted_by_hand() -> None:
    truth = mask("##..", "##..", "....")
    predicted = mask(".##.", ".##.", "....")
    found = compare_class(truth, predicted)
    assert found["pixel_accuracy"] == pytest.approx((2 + 6) / 12)
    assert found["iou"] == found["pixel_accuracy_paper"] == pytest.approx(2 / 6)
    assert found["dice"] == found["f1"] == pytest.approx(4 / 8)
    assert found["precision"] == found["recall"] == pytest.approx(2 / 4)
    assert list(found) == list(METRICS)


def test_objects_counted_by_hand() -> None:
    truth = mask("###...##", "........", "##....##")
    predicted = mask("##.....#", ".......#", ".....###")
    # truth: 1 = ###, 2 = ## (right above), 3 = ## (left below), 4 = ## (right below); predicted: a = ##, b = # # ###
    found = compare_class(truth, predicted)
    # a: 2 of 3 (IoU 2/3), b shares 1 with 2 (union 6) and 2 with 4 (union 5)
    assert (found["object_precision"], found["object_recall"]) == (1 / 2, 1 / 4)
    assert found["rq"] == found["object_f1"] == pytest.approx(2 / 6)
    assert found["sq"] == pytest.approx(2 / 3)
    assert found["pq"] == pytest.approx(2 / 3 * 2 / 6)
    # every truth object counts, b serves both 2 and 4; 3 is missed
    assert found["aji"] == pytest.approx((2 + 1 + 2) / (3 + 6 + 5 + 2))
    # one to one in order: b goes to 2, 4 finds nothing free, 3 is not counted
    assert found["aji_deepliif"] == pytest.approx((2 + 1) / (3 + 6))


def test_the_larger_overlap_decides_for_deepliif_the_larger_iou_for_kumar() -> None:
    truth, predicted = np.zeros((2, 1, 40), np.int32)
    truth[0, 10:20] = 1
    predicted[0, 4:16] = 1  # shares 6, IoU 6/16
    predicted[0, 16:40] = 2  # shares 4
    predicted[0, 20:40] = 0  # IoU of 2 is 4/10
    found = compare_objects(truth, predicted)
    assert found["aji"] == pytest.approx(4 / (10 + 12))
    assert found["aji_deepliif"] == pytest.approx(6 / (16 + 4))


def test_perfect_and_absent() -> None:
    one = mask("##..", "....", "...#")
    found = compare_class(one, one)
    assert all(value == 1 for value in found.values())
    nothing = np.zeros_like(one)
    missed = compare_class(one, nothing)
    assert missed["recall"] == missed["dice"] == missed["aji"] == missed["pq"] == 0
    assert math.isnan(missed["precision"]) and math.isnan(missed["sq"])
    assert math.isnan(missed["aji_deepliif"])  # what is missed is not counted there
    absent = compare_class(nothing, nothing)
    assert absent["pixel_accuracy"] == 1
    assert all(math.isnan(value) for name, value in absent.items() if name != "pixel_accuracy")


def test_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="prediction"):
        compare_class(np.zeros((3, 3), bool), np.zeros((3, 4), bool))


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.int32, (7, 9), elements=st.integers(0, 4)),
    arrays(np.int32, (7, 9), elements=st.integers(0, 4)),
)
def test_objects_as_plain_loops_count_them(truth: np.ndarray, predicted: np.ndarray) -> None:
    found = compare_objects(truth, predicted)
    truths = [truth == k for k in np.unique(truth) if k]
    guesses = [predicted == k for k in np.unique(predicted) if k]
    iou = np.array([[(t & p).sum() / (t | p).sum() for p in guesses] for t in truths]).reshape(
        len(truths), len(guesses)
    )
    hits = int((iou > 0.5).sum())
    if truths or guesses:
        assert found["object_f1"] == pytest.approx(2 * hits / (len(truths) + len(guesses)))
        shared = union = 0
        used = set()
        for k, one in enumerate(truths):
            if guesses and iou[k].max() > 0:
                best = int(iou[k].argmax())
                used.add(best)
                shared += (one & guesses[best]).sum()
                union += (one | guesses[best]).sum()
            else:
                union += one.sum()
        union += sum(p.sum() for j, p in enumerate(guesses) if j not in used)
        assert found["aji"] == pytest.approx(shared / union)
        assert not found["aji"] > 1


def test_colours_of_classes() -> None:
    row = [(255, 0, 0), (0, 0, 255), (0, 255, 0), (0, 0, 0), (211, 0, 0), (40, 3, 9), (255, 0, 255)]
    picture = np.array([row], np.uint8)
    positive, negative = classes_of_picture(picture)
    assert positive.tolist() == [[True, False, False, False, True, False, True]]
    assert negative.tolist() == [[False, True, False, False, False, False, False]]


def test_raw_output_is_read_as_the_published_program_does() -> None:
    picture = np.zeros((30, 30, 3), np.uint8)
    picture[2:12, 2:12] = (180, 20, 40)  # 100 pixels, positive
    picture[2:5, 2:12] = (30, 20, 190)  # a third of them blue: the majority decides
    picture[20:27, 20:27] = (30, 20, 190)  # 49 pixels: too small
    picture[2:10, 20:28] = (30, 20, 190)
    picture[10, 20:28] = (30, 120, 190)  # green above 100 is border
    positive, negative = classes_of_raw(picture)
    assert positive.sum() == 100 and positive[2:12, 2:12].all()
    assert negative.sum() == 64 and negative[2:10, 20:28].all()


def test_class_images_are_told_from_outputs() -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[3:9, 3:9] = (254, 0, 3)
    assert is_class_image(picture)
    assert not is_class_image(np.random.default_rng(1).integers(0, 255, (20, 20, 3), np.uint8))


FIGURES = {
    "6_2": ((54.51, 39.66, 92.38, 44.60), 17, 75, 29.35),
    "34_3": ((72.99, 57.51, 91.87, 50.95), 31, 81, 6.68),
}
"""Dice, IoU, accuracy, AJI of the published program in percent (mean of both classes), its counts, difference of % positive."""


@pytest.mark.shared
@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_the_published_program_on_its_raw_outputs(shared: Path, name: str) -> None:
    home = shared / "data/deepliif"
    truth = np.asarray(Image.open(home / f"test_groundtruth/{name}.png").convert("RGB"))
    output = np.asarray(Image.open(home / f"test_DeepLIIF_results/{name}_fake_B_5.png").convert("RGB"))
    assert is_class_image(truth) and not is_class_image(output)
    pairs = list(zip(classes_of_picture(truth), classes_of_raw(output), strict=True))
    found = [compare_class(t, p) for t, p in pairs]
    expected, positive, negative, difference = FIGURES[name]
    for metric, value in zip(("dice", "iou", "pixel_accuracy", "aji_deepliif"), expected, strict=True):
        assert 100 * np.mean([one[metric] for one in found]) == pytest.approx(value, abs=0.006), metric
    counts = [(components(t).max(), components(p).max()) for t, p in pairs]
    assert [c[1] for c in counts] == [positive, negative]
    percent = [100 * counts[0][k] / (counts[0][k] + counts[1][k]) for k in (0, 1)]
    assert abs(percent[0] - percent[1]) == pytest.approx(difference, abs=0.006)


REFINED = {"6_2": (55.39, 40.51, 92.82, 45.53, 18.37), "34_3": (73.95, 58.70, 92.39, 54.42, 28.81)}
"""The same of what the published post-processing makes of these outputs, and the percentage it finds positive."""


@pytest.mark.shared
@pytest.mark.parametrize("name", REFINED)
def test_figures_of_the_published_program_on_its_refined_pictures(shared: Path, name: str) -> None:
    home = shared / "data/deepliif"
    truth = np.asarray(Image.open(home / f"test_groundtruth/{name}.png").convert("RGB"))
    output = np.asarray(Image.open(home / f"test_DeepLIIF_results/{name}_fake_B_5.png").convert("RGB"))
    source, thresholds = ArraySource(np.ascontiguousarray(np.moveaxis(output, -1, 0))), Thresholds(size="auto")
    nuclei = find_nuclei(source, thresholds)
    _, refined = pictures(source, nuclei, judge(nuclei, thresholds, AUTO_SIZE["40x"]), source.picture)
    picture = np.moveaxis(refined, 0, -1)
    assert is_class_image(picture)
    pairs = list(zip(classes_of_picture(truth), classes_of_picture(picture), strict=True))
    found = [compare_class(t, p) for t, p in pairs]
    *expected, percent = REFINED[name]
    for metric, value in zip(("dice", "iou", "pixel_accuracy", "aji_deepliif"), expected, strict=True):
        assert 100 * np.mean([one[metric] for one in found]) == pytest.approx(value, abs=0.006), metric
    positive, negative = (components(p).max() for _, p in pairs)
    assert 100 * positive / (positive + negative) == pytest.approx(percent, abs=0.006)
