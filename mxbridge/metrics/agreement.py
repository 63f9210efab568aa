"""How well an imputed and a measured stain agree, block by block, and whether that is as good as it was in validation.

A block is a square of a fixed grid, so the numbers do not depend on tiles. Its agreement is the Pearson correlation of its
pixels. The agreement of an image is the median over its blocks: the correlation over all pixels at once mostly says where
tissue is. Blocks in which neither image has contrast say nothing and are left out; a block in which only one of the two has
any does not agree (0), because that is what a failed stain looks like.

What validation saw is kept as blocks and as windows (medians over 2 x 2 blocks), the smallest image that is judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mxbridge.errors import ModelError
from mxbridge.image import Box

BLOCK = 64
"""Side of a block in pixels at the model's scale."""
WINDOW = 2
"""Side of a window in blocks."""
FEWEST_BLOCKS = 4
"""Blocks with signal below which an image, and windows below which a validation, says nothing."""
MARGIN = 0.1
"""An agreement less than this below the usual one is not called bad, however narrow the validation's range was."""
ALPHA = 0.05
CONSTANT = 1e-10
"""Variance, in squared units, up to which a block is one value (half a grey level of 8 bit in one pixel has more)."""
STRONGEST, LOW_SIGNAL = 0.98, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Low signal is contrast below a part of that of the strongest blocks of validation (a quantile): the smallest of these parts
at which enough blocks remain that say something. Where a stain is sparse, noise is most of the contrast between its cells."""
TESTS_IN_MIND = 20
"""Tests at once among which a failed stain should still stand out (a panel of one image)."""
KEPT = 400
"""Values of a distribution that a model card keeps."""
MOST_Z, MOST_VALUES = 100.0, 10**12
"""Means and spreads (Fisher z), and numbers of values, beyond which a model card is broken."""
LEAST_SPREAD = 0.05
"""Standard deviation (Fisher z) taken at least: windows of one slide vary less than slides do."""


class Agreement(NamedTuple):
    """Of one marker in one image. blocks: ``(by, bx)`` Pearson, NaN where left out. image: their median, NaN below
    FEWEST_BLOCKS. pixels: Pearson over all pixels of the blocks used. skipped: blocks of low signal. empty: too few pixels."""

    blocks: NDArray[np.float64]
    image: float
    pixels: float
    used: int
    skipped: int
    empty: int


class BlockSums:
    """Sums over pairs of imputed and measured pixels per marker and block, of an image of ``shape`` (y, x) model pixels.

    Takes 48 bytes per marker and block: about a hundredth of a byte per pixel.
    """

    def __init__(self, markers: int, shape: tuple[int, int]) -> None:
        self.markers, self.shape = markers, shape
        self.blocks = (-(-shape[0] // BLOCK), -(-shape[1] // BLOCK))
        self._sums = np.zeros((6, markers, *self.blocks))

    def add(self, box: Box, imputed: NDArray[np.floating[Any]], measured: NDArray[np.floating[Any]]) -> None:
        """Pixels ``(marker, y, x)`` of ``box`` in units; each pixel of the image once. Pairs with NaN are left out."""
        expected = (self.markers, *box.shape)
        if imputed.shape != expected or measured.shape != expected or box.clip(self.shape) != box:
            raise ValueError(f"{imputed.shape} and {measured.shape} pixels for {box} of {expected[0]} markers")
        if not min(box.shape):
            return
        y, rows = cuts(box.y0, box.y1)
        x, columns = cuts(box.x0, box.x1)
        for k in range(self.markers):
            a, b = imputed[k].astype(np.float64), measured[k].astype(np.float64)
            valid = np.isfinite(a) & np.isfinite(b)
            a, b = np.where(valid, a, 0.0), np.where(valid, b, 0.0)
            for n, plane in enumerate((valid.astype(np.float64), a, b, a * a, b * b, a * b)):
                self._sums[n, k, y, x] += np.add.reduceat(np.add.reduceat(plane, rows, axis=0), columns, axis=1)

    def keep(self, blocks: NDArray[np.bool_]) -> None:
        """Forget all but these blocks ``(by, bx)``."""
        self._sums[:, :, ~blocks] = 0

    def signal(self) -> NDArray[np.float64]:
        """``(2, marker, by, bx)``: contrast (standard deviation) of imputed and measured; NaN where too few pixels count."""
        return _contrast(self._sums)

    def filled(self) -> NDArray[np.bool_]:
        """``(marker, by, bx)``: blocks of which at least a quarter counts."""
        return _filled(self._sums)

    def pearson_blocks(self) -> NDArray[np.float64]:
        """``(marker, by, bx)``; 0 where one of the two is constant, NaN where both are or too few pixels count."""
        return np.where(self.filled(), _pearson(*_moments(self._sums)), np.nan)

    def pearson_image(self) -> NDArray[np.float64]:
        """``(marker,)`` over all pixels."""
        return _pearson(*_moments(self._sums.sum(axis=(-2, -1))))

    def contrast(self, marker: int) -> NDArray[np.float64]:
        """:meth:`signal` of one marker, ``(2, by, bx)``."""
        return _contrast(self._sums[:, marker])

    def agreement(self, marker: int, low_signal: tuple[float, float]) -> Agreement:
        """low_signal: contrast of imputed and measured below which a block is left out, if both are."""
        sums = self._sums[:, marker]  # of a slide, the sums of all markers at once would be gigabytes
        signal, filled = _contrast(sums), _filled(sums)
        with np.errstate(invalid="ignore"):
            strong = (signal[0] >= low_signal[0]) | (signal[1] >= low_signal[1])
        blocks = np.where(strong & filled, _pearson(*_moments(sums)), np.nan)
        used = np.isfinite(blocks)
        count = int(used.sum())
        return Agreement(
            blocks=blocks,
            image=float(np.median(blocks[used])) if count >= FEWEST_BLOCKS else np.nan,
            pixels=float(_pearson(*_moments(sums[:, used].sum(axis=1)))),
            used=count,
            skipped=int(filled.sum()) - count,
            empty=int((~filled).sum()),
        )


def cuts(first: int, last: int, side: int = BLOCK) -> tuple[slice, NDArray[np.intp]]:
    """The blocks that the pixels first..last lie in, and the first pixel of each, counted from ``first``."""
    blocks = slice(first // side, (last - 1) // side + 1)
    starts = np.maximum(np.arange(blocks.start, blocks.stop) * side, first) - first
    return blocks, starts.astype(np.intp)


def _filled(sums: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(sums[0] >= BLOCK * BLOCK / 4)


def _contrast(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(2, ...)`` of sums ``(6, ...)``."""
    return np.where(_filled(sums), np.sqrt(_moments(sums)[0]), np.nan)


