"""The published program's numbers and pictures, exactly."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from seg_images import tangled

from mxbridge.cells import Rings
from mxbridge.errors import InputError, UsageError
from mxbridge.nuclei import automatic
from mxbridge.nuclei.automatic import automatic_marker, automatic_size, size_density
from mxbridge.nuclei.find import find_nuclei
from mxbridge.nuclei.judge import Score, judge, score
from mxbridge.nuclei.pictures import pictures
from mxbridge.nuclei.regions import Regions
from mxbridge.nuclei.source import ArraySource, brightness, optical_density
from mxbridge.nuclei.thresholds import AUTO_SIZE, Thresholds, size_limits

SETTINGS = {
    "default_nomarker": ({}, "40x"),
    "default_marker": ({}, "40x"),
    "marker_thresh_default": ({"marker": "auto"}, "40x"),
    "seg150_nomarker": ({"seg": 150}, "40x"),
    "seg120_size0": ({"size": 0}, "40x"),
    "size50_upper400": ({"size": 50, "size_upper": 400}, "40x"),
    "od_lower_10": ({"od_lower": 10}, "40x"),
    "largenoise_default": ({"large_noise": 16000}, "40x"),
    "res20x": ({}, "20x"),
    "res10x": ({}, "10x"),
}


def picture(path: Path) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(np.array(Image.open(path).convert("RGB")), -1, 0))


def sha256(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(np.moveaxis(image, 0, -1)).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def truth(shared: Path) -> dict:
    with gzip.open(shared / "oracles/deepliif/postprocessing_truth.json.gz") as file:
        return json.load(file)


def published(shared: Path, truth: dict, name: str) -> ArraySource:
    """Official pictures; the original is not pixel for pixel the published program's, only its overlay depends on it."""
    folder = shared / "data/deepliif"
    seg = picture(folder / f"test_DeepLIIF_results/{name}_fake_B_5.png")
    marker = picture(folder / f"test_DeepLIIF_results/{name}_fake_B_4.png")
    original = picture(folder / f"test/{name}.png")[:, :, :512]
    assert (sha256(seg), sha256(marker)) == tuple(truth[name]["sha256_rgb"][k] for k in ("seg", "marker"))
    return ArraySource(seg, brightness(marker), original=original)


@pytest.mark.shared
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["6_2", "34_3"])
def test_scores_and_refined_pictures(shared: Path, truth: dict, name: str, setting: str) -> None:
    options, resolution = SETTINGS[setting]
    source, thresholds, expected = published(shared, truth, name), Thresholds(**options), truth[name][setting]
    nuclei = find_nuclei(source, thresholds, block=200)
    judged = judge(nuclei, thresholds, AUTO_SIZE[resolution])
    made = score(nuclei, judged).peer()
    assert made == expected["scoring"]
    assert [type(v) for v in made.values()] == [type(v) for v in expected["scoring"].values()]
    overlay, refined = pictures(source, nuclei, judged, source.original)
    assert sha256(refined) == expected["sha256_refined"]
    changed = np.any(overlay != source.original, axis=0)
    green = refined[1] > 0
    assert not np.any(changed & ~green)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["6_2", "34_3"])
def test_list_of_cells(shared: Path, truth: dict, name: str) -> None:
    expected = truth[name]["cells_v3"]
    nuclei = find_nuclei(published(shared, truth, name), Thresholds(), block=77)
    y0, x0, y1, x1 = nuclei.bbox.T
    columns = {
        "size": nuclei.size,
        "positive": nuclei.positive_px >= nuclei.negative_px,
        "marker": nuclei.marker_max,
        "bbox": np.stack([np.column_stack([x0, y0]), np.column_stack([x1, y1]) - 1], axis=1),
        "centroid": nuclei.peer_centroid[:, ::-1],
    }
    for key, column in columns.items():
        np.testing.assert_array_equal(column, [cell[key] for cell in expected["cells"]], err_msg=key)
    assert [list(map(int, f[::-1])) for f in nuclei.first] == [cell["boundary"][0] for cell in expected["cells"]]
    found = automatic_size(nuclei.size, AUTO_SIZE["40x"]), automatic_marker(nuclei.marker_histogram)
    assert found == tuple(expected["settings"][f"default_{k}_thresh"] for k in ("size", "marker"))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["22_2", "34_3", "6_2", "799_2"])
