"""Images like those of the training, and others."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mxbridge.models.familiarity import FEWEST, Familiarity

NAMES = ("DAPI", "CK", "CD8", "CD4", "FOXP3", "PDL1")


def means(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Channel means that go together: more tissue, more of everything."""
    tissue = rng.normal(0, 0.03, (rows, 1))
    return 0.2 + tissue * [1, 1, 0.8, 0.8, 0.5, 0.5] + rng.normal(0, 0.01, (rows, len(NAMES)))


def judged(familiarity: Familiarity, row: np.ndarray):
    return familiarity.judge(dict(zip(NAMES, row.tolist(), strict=True)))


@pytest.mark.parametrize("rows", [FEWEST, 12, 60, 2500])
def test_images_like_those_of_the_training_pass(rows: int) -> None:
    rng = np.random.default_rng(rows)
    familiarity = Familiarity.fit(NAMES, means(rng, rows))
    assert familiarity is not None
    flagged = [judged(familiarity, row).flagged for row in means(rng, 200)]
    assert np.mean(flagged) < (0.1 if rows < 20 else 0.03)


@pytest.mark.parametrize("rows", [12, 60])
def test_a_failed_stain_is_flagged_and_named(rows: int) -> None:
    rng = np.random.default_rng(rows)
    familiarity = Familiarity.fit(NAMES, means(rng, rows))
    assert familiarity is not None
    row = np.full(len(NAMES), 0.2)
    assert not judged(familiarity, row).flagged
    row[2] = 0.0
    verdict = judged(familiarity, row)
    assert verdict.flagged
    assert verdict.unusual[0][0] == "CD8"
    assert "unlike" in verdict.words
    assert "CD8" in verdict.words
    assert "below" in verdict.words


def test_what_breaks_the_correlation_is_seen_where_single_channels_are_not() -> None:
    rng = np.random.default_rng(0)
    familiarity = Familiarity.fit(NAMES, means(rng, 200))
    assert familiarity is not None
    row = np.array([0.25, 0.15, 0.24, 0.16, 0.2, 0.2])  # each within two standard deviations
    verdict = judged(familiarity, row)
    assert verdict.flagged
    assert all(abs(z) < 2.5 for _, z in verdict.unusual)


def test_channels_that_are_not_there_are_left_out() -> None:
    familiarity = Familiarity.fit(NAMES, means(np.random.default_rng(0), 30))
    assert familiarity is not None
    verdict = familiarity.judge({"DAPI": 0.2, "CK": float("nan"), "something else": 9.0})
    assert verdict is not None
    assert not verdict.flagged
    assert familiarity.judge({"CK": float("nan")}) is None


def test_too_few_or_broken_rows() -> None:
    rows = means(np.random.default_rng(0), FEWEST)
    rows[0, 0] = np.nan
    assert Familiarity.fit(NAMES, rows) is None
    constant = Familiarity.fit(NAMES, np.full((9, 6), 0.1))  # a channel that never differs is no reason to fail
    assert constant is not None
    assert not judged(constant, np.full(6, 0.1)).flagged
    assert judged(constant, np.full(6, 0.2)).flagged


def test_a_card_keeps_it() -> None:
    familiarity = Familiarity.fit(NAMES, means(np.random.default_rng(0), 30))
    assert familiarity is not None
    read = Familiarity.from_record(json.loads(json.dumps(familiarity.record())))
    assert read is not None
    row = np.linspace(0.1, 0.3, 6)
    assert judged(read, row) == judged(familiarity, row)


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"format": 1},
        {"names": ["A"]},
        {"names": "ABCDEF"},
        {"mean": ["a"] * 6},
        {"sd": [0.0] * 6},
        {"limit": None},
        {"limit": float("nan")},
        {"limit": float("inf")},
        {"rows": "many"},
        {"correlation": [[1.0] * 6] * 6},
        {"correlation": [1.0] * 6},
    ],
)
def test_what_is_no_record(change: dict | None) -> None:
    familiarity = Familiarity.fit(NAMES, means(np.random.default_rng(0), 30))
    assert familiarity is not None
    assert Familiarity.from_record({**familiarity.record(), **change} if change else change) is None
