"""Spread against error: the same whatever the portions, and what a card keeps of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from mxbridge.metrics.spread import SHOWN, SpreadRecord, SpreadTable


def drawn(seed: int, pixels: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Errors as wide as their spread says, so that the two go together but are not the same."""
    rng = np.random.default_rng(seed)
    spread = rng.lognormal(-4, 1, pixels)
    return spread, np.abs(rng.normal(0, spread))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 4999), max_size=5))
def test_portions_do_not_matter(seed: int, cuts: list[int]) -> None:
    spread, error = drawn(seed)
    whole, parts = SpreadTable("six views"), SpreadTable("six views")
    whole.add(spread.reshape(50, 100), error.reshape(50, 100))
    for part in np.split(np.arange(5000), sorted(set(cuts))):
        parts.add(spread[part], error[part])
    assert parts.pixels == whole.pixels == 5000
    assert parts.spearman == whole.spearman == pytest.approx(spearmanr(spread, error).statistic, abs=0.01)
    for a, b in zip(whole.rows(), parts.rows(), strict=True):
        assert (a.pixels, a.spread, a.error) == (b.pixels, pytest.approx(b.spread), pytest.approx(b.error))


def test_rows_are_means_of_their_pixels() -> None:
    spread, error = drawn(1)
    table = SpreadTable("six views")
    table.add(spread, error)
    rows = table.rows()
    assert len(rows) <= SHOWN
    assert sum(r.pixels for r in rows) == 5000
    assert sum(r.pixels * r.error for r in rows) == pytest.approx(error.sum())
    order = np.argsort(spread)
    lowest = order[: rows[0].pixels]
    assert rows[0].error == pytest.approx(error[lowest].mean(), rel=0.05)
    assert [r.spread for r in rows] == sorted(r.spread for r in rows)
    assert rows[-1].error > 3 * rows[0].error


def test_what_is_not_a_number_is_left_out() -> None:
    table = SpreadTable("six views")
    table.add([0.1, np.nan, 0.2, 0.0], [np.inf, 0.1, 0.1, 0.0])
    assert table.pixels == 2
    assert SpreadTable("x").rows() == []
    assert math.isnan(SpreadTable("x").spearman)


def test_a_constant_spread_has_no_rank_correlation() -> None:
    table = SpreadTable("six views")
    table.add(np.full(9, 0.1), np.linspace(0, 1, 9))
    assert math.isnan(table.spearman)
    record = SpreadRecord.from_record(json.loads(json.dumps(table.record())))
    assert record is not None
    assert math.isnan(record.spearman)


def test_a_card_keeps_it() -> None:
    table = SpreadTable("models")
    table.add(*drawn(2))
    record = SpreadRecord.from_record(json.loads(json.dumps(table.record())))
    assert record is not None
    assert (record.source, record.rows, record.spearman) == ("models", tuple(table.rows()), table.spearman)


@pytest.mark.parametrize(
    "change",
    [
        None,
        [],
        {"format": "else"},
        {"pixels": "many"},
        {"error": [1.0]},
        {"pixels": [], "spread": [], "error": []},
        {"spread": [float("nan")] * 20},
        {"spread": [10**400] * 20},
    ],
)
def test_what_is_no_record(change: object) -> None:
    table = SpreadTable("models")
    table.add(*drawn(2))
    broken = {**table.record(), **change} if isinstance(change, dict) else change
    assert SpreadRecord.from_record(broken) is None