def test_automatic_size_of_the_published_lists(truth: dict, name: str) -> None:
    sizes = np.array([cell["size"] for cell in truth[name]["cells_v3"]["cells"]])
    for setting, resolution in (("default_nomarker", "40x"), ("res20x", "20x"), ("res10x", "10x")):
        assert automatic_size(sizes, AUTO_SIZE[resolution]) == truth[name][setting]["scoring"]["size_thresh"]


@pytest.mark.shared
@pytest.mark.parametrize(("setting", "seg"), [("gt_default", 120), ("gt_seg150", 150)])
def test_bladder_panel(shared: Path, truth: dict, setting: str, seg: int) -> None:
    panel = picture(shared / "data/deepliif/train/Bladder1.png")[:, :, -512:]
    assert sha256(panel) == truth["val"]["Bladder1"]["sha256_seg_panel"]
    thresholds = Thresholds(seg=seg)
    nuclei = find_nuclei(ArraySource(np.ascontiguousarray(panel)), thresholds)
    made = score(nuclei, judge(nuclei, thresholds, AUTO_SIZE["40x"])).peer()
    assert made == truth["val"]["Bladder1"][setting]


@pytest.mark.shared
@pytest.mark.parametrize("block", [120, 2048])
def test_overlay_and_refined_pixel_for_pixel(shared: Path, block: int) -> None:
    folder = shared / "oracles/deepliif/output_512"
    source = ArraySource(picture(folder / "22_2_Seg.png"))
    nuclei = find_nuclei(source, Thresholds(), block=block)
    judged = judge(nuclei, Thresholds(), AUTO_SIZE["40x"])
    overlay, refined = pictures(source, nuclei, judged, picture(folder / "22_2.png"))
    np.testing.assert_array_equal(overlay, picture(folder / "22_2_SegOverlaid.png"))
    np.testing.assert_array_equal(refined, picture(folder / "22_2_SegRefined.png"))
    assert score(nuclei, judged).peer() == json.loads((folder / "22_2.json").read_text())


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.integers(10, 40))
def test_pictures_do_not_depend_on_blocks(seed: int, block: int) -> None:
    source = tangled(seed, 50, 45)
    thresholds = Thresholds(size=8)
    drawn = []
    for side in (block, 64):
        nuclei = find_nuclei(source, thresholds, block=side)
        drawn.append(pictures(source, nuclei, judge(nuclei, thresholds, AUTO_SIZE["40x"]), source.original))
    for one, two in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, two)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(5, 3000), min_size=2, max_size=200))
def test_density_of_sizes_is_the_sum_over_all_nuclei(sizes: list[int]) -> None:
    density, step = size_density(np.array(sizes))
    roots = np.sqrt(np.array(sizes, float))
    at = np.arange(500) * (roots.max() + 1) / 500
    plainly = sum(np.exp(-0.5 * (at - root) ** 2) for root in roots)
    assert step == (roots.max() + 1) / 500
    np.testing.assert_allclose(density, plainly, rtol=1e-6, atol=1e-37)
    rounded = plainly.astype(np.float32)
    valleys = [i for i in range(1, 499) if rounded[i - 1] > rounded[i] < rounded[i + 1]]
    root = max(((valleys or [1])[0] - 1) * step, 4)
    assert automatic_size(np.array(sizes), AUTO_SIZE["40x"]) == round((root if root <= 10 else 7) ** 2)


def test_many_distinct_sizes_need_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = np.random.default_rng(0).integers(5, 9000, 5000)
    at_once = automatic_size(sizes, AUTO_SIZE["40x"])
    monkeypatch.setattr(automatic, "AT_ONCE", 7)
    assert automatic_size(sizes, AUTO_SIZE["40x"]) == at_once


def test_automatic_thresholds_without_anything() -> None:
    assert automatic_size(np.zeros(0, np.int64), AUTO_SIZE["40x"]) == 0
    assert automatic_size(np.array([300]), AUTO_SIZE["40x"]) == 0
    assert automatic_size(np.array([9, 9, 9]), AUTO_SIZE["40x"]) == 16  # at least 4 pixels squared
    assert automatic_marker(np.bincount([0, 0, 0], minlength=256)) == 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=300))
