"""How far two images are apart, pixel by pixel: sums that grow tile by tile, in unit values (scaled 0..1).

Pixels that are not finite in either image are left out. Peak signal-to-noise ratios are for a range of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class PixelSums:
    """Differences, and moments merged tile by tile (so that nothing is lost to cancellation in a large slide)."""

    n: int = 0
    absolute: float = 0.0
    square: float = 0.0
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    moments: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    """Sums over pixels of x², y² and x·y, x and y being deviations from the means; x is measured, y is imputed."""
    ends: NDArray[np.float64] = field(default_factory=lambda: np.array([[np.inf, -np.inf]] * 2))
    """Smallest and largest value of each."""

    def add(self, measured: NDArray[Any], imputed: NDArray[Any]) -> None:
        """Two arrays of the same shape, of any."""
        pair = np.stack([np.ravel(measured), np.ravel(imputed)]).astype(np.float64)
        finite = np.isfinite(pair).all(axis=0)
        if not finite.all():
            pair = pair[:, finite]
        n = pair.shape[1]
        if not n:
            return
        difference = pair[1] - pair[0]
        self.absolute += float(np.abs(difference).sum())
        self.square += float(difference @ difference)
        self.ends[:, 0] = np.minimum(self.ends[:, 0], pair.min(axis=1))
        self.ends[:, 1] = np.maximum(self.ends[:, 1], pair.max(axis=1))
        mean = pair.mean(axis=1)
        pair -= mean[:, None]
        x, y = pair
        apart = mean - self.mean
        between = np.array([apart[0] ** 2, apart[1] ** 2, apart[0] * apart[1]]) * (self.n * n / (self.n + n))
        self.moments += np.array([x @ x, y @ y, x @ y]) + between
        self.mean += apart * n / (self.n + n)
        self.n += n

    @property
    def mae(self) -> float:
        return self.absolute / self.n if self.n else math.nan

    @property
    def mse(self) -> float:
        return self.square / self.n if self.n else math.nan

    @property
    def rmse(self) -> float:
        return math.sqrt(self.mse)

    @property
    def psnr(self) -> float:
        """``-10 log10(MSE)`` in dB; infinite where nothing differs."""
        if not self.n:
            return math.nan
        return -10 * math.log10(self.mse) if self.mse > 0 else math.inf

    @property
    def constant(self) -> bool:
        """Whether one of the two has the same value everywhere."""
        return not self.n or bool((self.ends[:, 0] == self.ends[:, 1]).any())

    @property
    def pearson(self) -> float:
        """NaN where one of the two is constant."""
        if self.constant:
            return math.nan
        below = math.sqrt(self.moments[0]) * math.sqrt(self.moments[1])
        return max(-1.0, min(1.0, self.moments[2] / below)) if below > 0 else math.nan

    @property
    def p_value(self) -> float:
        """Two-sided, of the correlation, as if pixels were independent (they are not): the published program writes it."""
        if math.isnan(self.pearson) or self.n < 3:
            return math.nan
        from scipy.special import betainc

        half = self.n / 2 - 1
        return float(2 * betainc(half, half, (1 - abs(self.pearson)) / 2))

    def values(self) -> dict[str, float]:
        """``mae, mse, rmse, psnr, pearson``."""
        return {name: float(getattr(self, name)) for name in METRICS}


METRICS = ("mae", "mse", "rmse", "psnr", "pearson")
