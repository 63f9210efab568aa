"""Factors that stay: pooled as the command pools them, without signal, with drift."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.batch.frozen import drift, has_drifted
from mxbridge.image import Channel, LocalImage
from mxbridge.models.normalization import fit, pooled


def image(name: str, seed: int, brightness: float) -> LocalImage:
    pixels = (np.random.default_rng(seed).uniform(0, brightness, (2, 16, 16))).astype(np.uint16)
    return LocalImage(name, (da.from_array(pixels),), (Channel("a"), Channel("b")), (0.5, 0.5), f"{seed} {brightness}")


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from((0.0, 1.5, 300.0, 40000.0)), min_size=1, max_size=4))
def test_images_fitted_one_by_one_are_pooled_as_all_together(brightness: list[float]) -> None:
    images = [(f"{k}", image(f"{k}", k, b), {"a": 0, "b": 1} if k % 2 else {"a": 0}) for k, b in enumerate(brightness)]
    together = fit(images, quantile=0.99)
    details = {name: fit([(name, one, channels)], quantile=0.99).details[name] for name, one, channels in images}
    assert pooled(details, 0.99) == together


def test_drift_is_a_ratio_both_ways() -> None:
    assert drift({"a": 50.0, "b": 3.0}, {"a": 100.0, "c": 1.0}) == {"a": 0.5}
    assert [has_drifted(r, 2) for r in (0.49, 0.51, 1.0, 1.99, 2.01)] == [True, False, False, False, True]
    assert drift({}, {"a": 1.0}) == {}


@pytest.mark.parametrize("limit", [1.1, 3.0])
def test_the_limit_itself_is_no_drift(limit: float) -> None:
    assert not has_drifted(limit, limit)