def _moments(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances ``(2, ...)`` and covariance of sums ``(6, ...)``; 0 where nothing was counted."""
    n = np.maximum(sums[0], 1.0)
    a, b = sums[1] / n, sums[2] / n
    variances = np.stack([sums[3] / n - a * a, sums[4] / n - b * b])
    return np.maximum(variances, 0.0), sums[5] / n - a * b


def _pearson(variances: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = variances <= CONSTANT
    scale = np.sqrt(np.where(flat, 1.0, variances)).prod(axis=0)
    r = np.where(flat.any(axis=0), 0.0, np.clip(covariance / scale, -1.0, 1.0))
    return np.where(flat.all(axis=0), np.nan, r)


def window_medians(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Medians ``(n,)`` over windows of 2 x 2 blocks ``(by, bx)`` of which at least two are not NaN."""
    by, bx = (-(-side // WINDOW) for side in blocks.shape)
    padded = np.full((by * WINDOW, bx * WINDOW), np.nan)
    padded[: blocks.shape[0], : blocks.shape[1]] = blocks
    windows = padded.reshape(by, WINDOW, bx, WINDOW).swapaxes(1, 2).reshape(-1, WINDOW * WINDOW)
    kept = windows[np.isfinite(windows).sum(axis=1) >= WINDOW * WINDOW / 2]
    return np.nanmedian(kept, axis=1) if len(kept) else np.zeros(0)


@dataclass(frozen=True)
class Distribution:
    """Agreements seen in validation. values: in order, at most KEPT of ``count``. mean, sd: of their Fisher z."""

    values: NDArray[np.float64]
    count: int
    mean: float
    sd: float

    @classmethod
    def of(cls, r: NDArray[np.float64]) -> Distribution:
        ordered = np.sort(r)
        z = fisher(ordered)
        kept = ordered[np.linspace(0, len(r) - 1, min(KEPT, len(r))).round().astype(int)] if len(r) else ordered
        sd = float(z.std(ddof=1)) if len(r) > 1 else 0.0
        return cls(kept, len(r), float(z.mean()) if len(r) else 0.0, sd)

    def record(self) -> dict[str, Any]:
        rounded = [round(float(v), 5) for v in self.values]
        return {"values": rounded, "count": self.count, "mean": self.mean, "sd": self.sd}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Distribution:
        """Raises ValueError, TypeError, KeyError for what no card of ours says."""
        values = np.array([float(v) for v in record["values"][: 2 * KEPT]])
        count, mean, sd = int(record["count"]), float(record["mean"]), float(record["sd"])
        finite = np.isfinite([mean, sd, *values]).all() and (np.abs(values) <= 1).all() and (np.diff(values) >= 0).all()
        sensible = 0 <= sd <= MOST_Z and abs(mean) <= MOST_Z and len(values) <= count <= MOST_VALUES
        if not finite or not sensible or (count > 0) != (len(values) > 0):
            raise ValueError("numbers that are no agreement")
        return cls(values, count, mean, sd)

    def ranks_reach(self, tests: int, alpha: float = ALPHA) -> bool:
        """Whether a rank among these can be significant after correction for ``tests``."""
        return alpha / max(1, tests) >= 1 / (self.count + 1)

    def p_values(self, r: NDArray[np.float64], tests: int) -> NDArray[np.float64]:
        """One-sided p ``(...)`` of agreements ``(...)``, small where low; NaN stays NaN.

        The conformal rank, (1 + those as low or lower) / (1 + all), where that can become small enough for ``tests``;
        otherwise what a new value of a normal distribution would be (Fisher z, Student t of count - 1, spread for one more
        value). The rank assumes only that good images are alike; the second also a shape, because few values have no tail.
        """
        return self._rank_p(r) if self.ranks_reach(tests) else self._normal_p(r)

    def lowest_p(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        """The smaller of both kinds of p: no number of tests makes :meth:`p_values` smaller."""
        return np.asarray(np.fmin(self._rank_p(r), self._normal_p(r)))

    def deficit(self, r: float) -> float:
        """How far an agreement is below the usual, in standard deviations (Fisher z)."""
        return (self.mean - float(fisher(np.array(r)))) / self._scale

    def _rank_p(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        below = np.searchsorted(self.values, r, side="right") / len(self.values)
        p = (1 + np.round(below * self.count)) / (1 + self.count)
        return np.where(np.isfinite(r), p, np.nan)

    def _normal_p(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        p = stats.t.cdf((fisher(r) - self.mean) / self._scale, self.count - 1)
        return np.where(np.isfinite(r), p, np.nan)

    def lowest_expected(self, tests: int, alpha: float = ALPHA) -> float:
        """Agreement below which ``tests`` tests would call one value bad; inside MARGIN of the usual nothing is."""
        if self.ranks_reach(tests, alpha):
            limit = float(np.quantile(self.values, alpha / max(1, tests)))
        else:
            limit = float(np.tanh(self.mean + self._scale * stats.t.ppf(alpha / max(1, tests), self.count - 1)))
        return min(limit, self.usual - MARGIN)

    @property
    def usual(self) -> float:
        return float(np.median(self.values))

    @property
    def _scale(self) -> float:
        return max(self.sd, LEAST_SPREAD) * float(np.sqrt(1 + 1 / max(1, self.count)))


@dataclass(frozen=True)
class Range:
    """What validation saw of one marker. low_signal: see :meth:`BlockSums.agreement`. fields: validation images or regions."""

    windows: Distribution
    blocks: Distribution
    low_signal: tuple[float, float]
    fields: int

    @classmethod
    def from_record(cls, record: Any, where: str = "the model card") -> Range:
        """From ``card.validation["agreement"][marker]``. Raises ModelError."""
        try:
            if record["block"] != BLOCK:
                raise ValueError(f"blocks of {record['block']} px, not {BLOCK}")
            low = tuple(float(v) for v in record["low_signal"])
            if len(low) != 2 or not all(np.isfinite(v) and v >= 0 for v in low):
                raise ValueError("levels of low signal that make no sense")
            windows, blocks = (Distribution.from_record(record[key]) for key in ("windows", "blocks"))
            if windows.count > blocks.count:
                raise ValueError(f"{windows.count} windows of {blocks.count} blocks")
            return cls(windows, blocks, (low[0], low[1]), int(record["fields"]))
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ModelError(f"{where}: no usable range of agreement ({what})") from error

    def record(self) -> dict[str, Any]:
        return {
            "block": BLOCK,
            "fields": self.fields,
            "low_signal": list(self.low_signal),
            "windows": self.windows.record(),
            "blocks": self.blocks.record(),
        }

    @property
    def why_not(self) -> str:
        """Why no image can be judged by this range; empty where it can."""
        if self.windows.count < FEWEST_BLOCKS:
            return f"validation has {self.windows.count} windows with signal, {FEWEST_BLOCKS} are needed"
        if self.windows.lowest_expected(1) <= 0:
            return f"the model predicts this marker too weakly (usual agreement {self.windows.usual:.2f}) to tell a failed stain"
        return ""

    @property
    def expected(self) -> tuple[float, float]:
        """5 % and 95 % quantiles of windows, for people."""
        low, high = np.quantile(self.windows.values, (0.05, 0.95))
        return float(low), float(high)

    def bad_blocks(self, agreement: Agreement) -> NDArray[np.bool_]:
        """``(by, bx)``: blocks that are called bad, corrected over the blocks of the image, and that have lost half of what is
        usual (Fisher z): an image in which all blocks are a little worse has no bad place."""
        r = agreement.blocks
        p = corrected(self.blocks.p_values(r.ravel(), agreement.used)).reshape(r.shape)
        with np.errstate(invalid="ignore"):
            return self.bad(r, p, self.blocks) & (fisher(r) <= fisher(np.array(self.blocks.usual)) / 2)

    def bad(self, r: NDArray[np.float64], p: NDArray[np.float64], of: Distribution) -> NDArray[np.bool_]:
        """Which agreements are called bad: corrected p ``(...)`` at most ALPHA and at least MARGIN below the usual."""
        with np.errstate(invalid="ignore"):
            return np.asarray((p <= ALPHA) & (r <= of.usual - MARGIN))


def agreement_record(fields: Sequence[BlockSums], names: Sequence[str]) -> dict[str, Any]:
    """``card.validation["agreement"]``: per marker what to expect of an image, from the validation fields' sums.

    fields: one per held-back image or region, imputed with each marker hidden. names: of the markers, in their order.
    """
    return {name: _fitted_range([_Field.of(f, k) for f in fields]).record() for k, name in enumerate(names)}


class _Field(NamedTuple):
    """Of one marker in one validation field: the sums, its number there, and ``(2, n)`` contrast of the filled blocks."""

    sums: BlockSums
    marker: int
    contrast: NDArray[np.float64]

    @classmethod
    def of(cls, sums: BlockSums, marker: int) -> _Field:
        contrast = sums.contrast(marker).reshape(2, -1)
        return cls(sums, marker, contrast[:, np.isfinite(contrast).all(axis=0)])


def _fitted_range(fields: Sequence[_Field]) -> Range:
    """The range at the lowest level of signal at which a failed stain would stand out; where none does, at the best."""
    contrast = np.concatenate([f.contrast for f in fields], axis=1) if fields else np.zeros((2, 0))
    strongest = np.quantile(contrast, STRONGEST, axis=1) if contrast.shape[1] else np.zeros(2)
    best = None
    for part in LOW_SIGNAL:
        found = _range_at(fields, part * strongest)
        if found.windows.count < FEWEST_BLOCKS:
            break
        if found.windows.lowest_expected(TESTS_IN_MIND) > 0:
            return found
        if best is None or found.windows.lowest_expected(1) > best.windows.lowest_expected(1):
            best = found
    return best or _range_at(fields, LOW_SIGNAL[0] * strongest)


def _range_at(fields: Sequence[_Field], level: NDArray[np.float64]) -> Range:
    low_signal = (max(float(level[0]), CONSTANT**0.5), max(float(level[1]), CONSTANT**0.5))
    found = [f.sums.agreement(f.marker, low_signal).blocks for f in fields]
    blocks = np.concatenate([b[np.isfinite(b)] for b in found]) if found else np.zeros(0)
    windows = np.concatenate([window_medians(b) for b in found]) if found else np.zeros(0)
    return Range(Distribution.of(windows), Distribution.of(blocks), low_signal, len(fields))


def corrected(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """p-values ``(n,)`` after Benjamini and Hochberg over those that are not NaN; at ALPHA one flag in 1/ALPHA is expected
    to be false."""
    known = np.isfinite(p)
    out = np.full(p.shape, np.nan)
    if known.any():
        out[known] = stats.false_discovery_control(p[known], method="bh")
    return out


def fisher(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fisher's z of correlations, in which their spread depends little on their size."""
    return np.arctanh(np.clip(r, -0.99999, 0.99999))
