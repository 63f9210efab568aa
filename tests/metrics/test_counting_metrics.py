"""Detection within a radius, and agreement of percentages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mxbridge.metrics.detection import centres, detect, match_points
from mxbridge.metrics.quantification import agreement, concordance, percent_positive, quantification_difference


def test_closest_pairs_first_and_one_partner_each() -> None:
    truth = np.array([[0.0, 0.0], [0.0, 10.0], [50.0, 50.0]])
    predicted = np.array([[0.0, 6.0], [0.0, 9.0], [50.0, 61.0], [0.0, 2.0]])
    assert match_points(truth, predicted, 10)[0].tolist() == [[1, 1], [0, 3]]
    found = detect(truth, predicted, 10)
    assert (found.hits, found.precision, found.recall) == (2, 2 / 4, 2 / 3)
    assert found.f1 == pytest.approx(4 / 7)
    assert found.distance == pytest.approx(1.5)
    assert detect(truth, predicted, 11).hits == 3  # a radius includes its end


def test_repeated_predictions_are_false() -> None:
    truth, predicted = np.zeros((1, 2)), np.zeros((3, 2))
    found = detect(truth, predicted, 10)
    assert (found.hits, found.precision, found.recall) == (1, 1 / 3, 1)


def test_nothing_is_not_a_number() -> None:
    nothing, one = np.empty((0, 2)), np.zeros((1, 2))
    assert math.isnan(detect(nothing, nothing, 5).f1)
    assert math.isnan(detect(one, nothing, 5).precision)
    assert detect(one, nothing, 5).recall == detect(nothing, one, 5).precision == 0
    assert detect(one, np.full((1, 2), 9.0), 5).hits == 0


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float64, (6, 2), elements=st.integers(0, 12)),
    arrays(np.float64, (5, 2), elements=st.integers(0, 12)),
    st.integers(1, 8),
)
def test_pairs_are_a_stable_matching(truth: np.ndarray, predicted: np.ndarray, radius: int) -> None:
    """Nobody who is left could have a closer partner that is left or worse off."""
    pairs, _ = match_points(truth, predicted, radius)
    apart = np.linalg.norm(truth[:, None] - predicted[None], axis=-1)
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    mine = np.full(len(truth), np.inf)
    theirs = np.full(len(predicted), np.inf)
    mine[pairs[:, 0]] = theirs[pairs[:, 1]] = apart[pairs[:, 0], pairs[:, 1]]
    assert (mine[np.isfinite(mine)] <= radius).all()
    better = (apart < mine[:, None]) & (apart < theirs[None]) & (apart <= radius)
    assert not better.any()


def test_centres_of_labels() -> None:
    labels = np.zeros((4, 5), np.int32)
    labels[0, :2] = 3
    labels[2:4, 1:4] = 1
    assert centres(labels).tolist() == [[2.5, 2.0], [0.0, 0.5]]
    assert centres(np.zeros((2, 2), np.int32)).shape == (0, 2)


def test_percentages() -> None:
    assert percent_positive(1, 4) == 25
    assert math.isnan(percent_positive(0, 0))
    assert quantification_difference(20, 27.5) == quantification_difference(27.5, 20) == 7.5


def test_limits_of_agreement_counted_by_hand() -> None:
    found = agreement([10, 20, 30, math.nan], [12, 19, 35, 50])
    assert (found.images, found.left_out) == (3, 1)
    assert found.bias == pytest.approx(2)
    assert found.deviation == pytest.approx(3)
    assert (found.low, found.high) == pytest.approx((2 - 5.88, 2 + 5.88))
    # means 20 and 22, variances 200/3 and 278/3, covariance 230/3
    assert found.concordance == pytest.approx(2 * 230 / (200 + 278 + 12))


def test_few_images_have_no_limits() -> None:
    found = agreement([10, 20], [12, 20])
    assert found.bias == 1
    assert math.isnan(found.low) and math.isnan(found.concordance)
    assert found.why_not.startswith("2 images")
    assert math.isnan(agreement([], []).bias)


def test_concordance_knows_shift_and_scale() -> None:
    x = np.arange(10.0)
    assert concordance(x, x) == 1
    assert concordance(x, -x + 9) == pytest.approx(-1)
    assert concordance(x, x + 5) < 0.5 and concordance(x, 3 * x) < 0.5
    assert math.isnan(concordance(np.ones(3), np.ones(3)))
