"""How many nuclei were found, by the distance of their centres: every truth nucleus has one partner at most."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Detection:
    """hits: pairs within the radius. distance: mean distance of the pairs, in the unit of the points."""

    truths: int
    predictions: int
    hits: int
    distance: float

    @property
    def precision(self) -> float:
        return self.hits / self.predictions if self.predictions else math.nan

    @property
    def recall(self) -> float:
        return self.hits / self.truths if self.truths else math.nan

    @property
    def f1(self) -> float:
        both = self.truths + self.predictions
        return 2 * self.hits / both if both else math.nan


def detect(truth: Points, predicted: Points, radius: float) -> Detection:
    """Nuclei found within ``radius``, which is in the unit of the points (pixels, or µm)."""
    pairs, distances = match_points(truth, predicted, radius)
    return Detection(len(truth), len(predicted), len(pairs), float(distances.mean()) if len(pairs) else math.nan)


def match_points(truth: Points, predicted: Points, radius: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs ``(n, 2)`` of indices at most ``radius`` apart, and their distances ``(n,)``: the closest two first, then the closest
    of those left.

    truth, predicted: ``(n, 2)``, finite. Equal distances are taken in the order of the indices.
    """
    if not len(truth) or not len(predicted):
        return np.empty((0, 2), np.int64), np.empty(0)
    near = cKDTree(truth).sparse_distance_matrix(cKDTree(predicted), radius, output_type="ndarray")
    order = np.lexsort((near["j"], near["i"], near["v"]))
    free = np.ones(len(truth), bool), np.ones(len(predicted), bool)
    taken = []
    for k in order.tolist():
        i, j = near["i"][k], near["j"][k]
        if free[0][i] and free[1][j]:
            free[0][i] = free[1][j] = False
            taken.append(k)
    pairs = near[np.array(taken, np.int64)]
    return np.stack([pairs["i"], pairs["j"]], axis=1).astype(np.int64), np.asarray(pairs["v"], np.float64)


def centres(labels: NDArray[np.integer]) -> Points:
    """Means ``(n, 2)`` of y and x over the pixels of each label above 0, in order; pixel (0, 0) has its centre at 0."""
    flat = labels.ravel()
    counts = np.bincount(flat, minlength=1)
    there = np.flatnonzero(counts)
    there = there[there > 0]
    y, x = (np.arange(size, dtype=np.float64) for size in labels.shape)
    places = (np.broadcast_to(y[:, None], labels.shape), np.broadcast_to(x, labels.shape))
    sums = [np.bincount(flat, at.ravel(), len(counts)) for at in places]
    return np.stack([total[there] / counts[there] for total in sums], axis=1)
