"""How sure a mean over cases is: cases are drawn again with replacement. Images of one case are not independent; cases are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_CASES = 6
"""Below that, resampling a handful of cases gives intervals that are far too short."""

DRAWS = 2000
SEED = 20261121
LEVEL = (2.5, 97.5)
"""Percent: bounds of a 95 % interval."""


@dataclass(frozen=True)
class Interval:
    """Mean over cases with its 95 % interval; NaN bounds where ``why_not`` says why there is none.

    left_out: cases whose value is not a finite number (a peak signal-to-noise ratio of infinity, a correlation with a constant).
    """

    mean: float
    low: float
    high: float
    cases: int
    left_out: int
    why_not: str


def mean_interval(values: Sequence[float], *, draws: int = DRAWS, seed: int = SEED) -> Interval:
    """values: one per case. The same values in the same order give the same interval."""
    given = np.asarray(values, np.float64)
    finite = given[np.isfinite(given)]
    n, left_out = len(finite), int(len(given) - len(finite))
    mean = float(finite.mean()) if n else math.nan
    if n < FEWEST_CASES:
        many = "case" if n == 1 else "cases"
        return Interval(mean, math.nan, math.nan, n, left_out, f"{n} {many}; intervals need {FEWEST_CASES}")
    picks = np.random.default_rng(seed).integers(n, size=(draws, n))
    low, high = np.percentile(finite[picks].mean(axis=1), LEVEL)
    return Interval(mean, float(low), float(high), n, left_out, "")
