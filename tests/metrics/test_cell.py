"""Cell metrics equal those of scikit-learn and scipy; intervals over cases behave."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from skimage.filters import threshold_otsu

from mxbridge.metrics.bootstrap import mean_interval
from mxbridge.metrics.cell import compare_cells, otsu_threshold, precision_recall


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9999), st.integers(4, 60), st.integers(2, 30))
def test_equal_to_the_usual_libraries(seed: int, cells: int, levels: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    imputed = rng.integers(0, levels, cells) / levels  # many ties
    measured = imputed + rng.random(cells)
    positive = measured > np.median(measured)
    scores = compare_cells(measured, imputed, positive)
    assert scores.cell_mae == pytest.approx(np.abs(measured - imputed).mean())
    if np.ptp(imputed):
        assert scores.cell_pearson == pytest.approx(pearsonr(measured, imputed).statistic)
        assert scores.cell_spearman == pytest.approx(spearmanr(measured, imputed).statistic)
    assert scores.cell_auroc == pytest.approx(sklearn.roc_auc_score(positive, imputed))
    assert scores.cell_ap == pytest.approx(sklearn.average_precision_score(positive, imputed))
    assert scores.prevalence == positive.mean() and scores.why_not == ""
    precision, recall, _ = sklearn.precision_recall_curve(positive, imputed)
    ours = precision_recall(positive, imputed)
    np.testing.assert_allclose(ours[0], precision[:-1][::-1])
    np.testing.assert_allclose(ours[1], recall[:-1][::-1])


def test_what_has_no_answer_says_why() -> None:
    values = np.array([0.1, 0.2, 0.3])
    for positive, why in (
        (np.zeros(3, bool), "none of 3 cells positive"),
        (np.ones(3, bool), "all of 3 cells positive"),
    ):
        scores = compare_cells(values, values, positive)
        assert math.isnan(scores.cell_auroc) and math.isnan(scores.cell_ap) and scores.why_not == why
        assert scores.cell_pearson == pytest.approx(1)
    nothing = compare_cells(np.array([np.nan, 1.0]), np.array([1.0, np.nan]), np.ones(2, bool))
    assert nothing.cells == 0 and nothing.why_not == "no cells" and math.isnan(nothing.cell_mae)
    flat = compare_cells(values, np.zeros(3), values > 0.15)
    assert math.isnan(flat.cell_pearson) and math.isnan(flat.cell_spearman) and flat.cell_auroc == 0.5


def test_otsu_parts_the_cells_as_scikit_image_does() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0.2, 0.05, 300), rng.normal(0.7, 0.05, 100), [np.nan]])
    cut = otsu_threshold(values)
    finite = values[:-1]
    np.testing.assert_array_equal(finite >= cut, finite > threshold_otsu(finite))
    assert (finite >= cut).sum() == 100
    assert math.isnan(otsu_threshold(np.full(5, 0.3))) and math.isnan(otsu_threshold(np.zeros(0)))


def test_intervals_over_cases() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    known = mean_interval(values)
    assert known == mean_interval(values) and known.mean == pytest.approx(0.35) and known.why_not == ""
    expected = 1.96 * np.std(values) / math.sqrt(6)
    assert known.low == pytest.approx(0.35 - expected, abs=0.02) and known.high == pytest.approx(
        0.35 + expected, abs=0.02
    )
    few = mean_interval([*values[:5], math.inf, math.nan])
    assert few.mean == pytest.approx(0.3) and math.isnan(few.low) and few.left_out == 2
    assert few.why_not == "5 cases; intervals need 6"
    assert mean_interval([0.5]).why_not == "1 case; intervals need 6" and math.isnan(mean_interval([]).mean)
