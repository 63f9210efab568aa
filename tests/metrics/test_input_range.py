"""What is unlike the channels of training: dead, saturated, far darker or brighter, noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mxbridge.errors import ModelError
from mxbridge.metrics.input_range import InputRange, InputSums, input_ranges, nothing_in


def good(seed: int) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((80, 90)), 2)
    return np.clip(0.3 + 0.1 * field / field.std(), 0, 1).astype(np.float32)


def summed(plane: np.ndarray) -> InputSums:
    sums = InputSums(["CD3"])
    sums.add(plane[None])
    return sums


@pytest.fixture(scope="module")
def known() -> InputRange:
    record = json.loads(json.dumps(input_ranges([summed(good(seed)) for seed in range(3)])))
    assert record["CD3"]["fields"] == 3
    return InputRange.from_record(record["CD3"])


def test_sums_are_those_of_the_pixels() -> None:
    plane = good(1)
    plane[:10] = np.nan
    plane[20, :30] = 1.2
    sums = InputSums(["CD3"])
    for part in np.split(plane, [13, 50], axis=0):
        sums.add(part[None])
    seen = sums.summaries()["CD3"]
    values = plane[10:].astype(np.float64)
    assert seen.mean == pytest.approx(values.mean())
    assert seen.sd == pytest.approx(values.std())
    assert seen.top == pytest.approx(30 / values.size)
    assert seen.broken == pytest.approx(10 / 80)
    neighbours = np.corrcoef(values[:, 1:].ravel(), values[:, :-1].ravel())[0, 1]
    assert seen.texture == pytest.approx(neighbours, abs=0.02)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda p: p, ""),
        (lambda p: p * 0.6, ""),
        (lambda p: np.zeros_like(p), "constant"),
        (lambda p: np.full_like(p, 0.3), "constant"),
        (lambda p: np.where(np.arange(p.size).reshape(p.shape) % 3, np.nan, p), "no numbers"),
        (lambda p: np.full_like(p, np.nan), "no numbers"),
        (lambda p: np.where(p > 0.4, 1.0, p), "top of the scale"),
        (lambda p: p * 0.1, "far below"),
        (lambda p: np.random.default_rng(0).permutation(p.ravel()).reshape(p.shape), "looks like noise"),
    ],
)
def test_what_is_wrong(known: InputRange, change: object, word: str) -> None:
    seen = summed(change(good(9))).summaries()["CD3"]  # type: ignore[operator]
    said = known.what_is_wrong(seen)
    assert word in said
    assert bool(said) == bool(word)
    assert bool(nothing_in(seen)) == (word in ("constant", "no numbers") and bool(word))


def test_a_channel_far_too_bright() -> None:
    known = InputRange.from_record(input_ranges([summed(0.1 * good(1))])["CD3"])
    assert "far above" in known.what_is_wrong(summed(0.5 * good(2)).summaries()["CD3"])


def test_constant_and_empty_channels_make_a_record() -> None:
    record = input_ranges([summed(np.zeros((20, 20), np.float32)), summed(np.full((20, 20), np.nan, np.float32))])
    assert json.loads(json.dumps(record, allow_nan=False))["CD3"]["texture"] is None
    assert InputRange.from_record(record["CD3"]).what_is_wrong(summed(good(1)).summaries()["CD3"])
    assert input_ranges([]) == {}


def test_what_was_not_imaged_is_no_failure_of_a_channel() -> None:
    """Outside of the tissue a masked slide has no numbers in any channel."""
    planes = np.stack([good(1), good(2)])
    planes[:, :50] = np.nan
    planes[1, 50:70] = np.nan
    sums = InputSums(["CD3", "CD4"])
    for part in np.split(planes, [13, 50], axis=1):
        sums.add(part)
    seen = sums.summaries()
    assert nothing_in(seen["CD3"]) == ""
    assert seen["CD3"].broken == 0
    assert seen["CD4"].broken == pytest.approx(20 / 30)
    nothing = InputSums(["CD3", "CD4"])
    nothing.add(np.full((2, 9, 9), np.nan, np.float32))
    assert "no numbers" in nothing_in(nothing.summaries()["CD3"])


@pytest.mark.parametrize("broken", [None, {}, {"mean": [0.1]}, {"mean": "x"}, {"texture": float("inf")}, [1, 2]])
def test_a_broken_record_is_a_model_error(broken: object) -> None:
    record = {"mean": [0.1, 0.2], "sd": [0.1, 0.2], "top": 0.0, "texture": 0.5, "fields": 2}
    InputRange.from_record(record)
    with pytest.raises(ModelError, match="no usable range of an input"):
        InputRange.from_record({**record, **broken} if isinstance(broken, dict) and broken else broken)
    with pytest.raises(ModelError):
        InputRange.from_record({**record, "sd": [0.3, 0.2]})
