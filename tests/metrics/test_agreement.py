"""Agreement by block against numpy, ranges from validation, and what many tests at once do."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from mxbridge.errors import ModelError
from mxbridge.image import Box
from mxbridge.metrics.agreement import (
    ALPHA,
    BLOCK,
    FEWEST_BLOCKS,
    BlockSums,
    Distribution,
    Range,
    agreement_record,
    corrected,
    window_medians,
)


def pair(seed: int, shape: tuple[int, int], r: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Imputed and measured ``(1, y, x)`` whose pixels correlate by about ``r``."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.standard_normal((2, *shape)), (0, 1.5, 1.5))
    a, b = smooth / smooth.std(axis=(1, 2), keepdims=True)
    both = np.stack([a, r * a + np.sqrt(1 - r * r) * b]) * 0.1 + 0.5
    return both[:1].astype(np.float32), both[1:].astype(np.float32)


def whole(imputed: np.ndarray, measured: np.ndarray) -> BlockSums:
    sums = BlockSums(len(imputed), imputed.shape[1:])
    sums.add(Box(0, 0, *imputed.shape[1:]), imputed, measured)
    return sums


def test_blocks_are_pearson_of_their_pixels() -> None:
    imputed, measured = pair(1, (150, 200))
    measured[0, 70:90, 10:40] = np.nan
    found = whole(imputed, measured)
    blocks = found.pearson_blocks()[0]
    assert blocks.shape == (3, 4)
    for y in range(3):
        for x in range(4):
            part = np.s_[0, y * BLOCK : (y + 1) * BLOCK, x * BLOCK : (x + 1) * BLOCK]
            a, b = imputed[part].ravel(), measured[part].ravel()
            if a.size < BLOCK * BLOCK / 4:
                assert np.isnan(blocks[y, x])
                continue
            keep = np.isfinite(b)
            assert blocks[y, x] == pytest.approx(np.corrcoef(a[keep], b[keep])[0, 1], abs=1e-6)
            assert found.signal()[1, 0, y, x] == pytest.approx(b[keep].std(dtype=np.float64), abs=1e-7)
    keep = np.isfinite(measured)
    assert found.pearson_image()[0] == pytest.approx(np.corrcoef(imputed[keep], measured[keep])[0, 1], abs=1e-6)


@given(st.lists(st.integers(1, 199), max_size=4, unique=True), st.lists(st.integers(1, 149), max_size=4, unique=True))
@settings(max_examples=30, deadline=None)
def test_however_the_image_is_cut(columns: list[int], rows: list[int]) -> None:
    imputed, measured = pair(2, (150, 200))
    sums = BlockSums(1, (150, 200))
    ys, xs = [0, *sorted(rows), 150], [0, *sorted(columns), 200]
    for y0, y1 in pairwise(ys):
        for x0, x1 in pairwise(xs):
            sums.add(Box(y0, x0, y1, x1), imputed[:, y0:y1, x0:x1], measured[:, y0:y1, x0:x1])
    np.testing.assert_allclose(sums.pearson_blocks(), whole(imputed, measured).pearson_blocks(), atol=1e-9)


def test_pixels_of_another_shape_are_refused() -> None:
    imputed, measured = pair(2, (64, 64))
    with pytest.raises(ValueError, match="for Box"):
        BlockSums(1, (100, 100)).add(Box(60, 0, 124, 64), imputed, measured)
    with pytest.raises(ValueError, match="for Box"):
        BlockSums(1, (100, 100)).add(Box(0, 0, 64, 64), imputed, measured[:, :10])


def test_a_dead_stain_disagrees_and_a_blank_place_is_left_out() -> None:
    imputed, measured = pair(3, (128, 256))
    measured[:, :, :128] = 0.0
    imputed[:, :64, :64] = 0.2
    found = whole(imputed, measured).agreement(0, (0.01, 0.01))
    assert np.isnan(found.blocks[0, 0])  # nothing there, nothing expected
    assert found.blocks[0, 1] == found.blocks[1, 0] == 0.0  # expected, not there
    assert (found.used, found.skipped, found.empty) == (7, 1, 0)
    assert found.image == pytest.approx(np.median(found.blocks[np.isfinite(found.blocks)]))


def test_one_marker_takes_no_more_than_its_own_sums() -> None:
    """Of a slide with many markers a copy of all sums for each of them would be the largest thing in memory."""
    sums = BlockSums(40, (64 * 64, 64 * 64))
    sums.add(Box(0, 0, 256, 256), *(np.repeat(part, 40, axis=0) for part in pair(1, (256, 256))))
    own = 6 * 8 * 64 * 64
    tracemalloc.start()
    found = sums.agreement(39, (0.01, 0.01))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.used == 16
    assert peak < 4 * own


def test_too_few_blocks_say_nothing() -> None:
    imputed, measured = pair(4, (64, 64 * (FEWEST_BLOCKS - 1)))
    assert np.isnan(whole(imputed, measured).agreement(0, (0.0, 0.0)).image)


def test_windows_are_medians_of_two_by_two() -> None:
    blocks = np.array([[0.1, 0.2, 0.9], [0.3, np.nan, np.nan], [0.5, 0.7, np.nan]])
    assert window_medians(blocks).tolist() == [pytest.approx(0.2), pytest.approx(0.6)]
    assert window_medians(np.full((2, 2), np.nan)).size == 0


def test_the_record_comes_back_from_json() -> None:
    record = agreement_record([whole(*pair(s, (256, 256))) for s in range(3)], ["CD3"])
    back = Range.from_record(json.loads(json.dumps(record))["CD3"])
    assert (back.fields, back.windows.count, back.blocks.count) == (3, 12, 48)
    assert back.record() == record["CD3"]
    assert 0.6 < back.expected[0] < 0.7 < back.expected[1] < 0.8
    assert back.why_not == ""


@pytest.mark.parametrize(
    "change",
    [
        {"windows": {"values": [0.5, 0.4], "count": 2, "mean": 0.5, "sd": 0.1}},
        {"windows": {"values": [2.0], "count": 1, "mean": 0.5, "sd": 0.1}},
        {"windows": {"values": [], "count": 3, "mean": 0.5, "sd": 0.1}},
        {"windows": {"values": [0.5], "count": 1, "mean": float("nan"), "sd": 0.1}},
        {"windows": {"values": "no", "count": 1, "mean": 0.5, "sd": 0.1}},
        {"windows": None},
        {"windows": {"values": [0.5], "count": 10**400, "mean": 0.5, "sd": 0.1}},
        {"windows": {"values": [0.5], "count": 1, "mean": 1e308, "sd": 1e308}},
        {"blocks": {"values": [], "count": 0, "mean": 0.0, "sd": 0.0}},
        {"low_signal": [0.1]},
        {"low_signal": [-1, 0]},
        {"fields": "many"},
        {"block": 32},
    ],
)
def test_a_broken_record_is_a_model_error(change: dict[str, object]) -> None:
    record = agreement_record([whole(*pair(0, (256, 256)))], ["CD3"])["CD3"]
    with pytest.raises(ModelError, match="no usable range of agreement"):
        Range.from_record(record | change)
    with pytest.raises(ModelError):
        Range.from_record(None)


def test_why_a_range_cannot_judge() -> None:
    few = agreement_record([whole(*pair(0, (128, 256)))], ["CD3"])["CD3"]
    assert "2 windows with signal" in Range.from_record(few).why_not
    weak = agreement_record([whole(*pair(s, (256, 256), r=0.05)) for s in range(3)], ["CD3"])["CD3"]
    assert "too weakly" in Range.from_record(weak).why_not
    assert "0 windows" in Range.from_record(agreement_record([], ["CD3"])["CD3"]).why_not


def test_noise_between_sparse_cells_is_low_signal() -> None:
    """Half of the field holds nothing but noise that nobody can impute: it must not widen the range to nothing."""
    fields = []
    for seed in range(3):
        imputed, measured = pair(seed, (256, 512), r=0.9)
        noise = np.random.default_rng(seed).normal(0.5, 0.03, (2, 256, 256)).astype(np.float32)
        imputed[0, :, 256:], measured[0, :, 256:] = noise
        fields.append(whole(imputed, measured))
    known = Range.from_record(agreement_record(fields, ["CD3"])["CD3"])
    assert known.windows.count == 12
    assert known.expected[0] > 0.8
    assert fields[0].agreement(0, known.low_signal).skipped == 16


def test_ranks_where_they_reach_and_a_distribution_where_not() -> None:
    rng = np.random.default_rng(0)
    known = Distribution.of(np.tanh(rng.normal(1.0, 0.1, 399)))
    assert known.ranks_reach(10)
    assert not known.ranks_reach(100)
    low = np.array([0.0])
    assert known.p_values(low, 10)[0] == pytest.approx(1 / 400)
    assert known.p_values(low, 100)[0] < 1e-9
    assert known.lowest_p(low)[0] == known.p_values(low, 100)[0]
    middle = known.p_values(np.array([known.usual, np.nan]), 10)
    assert middle[0] == pytest.approx(0.5, abs=0.01)
    assert np.isnan(middle[1])


def test_a_long_distribution_is_kept_short() -> None:
    values = np.tanh(np.random.default_rng(0).normal(0.5, 0.2, 20_000))
    known = Distribution.from_record(json.loads(json.dumps(Distribution.of(values).record())))
    assert len(known.values) == 400
    assert known.count == 20_000
    for r in (-0.5, 0.0, 0.3, 0.5, 0.8):
        exact = (1 + np.count_nonzero(values <= r)) / 20_001
        assert known.p_values(np.array([r]), 1)[0] == pytest.approx(exact, abs=0.004)


@pytest.mark.parametrize("windows", [12, 60, 4000])
def test_of_many_good_stains_almost_none_is_flagged(windows: int) -> None:
    """200 markers, each with its own validation; a failed one among them is found."""
    rng = np.random.default_rng(windows)
    false, found = 0, 0
    for _ in range(3):
        tests = []
        for marker in range(200):
            mean = rng.uniform(0.3, 1.5)
            known = Range(*2 * (Distribution.of(np.tanh(rng.normal(mean, 0.1, windows))),), (0.0, 0.0), 3)
            image = np.tanh(rng.normal(mean, 0.1))
            tests.append((known, 0.0 if marker == 0 and mean > 0.8 else image, mean > 0.8 and marker == 0))
        p = np.array([float(known.windows.p_values(np.array(r), len(tests))) for known, r, _ in tests])
        flags = [k.bad(np.array(r), np.array(q), k.windows) for (k, r, _), q in zip(tests, corrected(p), strict=True)]
        failed = [bad for _, _, bad in tests]
        false += sum(bool(f) for f, bad in zip(flags, failed, strict=True) if not bad)
        found += sum(bool(f) for f, bad in zip(flags, failed, strict=True) if bad) == sum(failed)
    assert false <= 2  # of 600
    assert found == 3


def test_correction_leaves_out_what_was_not_tested() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.5])
    assert corrected(p)[[0, 2, 3]].tolist() == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.5)]
    assert np.isnan(corrected(p)[1])
    assert np.isnan(corrected(np.array([np.nan]))).all()


def test_a_good_agreement_is_not_bad_however_narrow_the_range() -> None:
    known = Range(*2 * (Distribution.of(np.full(50, 0.95)),), (0.0, 0.0), 3)
    assert not known.bad(np.array(0.9), np.array(0.0), known.windows)
    assert known.bad(np.array(0.84), np.array(ALPHA), known.windows)
    assert not known.bad(np.array(np.nan), np.array(np.nan), known.windows)
