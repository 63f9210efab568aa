"""Scores per cell against the simulator's truth, beside the simplest rival: a threshold on mean intensity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mxbridge.models.nimbus_input import whole_input
from mxbridge.stream.resample import Field
from mxbridge.training.data import foreground_quantile
from mxbridge.training.simulator import Tissue


@dataclass(frozen=True)
class Judgement:
    """One field. Per marker: F1 of the network at threshold 0.5, F1 of the best threshold on mean intensity (chosen with
    the truth in hand), area under the ROC curve of the network. NaN for a marker without both kinds of cells."""

    markers: tuple[str, ...]
    f1: NDArray[np.float64]
    f1_intensity: NDArray[np.float64]
    auroc: NDArray[np.float64]

    @property
    def macro(self) -> tuple[float, float, float]:
        """Means over the markers that can be judged: F1, best F1 on intensity, AUROC."""
        return float(np.nanmean(self.f1)), float(np.nanmean(self.f1_intensity)), float(np.nanmean(self.auroc))


def judge(network: nn.Module, tissue: Tissue, um_per_px: float, stride: int) -> Judgement:
    """Score a field in one pass and compare with its truth."""
    scores = cell_scores(network, tissue, um_per_px, stride)
    means = cell_means(tissue)
    rows = []
    for marker in range(len(tissue.channels)):
        truth = tissue.truth[:, marker]
        if truth.all() or not truth.any():
            rows.append((np.nan, np.nan, np.nan))
            continue
        rows.append(
            (f1(truth, scores[:, marker] >= 0.5), best_f1(truth, means[:, marker]), auroc(truth, scores[:, marker]))
        )
    columns = np.array(rows, np.float64).reshape(-1, 3).T
    return Judgement(tissue.channels, columns[0], columns[1], columns[2])


def cell_scores(network: nn.Module, tissue: Tissue, um_per_px: float, stride: int) -> NDArray[np.float64]:
    """Scores ``(cells, markers)`` in 0..1: mean over a cell's full-resolution pixels of the nearest-enlarged map."""
    um = tissue.settings.um_per_px
    factors = [foreground_quantile(plane) for plane in tissue.image]
    inputs = whole_input(tissue.image, tissue.cells, factors, (um, um), um_per_px, stride=stride)
    field = Field.of(tissue.cells.shape, (um, um), um_per_px)
    y = field.y.model_pixel(0, tissue.cells.shape[0])
    x = field.x.model_pixel(0, tissue.cells.shape[1])
    device = next(network.parameters()).device
    out = np.empty(tissue.truth.shape)
    network.eval()
    with torch.inference_mode():
        for marker, both in enumerate(inputs):
            score = network(both[None].to(device))[0, 0].cpu().numpy()
            out[:, marker] = _label_means(tissue.cells, score[y[:, None], x[None, :]])
    return out


def cell_means(tissue: Tissue) -> NDArray[np.float64]:
    """Mean raw intensity ``(cells, markers)``."""
    return np.stack([_label_means(tissue.cells, plane) for plane in tissue.image], axis=1)


def _label_means(labels: NDArray[np.int32], values: NDArray[np.generic]) -> NDArray[np.float64]:
    flat = labels.ravel()
    return np.bincount(flat, values.ravel().astype(np.float64))[1:] / np.maximum(np.bincount(flat)[1:], 1)


def f1(truth: NDArray[np.bool_], called: NDArray[np.bool_]) -> float:
    """2TP / (2TP + FP + FN); 0 where nothing is true or called."""
    hits = int((truth & called).sum())
    total = int(truth.sum()) + int(called.sum())
    return 2 * hits / total if total else 0.0


def best_f1(truth: NDArray[np.bool_], values: NDArray[np.float64]) -> float:
    """Highest F1 any threshold on ``values`` reaches."""
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(truth[order])
    called = np.arange(1, len(truth) + 1)
    cut = np.r_[values[order][1:] != values[order][:-1], True]  # ties fall on one side
    return float((2 * hits / (called + truth.sum()))[cut].max())


def auroc(truth: NDArray[np.bool_], values: NDArray[np.float64]) -> float:
    """Chance that a positive cell scores above a negative one, ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(values)
    positives = int(truth.sum())
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))
