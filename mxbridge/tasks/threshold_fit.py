"""A threshold that parts two groups of scores, how well it does, and how sure that is: pure numbers.

Positive is ``score >= threshold``, in float32, as everywhere in mxbridge. The intervals come from drawing cells again, each
group by itself: they say what other cells of the same images would have given, not what other images would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
FEWEST_DRAWS, MOST_DRAWN = 200, 5_000_000
"""With very many cells fewer draws do, and take seconds instead of minutes."""
SEED = 20261121
LEVEL = (2.5, 97.5)
"""Percent: bounds of a 95 % interval."""

Floats = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Fit:
    """threshold: a float32 number. balanced_accuracy, auroc: of the cells it was fitted on. Intervals: 95 %.

    Where two groups are far apart every threshold between them is as good, and the interval holds all of them.
    """

    threshold: float
    interval: Interval
    balanced_accuracy: float
    auroc: float
    auroc_interval: Interval


def fit_threshold(scores: NDArray[np.float32], positive: NDArray[np.bool_], *, draws: int = DRAWS) -> Fit | None:
    """The threshold of the largest balanced accuracy (Youden's index), or None where none beats guessing.

    scores: ``(cells,)``, finite. positive: ``(cells,)``, with cells of both kinds. The threshold lies in the middle of the
    gap between two neighbouring scores; of several equally good gaps it is the widest, of equally wide ones the lowest.
    """
    values, codes = np.unique(np.asarray(scores, np.float32), return_inverse=True)
    weights = np.stack([np.bincount(codes[positive == kind], minlength=len(values)) for kind in (True, False)])
    best = _best_gap(values, weights.astype(np.float64))
    if best is None:
        return None
    drawn = np.array([_drawn(values, again) for again in _again(weights, draws)])
    low, high = np.percentile(drawn, LEVEL, axis=0)
    return Fit(
        threshold=best.threshold,
        interval=(min(float(low[0]), best.below), max(float(high[1]), best.above)),
        balanced_accuracy=best.balanced_accuracy,
        auroc=_auroc(weights.astype(np.float64)),
        auroc_interval=(float(low[2]), float(high[2])),
    )


def f1_at(threshold: float, scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """2 TP / (2 TP + FP + FN) of calling ``scores >= threshold`` positive; 0 where nothing is right."""
    called = np.asarray(scores, np.float32) >= np.float32(threshold)
    right = int((called & positive).sum())
    wrong = int((called ^ positive).sum())
    return 2 * right / max(1, 2 * right + wrong)


def auroc(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """How often a positive cell scores higher than a negative one; ties count half."""
    values, codes = np.unique(np.asarray(scores, np.float32), return_inverse=True)
    weights = [np.bincount(codes[positive == kind], minlength=len(values)) for kind in (True, False)]
    return _auroc(np.stack(weights).astype(np.float64))


def _again(weights: NDArray[np.int64], draws: int) -> Iterator[Floats]:
    """The cells drawn again with replacement, positive and negative ones apart, as counts per score."""
    random = np.random.default_rng(SEED)
    for _ in range(max(FEWEST_DRAWS, min(draws, MOST_DRAWN // weights.shape[1]))):
        kinds = [random.multinomial(int(kind.sum()), kind / kind.sum()) for kind in weights]
        yield np.stack(kinds).astype(np.float64)


def _drawn(values: NDArray[np.float32], weights: Floats) -> tuple[float, float, float]:
    """Both ends of the best gap of one draw, and its AUROC. Where nothing beats guessing the gap is all that there is."""
    there = weights.sum(axis=0) > 0
    best = _best_gap(values[there], weights[:, there])
    ends = (float(values[there][0]), float(values[there][-1])) if best is None else (best.below, best.above)
    return (*ends, _auroc(weights))


@dataclass(frozen=True)
class _Gap:
    """Between the scores ``below`` and ``above`` every threshold does equally well; ``threshold`` lies in the middle."""

    below: float
    above: float
    balanced_accuracy: float

    @property
    def threshold(self) -> float:
        """A float32 number that is above one side and not above the other."""
        middle = np.float32((self.below + self.above) / 2)
        return float(middle if middle > self.below else np.float32(self.above))


def _best_gap(values: NDArray[np.float32], weights: Floats) -> _Gap | None:
    """weights: ``(2, values)`` positive and negative cells per score, scores ascending."""
    if len(values) < 2:
        return None
    share = weights / weights.sum(axis=1, keepdims=True)
    missed, spared = np.cumsum(share, axis=1)[:, :-1]
    balanced = (1 - missed + spared) / 2
    top = float(balanced.max())
    if top <= 0.5 + 1e-9:
        return None
    gaps = np.diff(values.astype(np.float64))
    among = np.flatnonzero(balanced >= top - 1e-9)
    at = int(among[np.argmax(gaps[among])])
    return _Gap(float(values[at]), float(values[at + 1]), min(1.0, top))


def _auroc(weights: Floats) -> float:
    positive, negative = weights
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
