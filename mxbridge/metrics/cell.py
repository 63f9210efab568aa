"""How well imputed means of cells follow the measured ones, and find the cells that are positive there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

METRICS = ("cell_mae", "cell_pearson", "cell_spearman", "cell_auroc", "cell_ap")


@dataclass(frozen=True)
class CellScores:
    """Of the cells with both values. prevalence: share of positive cells, what an average precision has to beat.

    why_not: why AUROC and average precision are NaN, empty where they are not.
    """

    cells: int
    cell_mae: float
    cell_pearson: float
    cell_spearman: float
    cell_auroc: float
    cell_ap: float
    prevalence: float
    why_not: str


def compare_cells(
    measured: NDArray[np.floating], imputed: NDArray[np.floating], positive: NDArray[np.bool_]
) -> CellScores:
    """measured, imputed: means ``(cells,)``, NaN where a cell has none. positive: ``(cells,)``, by the measured marker."""
    there = np.isfinite(measured) & np.isfinite(imputed)
    x, y, label = (np.asarray(a)[there] for a in (measured, imputed, positive))
    x, y = x.astype(np.float64), y.astype(np.float64)
    cells, positives = len(x), int(label.sum())
    why, area, precision = "", math.nan, math.nan
    if not cells:
        why = "no cells"
    elif positives in (0, cells):
        why = f"{'all' if positives else 'none'} of {cells} cells positive"
    else:
        area, precision = auroc(label, y), average_precision(label, y)
    return CellScores(
        cells=cells,
        cell_mae=float(np.abs(x - y).mean()) if cells else math.nan,
        cell_pearson=pearson(x, y),
        cell_spearman=spearman(x, y),
        cell_auroc=area,
        cell_ap=precision,
        prevalence=positives / cells if cells else math.nan,
        why_not=why,
    )


def pearson(x: Floats, y: Floats) -> float:
    """NaN for fewer than two values, and where one side is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    below = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    return max(-1.0, min(1.0, float(x @ y) / below)) if below > 0 else math.nan


def spearman(x: Floats, y: Floats) -> float:
    """Pearson of the ranks; ties share their mean rank."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: Floats) -> Floats:
    """From 1; equal values share their mean rank."""
    _, code, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[code])


def auroc(positive: NDArray[np.bool_], score: Floats) -> float:
    """How often a positive cell scores higher than a negative one, ties count half. Both kinds must be there."""
    n, p = len(score), int(positive.sum())
    return float((_ranks(score)[positive].sum() - p * (p + 1) / 2) / (p * (n - p)))


def average_precision(positive: NDArray[np.bool_], score: Floats) -> float:
    """Mean precision over the steps of recall, each step weighed by its height (no interpolation). Positives must be there."""
    precision, recall = precision_recall(positive, score)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def precision_recall(positive: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """Precision and recall of ``score >= cut`` for every score that occurs, from the highest down."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order], dtype=np.float64)
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    return hits[last] / (last + 1), hits[last] / max(1.0, hits[-1])


def otsu_threshold(values: NDArray[np.floating]) -> float:
    """The cut that parts values into the two most distinct groups (scikit-image, 256 bins); NaN where all are alike.

    A cell is positive when its value is *at or above* the answer.
    """
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite) or np.ptp(finite) == 0:
        return math.nan
    from skimage.filters import threshold_otsu

    cut = float(threshold_otsu(finite))  # type: ignore[no-untyped-call]
    return float(finite[finite > cut].min())  # the smallest value above: the same groups under ">="