def test_automatic_marker_is_that_of_the_pixels(values: list[int]) -> None:
    bright = [v for v in values if v]
    low, high = (round(float(np.percentile(bright, p))) if bright else 0 for p in (0.1, 99.9))
    assert automatic_marker(np.bincount(values, minlength=256)) == round((high - low) * 0.9) + low


def test_size_limits_by_scale() -> None:
    assert size_limits() == size_limits(um_per_px=0.25) == size_limits(resolution="40x") == (4, 7, 10)
    assert size_limits(um_per_px=0.5) == (2, 3.5, 5)
    with pytest.raises(UsageError, match="80x"):
        size_limits(resolution="80x")


def test_optical_density_of_grey_levels() -> None:
    grey = np.array([[0, 1, 25, 255]], np.uint8)
    np.testing.assert_array_equal(optical_density(np.stack([grey] * 3)), [[722, 722, 303, 0]])


def test_optical_density_makes_negative_and_marker_makes_positive() -> None:
    seg = np.zeros((3, 12, 20), np.uint8)
    seg[0, 2:8, 2:8], seg[2, 2:8, 12:18] = 200, 200
    seg[1] = 200
    seg[1, 2:8] = 0
    original = np.full((3, 12, 20), 255, np.uint8)
    original[:, :, :10] = 25
    marker = np.zeros((12, 20), np.uint8)
    marker[3, 13] = 90
    source = ArraySource(seg, marker, original=original)

    def positive(**options: float) -> list[bool]:
        thresholds = Thresholds(size=None, **options)
        return judge(find_nuclei(source, thresholds), thresholds, AUTO_SIZE["40x"]).positive.tolist()

    assert positive() == [True, False]
    assert positive(marker=89) == [True, True]
    assert positive(marker=90) == [True, False]
    assert positive(od_lower=303) == [True, False]
    assert positive(od_lower=304) == [False, False]
    assert positive(od_upper=302) == [False, False]
    assert positive(od_upper=302, marker=89) == [False, True]


def test_annotations_have_thresholds_and_scores_of_their_own() -> None:
    source = tangled(11, 120, 120)
    box = lambda a, b: [np.array([(a, 0), (b, 0), (b, 120), (a, 120)], float)]  # noqa: E731
    regions = Regions(Rings.of([box(0, 70), box(50, 120), box(300, 400)]))
    thresholds = Thresholds()
    nuclei = find_nuclei(source, thresholds, inside=regions)
    judged = judge(nuclei, thresholds, AUTO_SIZE["40x"])
    for k in range(3):
        members = nuclei.in_region(k)
        assert judged.size_thresholds[k] == automatic_size(nuclei.size[members], AUTO_SIZE["40x"])
        own = score(nuclei, judged, k)
        assert own.total == judged.keep[members].sum()
        assert own.positive + own.negative == own.total
    np.testing.assert_array_equal(
        judged.keep, (nuclei.region >= 0) & (nuclei.size > judged.size_thresholds[nuclei.region])
    )
    assert score(nuclei, judged).total == judged.keep.sum()
    empty = score(nuclei, judged, 2)
    assert np.isnan(empty.percent)
    assert empty.peer()["percent_pos"] == 0


def test_percent_as_the_published_program_rounds_it() -> None:
    """Divided before it is multiplied, which matters for 23 of 80; an integer where nothing is positive."""
    assert Score(80, 23, 120, 30.0, None, None).peer()["percent_pos"] == round(23 / 80 * 100, 1) != round(2300 / 80, 1)
    assert json.dumps(Score(18, 0, 120, 50.0, 400.5, None).peer()["percent_pos"]) == "0"
    assert Score(18, 0, 120, 50.0, 400.5, None).peer()["size_thresh_upper"] == 400.5


def test_pictures_of_another_size() -> None:
    source = tangled(1, 20, 30)
    nuclei = find_nuclei(source, Thresholds())
    with pytest.raises(InputError, match="30x20"):
        pictures(source, nuclei, judge(nuclei, Thresholds(), AUTO_SIZE["40x"]), np.zeros((3, 20, 31), np.uint8))
