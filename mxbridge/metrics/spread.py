"""How the spread of predictions (over views or models) goes with their error, gathered tile by tile in bounded memory.

A spread alone says how much predictions differ; shown against the error on held-back images it says how far they are off.
All numbers are in unit values (0..1 as the network sees them).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FINEST, WIDEST, BINS = 1e-5, 1.0, 100
"""Both axes are cut into this many parts of equal ratio, and one below ``FINEST``: 12 % wide, finer than any use of them."""
FORMAT = "spread 1"
LARGEST = 1e15
"""No count of a card is more; JSON also knows whole numbers that no float holds."""
SHOWN = 20
"""Rows of a table for people: neighbouring bins are joined until each holds about this share of the pixels."""


@dataclass(frozen=True)
class SpreadRow:
    """Pixels of about one spread: how many, their mean spread and their mean absolute error."""

    pixels: int
    spread: float
    error: float


class SpreadTable:
    """Spread against absolute error of one marker.

    source: how the spread comes about (``six views``, ``models``); a table says nothing of a spread made otherwise.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._counts = np.zeros((BINS + 1, BINS + 1), np.int64)  # (spread, error)
        self._sums = np.zeros((2, BINS + 1))  # of the spread, of the error, by bin of the spread

    def add(self, spread: ArrayLike, error: ArrayLike) -> None:
        """Count pixels; both of one shape. Pairs in which one is not finite are left out."""
        spreads, errors = np.asarray(spread, np.float64).ravel(), np.asarray(error, np.float64).ravel()
        kept = np.isfinite(spreads) & np.isfinite(errors)
        spreads, errors = spreads[kept], errors[kept]
        rows, columns = _bin(spreads), _bin(errors)
        size = BINS + 1
        self._counts += np.bincount(rows * size + columns, minlength=size * size).reshape(size, size)
        self._sums += [np.bincount(rows, weights=values, minlength=size) for values in (spreads, errors)]

    @property
    def pixels(self) -> int:
        return int(self._counts.sum())

    @property
    def spearman(self) -> float:
        """Rank correlation of spread and error, ranks shared within a bin; NaN where one of them is constant."""
        return _spearman(self._counts)

    def rows(self) -> list[SpreadRow]:
        """Mean error by spread, ascending, in rows of about the same number of pixels."""
        counts = self._counts.sum(axis=1)
        least = max(1, -(-self.pixels // SHOWN))
        rows, pixels, spreads, errors = [], 0, 0.0, 0.0
        for count, spread, error in zip(counts.tolist(), *self._sums.tolist(), strict=True):
            pixels, spreads, errors = pixels + count, spreads + spread, errors + error
            if pixels >= least:
                rows.append(SpreadRow(pixels, spreads / pixels, errors / pixels))
                pixels, spreads, errors = 0, 0.0, 0.0
        return [*rows, SpreadRow(pixels, spreads / pixels, errors / pixels)] if pixels else rows

    def record(self) -> dict[str, Any]:
        """For a model card: the rows and the rank correlation, small enough to be read by people."""
        rows = self.rows()
        rho = self.spearman
        return {
            "format": FORMAT,
            "source": self.source,
            "pixels": [row.pixels for row in rows],
            "spread": [row.spread for row in rows],
            "error": [row.error for row in rows],
            "spearman": rho if math.isfinite(rho) else None,
        }


@dataclass(frozen=True)
class SpreadRecord:
    """A table as a model card keeps it: rows ascending by spread."""

    source: str
    rows: tuple[SpreadRow, ...]
    spearman: float

    @classmethod
    def from_record(cls, record: object) -> SpreadRecord | None:
        """None for what is not a record of :meth:`SpreadTable.record`."""
        if not isinstance(record, Mapping) or record.get("format") != FORMAT:
            return None
        pixels, spreads, errors = (_numbers(record.get(key)) for key in ("pixels", "spread", "error"))
        if not pixels or not len(pixels) == len(spreads) == len(errors) or min(pixels) < 1:
            return None
        rows = tuple(SpreadRow(int(n), s, e) for n, s, e in zip(pixels, spreads, errors, strict=True))
        rho = record.get("spearman")
        return cls(str(record.get("source", "")), rows, *(_numbers([rho]) or [math.nan]))


def _numbers(values: object) -> list[float]:
    """A list of finite numbers; empty for anything else."""
    found = values if isinstance(values, list) else []
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= LARGEST for v in found)
    return [float(v) for v in found] if plain else []


def _bin(values: NDArray[np.float64]) -> NDArray[np.int64]:
    step = math.log(WIDEST / FINEST) / BINS
    with np.errstate(divide="ignore"):
        place = np.log(values / FINEST) / step
    return np.clip(np.floor(place), -1, BINS - 1).astype(np.int64) + 1


def _spearman(counts: NDArray[np.int64]) -> float:
    """Rank correlation of two binned quantities."""
    total = counts.sum()
    if total < 2:
        return math.nan
    sides = []
    for axis in (1, 0):
        margin = counts.sum(axis=axis).astype(np.float64)
        rank = np.cumsum(margin) - margin / 2
        sides.append((margin, rank - total / 2))
    (rows, y), (columns, x) = sides
    spread = math.sqrt(float((rows * y**2).sum() * (columns * x**2).sum()))
    return float(y @ counts @ x) / spread if spread > 0 else math.nan
