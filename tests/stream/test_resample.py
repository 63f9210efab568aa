"""Resampling by areas: right against plain integration, and the same bits however the image is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.image import Box
from mxbridge.stream.grid import Grid
from mxbridge.stream.resample import Field, Scale, at_least_half, level_step, reflect_index, resample

RATIOS = st.one_of(
    st.sampled_from([0.5, 0.25, 0.325, 0.2125, 0.37, 0.5022, 1.0, 1 / 3, 2.0, 1.3, 3.077, 0.9999999]), st.floats(0.1, 4)
)


def shrink(image: np.ndarray, ratio: float, box: Box | None = None) -> np.ndarray:
    y, x = (Scale(size, ratio) for size in image.shape)
    box = box or Box(0, 0, y.size, x.size)
    rows, columns = y.taps(box.y0, box.y1, image.shape[0]), x.taps(box.x0, box.x1, image.shape[1])
    part = torch.from_numpy(image[rows.start : rows.stop, columns.start : columns.stop])
    return resample(part, rows, columns).numpy()


@given(
    ratio=RATIOS,
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
    core=st.integers(5, 40),
)
@settings(deadline=None, max_examples=40)
def test_tiles_hold_the_bits_of_the_whole(ratio: float, shape: tuple[int, int], seed: int, core: int) -> None:
    image = np.random.default_rng(seed).random(shape, np.float32)
    whole = shrink(image, ratio)
    for tile in Grid(whole.shape, 1, 0, core):
        box = tile.core
        np.testing.assert_array_equal(shrink(image, ratio, box), whole[box.y0 : box.y1, box.x0 : box.x1])


@given(ratio=st.floats(0.05, 1.0), length=st.integers(1, 80), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=80)
def test_shrinking_is_integration(ratio: float, length: int, seed: int) -> None:
    """Against differences of the integral of the step function."""
    values = np.random.default_rng(seed).random(length)
    scale = Scale(length, ratio)
    integral = np.concatenate([[0], np.cumsum(values)])
    edges = np.minimum(np.arange(scale.size + 1) / ratio, length)
    expected = np.diff(np.interp(edges, np.arange(length + 1), integral)) / np.maximum(np.diff(edges), 1e-12)
    taps = scale.taps(0, scale.size, length)
    found = (taps.weight * values[taps.index + taps.start]).sum(1)
    wide = np.diff(edges) > 1e-4  # a last sliver of a pixel is all rounding
    np.testing.assert_allclose(found[wide], expected[wide], atol=2e-4)
    np.testing.assert_allclose(taps.weight.sum(1), 1, atol=1e-6)


def test_integer_factors_are_block_means() -> None:
    image = np.random.default_rng(0).integers(0, 65536, (12, 20)).astype(np.float32)
    for factor in (1, 2, 4):
        expected = image.reshape(12 // factor, factor, 20 // factor, factor).mean((1, 3), dtype=np.float64)
        np.testing.assert_allclose(shrink(image, 1 / factor), expected, rtol=1e-6)
    np.testing.assert_array_equal(shrink(image, 1.0), image)


def test_last_partial_pixels_average_what_exists() -> None:
    image = np.arange(5, dtype=np.float32)[None]
    scale = Scale(5, 0.5)
    assert scale.size == 3
    taps = scale.taps(0, 3, 5)
    np.testing.assert_allclose((taps.weight * image[0][taps.index]).sum(1), [0.5, 2.5, 4.0])


def test_enlarging_interpolates_between_centres() -> None:
    values = np.array([1.0, 5.0, 2.0])
    taps = Scale(3, 2.5).taps(0, 8, 3)
    centres = (np.arange(8) + 0.5) / 2.5
    np.testing.assert_allclose(
        (taps.weight * values[taps.index + taps.start]).sum(1), np.interp(centres, [0.5, 1.5, 2.5], values), atol=1e-6
    )


def test_size_forgives_rounding() -> None:
    assert Scale(1000, 0.325 / 1.0).size == 325
    assert Scale(40, 0.1 + 0.2).size == 12  # 0.30000000000000004
    assert Scale(1, 0.001).size == 1


@given(ratio=RATIOS, length=st.integers(1, 120), core=st.integers(1, 30))
@settings(deadline=None, max_examples=100)
def test_every_full_pixel_is_owned_by_one_core(ratio: float, length: int, core: int) -> None:
    scale = Scale(length, ratio)
    spans = [scale.owned(first, min(first + core, scale.size)) for first in range(0, scale.size, core)]
    assert [p for first, last in spans for p in range(first, last)] == list(range(length))
    for first, span in zip(range(0, scale.size, core), spans, strict=True):
        at = scale.model_pixel(*span)
        assert ((at >= first) & (at < first + core)).all()


def test_nearest_model_pixel() -> None:
    np.testing.assert_array_equal(Scale(6, 0.5).model_pixel(0, 6), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(Scale(5, 2.0).model_pixel(0, 5), [1, 3, 5, 7, 9])


def test_half_covered_pixels_count_whatever_the_rounding() -> None:
    """Thirds and sevenths of a pixel: 0.5 is never exact, the cut is the same everywhere."""
    mask = np.zeros((1, 700), np.float32)
    mask[:, ::2] = 1
    for ratio in (1 / 2, 1 / 6, 1 / 14):
        assert at_least_half(torch.from_numpy(shrink(mask, ratio))).all()


@given(size=st.integers(1, 9), before=st.integers(0, 30), after=st.integers(0, 30))
@settings(deadline=None, max_examples=50)
def test_reflection_is_that_of_numpy(size: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(size), (before, after), mode="reflect" if size > 1 else "edge")
    np.testing.assert_array_equal(reflect_index(-before, size + after, size), expected)


@pytest.mark.parametrize(
    ("full", "reduced", "step"),
    [(1000, 500, 2), (1001, 500, 2), (1001, 501, 2), (1003, 250, 4), (1000, 300, 10 / 3), (7, 7, 1)],
)
def test_pyramid_steps(full: int, reduced: int, step: float) -> None:
    assert level_step(full, reduced) == step


def test_pixels_need_not_be_square() -> None:
    field = Field.of((10, 10), (0.5, 1.0), 1.0)
    assert field.shape == (5, 10)
    assert field.owned(Box(1, 0, 2, 3)) == Box(2, 0, 4, 3)
