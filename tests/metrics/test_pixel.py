"""Pixel metrics: equal to the usual libraries and to the published program, however an image is cut into tiles."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from skimage.metrics import structural_similarity

from mxbridge.image import Box
from mxbridge.metrics import smoothed
from mxbridge.metrics.pixel import PixelSums
from mxbridge.metrics.smoothed import SmallCopies, smoothed_scores
from mxbridge.metrics.ssim import GAUSS, UNIFORM, SsimSums
from mxbridge.stream.grid import Grid

UNIFORM7 = {"win_size": 7, "use_sample_covariance": True}
GAUSS11 = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def pair(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    first = rng.random(shape).astype(np.float32).astype(np.float64)
    return first, (0.7 * first + 0.3 * rng.random(shape)).astype(np.float32).astype(np.float64)


def tiles(shape: tuple[int, int], core: int) -> Iterator[Box]:
    return (tile.core for tile in Grid(shape, 1, 0, core))


def streamed(first: np.ndarray, others: list[np.ndarray], core: int) -> tuple[list[PixelSums], dict[str, np.ndarray]]:
    sums, ssim = [PixelSums() for _ in others], SsimSums(first.shape[1], len(others))
    for box in tiles(first.shape, core):
        cut = np.s_[box.y0 : box.y1, box.x0 : box.x1]
        for one, other in zip(sums, others, strict=True):
            one.add(first[cut], other[cut])
        ssim.add(box, first[cut], [other[cut] for other in others])
    return sums, ssim.values()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 99), st.integers(12, 50), st.integers(12, 50), st.integers(1, 60))
def test_tiles_give_the_numbers_of_the_whole_image(seed: int, height: int, width: int, core: int) -> None:
    first, other = pair(seed, (height, width))
    constant = np.full_like(first, 0.25)
    (sums, _), ssim = streamed(first, [other, constant], core)
    assert sums.mae == pytest.approx(np.abs(first - other).mean(), abs=1e-12)
    assert sums.mse == pytest.approx(((first - other) ** 2).mean(), abs=1e-12)
    assert sums.rmse == pytest.approx(math.sqrt(sums.mse))
    assert sums.psnr == pytest.approx(-10 * math.log10(((first - other) ** 2).mean()))
    expected = pearsonr(first.ravel(), other.ravel())
    assert sums.pearson == pytest.approx(expected.statistic, abs=1e-10)
    assert sums.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-300)
    for k, image in enumerate((other, constant)):
        assert ssim[UNIFORM][k] == pytest.approx(
            structural_similarity(first, image, data_range=1, **UNIFORM7), abs=1e-9
        )
        assert ssim[GAUSS][k] == pytest.approx(structural_similarity(first, image, data_range=1, **GAUSS11), abs=1e-9)


@pytest.mark.shared
def test_the_published_programs_numbers(shared: Path) -> None:
    for roi in ("roi_1", "roi_2"):
        real, made = np.load(shared / f"oracles/maxim/eval_96_{roi}_real_generated.npy")
        panel = np.load(shared / f"oracles/maxim/{roi}.npy").astype(np.float32) / 255
        images = {
            "stats": made,
            "stats_zero": np.zeros_like(real),
            "stats_mean": panel[[0, 1, 2, 3, 4, 6]].mean(axis=0),
        }
        sums, ssim = streamed(real, list(images.values()), 31)
        for k, (name, one) in enumerate(zip(images, sums, strict=True)):
            table = pd.read_csv(shared / f"oracles/maxim/test_96_96_{name}.csv", index_col="Image_Name").loc[roi]
            ours = (255 * one.mae, 255**2 * one.mse, one.psnr, 255 * one.rmse, ssim[UNIFORM][k])
            np.testing.assert_allclose(ours, table[["MAE", "MSE", "PSNR", "RMSE", "SSIM"]], rtol=1e-5, atol=2e-7)
        assert sums[0].pearson == pytest.approx(table_of(shared, roi)["Corr"], abs=1e-6)
        assert sums[0].p_value == pytest.approx(table_of(shared, roi)["p-value"], rel=1e-3)
        assert math.isnan(sums[1].pearson)


def table_of(shared: Path, roi: str) -> pd.Series:
    return pd.read_csv(shared / "oracles/maxim/test_96_96_stats.csv", index_col="Image_Name").loc[roi]


@pytest.mark.shared
def test_scores_of_the_lung_paper(shared: Path, tmp_path: Path) -> None:
    target, prediction = (np.load(shared / f"oracles/lung_metrics/{n}.npy") for n in ("target", "prediction"))
    truth = json.loads((shared / "oracles/lung_metrics/meta.json").read_text())["results"]
    expected = truth["smoothed"]["uniform64_reflect"]
    names = {"smooth_l1": "l1", "smooth_l2": "l2_mean_square", "smooth_iou": "iou_own_mean"}
    copies = SmallCopies(tmp_path / "copies", target.shape, 2)
    for box in tiles(target.shape, 48):
        cut = np.s_[box.y0 : box.y1, box.x0 : box.x1]
        copies.add(0, box, target[cut])
        copies.add(1, box, prediction[cut])
    for scores in (smoothed_scores(target, prediction), copies.scores(0, 1)):
        for ours, theirs in names.items():
            assert scores[ours] == pytest.approx(expected[theirs], abs=1e-6)
    flat = smoothed_scores(target, np.full_like(prediction, 0.3))
    assert flat["smooth_iou"] == pytest.approx(truth["baselines"]["constant_prediction_iou"], abs=1e-6)
    (sums,), ssim = streamed(target, [prediction], 100)
    plain = truth["plain_range_0_1"]
    assert ssim[UNIFORM][0] == pytest.approx(plain["ssim_uniform7"], abs=1e-6)
    assert ssim[GAUSS][0] == pytest.approx(plain["ssim_gauss11"], abs=1e-6)
    assert (sums.mae, sums.mse, sums.psnr) == pytest.approx(
        (plain["l1"], plain["l2_mean_square"], plain["psnr"]), abs=1e-5
    )


@settings(deadline=None, max_examples=8)
@given(st.integers(64, 150), st.integers(64, 150), st.integers(1, 90))
def test_large_planes_are_reduced_to_block_means(
    tmp_path_factory: pytest.TempPathFactory, h: int, w: int, core: int
) -> None:
    first, other = pair(3, (h, w))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoothed, "MOST_PIXELS", 2000)
        copies = SmallCopies(tmp_path_factory.mktemp("copies") / "file", (h, w), 2)
    assert copies.step > 1 and np.prod(copies.shape) <= 2000
    for box in tiles((h, w), core):
        for k, image in enumerate((first, other)):
            copies.add(k, box, image[box.y0 : box.y1, box.x0 : box.x1])
    step = copies.step
    blocks = [
        np.array([[i[y : y + step, x : x + step].mean() for x in range(0, w, step)] for y in range(0, h, step)])
        for i in (first, other)
    ]
    expected = smoothed_scores(*blocks, size=64 // step)
    for name, value in copies.scores(0, 1).items():
        assert value == pytest.approx(expected[name], abs=1e-4 if name != "smooth_iou" else 0.02)
    copies.close()


def test_what_has_no_answer_says_so() -> None:
    same = np.linspace(0, 1, 400).reshape(20, 20)
    (sums,), ssim = streamed(same, [same], 9)
    assert sums.psnr == math.inf and sums.pearson == pytest.approx(1) and ssim[UNIFORM][0] == pytest.approx(1)
    (dark,), _ = streamed(np.zeros((20, 20)), [same], 9)
    assert dark.constant and math.isnan(dark.pearson) and math.isnan(dark.p_value) and math.isfinite(dark.psnr)
    (tiny,), ssim = streamed(same[:6, :6], [same[:6, :6]], 9)
    assert math.isnan(ssim[UNIFORM][0]) and math.isnan(ssim[GAUSS][0]) and tiny.mae == 0
    empty = PixelSums()
    assert all(math.isnan(v) for v in empty.values().values())


def test_pixels_that_are_not_finite_count_for_nothing() -> None:
    first, other = pair(1, (40, 40))
    hole = first.copy()
    hole[20, 21] = np.nan
    (sums,), ssim = streamed(hole, [other], 13)
    keep = np.isfinite(hole)
    assert sums.n == 1599 and sums.mae == pytest.approx(np.abs(first - other)[keep].mean())
    for kind, radius, how in ((UNIFORM, 3, UNIFORM7), (GAUSS, 5, GAUSS11)):
        _, full = structural_similarity(first, other, data_range=1, full=True, **how)
        away = np.ones((40, 40), bool)
        away[20 - radius : 21 + radius, 21 - radius : 22 + radius] = False
        inner = np.s_[radius:-radius, radius:-radius]
        assert ssim[kind][0] == pytest.approx(full[inner][away[inner]].mean(), abs=1e-9)


def test_a_small_variation_on_a_bright_ground_is_not_lost() -> None:
    rng = np.random.default_rng(1)
    first = 1e4 + rng.random((64, 64))
    other = first + 0.5 * rng.random((64, 64))
    (sums,), _ = streamed(first, [other], 10)
    assert sums.pearson == pytest.approx(np.corrcoef(first.ravel(), other.ravel())[0, 1], abs=1e-9)


def test_tiles_out_of_order_are_refused() -> None:
    ssim = SsimSums(40, 1)
    ssim.add(Box(0, 0, 20, 20), np.zeros((20, 20)), [np.zeros((20, 20))])
    with pytest.raises(ValueError, match="not the next"):
        ssim.add(Box(20, 0, 40, 20), np.zeros((20, 20)), [np.zeros((20, 20))])
