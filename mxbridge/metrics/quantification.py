"""How well the percentage of positive nuclei is met: differences of images, agreement over many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WITHIN = 1.96
"""Standard deviations about the mean difference that hold 95 % of differences, if they are normal."""
FEWEST = 3
"""Images below which limits and concordance are not computed."""


def percent_positive(positive: int, total: int) -> float:
    """NaN where there are no nuclei."""
    return 100 * positive / total if total else math.nan


def quantification_difference(truth: float, predicted: float) -> float:
    """Percentage points between two percentages, without sign ("IHC quantification difference")."""
    return abs(truth - predicted)


@dataclass(frozen=True)
class Agreement:
    """Of two ways to measure the same things, over images. bias: mean of predicted minus truth; low, high: limits of agreement.

    concordance: Lin's coefficient, 1 where both always say the same. NaN for fewer than three images, see ``why_not``.
    left_out: images where one of the two has no value.
    """

    images: int
    left_out: int
    bias: float
    deviation: float
    low: float
    high: float
    concordance: float
    why_not: str


def agreement(truth: Sequence[float], predicted: Sequence[float]) -> Agreement:
    """Bland and Altman's limits of agreement (sample deviation) and Lin's concordance (population moments, as he defines it)."""
    x, y = (np.asarray(values, np.float64) for values in (truth, predicted))
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    n, left_out = len(x), int((~there).sum())
    difference = y - x
    bias = float(difference.mean()) if n else math.nan
    if n < FEWEST:
        why = f"{n} {'image' if n == 1 else 'images'}; limits and concordance need {FEWEST}"
        return Agreement(n, left_out, bias, math.nan, math.nan, math.nan, math.nan, why)
    deviation = float(difference.std(ddof=1))
    return Agreement(
        images=n,
        left_out=left_out,
        bias=bias,
        deviation=deviation,
        low=bias - WITHIN * deviation,
        high=bias + WITHIN * deviation,
        concordance=concordance(x, y),
        why_not="",
    )


def concordance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Lin (1989): 2 cov / (var x + var y + (mean x - mean y)²); NaN where both are the same constant."""
    below = float(x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    return float(2 * ((x - x.mean()) * (y - y.mean())).mean() / below) if below > 0 else math.nan
