"""The seam score: 1 without seams, larger the more visible they are, the same however the image is read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mxbridge.metrics.seams import SeamScore, seam_score


def score_of(pixels: NDArray[np.uint8], rows: tuple[int, ...], columns: tuple[int, ...], **options: Any) -> SeamScore:
    def read(y0: int, x0: int, y1: int, x1: int) -> NDArray[np.uint8]:
        return pixels[..., y0:y1, x0:x1]

    return seam_score(read, pixels.shape[-2:], rows, columns, **options)


@pytest.fixture
def tissue() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(80, 120, (3, 300, 400), np.uint8)


def test_an_image_without_seams_scores_one(tissue: NDArray[np.uint8]) -> None:
    assert score_of(tissue, (100, 200), (150,)).score == pytest.approx(1, abs=0.05)


def test_steps_at_seams_are_found(tissue: NDArray[np.uint8]) -> None:
    stepped = tissue.copy()
    stepped[:, 100:] += 30
    stepped[:, :, 150:] += 30
    assert score_of(stepped, (100,), (150,)).score > 2
    assert score_of(stepped, (130,), (220,)).score == pytest.approx(1, abs=0.1)  # steps elsewhere are no seams
    assert score_of(stepped, (100,), (150,)).pairs == 3 * (300 + 400)


def test_a_step_spread_over_a_ramp_is_seen_with_a_longer_reach() -> None:
    y = np.clip((np.arange(400) - 168) / 64, 0, 1) * 60 + 100
    ramp = np.broadcast_to(y[None, :, None], (3, 400, 300)) + np.random.default_rng(2).normal(0, 4, (3, 400, 300))
    pixels = ramp.round().astype(np.uint8)
    assert score_of(pixels, (200,), ()).score < 1.1
    assert score_of(pixels, (200,), (), reach=64, beside=(110,)).score > 5


def test_pieces_change_nothing(tissue: NDArray[np.uint8]) -> None:
    whole = score_of(tissue, (100,), (37, 150))
    pieces = score_of(tissue, (100,), (37, 150), piece=17)
    assert (whole.across, whole.elsewhere, whole.pairs) == pytest.approx(
        (pieces.across, pieces.elsewhere, pieces.pairs)
    )


def test_without_seams_there_is_no_score() -> None:
    flat = np.full((1, 200, 200), 7, np.uint8)
    assert math.isnan(score_of(flat, (), ()).score)
    assert score_of(flat, (100,), ()).score == 1
    flat[:, 100:] = 9
    assert score_of(flat, (100,), ()).score == math.inf
    assert score_of(flat, (3,), (), reach=64).pairs == 0  # too close to the border to compare
